//! `launch`: joins a network namespace and cgroups, then becomes the program.
use crate::sys;
use std::os::unix::process::CommandExt;
use std::process::Command;

pub fn run(args: &[String]) -> Result<(), String> {
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--netns" => {
                let path = value()?;
                sys::join_namespace(path, libc::CLONE_NEWNET).map_err(|e| format!("--netns {path}: {e}"))?;
            }
            "--cgroup" => {
                let path = value()?;
                sys::join_cgroup(path).map_err(|e| format!("--cgroup {path}: {e}"))?;
            }
            "--" => {
                let program = rest.next().ok_or("no program after --")?;
                let error = Command::new(program).args(rest.as_slice()).exec();
                return Err(format!("{program}: {error}"));
            }
            _ => {
                return Err(format!(
                    "unknown option '{option}'; allowed: --netns PATH, --cgroup DIR, -- PROGRAM ARGS..."
                ))
            }
        }
    }
    Err("no program: ... -- PROGRAM ARGS...".into())
}
