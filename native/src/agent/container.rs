//! One container: its bundle, its root file system, its life from create to exit.
use super::cgroup::Cgroup;
use super::counters;
use super::mounts;
use super::output::{open_log, Output, Sink, STDERR, STDOUT};
use super::reaper::Reaper;
use super::runtime::{self, Console, Runtime, Stdio3};
use super::spool::Spool;
use super::vain_limits;
use super::writable::Writable;
use super::{lock, Fault, Outcome};
use crate::{sys, userns, wire};
use serde_json::{json, Value};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use wire::container_state::Status;

pub struct Container {
    pub id: String,
    pub directory: PathBuf,
    pub runtime: Runtime,
    pub stdin: Mutex<Option<OwnedFd>>,
    pub stdin_once: bool,
    pub terminal: Option<OwnedFd>,
    pub output: Arc<Output>,
    pub state: Mutex<wire::ContainerState>,
    /// Held while it is deleted
    pub deletion: Mutex<()>,
    cgroup: Cgroup,
    writable: Writable,
    since: Instant,
    /// Told when the container has exited, or when a waiter shall look again.
    changed: Condvar,
}

/// What of the sandbox a container needs to be made.
pub struct Place<'a> {
    pub guest: bool,
    /// Where bundles are made.
    pub directory: &'a Path,
    pub runtime_root: &'a str,
    pub pod_pid: i32,
    /// The process in the pod's user namespace, and the others that belong to it; 0: the pod has none
    pub holder: i32,
    pub reaper: &'a Reaper,
    /// The process of another container of the pod
    pub pid_of: &'a dyn Fn(&str) -> Outcome<i32>,
    /// Where the source of a prepared mount is
    pub mount_source: &'a dyn Fn(&wire::PreparedMount) -> Outcome<PathBuf>,
}

pub fn check_id(id: &str) -> Outcome<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if id.is_empty() || id.len() > 128 || !id.bytes().all(allowed) || id == "." || id == ".." {
        return Err(Fault::invalid(format!("id '{}' must match [a-zA-Z0-9_.-]{{1,128}}", id.escape_debug())));
    }
    Ok(())
}

fn make_directory(path: &Path) -> Outcome<()> {
    fs::create_dir_all(path).map_err(|e| Fault::io(path.display(), e))
}

/// Mounts the root file system; gives its path.
fn mount_rootfs(bundle: &Path, original: &Path, upper: &Path, holder: i32) -> Outcome<PathBuf> {
    let root = bundle.join("rootfs");
    make_directory(&root)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    make_directory(&upper.join("upper"))?;
    make_directory(&upper.join("work"))?;
    let shifted = bundle.join("lower");
    let lower = if holder == 0 { original } else { shifted.as_path() };
    if holder > 0 {
        mounts::shift_lower(original, lower, holder)?;
        give_to_root_of(holder, &upper.join("upper"))?;
    }
    for path in [lower, upper] {
        if text(path).contains([',', ':', '\\']) {
            return Err(Fault::invalid(format!("rootfs path '{}' may not hold , : or \\", path.display())));
        }
    }
    let data = format!("lowerdir={},upperdir={1}/upper,workdir={1}/work", text(lower), text(upper));
    let mounted = sys::mount("overlay", &root, "overlay", 0, &data).map_err(|e| Fault::io("rootfs overlay mount", e));
    // The overlay has a copy of its own.
    mounts::release(bundle);
    mounted.map(|()| root)
}

/// In a guest the ids of the pod are the kernel's as well (guest/pod.rs).
fn use_own_ids(linux: &mut Value) {
    for map in ["uidMappings", "gidMappings"] {
        for line in linux.get_mut(map).and_then(Value::as_array_mut).into_iter().flatten() {
            line["hostID"] = line["containerID"].clone();
        }
    }
}

/// config.json with the agent's own paths in it: the root, files sent along, the pod's namespaces.
fn rewrite_config(config: &[u8], root: &Path, bundle: &Path, readonly: bool, place: &Place) -> Outcome<Vec<u8>> {
    let mut config: Value =
        serde_json::from_slice(config).map_err(|e| Fault::invalid(format!("config_json is not JSON: {e}")))?;
    let object = config.as_object_mut().ok_or_else(|| Fault::invalid("config_json must be an object"))?;
    object.insert("root".into(), json!({ "path": root, "readonly": readonly }));
    for mount in object.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        for kind in ["files", "mounts"] {
            let prefix = format!("@{kind}/");
            let Some(name) = mount["source"].as_str().and_then(|source| source.strip_prefix(&prefix)) else { continue };
            check_id(name)?;
            mount["source"] = json!(bundle.join(kind).join(name));
        }
    }
    let is_apart = place.guest && place.holder > 0;
    if let Some(linux) = object.get_mut("linux").filter(|_| is_apart) {
        use_own_ids(linux);
    }
    if let Some(resources) = object.get_mut("linux").and_then(|linux| linux.get_mut("resources")) {
        vain_limits::drop_vain_limits(resources);
    }
    let namespaces =
        object.get_mut("linux").and_then(|linux| linux.get_mut("namespaces")).and_then(Value::as_array_mut);
    if let Some(namespaces) = namespaces {
        // In a guest the pod's network, hostname and IPC are the machine's own, unless they belong to its user namespace.
        namespaces.retain(|n| {
            !(place.guest && !is_apart && matches!(n["path"].as_str(), Some("@pod/net" | "@pod/ipc" | "@pod/uts")))
        });
        for namespace in namespaces {
            if let Some(id) = namespace["path"].as_str().and_then(|path| path.strip_prefix("@container/")) {
                namespace["path"] = json!(format!("/proc/{}/ns/pid", (place.pid_of)(id)?));
                continue;
            }
            let Some(name) = namespace["path"].as_str().and_then(|path| path.strip_prefix("@pod/")) else { continue };
            let holder = match name {
                "ipc" | "uts" | "user" if place.holder > 0 => place.holder,
                "net" if is_apart => place.holder,
                "user" => return Err(Fault::invalid("namespace @pod/user: this pod has no user namespace")),
                "net" | "ipc" | "uts" => std::process::id() as i32,
                "pid" if place.pod_pid > 0 => place.pod_pid,
                "pid" => {
                    return Err(Fault::invalid(
                        "namespace @pod/pid: this pod was started without a shared PID namespace",
                    ))
                }
                _ => {
                    return Err(Fault::invalid(format!(
                        "namespace path '@pod/{name}': allowed are net, ipc, uts, pid, user"
                    )))
                }
            };
            namespace["path"] = json!(format!("/proc/{holder}/ns/{name}"));
        }
    }
    serde_json::to_vec(&config).map_err(|e| Fault::invalid(format!("config_json: {e}")))
}

/// In a pod with a user namespace its root owns what ours would own elsewhere.
fn give_to_root_of(holder: i32, path: &Path) -> Outcome<()> {
    let (uid, gid) = userns::root_of(holder).map_err(|e| Fault::io("the pod's user namespace", e))?;
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|e| Fault::io(path.display(), e))
}

fn write_files(bundle: &Path, files: &[wire::File], holder: i32) -> Outcome<()> {
    let directory = bundle.join("files");
    make_directory(&directory)?;
    for file in files {
        check_id(&file.name)?;
        let path = directory.join(&file.name);
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(&path);
        let written = opened.and_then(|mut open| {
            io::Write::write_all(&mut open, &file.content)?;
            open.set_permissions(fs::Permissions::from_mode(file.mode & 0o777))
        });
        written.map_err(|e| Fault::io(path.display(), e))?;
        if holder > 0 {
            give_to_root_of(holder, &path)?;
        }
    }
    Ok(())
}

/// Removes what `create` made on disk; may be called at any stage, and again.
pub fn remove_bundle(bundle: &Path, upper: Option<&Path>) {
    let _ = sys::unmount(&bundle.join("rootfs"));
    if mounts::release(bundle) {
        let _ = fs::remove_dir_all(bundle);
    }
    if let Some(upper) = upper {
        for part in ["upper", "work"] {
            let _ = fs::remove_dir_all(upper.join(part));
        }
        let _ = fs::remove_dir(upper);
    }
}

/// Makes the container, not yet started. `lower` is the image's directory, `upper` where its writable layer goes.
pub fn create(place: &Place, request: &wire::CreateContainer, lower: &Path, upper: &Path) -> Outcome<Container> {
    let bundle = place.directory.join(&request.id);
    make_directory(&bundle)?;
    let readonly = request.rootfs.as_ref().is_some_and(|rootfs| rootfs.readonly);
    let made = fill(place, request, &bundle, lower, upper, readonly);
    if made.is_err() {
        remove_bundle(&bundle, Some(upper));
    }
    made
}

fn fill(
    place: &Place,
    request: &wire::CreateContainer,
    bundle: &Path,
    lower: &Path,
    upper: &Path,
    readonly: bool,
) -> Outcome<Container> {
    // A read-only root has a writable layer, too: mount points that the image lacks are made there, before the runtime
    // makes the root read-only.
    // In a guest the pod's root has root's own id.
    let holder = if place.guest { 0 } else { place.holder };
    let root = mount_rootfs(bundle, lower, upper, holder)?;
    write_files(bundle, &request.files, holder)?;
    for mount in &request.mounts {
        mounts::prepare(&bundle.join("mounts"), mount, &(place.mount_source)(mount)?)?;
    }
    let config = rewrite_config(&request.config_json, &root, bundle, readonly, place)?;
    let mut options = fs::OpenOptions::new();
    // It holds the environment, and the way to it is open to the root of a user namespace.
    let written = options.write(true).create_new(true).mode(0o600).open(bundle.join("config.json"));
    written.and_then(|mut file| io::Write::write_all(&mut file, &config)).map_err(|e| Fault::io("config.json", e))?;
    let sink = match (place.guest, request.log_path.as_str()) {
        (true, _) => Sink::Spool(Arc::new(Spool::new())),
        (false, "") => Sink::None,
        (false, path) => Sink::File(Mutex::new(Some(open_log(path)?))),
    };
    let output = Arc::new(Output::new(sink));
    let program = if place.guest || request.runtime.is_empty() { "crun" } else { &request.runtime };
    let root_dir = if request.runtime_root.is_empty() { place.runtime_root } else { &request.runtime_root };
    let runtime = Runtime { program: program.to_owned(), root: root_dir.to_owned() };
    let io = |e: io::Error| Fault::io("container streams", e);
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (bundle_path, pid_file) = (text(bundle.to_owned()), text(bundle.join("pid")));
    let mut args = vec!["create", "--bundle", &bundle_path, "--pid-file", &pid_file];
    if request.systemd_cgroup {
        args.insert(0, "--systemd-cgroup");
    }
    let since = Instant::now();
    let (mut stdin, mut terminal) = (None, None);
    if request.terminal {
        let console = Console::listen(bundle, "console.sock").map_err(io)?;
        let path = console.path.clone();
        args.extend(["--console-socket", &path, &request.id]);
        runtime.call(place.reaper, &bundle.join("log"), &args, Stdio3::null())?;
        let master = console.receive().map_err(io)?;
        let _ = fs::remove_file(bundle.join("console.sock"));
        output.pump(master.try_clone().map_err(io)?, STDOUT)?;
        if request.stdin {
            stdin = Some(master.try_clone().map_err(io)?);
        }
        terminal = Some(master);
    } else {
        let mut stdio = Stdio3::null();
        if request.stdin {
            let (read, write) = sys::pipe().map_err(io)?;
            stdio.stdin = Stdio::from(read);
            stdin = Some(write);
        }
        let (stdout, stdout_write) = sys::pipe().map_err(io)?;
        let (stderr, stderr_write) = sys::pipe().map_err(io)?;
        stdio.stdout = Stdio::from(stdout_write);
        stdio.stderr = Stdio::from(stderr_write);
        args.push(&request.id);
        runtime.call(place.reaper, &bundle.join("log"), &args, stdio)?;
        output.pump(stdout, STDOUT)?;
        output.pump(stderr, STDERR)?;
    }
    // The container has copies of its own; while these are here, what is mounted in a volume cannot be removed from it.
    mounts::release(bundle);
    let pid = runtime::read_pid(&bundle.join("pid"))?;
    let state = wire::ContainerState {
        id: request.id.clone(),
        status: Status::Created as i32,
        pid,
        created_at_ns: sys::now_ns(),
        ..Default::default()
    };
    Ok(Container {
        id: request.id.clone(),
        directory: bundle.to_owned(),
        runtime,
        stdin: Mutex::new(stdin),
        stdin_once: request.stdin_once,
        terminal,
        output,
        state: Mutex::new(state),
        deletion: Mutex::new(()),
        cgroup: Cgroup::of(pid),
        writable: Writable::new(upper.join("upper")),
        since,
        changed: Condvar::new(),
    })
}

impl Container {
    pub fn status(&self) -> Status {
        lock(&self.state).status()
    }

    /// A snapshot of the state, with how much log there is.
    pub fn snapshot(&self) -> wire::ContainerState {
        let mut state = lock(&self.state).clone();
        if let Sink::Spool(spool) = &self.output.sink {
            state.log_end = spool.end();
        }
        state
    }

    pub fn start(&self, reaper: &Reaper) -> Outcome<()> {
        if self.status() != Status::Created {
            let message = format!("container {} is {:?}, must be CREATED", self.id, self.status());
            return Err(Fault::new(wire::error::Code::WrongState, message));
        }
        self.runtime.call(reaper, &self.directory.join("log"), &["start", &self.id], Stdio3::null())?;
        let mut state = lock(&self.state);
        state.started_at_ns = sys::now_ns();
        if state.status() == Status::Created {
            state.set_status(Status::Running);
        }
        Ok(())
    }

    /// Waits for the end, then keeps exit code and OOM kill durably and in the state.
    pub fn supervise(&self, reaper: &Reaper) {
        let pid = lock(&self.state).pid;
        let code = reaper.wait(pid, self.since, None).unwrap_or(255);
        let finished_at_ns = sys::now_ns();
        // With a PID namespace shared by the pod, nobody else ends what it leaves behind.
        self.cgroup.kill();
        // What it wrote last comes before its end; a stream held open by somebody else does not delay the news for long.
        self.output.wait_end(Duration::from_secs(2));
        let oom_killed = self.cgroup.oom_kills() > 0;
        let record = json!({ "exitCode": code, "finishedAtNs": finished_at_ns.to_string(), "oomKilled": oom_killed });
        let _ = sys::write_durably(&self.directory.join("exit.json"), record.to_string().as_bytes());
        *lock(&self.stdin) = None;
        let mut state = lock(&self.state);
        state.set_status(Status::Exited);
        state.exit_code = code;
        state.oom_killed = oom_killed;
        state.finished_at_ns = finished_at_ns;
        // A start that is still on its way, or never came.
        if state.started_at_ns == 0 {
            state.started_at_ns = state.created_at_ns;
        }
        self.changed.notify_all();
    }

    /// Waits until the container has exited or `done` is set and `wake` called.
    pub fn wait_exit(&self, done: &AtomicBool) {
        let mut state = lock(&self.state);
        while state.status() != Status::Exited && !done.load(Ordering::Relaxed) {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    pub fn wake(&self) {
        let _state = lock(&self.state);
        self.changed.notify_all();
    }

    pub fn signal(&self, signal: i32, all: bool) -> Outcome<()> {
        if !(1..=64).contains(&signal) {
            return Err(Fault::invalid(format!("signal {signal}: allowed are 1 to 64")));
        }
        if self.status() == Status::Exited {
            return Ok(());
        }
        let targets = if all { self.cgroup.processes() } else { vec![lock(&self.state).pid] };
        for pid in targets {
            match sys::kill(pid, signal) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(Fault::io(format!("kill {pid}"), error))
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub fn set_oom_score_adj(&self, value: i32) -> Outcome<()> {
        for pid in self.cgroup.processes() {
            match fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()) {
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.map_err(|e| Fault::io(format!("oom_score_adj {value} of process {pid}"), e))?,
            }
        }
        Ok(())
    }

    pub fn stats(&self) -> wire::ContainerStats {
        let mut stats = self.cgroup.stats();
        (stats.writable_bytes, stats.writable_inodes) = self.writable.usage();
        let pid = lock(&self.state).pid;
        counters::complete(&mut stats, &self.cgroup, pid, &self.writable.directory);
        stats
    }

    /// Removes the container; it must have exited or be killed by `force`.
    pub fn delete(&self, reaper: &Reaper, upper: Option<&Path>) -> Outcome<()> {
        self.runtime.call(reaper, &self.directory.join("log"), &["delete", "--force", &self.id], Stdio3::null())?;
        if let Sink::Spool(spool) = &self.output.sink {
            spool.abandon();
        }
        remove_bundle(&self.directory, upper);
        Ok(())
    }
}
