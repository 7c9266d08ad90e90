//! `page-out`: has the kernel take back the pages of the parent's program file; Node cannot ask (process_madvise(2), Linux 5.10).
//! They are clean, so nothing is written, and what is run again is read again. Pages that another process maps too stay.
use crate::sys::check;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Address and length of a line of /proc/PID/maps, if it maps `program` and cannot be written.
fn program_mapping(line: &str, program: &str) -> Option<(usize, usize)> {
    let fields: Vec<&str> = line.splitn(6, ' ').collect();
    let [range, permissions, _offset, _device, _inode, path] = fields[..] else { return None };
    if permissions.contains('w') || path.trim_start() != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

fn page_out(pid: i32) -> io::Result<()> {
    let descriptor = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int)?;
    let process = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    for (start, length) in maps.lines().filter_map(|line| program_mapping(line, &program.to_string_lossy())) {
        let range = libc::iovec { iov_base: start as *mut libc::c_void, iov_len: length };
        let advised = unsafe {
            libc::syscall(libc::SYS_process_madvise, process.as_raw_fd(), &range, 1usize, libc::MADV_PAGEOUT, 0u32)
        };
        if advised < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Nothing is done for a parent that has ended: its place is then taken by another, which is not ours to touch.
pub fn run(args: &[String]) -> Result<(), String> {
    let [flag, pid] = args else { return Err("usage: page-out --parent PID".into()) };
    let parent = unsafe { libc::getppid() };
    if flag != "--parent" || pid.parse() != Ok(parent) {
        return Err(format!("--parent {pid}: the parent is {parent}"));
    }
    page_out(parent).map_err(|error| format!("process {parent}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_read_only_mappings_of_the_program_are_meant() {
        fn mapping(line: &str) -> Option<(usize, usize)> {
            program_mapping(line, "/opt/a node")
        }
        let text = "0074a000-00750000 r-xp 0034a000 08:01 77                         /opt/a node";
        assert_eq!(mapping(text), Some((0x74a000, 0x6000)));
        assert_eq!(mapping(&text.replace("r-xp", "rw-p")), None);
        assert_eq!(mapping(&text.replace("a node", "b node")), None);
        assert_eq!(mapping("7f0000000000-7f0000001000 r--p 00000000 00:00 0"), None);
        assert_eq!(mapping("zz-00 r--p 0 0 0 /opt/a node"), None);
        assert_eq!(mapping(""), None);
    }

    #[test]
    fn another_parent_is_refused() {
        let refused = run(&["--parent".into(), "1999999999".into()]).unwrap_err();
        assert!(refused.contains("the parent is"), "{refused}");
    }
}
