//! Replay of UDP against game servers in this process: every column of the report is provoked.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use clap::Parser;
use tokio::net::UdpSocket;

use super::*;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(target: SocketAddr, more: &[&str]) -> Args {
    let target = target.to_string();
    let fixed = ["replay", "--target", &target, "--rate", "100", "--seconds", "0.2"];
    Cli::try_parse_from(fixed.iter().chain(more)).unwrap().args
}

/// A game server that answers each datagram with what `answers` makes of it.
async fn server<F>(answers: F) -> SocketAddr
where
    F: Fn(SocketAddr, u64) -> Vec<&'static str> + 'static,
{
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut datagram = vec![0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
            let sequence = u64::from_be_bytes(datagram[7..15].try_into().unwrap());
            for name in answers(from, sequence) {
                let header = &datagram[3..23];
                let name = [&[name.len() as u8], name.as_bytes()].concat();
                let answer = [b"AQ2", header, &name, &vec![0; length - 23]].concat();
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    address
}

async fn here<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(test).await
}

/// R1: a faithful server loses nothing, and each player comes from an address of its own.
#[tokio::test]
async fn all_is_well_with_a_faithful_server() {
    here(async {
        let seen = Rc::new(RefCell::new(std::collections::BTreeSet::new()));
        let addresses = seen.clone();
        let target = server(move |from, _| {
            addresses.borrow_mut().insert(from.ip());
            vec!["game-1"]
        })
        .await;
        let report = measure(&args(target, &["--players", "10"])).await.unwrap();
        assert_eq!((report.sent, report.received, report.lost), (200, 200, 0));
        assert_eq!((report.affinity_violations, report.duplicates), (0, 0));
        assert_eq!(report.servers, [("game-1".to_owned(), 200)].into());
        assert_eq!(report.players_by_servers_met, [(1, 10)].into());
        assert_eq!(seen.borrow().len(), 10);
        assert!(seen.borrow().iter().all(std::net::IpAddr::is_loopback));
    })
    .await;
}

/// R1: loss, duplicates and affinity violations are counted.
#[tokio::test]
async fn an_unfaithful_server_is_found_out() {
    here(async {
        let target = server(|_, sequence| match sequence {
            3 => vec![],
            5 => vec!["game-1", "game-1"],
            7 => vec!["game-2"],
            _ => vec!["game-1"],
        })
        .await;
        let report = measure(&args(target, &["--players", "4", "--wait", "2"])).await.unwrap();
        assert_eq!((report.sent, report.received, report.lost), (80, 76, 4));
        assert_eq!((report.duplicates, report.affinity_violations), (4, 4));
        assert_eq!(report.strayed.len(), 4);
        assert_eq!(report.strayed[0].switches, 2);
    })
    .await;
}

/// O5: nobody listens: everything is lost, nothing panics, the report says so.
#[tokio::test]
async fn nobody_listens() {
    here(async {
        let target = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let report = measure(&args(target, &["--players", "2", "--wait", "0"])).await.unwrap();
        assert_eq!((report.sent, report.received, report.loss_percent), (40, 0, 100.0));
    })
    .await;
}

#[tokio::test]
async fn a_public_target_is_refused() {
    let error = measure(&args("8.8.8.8:7777".parse().unwrap(), &[])).await.unwrap_err();
    assert!(error.to_string().contains("--yes-i-own-it"), "{error}");
}

/// R1: a blow that would never fall begins nothing.
#[tokio::test]
async fn a_late_blow_is_refused() {
    let late = args("127.0.0.1:9".parse().unwrap(), &["--kill", "game-2@10s"]);
    let error = measure(&late).await.unwrap_err();
    assert!(
        error.to_string().contains("--kill game-2@10s: the replay ends after 0.2 s"),
        "{error}"
    );
}

#[test]
fn players_are_shared_out_completely() {
    for (players, lanes) in [(50, 3), (1, 1), (7, 2), (400, 7)] {
        let all: Vec<u32> = (0..lanes).flat_map(|lane| share(players, lanes, lane)).collect();
        assert_eq!(all, (0..players).collect::<Vec<_>>());
    }
}

#[test]
fn odd_numbers_are_refused_with_the_lawful_range() {
    assert!(rate("0").is_err() && rate("NaN").is_err() && rate("inf").is_err());
    assert!(seconds("-1").is_err() && seconds("1e9").is_err());
    assert!(sizes("22").unwrap_err().contains("23") && sizes("65508").is_err());
    assert_eq!((sizes("80..220"), sizes("80..=220")), (Ok(80..=220), Ok(80..=220)));
    assert!(sizes("220..80").is_err() && speed("0").is_err() && speed("2x") == Ok(2.0));
}
