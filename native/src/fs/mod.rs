//! `fs`: serves the host directories of one pod to its guest, by FUSE messages on a unix socket, from a process that can
//! reach nothing else. `fs-add` and `fs-remove` give it a directory and take it away; see docs/volumes.md.
mod confine;
#[cfg(any(test, fuzzing))]
pub mod exercise;
mod gate;
mod ids;
#[cfg(test)]
mod replay;
mod seccomp;
mod serve;
mod share;
mod volume;

pub use share::{add, remove};

use crate::sys;
use serde_json::json;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Where the volumes are in the process's own view: one directory or file each, named by its id.
const VOLUMES: &str = "/volumes";
/// The ids of those that have others in the guest than on the disk: a file each, with the volume's name.
const MAPS: &str = "/maps";

/// A volume's id: it is a file name in `VOLUMES` and comes from the guest as well.
fn is_id(id: &str) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

struct Options {
    socket: PathBuf,
    cgroups: Vec<String>,
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options { socket: PathBuf::new(), cgroups: Vec::new() };
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--socket" => options.socket = value()?.into(),
            "--cgroup" => options.cgroups.push(value()?),
            _ => return Err(format!("unknown option '{option}'; allowed: --socket PATH, --cgroup DIR")),
        }
    }
    if !options.socket.is_absolute() {
        return Err("--socket must be an absolute path".into());
    }
    Ok(options)
}

/// Starts the server as a process of its own, waits until it listens, and prints who it is.
pub fn run(args: &[String]) -> Result<(), String> {
    let options = parse(args)?;
    let (read, write) = sys::pipe().map_err(|e| format!("pipe: {e}"))?;
    // Single-threaded until here, so that fork is safe.
    let child = sys::check(unsafe { libc::fork() }).map_err(|e| format!("fork: {e}"))?;
    if child == 0 {
        drop(read);
        detach(&options, &write);
        unsafe { libc::_exit(0) };
    }
    drop(write);
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    let mut said = String::new();
    std::fs::File::from(read).read_to_string(&mut said).map_err(|e| format!("no word from the server: {e}"))?;
    let (pid, outcome) = said.split_once('\n').ok_or("the server ended before it listened")?;
    if outcome != "ok" {
        return Err(if outcome.is_empty() { "the server ended before it listened".into() } else { outcome.to_owned() });
    }
    let pid: i32 = pid.parse().map_err(|_| "the server's pid is not a number")?;
    println!("{}", json!({ "pid": pid, "startTime": sys::start_time(pid) }));
    std::io::stdout().flush().map_err(|e| e.to_string())
}

fn say(ready: &OwnedFd, text: &str) {
    let _ = sys::write_fd(ready.as_raw_fd(), text.as_bytes());
}

/// In the first child: the pod's cgroup, new namespaces, and the server as the only process of its PID namespace.
fn detach(options: &Options, ready: &OwnedFd) {
    let prepared = (|| {
        unsafe { libc::setsid() };
        for cgroup in &options.cgroups {
            sys::join_cgroup(cgroup).map_err(|e| format!("--cgroup {cgroup}: {e}"))?;
        }
        confine::new_namespaces()?;
        let gate = sys::pipe().map_err(|e| format!("pipe: {e}"))?;
        let pid = sys::check(unsafe { libc::fork() }).map_err(|e| format!("fork: {e}"))?;
        Ok::<_, String>((pid, gate))
    })();
    match prepared {
        Err(failure) => say(ready, &format!("0\n{failure}")),
        Ok((0, (read, write))) => {
            drop(write);
            // The first child says who we are, in the host's numbers, then ends; what we say comes after that.
            let _ = sys::read_fd(read.as_raw_fd(), &mut [0]);
            let failure = match prepare(options) {
                Ok(listener) => {
                    say(ready, "ok");
                    unsafe { libc::close(ready.as_raw_fd()) };
                    serve::accept_loop(&listener)
                }
                Err(failure) => failure,
            };
            say(ready, &failure);
            unsafe { libc::_exit(1) };
        }
        Ok((pid, _gate)) => say(ready, &format!("{pid}\n")),
    }
}

fn prepare(options: &Options) -> Result<UnixListener, String> {
    let path = &options.socket;
    let listener = UnixListener::bind(path).map_err(|e| format!("--socket {}: {e}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|e| format!("--socket: {e}"))?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|e| e.to_string())?;
    for stream in 0..3 {
        sys::check(unsafe { libc::dup2(null.as_raw_fd(), stream) }).map_err(|e| e.to_string())?;
    }
    confine::enter(path.parent().unwrap_or(Path::new("/")))?;
    Ok(listener)
}
