//! PID 1 of a microVM: file systems, modules, then the agent on vsock.
use super::{drives::Drives, modules, network, volumes::Volumes, Guest};
use crate::agent::reaper::block_sigchld;
use crate::agent::server::Agent;
use crate::{agent, host, sys};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

const PORT: u32 = 1024;

/// A line in the kernel's log: it reaches the console without the serial port's interrupt.
pub fn note(text: &str) {
    if let Ok(mut kmsg) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record of the log.
        let _ = kmsg.write_all(format!("tinderbox: {text}\n").as_bytes());
    }
}

/// Ends the machine: x86 guests are started with reboot=k, and Firecracker ends when the keyboard controller says reset.
fn end_machine() -> ! {
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_AUTOBOOT);
    }
    loop {
        unsafe { libc::pause() };
    }
}

fn mount_all() -> io::Result<()> {
    let none = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let table: [(&str, &str, libc::c_ulong, &str); 7] = [
        ("proc", "/proc", none, ""),
        ("sysfs", "/sys", none, ""),
        ("devtmpfs", "/dev", libc::MS_NOSUID, "mode=0755"),
        ("devpts", "/dev/pts", libc::MS_NOSUID | libc::MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5"),
        ("tmpfs", "/run", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755"),
        ("tmpfs", "/tmp", libc::MS_NOSUID | libc::MS_NODEV, ""),
        ("cgroup2", "/sys/fs/cgroup", none, ""),
    ];
    for (fs_type, target, flags, data) in table {
        fs::create_dir_all(target)?;
        match sys::mount(fs_type, Path::new(target), fs_type, flags, data) {
            // The kernel may have mounted /dev itself.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            other => other.map_err(|e| io::Error::other(format!("mount {target}: {e}")))?,
        }
    }
    fs::create_dir_all("/dev/shm")?;
    sys::mount("tmpfs", Path::new("/dev/shm"), "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777")?;
    fs::create_dir_all("/run/tinderbox/containers")
}

/// Makes every controller available to the containers' cgroups.
fn enable_controllers() -> io::Result<()> {
    let available = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    for controller in available.split_ascii_whitespace() {
        let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
    }
    Ok(())
}

/// The initramfs cannot be pivoted away from, and a container's root must be entered by pivot_root: so the same files
/// become the root by way of a bind mount, before anything else is mounted.
fn leave_rootfs() -> io::Result<()> {
    fs::create_dir_all("/newroot")?;
    sys::mount("/", Path::new("/newroot"), "", libc::MS_BIND, "")?;
    std::env::set_current_dir("/newroot")?;
    sys::mount(".", Path::new("/"), "", libc::MS_MOVE, "")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

fn vsock() -> io::Result<OwnedFd> {
    let fd = sys::check(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as u16;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

const ADDRESS_SIZE: libc::socklen_t = std::mem::size_of::<libc::sockaddr_vm>() as libc::socklen_t;

fn listen() -> io::Result<OwnedFd> {
    let socket = vsock()?;
    let any = address(libc::VMADDR_CID_ANY, PORT);
    sys::check(unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&any).cast(), ADDRESS_SIZE) })?;
    sys::check(unsafe { libc::listen(socket.as_raw_fd(), 128) })?;
    Ok(socket)
}

/// A connection to a listener on the host.
pub fn dial_host(port: u32) -> io::Result<sys::Socket> {
    let socket = vsock()?;
    let host = address(libc::VMADDR_CID_HOST, port);
    sys::check(unsafe { libc::connect(socket.as_raw_fd(), std::ptr::from_ref(&host).cast(), ADDRESS_SIZE) })?;
    Ok(sys::Socket::new(socket))
}

fn start() -> io::Result<Arc<Agent>> {
    leave_rootfs().map_err(|e| io::Error::other(format!("leave the initramfs: {e}")))?;
    mount_all()?;
    modules::load(note);
    if let Err(error) = enable_controllers() {
        note(&format!("cgroups: {error}"));
    }
    network::loopback_up()?;
    std::env::set_var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    block_sigchld();
    let guest = Guest { drives: Drives::default(), volumes: Volumes::default() };
    let agent =
        Agent::new(Some(guest), PathBuf::from("/run/tinderbox"), agent::pause::Pod::default(), |_| end_machine());
    Ok(Arc::new(agent))
}

pub fn run() -> ExitCode {
    let agent = match start() {
        Ok(agent) => agent,
        Err(error) => {
            let _ = sys::mount("devtmpfs", Path::new("/dev"), "devtmpfs", 0, "");
            note(&format!("start failed: {error}"));
            end_machine()
        }
    };
    let reaper = agent.reaper.clone();
    if agent::spawn("reaper", move || reaper.run()).is_err() {
        end_machine();
    }
    let listener = match listen() {
        Ok(listener) => listener,
        Err(error) => {
            note(&format!("vsock port {PORT}: {error}"));
            end_machine()
        }
    };
    let dialler = agent.clone();
    let dialled = agent::spawn("dial", move || match dial_host(PORT) {
        Ok(socket) => dialler.serve(socket),
        Err(error) => note(&format!("no host at vsock port {PORT} ({error}); waiting to be dialled")),
    });
    if let Err(fault) = dialled {
        note(&fault.message);
    }
    host::accept_loop(&agent, || {
        let flags = libc::SOCK_CLOEXEC;
        let fd = unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        sys::check(fd).map(|fd| sys::Socket::new(unsafe { OwnedFd::from_raw_fd(fd) }))
    })
}
