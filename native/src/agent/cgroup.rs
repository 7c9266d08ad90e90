//! What the kernel counted for a container: memory, processor, processes, OOM kills. Versions 1 and 2.
use crate::{sys, wire};
use std::fs;
use std::path::{Path, PathBuf};

/// The cgroup directories of a container.
#[derive(Clone, Default)]
pub struct Cgroup {
    /// Version 2's one directory, or version 1's by controller.
    pub unified: Option<PathBuf>,
    pub memory: Option<PathBuf>,
    pub cpu: Option<PathBuf>,
    pub cpuacct: Option<PathBuf>,
    pub pids: Option<PathBuf>,
    pub blkio: Option<PathBuf>,
}

pub fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The value of `key` in a file of "key value" lines.
pub fn field(path: &Path, key: &str) -> u64 {
    let Ok(text) = fs::read_to_string(path) else { return 0 };
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

impl Cgroup {
    /// The cgroup that `pid` is in now.
    pub fn of(pid: i32) -> Cgroup {
        let mut cgroup = Cgroup::default();
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let path = path.trim_start_matches('/');
            let existing = |root: &str| Some(Path::new(root).join(path)).filter(|p| p.is_dir());
            if controllers.is_empty() {
                let unified = existing("/sys/fs/cgroup").filter(|p| p.join("memory.events").exists());
                cgroup.unified = unified;
            }
            for controller in controllers.split(',') {
                match controller {
                    "memory" => cgroup.memory = existing("/sys/fs/cgroup/memory"),
                    "cpu" => cgroup.cpu = existing("/sys/fs/cgroup/cpu"),
                    "blkio" => cgroup.blkio = existing("/sys/fs/cgroup/blkio"),
                    "cpuacct" => cgroup.cpuacct = existing("/sys/fs/cgroup/cpuacct"),
                    "pids" => cgroup.pids = existing("/sys/fs/cgroup/pids"),
                    _ => {}
                }
            }
        }
        cgroup
    }

    pub fn oom_kills(&self) -> u64 {
        match (&self.unified, &self.memory) {
            (Some(unified), _) => field(&unified.join("memory.events"), "oom_kill"),
            (None, Some(memory)) => field(&memory.join("memory.oom_control"), "oom_kill"),
            (None, None) => 0,
        }
    }

    /// Every process in it.
    pub fn processes(&self) -> Vec<i32> {
        let directory = self.unified.as_ref().or(self.pids.as_ref()).or(self.memory.as_ref());
        let text = directory.and_then(|d| fs::read_to_string(d.join("cgroup.procs")).ok()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Ends every process in it, those that are born meanwhile too.
    pub fn kill(&self) {
        for _ in 0..100 {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            for pid in processes {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    pub fn stats(&self) -> wire::ContainerStats {
        let mut stats = wire::ContainerStats { timestamp_ns: sys::now_ns(), ..Default::default() };
        if let Some(unified) = &self.unified {
            let memory = unified.join("memory.stat");
            stats.cpu_usage_ns = field(&unified.join("cpu.stat"), "usage_usec") * 1000;
            stats.memory_usage_bytes = number(&unified.join("memory.current"));
            stats.memory_working_set_bytes = stats.memory_usage_bytes.saturating_sub(field(&memory, "inactive_file"));
            stats.memory_rss_bytes = field(&memory, "anon");
            stats.page_faults = field(&memory, "pgfault");
            stats.major_page_faults = field(&memory, "pgmajfault");
            stats.pids = number(&unified.join("pids.current"));
            return stats;
        }
        if let Some(memory) = &self.memory {
            let file = memory.join("memory.stat");
            stats.memory_usage_bytes = number(&memory.join("memory.usage_in_bytes"));
            stats.memory_working_set_bytes =
                stats.memory_usage_bytes.saturating_sub(field(&file, "total_inactive_file"));
            stats.memory_rss_bytes = field(&file, "total_rss");
            stats.page_faults = field(&file, "total_pgfault");
            stats.major_page_faults = field(&file, "total_pgmajfault");
        }
        stats.cpu_usage_ns = self.cpuacct.as_ref().map(|d| number(&d.join("cpuacct.usage"))).unwrap_or(0);
        stats.pids = self.pids.as_ref().map(|d| number(&d.join("pids.current"))).unwrap_or(0);
        stats
    }
}
