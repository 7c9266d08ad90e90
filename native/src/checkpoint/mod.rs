//! `checkpoint`: freezes a container, has the OCI runtime dump its processes by CRIU, keeps what it changed in its root file
//! system, and lets it go on; then writes all of it as one tar to standard output. A process of its own, so that the
//! container goes on whatever becomes of the daemon.
mod children;
mod root_diff;

use children::{Children, End};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long CRIU may take to let go of a container after nobody waits for it any more. Killed, it would leave its code in
/// the container's processes.
const LET_GO: Duration = Duration::from_secs(30);

/// The files of the archive beside the daemon's own.
const IMAGES: &str = "checkpoint";

#[derive(Default)]
struct Options {
    runtime: String,
    root: String,
    id: String,
    bundle: PathBuf,
    upper: PathBuf,
    directory: PathBuf,
    skip: Vec<PathBuf>,
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--runtime" => options.runtime = value.clone(),
            "--root" => options.root = value.clone(),
            "--id" => options.id = value.clone(),
            "--bundle" => options.bundle = value.into(),
            "--upper" => options.upper = value.into(),
            "--directory" => options.directory = value.into(),
            "--skip" => options.skip.push(value.into()),
            _ => return Err(format!("unknown option '{option}'")),
        }
    }
    crate::agent::container::check_id(&options.id).map_err(|fault| fault.message)?;
    for (name, path) in [("bundle", &options.bundle), ("upper", &options.upper), ("directory", &options.directory)] {
        if !path.is_absolute() {
            return Err(format!("--{name} must be an absolute path"));
        }
    }
    Ok(options)
}

impl Options {
    /// A call of the OCI runtime, whose words are in `log`.
    fn runtime_call(&self, verb: &str, log: &Path, args: &[&str]) -> Command {
        let _ = fs::remove_file(log);
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(&self.root).arg("--log").arg(log).args(["--log-format", "json"]);
        command.arg(verb).args(args).arg(&self.id);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// Runs to the end of it, or until somebody asks this process to end.
fn run_to_end(children: &Children, what: &str, mut command: Command, log: Option<&Path>) -> Result<(), String> {
    let child = children.spawn(&mut command).map_err(|e| format!("{what}: {e}"))?;
    match children.wait(child.id() as i32) {
        End::Exit(0) => Ok(()),
        End::Exit(code) => {
            let said = log.and_then(crate::agent::runtime::last_log_message);
            Err(format!("{what}: {}", said.unwrap_or_else(|| format!("exit status {code}"))))
        }
        End::Asked => {
            let _ = crate::sys::kill(child.id() as i32, libc::SIGKILL);
            Err(format!("{what}: cut short"))
        }
    }
}

/// Whoever asks this process to end has to wait for this.
fn resume(options: &Options, children: &Children, log: &Path) -> Result<(), String> {
    let child = children.spawn(&mut options.runtime_call("resume", log, &[])).map_err(|e| format!("resume: {e}"))?;
    loop {
        match children.wait(child.id() as i32) {
            End::Exit(0) => return Ok(()),
            End::Exit(code) => {
                let said = crate::agent::runtime::last_log_message(log);
                return Err(format!("resume: {}", said.unwrap_or_else(|| format!("exit status {code}"))));
            }
            End::Asked => {}
        }
    }
}

/// Everything that needs the container to stand still.
fn dump(options: &Options, children: &Children) -> Result<(), String> {
    let log = options.directory.join("runtime.log");
    let images = options.directory.join(IMAGES);
    fs::create_dir(&images).map_err(|e| format!("{}: {e}", images.display()))?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (image_path, work_path) = (text(&images), text(&options.directory));
    let paths = ["--image-path", &image_path, "--work-path", &work_path];
    // Connections and locks of the container and sockets to its outside are no reason to refuse.
    let allowed = ["--leave-running", "--tcp-established", "--file-locks", "--ext-unix-sk"];
    let command = options.runtime_call("checkpoint", &log, &[&paths[..], &allowed[..]].concat());
    let dumped = run_to_end(children, "checkpoint", command, Some(&log));
    // The runtime's CRIU is a process of its own, which ends by itself when nobody listens to it.
    children.wait_all(LET_GO);
    dumped?;
    root_diff::write(options, |command| run_to_end(children, "tar", command, None))
}

/// One tar of the directory on standard output; what is in it already is removed, so that the two never take much more
/// room than one.
fn pack(options: &Options, children: &Children) -> Result<(), String> {
    let _ = fs::remove_file(options.directory.join("runtime.log"));
    let mut names: Vec<_> = fs::read_dir(&options.directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>())
        .map_err(|e| format!("{}: {e}", options.directory.display()))?;
    names.retain(|name| !name.to_string_lossy().starts_with('.'));
    names.sort();
    let mut command = Command::new("tar");
    command.args(["--create", "--file=-", "--format=gnu", "--numeric-owner", "--sort=name", "--remove-files"]);
    command.arg("--directory").arg(&options.directory).arg("--").args(names);
    command.stdin(Stdio::null());
    run_to_end(children, "tar", command, None)
}

pub fn run(args: &[String]) -> Result<(), String> {
    let options = parse(args)?;
    let children = Children::adopt().map_err(|e| format!("signals: {e}"))?;
    let log = options.directory.join("runtime.log");
    // From here on the container must be let go of, whatever comes.
    let paused = run_to_end(&children, "pause", options.runtime_call("pause", &log, &[]), Some(&log));
    let dumped = paused.and_then(|()| dump(&options, &children));
    let resumed = resume(&options, &children, &log);
    dumped?;
    resumed?;
    pack(&options, &children)
}
