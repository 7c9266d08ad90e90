//! What the server gives up before it listens to a guest: every other file, process, network and capability.
use super::{seccomp, MAPS, VOLUMES};
use crate::sys;
use std::path::Path;

/// Open files and known inodes of all volumes together; each known inode is an open file. A guest that knows more is made
/// to forget (guest/volumes.rs).
const MAX_FILES: u64 = 65_536;

/// capability(7): the numbers of what serving files "owned as they are" takes.
const KEPT: [u32; 8] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE: the guest's kernel has checked permissions, as it knows its users' groups
    2,  // DAC_READ_SEARCH: linkat on an open file needs it before Linux 6.10; seccomp refuses open_by_handle_at
    3,  // FOWNER
    4,  // FSETID
    6,  // SETGID
    7,  // SETUID
    31, // SETFCAP
];

// linux/securebits.h: no capability comes or goes with a user id, and that is for good.
const SECURE_BITS: libc::c_ulong = 0b1 | 0b10 | 0b100 | 0b1000;

fn call(what: &str, result: libc::c_int) -> Result<(), String> {
    sys::check(result).map(|_| ()).map_err(|e| format!("{what}: {e}"))
}

/// Before the fork: the child is then PID 1 of its PID namespace.
pub fn new_namespaces() -> Result<(), String> {
    let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    call("unshare", unsafe { libc::unshare(kinds) })
}

/// `place` is any directory; only this process's view of it changes.
pub fn enter(place: &Path) -> Result<(), String> {
    new_root(place).map_err(|e| format!("root of the server: {e}"))?;
    bound_files()?;
    let core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    call("RLIMIT_CORE", unsafe { libc::setrlimit(libc::RLIMIT_CORE, &core) })?;
    drop_privileges()?;
    seccomp::install().map_err(|e| format!("seccomp: {e}"))
}

/// Raising the hard limit takes a right that a container's root may lack; then the limit is what it was.
fn bound_files() -> Result<(), String> {
    let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    call("RLIMIT_NOFILE", unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut files) })?;
    let wanted = libc::rlimit { rlim_cur: MAX_FILES, rlim_max: MAX_FILES };
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) } == 0 {
        return Ok(());
    }
    files.rlim_cur = files.rlim_max.min(MAX_FILES);
    files.rlim_max = files.rlim_cur;
    call("RLIMIT_NOFILE", unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &files) })
}

/// A root of its own with nothing in it but /proc of its PID namespace and the place for volumes.
fn new_root(place: &Path) -> std::io::Result<()> {
    // Nothing that is mounted here reaches the host; what the host mounts reaches a volume only if `fs-add` says so.
    sys::mount("", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    let none = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount("tmpfs", place, "tmpfs", none, "mode=0700,size=1m,nr_inodes=1024")?;
    std::env::set_current_dir(place)?;
    std::fs::create_dir("proc")?;
    std::fs::create_dir(&VOLUMES[1..])?;
    std::fs::create_dir(&MAPS[1..])?;
    sys::mount("proc", Path::new("proc"), "proc", none, "")?;
    let here = c".".as_ptr();
    sys::check(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) } as i32)?;
    sys::check(unsafe { libc::umount2(here, libc::MNT_DETACH) })?;
    std::env::set_current_dir("/")
}

fn drop_privileges() -> Result<(), String> {
    call("no_new_privs", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    call("securebits", unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0, 0, 0) })?;
    call("groups", unsafe { libc::setgroups(0, std::ptr::null()) })?;
    for number in 0..64 {
        if !KEPT.contains(&number) {
            // EINVAL is for numbers that this kernel does not know.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        }
    }
    // linux/capability.h, version 3: {version, pid}, then {effective, permitted, inheritable} for the low and high words.
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut data = [0u32; 6];
    call("capget", unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) } as i32)?;
    let low = KEPT.iter().fold(0u32, |set, number| set | 1 << number) & data[1];
    data = [low, low, 0, 0, 0, 0];
    call("capset", unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) } as i32)
}
