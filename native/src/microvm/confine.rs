//! `confine`: becomes a program that has less than we have: another user, no new privileges, no core file, and that is killed when
//! the process that started it ends.
use crate::sys::check;
use std::os::unix::process::CommandExt;
use std::process::Command;

const ALLOWED: &str = "allowed: --uid N, --gid N, --group N, --parent PID, -- PROGRAM ARGS...";

pub fn run(args: &[String]) -> Result<(), String> {
    let (mut uid, mut gid, mut groups, mut parent) = (None, None, Vec::new(), None);
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        if option == "--" {
            let program = rest.next().ok_or("no program after --")?;
            drop_privileges(uid, gid, &groups, parent).map_err(|error| error.to_string())?;
            return Err(format!("{program}: {}", Command::new(program).args(rest.as_slice()).exec()));
        }
        let value = rest.next().ok_or_else(|| format!("{option} needs a value"))?;
        let number: u32 = value.parse().map_err(|_| format!("{option} {value}: it has to be a number"))?;
        match option.as_str() {
            "--uid" => uid = Some(number),
            "--gid" => gid = Some(number),
            "--group" => groups.push(number),
            "--parent" => parent = Some(number),
            _ => return Err(format!("unknown option '{option}'; {ALLOWED}")),
        }
    }
    Err(format!("no program; {ALLOWED}"))
}

fn drop_privileges(uid: Option<u32>, gid: Option<u32>, groups: &[u32], parent: Option<u32>) -> std::io::Result<()> {
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &no_core) })?;
    if let Some(gid) = gid {
        check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
        check(unsafe { libc::setresgid(gid, gid, gid) })?;
    }
    if let Some(uid) = uid {
        check(unsafe { libc::setresuid(uid, uid, uid) })?;
    }
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // After the change of user, which clears it.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    if parent.is_some_and(|pid| unsafe { libc::getppid() } as u32 != pid) {
        return Err(std::io::Error::other("the process that started it has ended"));
    }
    Ok(())
}
