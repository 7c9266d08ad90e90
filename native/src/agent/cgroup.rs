//! What the kernel counted for a container: memory, processor, processes, OOM kills. Versions 1 and 2.
use crate::{sys, wire};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The agent's own cgroup below its pod's, on a host whose controllers are version 2's.
pub const AGENT_CGROUP: &str = "agent";
/// Directories looked at for the processes of a container
const MOST_BELOW: usize = 4096;

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
    pub hugetlb: Option<PathBuf>,
    /// Version 2's directory where it counts pressure, also on a host where version 1 has the controllers.
    pub pressure: Option<PathBuf>,
}

pub fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A number in a file; absent when there is none, or "max", which is no limit.
pub fn optional(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
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
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Cgroup::parse(&text, Path::new("/sys/fs/cgroup"))
    }

    /// Of the lines of /proc/PID/cgroup; `root` is where version 2, or version 1's controllers, are mounted.
    fn parse(text: &str, root: &Path) -> Cgroup {
        let mut cgroup = Cgroup::default();
        let (mut in_two, mut in_one) = (None, None);
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let path = path.trim_start_matches('/');
            if path.is_empty() {
                // The root of the host or of a cgroup namespace: everybody is in it, it is no container's.
                continue;
            }
            let existing = |controller: &str| Some(root.join(controller).join(path)).filter(|p| p.is_dir());
            if controllers.is_empty() {
                // Every cgroup of version 2 has this file, whatever controllers it is given.
                cgroup.unified = existing("").filter(|p| p.join("cgroup.events").exists());
                in_two = Some(path);
            }
            for controller in controllers.split(',') {
                match controller {
                    "memory" => cgroup.memory = existing("memory"),
                    "cpu" => cgroup.cpu = existing("cpu"),
                    "blkio" => cgroup.blkio = existing("blkio"),
                    "cpuacct" => cgroup.cpuacct = existing("cpuacct"),
                    "pids" => {
                        cgroup.pids = existing("pids");
                        in_one = Some(path);
                    }
                    "hugetlb" => cgroup.hugetlb = existing("hugetlb"),
                    _ => {}
                }
            }
        }
        // Beside version 1 a runtime may leave the container in version 2's cgroup of its caller, which is the pod's.
        if let Some(path) = in_two.filter(|two| in_one.is_none_or(|one| one == *two)) {
            let roots = [root.to_owned(), root.join("unified")];
            cgroup.pressure = roots.map(|root| root.join(path)).into_iter().find(|d| d.join("cpu.pressure").exists());
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

    /// Every process in it and in those below it, which a privileged container may have made.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        let mut ahead: Vec<PathBuf> =
            self.unified.as_ref().or(self.pids.as_ref()).or(self.memory.as_ref()).into_iter().cloned().collect();
        for _ in 0..MOST_BELOW {
            let Some(directory) = ahead.pop() else { break };
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            ahead.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        found
    }

    /// Ends every process in it, those that are born meanwhile too.
    pub fn kill(&self) {
        // One write does it where the kernel is 5.14 or newer.
        if let Some(unified) = &self.unified {
            let _ = fs::OpenOptions::new()
                .write(true)
                .open(unified.join("cgroup.kill"))
                .and_then(|mut f| f.write_all(b"1"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Where version 2 is mounted, alone or beside version 1.
    fn unified() -> Option<&'static Path> {
        ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .map(Path::new)
            .into_iter()
            .find(|p| p.join("cgroup.controllers").exists())
    }

    #[test]
    fn version_2_finds_and_kills_what_is_in_it() {
        let Some(root) = unified() else { return };
        let name = format!("tinderbox-test-{}", std::process::id());
        let directory = root.join(&name);
        // Not root, or a container that may not: nothing to see here.
        if fs::create_dir(&directory).is_err() {
            return;
        }
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let moved = fs::write(directory.join("cgroup.procs"), child.id().to_string());
        let cgroup = Cgroup::parse(&format!("4:memory:/elsewhere\n0::/{name}\n"), root);
        let found = cgroup.processes();
        cgroup.kill();
        let status =
            if moved.is_ok() { child.wait().unwrap() } else { child.kill().and_then(|()| child.wait()).unwrap() };
        fs::remove_dir(&directory).unwrap();
        moved.unwrap();
        assert_eq!(found, [child.id() as i32]);
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        // The root is not a container's: everybody is in it.
        assert!(Cgroup::parse("0::/\n", root).processes().is_empty());
    }

    #[test]
    fn pressure_is_the_container_s_own() {
        let root = std::env::temp_dir().join(format!("tinderbox-pressure-{}", std::process::id()));
        for directory in ["p/c", "unified/p/c", "unified/p"] {
            fs::create_dir_all(root.join(directory)).unwrap();
            fs::write(root.join(directory).join("cpu.pressure"), "").unwrap();
        }
        let of = |text: &str| Cgroup::parse(text, &root).pressure;
        let (alone, beside) = (of("0::/p/c\n"), of("4:pids:/p/c\n0::/p/c\n"));
        let left_in_the_pod_s = of("4:pids:/p/c\n0::/p\n");
        fs::remove_file(root.join("p/c/cpu.pressure")).unwrap();
        let hybrid = of("4:pids:/p/c\n0::/p/c\n");
        fs::remove_dir_all(&root).unwrap();
        assert_eq!((alone.as_ref(), beside.as_ref()), (Some(&root.join("p/c")), Some(&root.join("p/c"))));
        assert_eq!(hybrid, Some(root.join("unified/p/c")));
        assert_eq!(left_in_the_pod_s, None);
        assert_eq!(of("0::/p/c\n"), None);
    }

    #[test]
    fn both_versions_count_oom_kills() {
        let root = std::env::temp_dir().join(format!("tinderbox-cgroup-{}", std::process::id()));
        for (directory, file, text) in [
            ("two/c", "cgroup.events", "populated 1\n"),
            ("two/c", "memory.events", "oom 4\noom_kill 3\noom_group_kill 9\n"),
            ("one/memory/c", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ] {
            fs::create_dir_all(root.join(directory)).unwrap();
            fs::write(root.join(directory).join(file), text).unwrap();
        }
        let two = Cgroup::parse("0::/c\n", &root.join("two"));
        let one = Cgroup::parse("9:name=systemd:/c\n4:cpu,memory:/c\n0::/c\n", &root.join("one"));
        let neither = Cgroup::parse("0::/../c\n", &root.join("none"));
        fs::remove_dir_all(root.join("two/c")).unwrap();
        assert_eq!(two.oom_kills(), 0, "a cgroup that is gone");
        assert_eq!(one.oom_kills(), 2);
        assert_eq!(neither.oom_kills(), 0);
        fs::create_dir_all(root.join("two/c")).unwrap();
        fs::write(root.join("two/c/memory.events"), "oom 4\noom_kill 3\n").unwrap();
        assert_eq!(two.oom_kills(), 3);
        fs::remove_dir_all(&root).unwrap();
    }
}
