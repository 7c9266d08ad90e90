//! User namespaces: making one with its maps, and entering one that a network namespace belongs to.
use crate::sys;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const NS_GET_USERNS: u64 = 0xb701;

/// Lines of a uid_map: ids inside, outside, how many.
pub type Map = Vec<(u32, u32, u32)>;

/// `INSIDE:OUTSIDE:LENGTH`
pub fn parse_mapping(text: &str) -> Result<(u32, u32, u32), String> {
    let numbers: Vec<u32> = text.split(':').filter_map(|part| part.parse().ok()).collect();
    match (numbers.as_slice(), text.split(':').count()) {
        (&[inside, outside, length], 3) if length > 0 => Ok((inside, outside, length)),
        _ => Err(format!("'{text}' must be INSIDE:OUTSIDE:LENGTH")),
    }
}

fn text(map: &Map) -> String {
    map.iter().map(|(inside, outside, length)| format!("{inside} {outside} {length}\n")).collect()
}

/// Runs `child` in a fork that has unshared `flags`, a new user namespace with these maps among them, then `act` with
/// its pid; the child is gone when this returns. Safe with threads: the child makes system calls only.
pub fn with_child<T>(flags: i32, uids: &Map, gids: &Map, act: impl FnOnce(i32) -> io::Result<T>) -> io::Result<T> {
    let (read, write) = sys::pipe()?;
    let pid = sys::check(unsafe { libc::fork() })?;
    if pid == 0 {
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWUSER | flags) };
        let errno = if unshared == 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) };
        unsafe {
            libc::write(write.as_raw_fd(), errno.to_ne_bytes().as_ptr().cast(), 4);
            loop {
                libc::pause();
            }
        }
    }
    let mut errno = [0u8; 4];
    let result = match sys::read_fd(read.as_raw_fd(), &mut errno) {
        Ok(4) if errno == [0; 4] => fs::write(format!("/proc/{pid}/uid_map"), text(uids))
            .and_then(|()| fs::write(format!("/proc/{pid}/gid_map"), text(gids)))
            .and_then(|()| act(pid)),
        Ok(4) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
        _ => Err(io::Error::other("the child that unshares has ended")),
    };
    let _ = sys::kill(pid, libc::SIGKILL);
    // The agent's reaper may have been quicker.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    result
}

/// A new user namespace, kept by the descriptor.
pub fn make(uids: &Map, gids: &Map) -> io::Result<File> {
    with_child(0, uids, gids, |pid| File::open(format!("/proc/{pid}/ns/user")))
}

/// The user namespace that the namespace at `path` belongs to.
pub fn owner_of(path: &str) -> io::Result<OwnedFd> {
    let namespace = File::open(path)?;
    let fd = sys::check(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Joins a user namespace as its root; only in a process with one thread.
pub fn enter(namespace: &impl AsRawFd) -> io::Result<()> {
    sys::check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWUSER) })?;
    sys::check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    sys::check(unsafe { libc::setresgid(0, 0, 0) })?;
    sys::check(unsafe { libc::setresuid(0, 0, 0) }).map(|_| ())
}

/// The ids that root of the namespace of `pid` has outside: (uid, gid).
pub fn root_of(pid: i32) -> io::Result<(u32, u32)> {
    let outside = |file: &str| -> io::Result<u32> {
        let map = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        let mut lines = map.lines().map(|line| line.split_ascii_whitespace().filter_map(|n| n.parse::<u32>().ok()));
        let found = lines.find_map(|mut line| (line.next() == Some(0)).then(|| line.next()).flatten());
        found.ok_or_else(|| io::Error::other(format!("{file}: root is not mapped")))
    };
    Ok((outside("uid_map")?, outside("gid_map")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings() {
        assert_eq!(parse_mapping("0:1000:65536"), Ok((0, 1000, 65536)));
        for bad in ["", "0:1", "0:1:0", "0:1:2:3", "a:1:2", "0:-1:2"] {
            assert!(parse_mapping(bad).is_err(), "{bad}");
        }
        assert_eq!(text(&vec![(0, 1000, 5)]), "0 1000 5\n");
    }
}
