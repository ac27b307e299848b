//! What PgBouncer does with its own process: another user, the background, the pid file. Not for what it
//! serves. Called by the drop-in form alone, before anything is bound.
//!
//! Invariant: a pid file names a process that runs, or is taken away.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid, setgid, setgroups, setsid, setuid};
use sd_notify::NotifyState;

/// Set for the process that stays in the background.
const BACKGROUND: &str = "PGPOOL_BACKGROUND";
/// What it says when it serves.
const READY: &str = "ready";

/// A pid file; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Writes it.
    ///
    /// # Errors
    /// Another process runs that it names, unless that is the one to be replaced; or it cannot be written.
    pub(super) fn write(path: &Path, replaces: Option<i32>) -> Result<Self, String> {
        if let Some(other) = running(path).filter(|other| Some(*other) != replaces) {
            let path = path.display();
            return Err(format!("{path}: the process {other} runs already; end it, or use -R"));
        }
        let fault = |fault: io::Error| format!("cannot write {}: {fault}", path.display());
        let next = path.with_extension("pid.new");
        fs::write(&next, format!("{}\n", std::process::id())).map_err(fault)?;
        fs::rename(&next, path).map_err(fault)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if pid(&self.0) == i32::try_from(std::process::id()).ok() {
            let _gone = fs::remove_file(&self.0);
        }
    }
}

fn pid(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// The process that a pid file names, if it runs.
pub(super) fn running(path: &Path) -> Option<i32> {
    let pid = pid(path)?;
    let own = i32::try_from(std::process::id()).ok();
    (Some(pid) != own && kill(Pid::from_raw(pid), None).is_ok()).then_some(pid)
}

/// Asks the process that is replaced to finish what it has begun.
pub(super) fn retire(pid: i32) {
    // It may have ended by itself.
    let _gone = kill(Pid::from_raw(pid), Signal::SIGINT);
}

/// The user of this name; `None`: this process is it already.
///
/// # Errors
/// There is no such user, or we may not become it.
pub(super) fn other_user(name: &str) -> Result<Option<User>, String> {
    let user = User::from_name(name).map_err(|fault| format!("user {name}: {fault}"))?;
    let user = user.ok_or_else(|| format!("there is no user {name}"))?;
    if user.uid == geteuid() {
        return Ok(None);
    }
    if !geteuid().is_root() {
        return Err(format!("only root may become the user {name}"));
    }
    Ok(Some(user))
}

/// Becomes another user for good, with its own group alone, as PgBouncer does.
///
/// # Errors
/// The system does not let us; nothing may go on then.
pub(super) fn become_user(user: &User) -> Result<(), String> {
    let fault = |fault| format!("cannot become the user {}: {fault}", user.name);
    setgroups(&[user.gid]).map_err(fault)?;
    setgid(user.gid).map_err(fault)?;
    // Of root it sets all three of them (setuid(2)): there is no way back.
    setuid(user.uid).map_err(fault)
}

/// This program with its own arguments.
fn again() -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|fault| fault.to_string())?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    Ok(command)
}

/// Whether this is the process that stays in the background.
pub(super) fn is_background() -> bool {
    std::env::var_os(BACKGROUND).is_some()
}

/// Starts the process that stays in the background and waits until it serves, or has said why not.
pub(super) fn to_background() -> ExitCode {
    let started = again().and_then(|mut command| {
        command.env(BACKGROUND, "1").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).spawn().map_err(|fault| fault.to_string())
    });
    let mut child = match started {
        Ok(child) => child,
        Err(fault) => return common::cli::refuse(1, &fault),
    };
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        match line {
            Ok(line) if line == READY => return ExitCode::SUCCESS,
            Ok(line) => drop(common::cli::refuse(1, &line)),
            Err(_) => break,
        }
    }
    let code = child.wait().ok().and_then(|status| u8::try_from(status.code()?).ok());
    ExitCode::from(code.unwrap_or(1))
}

/// Leaves the terminal; called by the process in the background.
pub(super) fn leave_terminal() {
    // It fails for a process that leads its session already.
    let _leads = setsid();
}

/// Tells systemd that the file is read again; [`tell_ready`] is to follow. With the time, so that units of
/// `Type=notify-reload` wait for it.
pub(super) fn tell_reloading() {
    let _told = NotifyState::monotonic_usec_now()
        .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]));
}

/// Tells systemd that the process is about to end.
pub(super) fn tell_stopping() {
    let _told = sd_notify::notify(&[NotifyState::Stopping]);
}

/// Tells whoever waits that this process serves: systemd (Debian's unit is `Type=notify`), and who has started
/// it in the background.
pub(super) fn tell_ready() {
    // Without systemd there is nobody to tell.
    let _told = sd_notify::notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
    if is_background() {
        // Nobody may wait any more.
        let _gone = writeln!(io::stderr(), "{READY}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O3: a pid file is refused while its process runs, replaced once it does not, and removed.
    #[test]
    fn pid_files() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("p.pid");
        let file = PidFile::write(&path, None).expect("written");
        assert_eq!(pid(&path), i32::try_from(std::process::id()).ok());
        drop(file);
        assert!(!path.exists());
        let parent = i32::try_from(std::os::unix::process::parent_id()).expect("a number");
        fs::write(&path, format!("{parent}\n")).expect("written");
        let fault = PidFile::write(&path, None).expect_err("it runs");
        assert!(fault.contains("runs already"), "{fault}");
        drop(PidFile::write(&path, Some(parent)).expect("it is replaced"));
        fs::write(&path, "999999999\n").expect("written");
        drop(PidFile::write(&path, None).expect("it does not run"));
        other_user("nobody-of-this-name").expect_err("there is none");
    }
}
