//! Drives of the guest: images and block devices that the host puts into placeholders, and the writable scratch drive.
use super::uevents::Uevents;
use crate::agent::{lock, Fault, Outcome};
use crate::{sys, wire};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);
const SCRATCH: &str = "/run/tinderbox/scratch";
const BLKFLSBUF: u64 = 0x1261;

#[derive(Default)]
pub struct Drives {
    /// Drive index to the containers that use what is in it.
    users: Mutex<HashMap<u32, HashSet<String>>>,
    has_scratch: Mutex<bool>,
}

fn device_name(index: u32) -> Outcome<String> {
    // Twenty-six letters are more than a machine with virtio-mmio has room for.
    let letter = u8::try_from(index).ok().filter(|i| *i < 26).map(|i| (b'a' + i) as char);
    letter.map(|l| format!("vd{l}")).ok_or_else(|| Fault::invalid(format!("drive.index {index}: allowed are 0 to 25")))
}

fn size_bytes(name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/sys/block/{name}/size")).ok()?;
    text.trim().parse::<u64>().ok().map(|sectors| sectors * 512)
}

/// Waits until the guest sees the size that drive `index` must have.
fn wait_for_size(index: u32, name: &str, size: u64) -> Outcome<()> {
    let wanted = size.div_ceil(512) * 512;
    let events = Uevents::open().map_err(|e| Fault::io("uevents", e))?;
    let seen = events.wait_until(Instant::now() + TIMEOUT, || size_bytes(name) == Some(wanted));
    if seen.map_err(|e| Fault::io("uevents", e))? {
        return Ok(());
    }
    let has = size_bytes(name).map_or("is absent".to_owned(), |size| format!("shows {size} bytes"));
    Err(Fault::io(format!("drive {index}"), format!("{name} {has}, not {wanted}, after {TIMEOUT:?}")))
}

/// Writes out what the guest still holds of a device that nobody uses, and forgets what it has read of it. A mount goes
/// away a little after the last process that saw it.
fn flush(index: u32, name: &str) -> Outcome<()> {
    let path = format!("/dev/{name}");
    let deadline = Instant::now() + TIMEOUT;
    let device = loop {
        // With O_EXCL it is refused while a file system of it is mounted.
        match fs::OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => break other.map_err(|e| Fault::io(format!("drive {index} ({path})"), e))?,
        }
    };
    if let Err(error) = device.sync_all() {
        // The host's device has failed: nobody is left whom it could be told.
        eprintln!("drive {index} ({path}): what was written last is lost: {error}");
    }
    unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF as _, 0) };
    Ok(())
}

fn mount_point(index: u32) -> PathBuf {
    PathBuf::from(format!("/run/tinderbox/images/{index}"))
}

impl Drives {
    pub fn scratch(&self) -> PathBuf {
        PathBuf::from(SCRATCH)
    }

    /// Mounts the writable drive, once; -1 stands for memory.
    pub fn set_scratch(&self, index: i32) -> Outcome<()> {
        let mut has = lock(&self.has_scratch);
        if *has {
            return Ok(());
        }
        fs::create_dir_all(SCRATCH).map_err(|e| Fault::io(SCRATCH, e))?;
        if index < 0 {
            sys::mount("tmpfs", Path::new(SCRATCH), "tmpfs", libc::MS_NODEV, "mode=0700")
                .map_err(|e| Fault::io(SCRATCH, e))?;
        } else {
            let name = device_name(index as u32)?;
            let device = format!("/dev/{name}");
            let events = Uevents::open().map_err(|e| Fault::io("uevents", e))?;
            let there = events.wait_until(Instant::now() + TIMEOUT, || Path::new(&device).exists());
            if !there.map_err(|e| Fault::io("uevents", e))? {
                return Err(Fault::invalid(format!("scratch_drive {index}: {device} did not appear")));
            }
            sys::mount(&device, Path::new(SCRATCH), "ext4", libc::MS_NODEV | libc::MS_NOATIME, "")
                .map_err(|e| Fault::io(format!("scratch_drive {device}"), e))?;
        }
        *has = true;
        Ok(())
    }

    /// Where the image of `drive` is mounted, for container `user`; waits until the guest sees the size it must have.
    pub fn mount(&self, drive: &wire::Drive, user: &str) -> Outcome<PathBuf> {
        let name = device_name(drive.index)?;
        if !["squashfs", "erofs", "ext4"].contains(&drive.fs_type.as_str()) {
            return Err(Fault::invalid(format!(
                "drive.fs_type '{}': allowed are squashfs, erofs, ext4",
                drive.fs_type
            )));
        }
        let mut users = lock(&self.users);
        let target = mount_point(drive.index);
        if let Some(present) = users.get_mut(&drive.index) {
            present.insert(user.to_owned());
            return Ok(target);
        }
        wait_for_size(drive.index, &name, drive.size_bytes)?;
        fs::create_dir_all(&target).map_err(|e| Fault::io(target.display(), e))?;
        sys::mount(&format!("/dev/{name}"), &target, &drive.fs_type, libc::MS_RDONLY | libc::MS_NODEV, "")
            .map_err(|e| Fault::io(format!("drive {} ({name}, {})", drive.index, drive.fs_type), e))?;
        users.insert(drive.index, HashSet::from([user.to_owned()]));
        Ok(target)
    }

    /// The device of drive `index`, for container `user`: its path, once the guest sees the size that it must have.
    pub fn attach(&self, index: u32, size: u64, user: &str) -> Outcome<PathBuf> {
        let name = device_name(index)?;
        let mut users = lock(&self.users);
        wait_for_size(index, &name, size)?;
        users.entry(index).or_default().insert(user.to_owned());
        Ok(PathBuf::from(format!("/dev/{name}")))
    }

    /// Container `user` does not need its drives any more.
    pub fn release(&self, user: &str) {
        for users in lock(&self.users).values_mut() {
            users.remove(user);
        }
    }

    /// Unmounts a drive that nobody uses, writes it out and drops its buffers, so that the host may change what is behind it.
    pub fn forget(&self, index: u32) -> Outcome<()> {
        let name = device_name(index)?;
        let mut users = lock(&self.users);
        if let Some(using) = users.get(&index).filter(|using| !using.is_empty()) {
            let message = format!("drive {index} is used by {} containers", using.len());
            return Err(Fault::new(wire::error::Code::WrongState, message));
        }
        users.remove(&index);
        sys::unmount(&mount_point(index)).map_err(|e| Fault::io(format!("drive {index}"), e))?;
        flush(index, &name)
    }
}
