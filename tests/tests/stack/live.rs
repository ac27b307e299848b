//! The story of the ready topology `rtmp`, told by programs that are not ours: ffmpeg as camera and viewer, nginx as server.
//! Part of `make verify`.

use std::process::Stdio;

use tests::shipped::Shipped;
use tokio::process::Command;

/// T8 (`rtmp`), N12, T9: while a camera publishes through the edge and a viewer plays, listeners come and go: each frame comes,
/// in its place in time.
#[tokio::test]
async fn a_stream_runs_through_changes() {
    let mut scene = Shipped::start("rtmp").await;
    let url = format!("rtmp://{}/live/show", scene.stack.address.at(1935));
    let mut camera = ffmpeg();
    camera.args(["-re", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25"]);
    camera.args(["-c:v", "flv1", "-g", "25", "-f", "flv", &url]);
    let _publishing = camera.spawn().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("show.flv");
    let mut viewer = ffmpeg();
    viewer.args(["-i", &url, "-c", "copy", "-frames:v", "200"]).arg(&record);
    let viewing = viewer.spawn().unwrap().wait_with_output();
    let changes = async {
        let line = "      chat: { tcp: \"*:7010\", to: chat }";
        let other = format!("{line}\n      more: {{ tcp: \"*:7020\", to: chat }}");
        loop {
            scene.stack.change(line, &other).await;
            scene.stack.change(&other, line).await;
        }
    };
    let played = tokio::select! {
        played = viewing => played.unwrap(),
        () = changes => unreachable!("changes do not end"),
    };
    assert!(played.status.success(), "{}", String::from_utf8_lossy(&played.stderr));
    let mut judge = Command::new("ffprobe");
    judge
        .args(["-loglevel", "error", "-of", "csv=p=0", "-show_entries", "packet=dts"])
        .arg(&record);
    let told = String::from_utf8(judge.output().await.unwrap().stdout).unwrap();
    let times: Vec<i64> = told.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(times.len(), 200);
    assert!(times.windows(2).all(|two| two[1] - two[0] == 40), "25 a second: {times:?}");
}

fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}
