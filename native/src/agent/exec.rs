//! Exec: one more process in a container, its streams on one connection.
use super::container::Container;
use super::reaper::Reaper;
use super::runtime::{self, Console, Stdio3};
use super::stream::FrameWriter;
use super::{lock, Fault, Outcome};
use crate::{frame, sys, wire};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

pub struct Exec {
    pid: i32,
    since: Instant,
    pub stdin: Mutex<Option<OwnedFd>>,
    pub terminal: Option<OwnedFd>,
    outputs: Mutex<Vec<(u8, OwnedFd)>>,
    timeout: Option<Duration>,
    files: [PathBuf; 3],
}

impl Drop for Exec {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}

/// Starts the process; its output waits in pipes until `run`.
pub fn start(container: &Container, reaper: &Reaper, request: &wire::OpenExec) -> Outcome<Arc<Exec>> {
    let process: serde_json::Value = serde_json::from_slice(&request.process_json)
        .map_err(|e| Fault::invalid(format!("process_json is not JSON: {e}")))?;
    let args = process.get("args").and_then(|a| a.as_array()).map(Vec::len).unwrap_or(0);
    if args == 0 {
        return Err(Fault::invalid("process_json.args must hold at least one string"));
    }
    let number = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let name = |suffix: &str| container.directory.join(format!("exec-{number}.{suffix}"));
    let files = [name("json"), name("pid"), name("log")];
    fs::write(&files[0], &request.process_json).map_err(|e| Fault::io(files[0].display(), e))?;
    let since = Instant::now();
    let mut exec = Exec {
        pid: 0,
        since,
        stdin: Mutex::new(None),
        terminal: None,
        outputs: Mutex::new(Vec::new()),
        timeout: Some(request.timeout_ms).filter(|ms| *ms > 0).map(Duration::from_millis),
        files,
    };
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let (process_file, pid_file) = (text(&exec.files[0]), text(&exec.files[1]));
    let mut args = vec!["exec", "--detach", "--process", &process_file, "--pid-file", &pid_file];
    let io = |e: std::io::Error| Fault::io("exec streams", e);
    if request.terminal {
        let console = Console::listen(&container.directory, &format!("exec-{number}.sock")).map_err(io)?;
        let path = console.path.clone();
        args.extend(["--tty", "--console-socket", &path, &container.id]);
        let called = container.runtime.call(reaper, &exec.files[2], &args, Stdio3::null());
        let received = called.and_then(|()| console.receive().map_err(io));
        let _ = fs::remove_file(container.directory.join(format!("exec-{number}.sock")));
        let master = received?;
        if let Some(size) = &request.size {
            runtime::resize(&master, size);
        }
        *lock(&exec.stdin) = if request.stdin { Some(master.try_clone().map_err(io)?) } else { None };
        exec.outputs = Mutex::new(vec![(1, master.try_clone().map_err(io)?)]);
        exec.terminal = Some(master);
    } else {
        args.push(&container.id);
        let mut stdio = Stdio3::null();
        let mut outputs = Vec::new();
        if request.stdin {
            let (read, write) = sys::pipe().map_err(io)?;
            stdio.stdin = Stdio::from(read);
            exec.stdin = Mutex::new(Some(write));
        }
        if request.stdout {
            let (read, write) = sys::pipe().map_err(io)?;
            stdio.stdout = Stdio::from(write);
            outputs.push((1, read));
        }
        if request.stderr {
            let (read, write) = sys::pipe().map_err(io)?;
            stdio.stderr = Stdio::from(write);
            outputs.push((2, read));
        }
        exec.outputs = Mutex::new(outputs);
        container.runtime.call(reaper, &exec.files[2], &args, stdio)?;
    }
    exec.pid = runtime::read_pid(&exec.files[1])?;
    Ok(Arc::new(exec))
}

/// Every descendant of `pid`, itself first.
fn process_tree(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() && found.len() < 65_536 {
        let tasks = fs::read_dir(format!("/proc/{}/task", found[next])).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
        next += 1;
    }
    found
}

impl Exec {
    /// Copies the outputs, waits for the end, sends EXIT. Kills the process tree when the time is over.
    pub fn run(self: &Arc<Self>, writer: &FrameWriter, reaper: &Reaper) {
        let mut threads = Vec::new();
        for (channel, fd) in std::mem::take(&mut *lock(&self.outputs)) {
            let writer = writer.clone();
            let copy = move || {
                let mut buffer = vec![0u8; 64 * 1024];
                while let Ok(count @ 1..) = sys::read_fd(fd.as_raw_fd(), &mut buffer) {
                    if writer.send(frame::Kind::Data, channel, &buffer[..count]).is_err() {
                        return;
                    }
                }
                let _ = writer.send(frame::Kind::Eof, channel, &[]);
            };
            threads.extend(super::spawn("exec-output", copy));
        }
        let mut exit = wire::ExitStatus::default();
        exit.code = match reaper.wait(self.pid, self.since, self.timeout) {
            Some(code) => code,
            None => {
                exit.timed_out = true;
                self.kill();
                reaper.wait(self.pid, self.since, Some(Duration::from_secs(10)));
                -1
            }
        };
        *lock(&self.stdin) = None;
        for thread in threads {
            let _ = thread.join();
        }
        let _ = writer.message(frame::Kind::Exit, &exit);
    }

    pub fn kill(&self) {
        // Stopped first, so that no new child slips away while the tree is read; read twice for those just born.
        let _ = sys::kill(self.pid, libc::SIGSTOP);
        for _ in 0..2 {
            for pid in process_tree(self.pid).into_iter().rev() {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
        }
    }
}
