//! `mount-image` and `umount`: read-only image files through loop devices that free themselves.
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const LOOP_CTL_GET_FREE: u64 = 0x4C82;
const LOOP_CONFIGURE: u64 = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// struct loop_config of linux/loop.h; only fd and lo_flags are set.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    numbers: [u64; 5],
    types: [u32; 3],
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// A loop device over `file`, read-only, that goes away with its last user: keep the returned file open until it is mounted.
fn attach(file: &File) -> io::Result<(File, String)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..64 {
        let number = sys::check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) })?;
        let path = format!("/dev/loop{number}");
        let device = OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(&path)?;
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd() as u32;
        config.flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
        match sys::check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &config) }) {
            Ok(_) => return Ok((device, path)),
            // Somebody else took the free device first.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => continue,
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free loop device after 64 tries"))
}

pub fn mount(args: &[String]) -> Result<(), String> {
    let [file, target, fs_type] = args else {
        return Err("usage: mount-image FILE TARGET FSTYPE".into());
    };
    if !["squashfs", "erofs", "ext4"].contains(&fs_type.as_str()) {
        return Err(format!("FSTYPE '{fs_type}': allowed are squashfs, erofs, ext4"));
    }
    let image = File::open(file).map_err(|e| format!("{file}: {e}"))?;
    let (_device, path) = attach(&image).map_err(|e| format!("loop device for {file}: {e}"))?;
    sys::mount(&path, Path::new(target), fs_type, libc::MS_RDONLY | libc::MS_NODEV, "")
        .map_err(|e| format!("{fs_type} {file} on {target}: {e}"))
}

pub fn unmount(args: &[String]) -> Result<(), String> {
    let [target] = args else {
        return Err("usage: umount TARGET".into());
    };
    sys::unmount(Path::new(target)).map_err(|e| format!("{target}: {e}"))
}
