//! The agent's home on the host: its options, its detachment from the daemon, its socket.
use crate::agent::cgroup::AGENT_CGROUP;
use crate::agent::reaper::block_sigchld;
use crate::agent::server::Agent;
use crate::agent::{pause, spawn};
use crate::{sys, userns};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Default)]
struct Options {
    socket: PathBuf,
    directory: PathBuf,
    netns: String,
    unshare_ipc: bool,
    unshare_uts: bool,
    hostname: String,
    pod_pid_namespace: bool,
    pod_userns: bool,
    cgroups: Vec<String>,
    sysctls: Vec<(String, String)>,
}

/// Namespaced kernel settings: nothing else may be set for a pod.
fn check_sysctl(text: &str, options: &Options) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("--sysctl '{text}' must be NAME=VALUE"))?;
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| name.starts_with(p)) || name == "kernel.sem";
    let net = name.starts_with("net.");
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
    if !plain || name.contains("..") || !(net || ipc) {
        return Err(format!("--sysctl '{name}': allowed are net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*"));
    }
    if net && options.netns.is_empty() || ipc && !options.unshare_ipc {
        return Err(format!("--sysctl '{name}' would change the host: the pod has no namespace of its own for it"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut sysctls = Vec::new();
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--socket" => options.socket = value()?.into(),
            "--dir" => options.directory = value()?.into(),
            "--netns" => options.netns = value()?,
            "--hostname" => options.hostname = value()?,
            "--cgroup" => options.cgroups.push(value()?),
            "--sysctl" => sysctls.push(value()?),
            "--pod-userns" => options.pod_userns = true,
            "--unshare-ipc" => options.unshare_ipc = true,
            "--unshare-uts" => options.unshare_uts = true,
            "--pod-pid-namespace" => options.pod_pid_namespace = true,
            _ => return Err(format!("unknown option '{option}'; see tinderbox-native help")),
        }
    }
    for (name, path) in [("--socket", &options.socket), ("--dir", &options.directory)] {
        if !path.is_absolute() {
            return Err(format!("{name} must be an absolute path"));
        }
    }
    if options.pod_userns && (options.netns.is_empty() || !options.unshare_ipc || !options.unshare_uts) {
        return Err("--pod-userns: --netns, --unshare-ipc and --unshare-uts are needed with it".into());
    }
    for sysctl in &sysctls {
        let parsed = check_sysctl(sysctl, &options)?;
        options.sysctls.push(parsed);
    }
    Ok(options)
}

pub fn write_sysctl(name: &str, value: &str) -> std::io::Result<()> {
    fs::write(Path::new("/proc/sys").join(name.replace('.', "/")), value)
}

fn set_hostname(options: &Options) -> Result<(), String> {
    let name = &options.hostname;
    if !options.unshare_uts || name.is_empty() {
        return Ok(());
    }
    let set = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
    sys::check(set).map(|_| ()).map_err(|e| format!("--hostname {name}: {e}"))
}

fn write_sysctls(options: &Options, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    for (name, value) in options.sysctls.iter().filter(|(name, _)| wanted(name)) {
        write_sysctl(name, value).map_err(|e| format!("--sysctl {name}={value}: {e}"))?;
    }
    Ok(())
}

/// Starts the processes that hold namespaces for the pod. In a pod with a user namespace all of them belong to it.
fn start_holders(options: &Options) -> Result<pause::Pod, String> {
    if !options.pod_userns {
        let failed = |e| format!("--pod-pid-namespace: {e}");
        let pid = if options.pod_pid_namespace { pause::start().map_err(failed)? } else { 0 };
        return Ok(pause::Pod { pid, holder: 0 });
    }
    let owner = userns::owner_of(&options.netns).map_err(|e| format!("owner of {}: {e}", options.netns))?;
    let pid_flag = if options.pod_pid_namespace { libc::CLONE_NEWPID } else { 0 };
    let flags = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | pid_flag;
    let holder = pause::start_in(&owner, flags, || {
        set_hostname(options)?;
        write_sysctls(options, |name| !name.starts_with("net."))
    });
    let holder = holder.map_err(|e| format!("--pod-userns: {e}"))?;
    Ok(pause::Pod { pid: if options.pod_pid_namespace { holder } else { 0 }, holder })
}

/// Joins a cgroup of the pod. Where version 2 has the controllers a cgroup with processes hands none of them on to those below
/// it, where the containers are: so the agent gets one of its own beside them.
fn join_pod_cgroup(directory: &str) -> std::io::Result<()> {
    let above = Path::new(directory).ancestors().map(|at| fs::read_to_string(at.join("cgroup.controllers")));
    let has_controllers = above.flatten().last().is_some_and(|root| !root.trim().is_empty());
    if !has_controllers {
        return sys::join_cgroup(directory);
    }
    let own = format!("{directory}/{AGENT_CGROUP}");
    fs::create_dir_all(&own)?;
    sys::join_cgroup(&own)
}

/// Joins and makes what the pod's processes share.
fn settle(options: &Options) -> Result<(), String> {
    for cgroup in &options.cgroups {
        join_pod_cgroup(cgroup).map_err(|e| format!("--cgroup {cgroup}: {e}"))?;
    }
    if !options.netns.is_empty() {
        sys::join_namespace(&options.netns, libc::CLONE_NEWNET)
            .map_err(|e| format!("--netns {}: {e}", options.netns))?;
    }
    let mut flags = 0;
    if options.unshare_ipc && !options.pod_userns {
        flags |= libc::CLONE_NEWIPC;
    }
    if options.unshare_uts {
        flags |= libc::CLONE_NEWUTS;
    }
    sys::check(unsafe { libc::unshare(flags) }).map_err(|e| format!("unshare: {e}"))?;
    set_hostname(options)?;
    write_sysctls(options, |name| !options.pod_userns || name.starts_with("net."))?;
    // A child's orphans are ours to reap; best effort against the OOM killer (refused without the capability).
    sys::check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
        .map_err(|e| format!("subreaper: {e}"))?;
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
    Ok(())
}

fn redirect_streams(directory: &Path) -> std::io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let log = fs::OpenOptions::new().append(true).create(true).open(directory.join("agent.log"))?;
    for (from, to) in [(null.as_raw_fd(), 0), (null.as_raw_fd(), 1), (log.as_raw_fd(), 2)] {
        sys::check(unsafe { libc::dup2(from, to) })?;
    }
    Ok(())
}

/// Starts the agent as a process of its own, waits until it listens, and prints who it is.
pub fn run(args: &[String]) -> Result<(), String> {
    let options = parse(args)?;
    let (read, write) = sys::pipe().map_err(|e| format!("pipe: {e}"))?;
    // Single-threaded until here, so that fork is safe.
    match sys::check(unsafe { libc::fork() }).map_err(|e| format!("fork: {e}"))? {
        0 => {
            drop(read);
            unsafe { libc::setsid() };
            // The grandchild can never get a controlling terminal, and belongs to init, not to the daemon.
            if unsafe { libc::fork() } != 0 {
                unsafe { libc::_exit(0) };
            }
            let failure = serve(&options, &write);
            let _ = sys::write_fd(write.as_raw_fd(), format!("!{failure}").as_bytes());
            unsafe { libc::_exit(1) };
        }
        child => {
            drop(write);
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            let mut said = String::new();
            fs::File::from(read).read_to_string(&mut said).map_err(|e| format!("no word from the agent: {e}"))?;
            match said.strip_prefix('!') {
                Some(failure) => Err(failure.to_owned()),
                None if said.is_empty() => Err("the agent ended before it listened".into()),
                None => {
                    print!("{said}");
                    std::io::stdout().flush().map_err(|e| e.to_string())
                }
            }
        }
    }
}

fn prepare(options: &Options) -> Result<(UnixListener, String, pause::Pod), String> {
    block_sigchld();
    unsafe { libc::umask(0o022) };
    settle(options)?;
    fs::create_dir_all(options.directory.join("containers")).map_err(|e| format!("--dir: {e}"))?;
    let pod = start_holders(options)?;
    let listener =
        UnixListener::bind(&options.socket).map_err(|e| format!("--socket {}: {e}", options.socket.display()))?;
    fs::set_permissions(&options.socket, fs::Permissions::from_mode(0o600)).map_err(|e| format!("--socket: {e}"))?;
    let pid = std::process::id();
    let identity = json!({ "pid": pid, "startTime": sys::start_time(pid as i32), "podPid": pod.pid }).to_string();
    sys::write_durably(&options.directory.join("agent.json"), identity.as_bytes())
        .map_err(|e| format!("agent.json: {e}"))?;
    redirect_streams(&options.directory).map_err(|e| format!("agent.log: {e}"))?;
    Ok((listener, identity, pod))
}

/// Returns only with the reason why it could not start.
fn serve(options: &Options, ready: &OwnedFd) -> String {
    let (listener, identity, pod) = match prepare(options) {
        Ok(prepared) => prepared,
        Err(failure) => return failure,
    };
    let agent = Arc::new(Agent::new(None, options.directory.clone(), pod, |agent| {
        let _ = fs::remove_file(agent.directory.join("agent.json"));
        std::process::exit(0)
    }));
    let reaper = agent.reaper.clone();
    let started = spawn("reaper", move || reaper.run());
    if let Err(fault) = started {
        return fault.message;
    }
    let _ = sys::write_fd(ready.as_raw_fd(), format!("{identity}\n").as_bytes());
    // The parent reads to the end of this pipe.
    unsafe { libc::close(ready.as_raw_fd()) };
    accept_loop(&agent, || listener.accept().map(|(stream, _)| sys::Socket::new(stream.into())))
}

/// Serves every connection in a thread of its own; never returns.
pub fn accept_loop(agent: &Arc<Agent>, mut accept: impl FnMut() -> std::io::Result<sys::Socket>) -> ! {
    loop {
        match accept() {
            Ok(socket) => {
                let agent = agent.clone();
                if let Err(fault) = spawn("connection", move || agent.serve(socket)) {
                    eprintln!("connection refused: {}", fault.message);
                }
            }
            // Out of descriptors or memory: there is no event for their return.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaced_sysctls() {
        let own = Options { netns: "/x".into(), unshare_ipc: true, ..Options::default() };
        assert!(check_sysctl("net.ipv4.ip_forward=1", &own).is_ok());
        assert!(check_sysctl("kernel.shmmax=1", &own).is_ok());
        assert!(check_sysctl("net.ipv4.ip_forward=1", &Options::default()).is_err());
        for bad in ["kernel.panic=1", "net.../x=1", "vm.swappiness=1", "net.ipv4.ip_forward", "net.x y=1"] {
            assert!(check_sysctl(bad, &own).is_err(), "{bad}");
        }
    }
}
