//! How much a container has written: its writable layer, walked now and then.
use super::lock;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Walking again earlier would cost more than the news is worth.
const FRESH: Duration = Duration::from_secs(10);
/// A container cannot make its own measuring expensive without end; beyond this the figures are a lower bound.
const MAX_ENTRIES: u64 = 200_000;

pub struct Writable {
    pub directory: PathBuf,
    last: Mutex<Option<(Instant, u64, u64)>>,
}

impl Writable {
    pub fn new(directory: PathBuf) -> Writable {
        Writable { directory, last: Mutex::new(None) }
    }

    /// Bytes on disk and inodes.
    pub fn usage(&self) -> (u64, u64) {
        let mut last = lock(&self.last);
        match *last {
            Some((at, bytes, inodes)) if at.elapsed() < FRESH => (bytes, inodes),
            _ => {
                let (bytes, inodes) = walk(&self.directory);
                *last = Some((Instant::now(), bytes, inodes));
                (bytes, inodes)
            }
        }
    }
}

fn walk(root: &Path) -> (u64, u64) {
    let (mut bytes, mut inodes) = (0, 0);
    let mut linked = HashSet::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            // Of the entry itself: a link of the container's leads nowhere here.
            let Ok(about) = entry.metadata() else { continue };
            if about.nlink() > 1 && !about.is_dir() && !linked.insert(about.ino()) {
                continue;
            }
            bytes += about.blocks() * 512;
            inodes += 1;
            if inodes >= MAX_ENTRIES {
                return (bytes, inodes);
            }
            if about.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_and_links_are_not_followed() {
        let root = std::env::temp_dir().join(format!("tb-writable-{}", std::process::id()));
        fs::create_dir_all(root.join("d")).unwrap();
        fs::write(root.join("d/file"), vec![1; 8192]).unwrap();
        fs::hard_link(root.join("d/file"), root.join("again")).unwrap();
        std::os::unix::fs::symlink("/", root.join("out")).unwrap();
        let (bytes, inodes) = walk(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(inodes, 3);
        assert!((8192..65536).contains(&bytes), "{bytes}");
    }
}
