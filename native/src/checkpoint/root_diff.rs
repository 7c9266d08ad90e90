//! What a container changed in its root file system: `rootfs-diff.tar` of what is new, `deleted.files` of what is gone.
//! The container stands still meanwhile, so that no name can change between a look at it and its use.
use super::Options;
use crate::sys;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

struct Walk<'a> {
    upper: &'a Path,
    /// The root as the container sees it, without its mounts
    merged: &'a Path,
    /// Mount points, which the runtime makes where the image has none
    skip: &'a [PathBuf],
    names: BufWriter<File>,
    deleted: Vec<String>,
    count: u64,
}

/// Whether an overlay says of this directory that nothing of the layers below shows through at its place.
fn is_replaced(directory: &Path) -> io::Result<bool> {
    let path = sys::c_string(directory.as_os_str().as_bytes())?;
    for name in [c"trusted.overlay.opaque", c"trusted.overlay.redirect"] {
        let size = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
        if size >= 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Walk<'_> {
    fn is_skipped(&self, relative: &Path) -> bool {
        self.skip.iter().any(|mount| mount.strip_prefix("/").is_ok_and(|mount| mount == relative))
    }

    fn name(&mut self, relative: &Path) -> io::Result<()> {
        self.count += 1;
        self.names.write_all(relative.as_os_str().as_bytes())?;
        self.names.write_all(b"\0")
    }

    fn delete(&mut self, relative: &Path) -> io::Result<()> {
        let text = relative.to_str().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: deleted.files holds UTF-8", relative.display()))
        })?;
        self.deleted.push(format!("/{text}"));
        Ok(())
    }

    /// Below `relative` of the upper layer; of the whole root when it is `replaced`.
    fn directory(&mut self, relative: &Path, replaced: bool) -> io::Result<()> {
        let base = if replaced { self.merged } else { self.upper };
        let mut entries: Vec<OsString> =
            fs::read_dir(base.join(relative))?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
        entries.sort();
        for entry in entries {
            let relative = relative.join(entry);
            if self.is_skipped(&relative) {
                continue;
            }
            let path = base.join(&relative);
            let found = fs::symlink_metadata(&path)?;
            if !replaced && found.file_type().is_char_device() && found.rdev() == 0 {
                self.delete(&relative)?;
                continue;
            }
            self.name(&relative)?;
            if found.is_dir() {
                let replaces = !replaced && is_replaced(&path)?;
                if replaces {
                    self.delete(&relative)?;
                }
                self.directory(&relative, replaced || replaces)?;
            }
        }
        Ok(())
    }
}

/// Writes both files into the directory of the checkpoint; neither when there is nothing to say.
pub fn write(options: &Options, run: impl FnOnce(Command) -> Result<(), String>) -> Result<(), String> {
    let list = options.directory.join(".names");
    let merged = options.bundle.join("rootfs");
    let upper = options.upper.join("upper");
    let failed = |e: io::Error| format!("changes of the root file system: {e}");
    let names = BufWriter::new(File::create(&list).map_err(failed)?);
    let mut walk = Walk { upper: &upper, merged: &merged, skip: &options.skip, names, deleted: Vec::new(), count: 0 };
    walk.directory(Path::new(""), false).and_then(|()| walk.names.flush()).map_err(failed)?;
    if !walk.deleted.is_empty() {
        let text = serde_json::to_vec_pretty(&walk.deleted).map_err(|e| failed(e.into()))?;
        fs::write(options.directory.join("deleted.files"), text).map_err(failed)?;
    }
    if walk.count == 0 {
        return Ok(());
    }
    let mut command = Command::new("tar");
    command.arg("--create").arg("--file").arg(options.directory.join("rootfs-diff.tar"));
    command.args(["--format=pax", "--numeric-owner", "--sparse", "--no-recursion"]);
    // Not trusted.overlay.*, which is the overlay's own.
    command.args(["--xattrs", "--xattrs-include=user.*", "--xattrs-include=security.capability"]);
    command.arg("--directory").arg(&merged).args(["--null", "--verbatim-files-from", "--files-from"]).arg(&list);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    run(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_and_what_is_gone() {
        let base = std::env::temp_dir().join(format!("tinderbox-root-diff-{}", std::process::id()));
        let (upper, merged, list) = (base.join("upper"), base.join("merged"), base.join("names"));
        for directory in ["etc", "proc", "data/kept"] {
            fs::create_dir_all(upper.join(directory)).unwrap();
        }
        fs::write(upper.join("etc/new"), "").unwrap();
        std::os::unix::fs::symlink("/", upper.join("data/kept/link")).unwrap();
        let names = BufWriter::new(File::create(&list).unwrap());
        let skip = [PathBuf::from("/proc"), PathBuf::from("/etc/hosts")];
        let mut walk = Walk { upper: &upper, merged: &merged, skip: &skip, names, deleted: Vec::new(), count: 0 };
        walk.directory(Path::new(""), false).unwrap();
        walk.names.flush().unwrap();
        let text = fs::read_to_string(&list).unwrap();
        let (deleted, count) = (walk.deleted.clone(), walk.count);
        fs::remove_dir_all(&base).unwrap();
        assert_eq!(text, "data\0data/kept\0data/kept/link\0etc\0etc/new\0");
        assert_eq!((deleted.len(), count), (0, 5));
    }
}
