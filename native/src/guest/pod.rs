//! The namespaces of a pod with a user namespace, in its guest: held by a process, as the host's agent does it.
//!
//! Ids are not shifted here. The pod's user namespace is made inside another, in which the ids that the pod is to have
//! outside are the guest's own low ones. So its maps read as they were asked for, its root is apart from the guest's by all
//! that is a capability's, and the files of an image, whatever their file system, are whose they are: docs/decisions/0008.
use crate::agent::{pause, Fault, Outcome};
use crate::{sys, userns, wire};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

const SHARED: [(&str, libc::c_int); 3] =
    [("net", libc::CLONE_NEWNET), ("ipc", libc::CLONE_NEWIPC), ("uts", libc::CLONE_NEWUTS)];

/// The user namespace that the pod's is made in: what is outside for the pod is the guest's own id there.
fn around(map: &userns::Map) -> userns::Map {
    map.iter().map(|&(inside, outside, length)| (outside, inside, length)).collect()
}

fn begin(uids: &userns::Map, gids: &userns::Map, flags: libc::c_int) -> io::Result<i32> {
    let outer = userns::make(&around(uids), &around(gids))?;
    sys::check(unsafe { libc::setns(outer.as_raw_fd(), libc::CLONE_NEWUSER) })?;
    let owner = OwnedFd::from(userns::make(uids, gids)?);
    let flags = SHARED.iter().fold(flags, |all, (_, flag)| all | flag);
    pause::start_in(&owner, flags, || Ok(()))
}

/// `hold`: starts the process that holds them, and prints its pid, or `!` and why not.
pub fn hold(args: &[String]) -> Result<(), String> {
    let (mut uids, mut gids, mut flags) = (userns::Map::new(), userns::Map::new(), 0);
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--uid-map" => uids.push(userns::parse_mapping(value()?)?),
            "--gid-map" => gids.push(userns::parse_mapping(value()?)?),
            "--pod-pid-namespace" => flags = libc::CLONE_NEWPID,
            _ => return Err(format!("unknown option '{option}'; see tinderbox-native help")),
        }
    }
    match begin(&uids, &gids, flags) {
        Ok(pid) => print!("{pid}"),
        Err(error) => print!("!{error}"),
    }
    Ok(())
}

/// Has it started by a process with one thread, as joining a user namespace wants it.
pub fn start(request: &wire::ConfigureGuest) -> Outcome<pause::Pod> {
    if request.uid_mappings.is_empty() || request.gid_mappings.is_empty() {
        return Err(Fault::invalid("uid_mappings, gid_mappings: both or none"));
    }
    let failed = |what: String| Fault::io("the pod's user namespace", what);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("tinderbox-hold").arg("hold").env_clear();
    for (option, map) in [("--uid-map", &request.uid_mappings), ("--gid-map", &request.gid_mappings)] {
        for wire::IdMapping { inside, outside, length } in map {
            command.args([option, &format!("{inside}:{outside}:{length}")]);
        }
    }
    if request.pod_pid_namespace {
        command.arg("--pod-pid-namespace");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        // Its end is not waited for: the agent reaps all there is.
        stdout.read_to_string(&mut said).map_err(|e| failed(e.to_string()))?;
    }
    if let Some(reason) = said.strip_prefix('!') {
        return Err(failed(reason.to_owned()));
    }
    let holder = said.parse::<i32>().ok().filter(|pid| *pid > 1);
    let holder = holder.ok_or_else(|| failed(format!("no process was started: '{said}'")))?;
    Ok(pause::Pod { pid: if request.pod_pid_namespace { holder } else { 0 }, holder })
}

/// Does something in the network, IPC and UTS namespaces that `holder` holds; 0: where we are.
pub fn within<T: Send>(holder: i32, act: impl FnOnce() -> T + Send) -> io::Result<T> {
    if holder == 0 {
        return Ok(act());
    }
    std::thread::scope(|scope| {
        // A thread that ends: it does not come back.
        let thread = std::thread::Builder::new().name("pod".into()).spawn_scoped(scope, || {
            for (name, flag) in SHARED {
                sys::join_namespace(&format!("/proc/{holder}/ns/{name}"), flag)?;
            }
            Ok(act())
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the pod's namespaces has failed")))
    })
}
