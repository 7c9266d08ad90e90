//! Connections: Hello, calls, and the streams that a connection can turn into.
use super::container::{self, Container, Place};
use super::input::copy_input;
use super::output::{self, Sink};
use super::reaper::Reaper;
use super::spool::Read;
use super::stream::FrameWriter;
use super::{counters, exec, lock, mounts, pause, runtime, vain_limits, Fault, Outcome};
use crate::frame::{self, Kind};
use crate::{guest, sys, wire};
use prost::Message;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use wire::container_state::Status;
use wire::request::Body;

/// A client that asks and does not read its answers is given up after this.
const CALL_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for one that is attached: the container waits for it.
const ATTACH_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Zero is none: what is produced for one client alone waits for it, as a pipe would.
const STREAM_WRITE_TIMEOUT: Duration = Duration::ZERO;
/// How long a deletion waits for a container that is being made.
const MAKING: Duration = Duration::from_secs(60);
/// Connections served at once; more are closed.
const MAX_CONNECTIONS: usize = 1024;

pub struct Agent {
    pub guest: Option<guest::Guest>,
    pub directory: PathBuf,
    pub runtime_root: String,
    pub pod: Mutex<pause::Pod>,
    pub reaper: Arc<Reaper>,
    pub boot_id: String,
    /// A None is a container being made.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
    /// Told when one has been made, or has not.
    made: Condvar,
    subscribers: Mutex<Vec<FrameWriter>>,
    connections: AtomicU64,
    /// Called once everything has ended: leaves the process or the machine.
    pub leave: fn(&Agent) -> !,
}

impl Agent {
    pub fn new(guest: Option<guest::Guest>, directory: PathBuf, pod: pause::Pod, leave: fn(&Agent) -> !) -> Agent {
        let runtime_root = directory.join("oci").to_string_lossy().into_owned();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default().trim().to_owned();
        Agent {
            guest,
            runtime_root,
            directory,
            pod: Mutex::new(pod),
            reaper: Arc::new(Reaper::new()),
            boot_id,
            containers: Mutex::new(HashMap::new()),
            made: Condvar::new(),
            subscribers: Mutex::new(Vec::new()),
            connections: AtomicU64::new(0),
            leave,
        }
    }

    /// The process in the pod's namespaces where they are not the guest's own; on the host the agent is in them itself.
    fn holder_in_guest(&self) -> i32 {
        if self.guest.is_some() {
            lock(&self.pod).holder
        } else {
            0
        }
    }

    fn find(&self, id: &str) -> Outcome<Arc<Container>> {
        let found = lock(&self.containers).get(id).cloned().flatten();
        found.ok_or_else(|| Fault::new(wire::error::Code::NotFound, format!("no container '{}'", id.escape_debug())))
    }

    /// The same, but one that is still being made is waited for: whoever asked for it may be gone, and must not find it later.
    fn find_made(&self, id: &str) -> Outcome<Arc<Container>> {
        let being_made = |containers: &mut HashMap<_, Option<_>>| matches!(containers.get(id), Some(None));
        let waited = self.made.wait_timeout_while(lock(&self.containers), MAKING, being_made);
        drop(waited);
        self.find(id)
    }

    fn all(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().flatten().cloned().collect()
    }

    fn publish(&self, body: wire::event::Body) {
        let event = wire::Event { body: Some(body) };
        let subscribers = lock(&self.subscribers).clone();
        for subscriber in subscribers {
            if subscriber.message(Kind::Event, &event).is_err() {
                lock(&self.subscribers).retain(|other| !other.same(&subscriber));
            }
        }
    }

    fn info(&self) -> wire::AgentInfo {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        wire::AgentInfo {
            pid: std::process::id() as i32,
            pod_pid: lock(&self.pod).pid,
            kernel: kernel.trim().to_owned(),
            containers: lock(&self.containers).len() as u32,
        }
    }

    fn create(self: &Arc<Self>, request: &wire::CreateContainer) -> Outcome<wire::ContainerState> {
        container::check_id(&request.id)?;
        {
            let mut containers = lock(&self.containers);
            if containers.contains_key(&request.id) {
                let message = format!("container '{}' exists", request.id);
                return Err(Fault::new(wire::error::Code::Exists, message));
            }
            containers.insert(request.id.clone(), None);
        }
        let made = self.create_reserved(request);
        let mut containers = lock(&self.containers);
        self.made.notify_all();
        match made {
            Err(fault) => {
                containers.remove(&request.id);
                Err(fault)
            }
            Ok(container) => {
                containers.insert(request.id.clone(), Some(container.clone()));
                drop(containers);
                let state = container.snapshot();
                self.publish(wire::event::Body::State(state.clone()));
                let agent = self.clone();
                super::spawn("supervise", move || {
                    container.supervise(&agent.reaper);
                    let state = container.snapshot();
                    if state.oom_killed {
                        agent.publish(wire::event::Body::Oom(state.id.clone()));
                    }
                    agent.publish(wire::event::Body::Exited(state));
                })?;
                Ok(state)
            }
        }
    }

    fn create_reserved(&self, request: &wire::CreateContainer) -> Outcome<Arc<Container>> {
        let rootfs = request.rootfs.as_ref().ok_or_else(|| Fault::invalid("rootfs is missing"))?;
        let directory = self.directory.join("containers");
        let pod = *lock(&self.pod);
        let place = Place {
            guest: self.guest.is_some(),
            directory: &directory,
            runtime_root: &self.runtime_root,
            pod_pid: pod.pid,
            reaper: &self.reaper,
            holder: pod.holder,
            pid_of: &|id| match self.find(id)?.snapshot() {
                state if state.status() == Status::Exited => {
                    Err(Fault::new(wire::error::Code::WrongState, format!("container {id} has exited")))
                }
                state => Ok(state.pid),
            },
            mount_source: &|mount| match (&mount.source, &self.guest) {
                (Some(wire::prepared_mount::Source::Drive(drive)), Some(guest)) => {
                    guest.drives.mount(drive, &request.id)
                }
                (_, None) => mounts::path_of(mount),
                _ => Err(Fault::invalid("mounts.source must be a drive in a guest")),
            },
        };
        let made = match (&rootfs.lower, &self.guest) {
            (Some(wire::rootfs::Lower::Directory(lower)), None) => {
                if !lower.starts_with('/') || !rootfs.upper_directory.starts_with('/') {
                    return Err(Fault::invalid("rootfs.directory and rootfs.upper_directory must be absolute paths"));
                }
                container::create(&place, request, lower.as_ref(), rootfs.upper_directory.as_ref())?
            }
            (Some(wire::rootfs::Lower::Drive(drive)), Some(guest)) => {
                let lower = guest.drives.mount(drive, &request.id)?;
                let upper = guest.drives.scratch().join(&request.id);
                let made = guest
                    .volumes
                    .prepare(&request.volumes, &request.config_json, &request.id)
                    .and_then(|config| guest.drives.add_devices(&request.block_devices, config, &request.id))
                    .and_then(|config_json| {
                        let request = wire::CreateContainer { config_json, ..request.clone() };
                        container::create(&place, &request, &lower, &upper)
                    });
                if made.is_err() {
                    guest.volumes.release(&request.id);
                    guest.drives.release(&request.id);
                }
                made?
            }
            (None, _) => {
                return Err(Fault::invalid("rootfs.lower is missing: directory on the host, drive in a guest"))
            }
            _ => return Err(Fault::invalid("rootfs.lower must be a directory on the host, a drive in a guest")),
        };
        Ok(Arc::new(made))
    }

    fn delete(&self, request: &wire::DeleteContainer) -> Outcome<()> {
        let container = self.find_made(&request.id)?;
        // Two may ask at once, a daemon that has died meanwhile and the next: what the one has deleted the other does not find.
        let _turn = lock(&container.deletion);
        self.find(&request.id)?;
        if container.status() != Status::Exited {
            if !request.force {
                let message = format!(
                    "container {} is {:?}, must be EXITED unless force is set",
                    container.id,
                    container.status()
                );
                return Err(Fault::new(wire::error::Code::WrongState, message));
            }
            container.signal(libc::SIGKILL, true)?;
        }
        let upper = self.guest.as_ref().map(|guest| guest.drives.scratch().join(&container.id));
        container.delete(&self.reaper, upper.as_deref())?;
        if let Some(guest) = &self.guest {
            guest.volumes.release(&container.id);
            guest.drives.release(&container.id);
        }
        lock(&self.containers).remove(&request.id);
        Ok(())
    }

    fn call(self: &Arc<Self>, body: &Body) -> Outcome<Option<wire::response::Body>> {
        use wire::response::Body as Answer;
        let state = |container: &Container| Ok(Some(Answer::Container(container.snapshot())));
        match body {
            Body::ConfigureGuest(request) => {
                let guest = self.guest.as_ref().ok_or_else(|| {
                    Fault::new(wire::error::Code::Unsupported, "configure_guest: this agent is on the host")
                })?;
                if request.uid_mappings.len() + request.gid_mappings.len() > 0 {
                    let mut pod = lock(&self.pod);
                    if pod.holder == 0 {
                        *pod = guest::pod::start(request)?;
                    }
                }
                guest::configure(guest, self.holder_in_guest(), request)?;
                let mut pod = lock(&self.pod);
                if request.pod_pid_namespace && pod.pid == 0 {
                    pod.pid = super::pause::start().map_err(|e| Fault::io("pod_pid_namespace", e))?;
                }
                drop(pod);
                Ok(Some(Answer::Info(self.info())))
            }
            Body::CreateContainer(request) => Ok(Some(Answer::Container(self.create(request)?))),
            Body::StartContainer(request) => {
                let container = self.find(&request.id)?;
                container.start(&self.reaper)?;
                self.publish(wire::event::Body::State(container.snapshot()));
                state(&container)
            }
            Body::Signal(request) => self.find(&request.id)?.signal(request.signal, request.all).map(|()| None),
            Body::DeleteContainer(request) => self.delete(request).map(|()| None),
            Body::ContainerState(request) => state(&*self.find(&request.id)?),
            Body::ListContainers(_) => {
                let containers = self.all().iter().map(|container| container.snapshot()).collect();
                Ok(Some(Answer::Containers(wire::ContainerList { containers })))
            }
            Body::ReopenLog(request) => {
                let container = self.find(&request.id)?;
                let Sink::File(file) = &container.output.sink else { return Ok(None) };
                if container.status() == Status::Exited {
                    let message = format!("reopen_log: container {} has exited", container.id);
                    return Err(Fault::new(wire::error::Code::WrongState, message));
                }
                let opened = output::open_log(&request.log_path)?;
                *lock(file) = Some(opened);
                Ok(None)
            }
            Body::UpdateContainer(request) => {
                let container = self.find(&request.id)?;
                let path = container.directory.join("resources.json");
                let mut resources = serde_json::from_slice(&request.resources_json)
                    .map_err(|e| Fault::invalid(format!("resources_json is not JSON: {e}")))?;
                vain_limits::drop_vain_limits(&mut resources);
                std::fs::write(&path, resources.to_string()).map_err(|e| Fault::io("resources_json", e))?;
                let path = path.to_string_lossy().into_owned();
                let log = container.directory.join("log");
                let args = ["update", "--resources", &path, &container.id];
                container.runtime.call(&self.reaper, &log, &args, runtime::Stdio3::null())?;
                request.oom_score_adj.map_or(Ok(()), |value| container.set_oom_score_adj(value)).map(|()| None)
            }
            Body::ContainerStats(request) => Ok(Some(Answer::Stats(self.find(&request.id)?.stats()))),
            Body::PodStats(_) => {
                let count = || counters::pod_stats(self.guest.is_some());
                let counted = guest::pod::within(self.holder_in_guest(), count);
                Ok(Some(Answer::PodStats(counted.map_err(|e| Fault::io("the pod's network", e))?)))
            }
            Body::Ping(_) => Ok(Some(Answer::Info(self.info()))),
            Body::ReleaseDrive(request) => match &self.guest {
                Some(guest) => guest.drives.forget(request.index).map(|()| None),
                None => Err(Fault::new(wire::error::Code::Unsupported, "release_drive: this agent is on the host")),
            },
            Body::Subscribe(_)
            | Body::Shutdown(_)
            | Body::OpenExec(_)
            | Body::OpenAttach(_)
            | Body::OpenLog(_)
            | Body::OpenTcp(_) => Ok(None),
        }
    }

    /// Ends everything there is, then the process or the machine.
    fn shut_down(&self) -> ! {
        for container in self.all() {
            let _ = container.signal(libc::SIGKILL, true);
        }
        for container in self.all() {
            let upper = self.guest.as_ref().map(|guest| guest.drives.scratch().join(&container.id));
            let _ = container.delete(&self.reaper, upper.as_deref());
        }
        let pod = *lock(&self.pod);
        for pid in [pod.pid, pod.holder].into_iter().filter(|pid| *pid > 0) {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        (self.leave)(self)
    }

    /// Serves one connection to its end.
    pub fn serve(self: &Arc<Self>, socket: sys::Socket) {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS as u64 {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let _ = socket.set_write_timeout(CALL_WRITE_TIMEOUT);
        let writer = FrameWriter::new(socket.clone());
        if let Err(error) = self.converse(&socket, &writer) {
            if error.kind() == std::io::ErrorKind::InvalidData {
                eprintln!("connection: {error}");
            }
        }
        lock(&self.subscribers).retain(|other| !other.same(&writer));
        socket.shutdown();
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    fn converse(self: &Arc<Self>, socket: &sys::Socket, writer: &FrameWriter) -> std::io::Result<()> {
        let hello = wire::Hello {
            protocol: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            guest: self.guest.is_some(),
            boot_id: self.boot_id.clone(),
        };
        writer.message(Kind::Hello, &hello)?;
        let invalid = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
        let mut source = socket.clone();
        while let Some(received) = frame::read(&mut source)? {
            if received.kind != Kind::Request {
                return Err(invalid(format!("{:?} frame where a REQUEST was expected", received.kind)));
            }
            let request = wire::Request::decode(&received.payload[..]).map_err(|e| invalid(format!("request: {e}")))?;
            let Some(body) = request.body else {
                self.answer(writer, request.id, Err(Fault::invalid("request without a body")))?;
                continue;
            };
            match body {
                Body::OpenExec(open) => return self.exec(socket, writer, request.id, &open),
                Body::OpenAttach(open) => return self.attach(socket, writer, request.id, &open),
                Body::OpenLog(open) => return self.log(socket, writer, request.id, &open),
                Body::OpenTcp(open) => return self.tcp(socket, writer, request.id, &open),
                Body::Shutdown(_) => {
                    self.answer(writer, request.id, Ok(None))?;
                    self.shut_down()
                }
                Body::Subscribe(_) => {
                    self.answer(writer, request.id, Ok(None))?;
                    lock(&self.subscribers).push(writer.clone());
                    for container in self.all() {
                        let state = container.snapshot();
                        let exited = state.status() == Status::Exited;
                        let body =
                            if exited { wire::event::Body::Exited(state) } else { wire::event::Body::State(state) };
                        writer.message(Kind::Event, &wire::Event { body: Some(body) })?;
                    }
                }
                body => {
                    // In a thread of its own: a slow create must not hold up a signal.
                    let (agent, writer, id) = (self.clone(), writer.clone(), request.id);
                    let started = super::spawn("call", {
                        let (agent, writer) = (agent.clone(), writer.clone());
                        move || {
                            let outcome = agent.call(&body);
                            let _ = agent.answer(&writer, id, outcome);
                        }
                    });
                    if let Err(fault) = started {
                        agent.answer(&writer, id, Err(fault))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(
        &self,
        writer: &FrameWriter,
        id: u64,
        outcome: Outcome<Option<wire::response::Body>>,
    ) -> std::io::Result<()> {
        let (error, body) = match outcome {
            Ok(body) => (None, body),
            Err(fault) => (Some(wire::Error { code: fault.code as i32, message: fault.message }), None),
        };
        writer.message(Kind::Response, &wire::Response { id, error, body })
    }

    fn exec(&self, socket: &sys::Socket, writer: &FrameWriter, id: u64, open: &wire::OpenExec) -> std::io::Result<()> {
        let started = self.find(&open.container_id).and_then(|container| {
            if container.status() != Status::Running {
                let message = format!("container {} is {:?}, must be RUNNING", container.id, container.status());
                return Err(Fault::new(wire::error::Code::WrongState, message));
            }
            exec::start(&container, &self.reaper, open)
        });
        let exec = match started {
            Ok(exec) => exec,
            Err(fault) => return self.answer(writer, id, Err(fault)),
        };
        self.answer(writer, id, Ok(None))?;
        let _ = socket.set_write_timeout(STREAM_WRITE_TIMEOUT);
        let reader = {
            let (socket, exec) = (socket.clone(), exec.clone());
            super::spawn("exec-input", move || copy_input(socket, &exec.stdin, exec.terminal.as_ref(), true))
        };
        if reader.is_err() {
            exec.kill();
        }
        exec.run(writer, &self.reaper);
        socket.shutdown();
        Ok(())
    }

    fn attach(
        &self,
        socket: &sys::Socket,
        writer: &FrameWriter,
        id: u64,
        open: &wire::OpenAttach,
    ) -> std::io::Result<()> {
        let container = match self.find(&open.container_id) {
            Ok(container) => container,
            Err(fault) => return self.answer(writer, id, Err(fault)),
        };
        self.answer(writer, id, Ok(None))?;
        let _ = socket.set_write_timeout(ATTACH_WRITE_TIMEOUT);
        container.output.attach(writer.clone(), open.stdout, open.stderr);
        let done = Arc::new(AtomicBool::new(false));
        let ending = {
            let (container, writer, done) = (container.clone(), writer.clone(), done.clone());
            let socket = socket.clone();
            super::spawn("attach-end", move || {
                container.wait_exit(&done);
                if !done.load(Ordering::Relaxed) {
                    let code = lock(&container.state).exit_code;
                    for channel in [output::STDOUT, output::STDERR] {
                        let _ = writer.send(Kind::Eof, channel, &[]);
                    }
                    let _ = writer.message(Kind::Exit, &wire::ExitStatus { code, ..Default::default() });
                    socket.shutdown();
                }
            })
        };
        let none = Mutex::new(None);
        let stdin = if open.stdin { &container.stdin } else { &none };
        copy_input(socket.clone(), stdin, container.terminal.as_ref(), open.stdin && container.stdin_once);
        done.store(true, Ordering::Relaxed);
        container.output.detach(writer);
        container.wake();
        if let Ok(thread) = ending {
            let _ = thread.join();
        }
        Ok(())
    }

    fn log(&self, socket: &sys::Socket, writer: &FrameWriter, id: u64, open: &wire::OpenLog) -> std::io::Result<()> {
        let spool = match self.find(&open.container_id) {
            Err(fault) => return self.answer(writer, id, Err(fault)),
            Ok(container) => match &container.output.sink {
                Sink::Spool(spool) => spool.clone(),
                _ => {
                    let fault = Fault::new(
                        wire::error::Code::Unsupported,
                        "open_log: the host's agent writes the log file itself",
                    );
                    return self.answer(writer, id, Err(fault));
                }
            },
        };
        let (first, end) = spool.range();
        if open.offset < first || open.offset > end {
            let message = format!("offset {} must be {first} to {end}", open.offset);
            return self.answer(writer, id, Err(Fault::invalid(message)));
        }
        self.answer(writer, id, Ok(None))?;
        let _ = socket.set_write_timeout(STREAM_WRITE_TIMEOUT);
        let gone = Arc::new(AtomicBool::new(false));
        let acks = {
            let (mut source, spool, gone) = (socket.clone(), spool.clone(), gone.clone());
            super::spawn("log-acks", move || {
                while let Ok(Some(received)) = frame::read(&mut source) {
                    let Ok(offset) = <[u8; 8]>::try_from(&received.payload[..]) else { break };
                    if received.kind == Kind::Ack {
                        spool.acknowledge(u64::from_be_bytes(offset));
                    }
                }
                gone.store(true, Ordering::Relaxed);
                spool.wake();
            })
        };
        if acks.is_err() {
            return Ok(());
        }
        let mut offset = open.offset;
        while let Read::Bytes(bytes) = spool.read(offset, 64 * 1024, &|| gone.load(Ordering::Relaxed)) {
            writer.send(Kind::Data, output::STDOUT, &bytes)?;
            offset += bytes.len() as u64;
        }
        writer.send(Kind::Eof, output::STDOUT, &[])?;
        // The client closes when it has acknowledged; acknowledgements are read until then.
        if let Ok(thread) = acks {
            let _ = thread.join();
        }
        Ok(())
    }

    fn tcp(&self, socket: &sys::Socket, writer: &FrameWriter, id: u64, open: &wire::OpenTcp) -> std::io::Result<()> {
        let Some(port) = u16::try_from(open.port).ok().filter(|port| *port > 0) else {
            return self.answer(writer, id, Err(Fault::invalid(format!("port {}: allowed are 1 to 65535", open.port))));
        };
        let timeout = Duration::from_secs(10);
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let connect = || TcpStream::connect_timeout(&v4, timeout).or_else(|_| TcpStream::connect_timeout(&v6, timeout));
        let connected = guest::pod::within(self.holder_in_guest(), connect).flatten();
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) => return self.answer(writer, id, Err(Fault::io(format!("port {port} in the pod"), error))),
        };
        self.answer(writer, id, Ok(None))?;
        let _ = socket.set_write_timeout(STREAM_WRITE_TIMEOUT);
        let back = {
            let (stream, writer) = (stream.try_clone()?, writer.clone());
            super::spawn("tcp-out", move || {
                let mut buffer = vec![0u8; 64 * 1024];
                while let Ok(count @ 1..) = sys::read_fd(stream.as_raw_fd(), &mut buffer) {
                    if writer.send(Kind::Data, 1, &buffer[..count]).is_err() {
                        return;
                    }
                }
                let _ = writer.send(Kind::Eof, 1, &[]);
            })
        };
        let mut source = socket.clone();
        while let Ok(Some(received)) = frame::read(&mut source) {
            let ended = match received.kind {
                Kind::Data => {
                    !matches!(sys::write_while(stream.as_raw_fd(), &received.payload, socket.raw()), Ok(true))
                }
                Kind::Eof => stream.shutdown(Shutdown::Write).is_err(),
                _ => true,
            };
            if ended {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
        if let Ok(thread) = back {
            let _ = thread.join();
        }
        Ok(())
    }
}
