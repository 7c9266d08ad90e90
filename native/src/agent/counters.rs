//! Counters of a container and of its pod beside the basic ones: what the metrics of the CRI are made of.
use super::cgroup::{field, number, optional, Cgroup, AGENT_CGROUP};
use super::{huge_pages, pressure};
use crate::{sys, wire};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

type Counters = HashMap<String, u64>;

fn set(counters: &mut Counters, name: &str, value: impl Into<Option<u64>>) {
    if let Some(value) = value.into() {
        counters.insert(name.to_owned(), value);
    }
}

fn unified(directory: &Path, counters: &mut Counters) -> Vec<wire::DeviceIo> {
    let (cpu, memory) = (directory.join("cpu.stat"), directory.join("memory.stat"));
    set(counters, "cpu_user_ns", field(&cpu, "user_usec") * 1000);
    set(counters, "cpu_system_ns", field(&cpu, "system_usec") * 1000);
    set(counters, "cfs_periods", field(&cpu, "nr_periods"));
    set(counters, "cfs_throttled_periods", field(&cpu, "nr_throttled"));
    set(counters, "cfs_throttled_ns", field(&cpu, "throttled_usec") * 1000);
    set(counters, "memory_cache", field(&memory, "file"));
    set(counters, "memory_mapped_file", field(&memory, "file_mapped"));
    set(counters, "memory_kernel", field(&memory, "kernel"));
    set(counters, "memory_failures", field(&directory.join("memory.events"), "max"));
    // Counted since Linux 5.19; what is used now is the least that it can have been.
    let peak = optional(&directory.join("memory.peak")).unwrap_or_else(|| number(&directory.join("memory.current")));
    set(counters, "memory_max_usage", peak);
    set(counters, "memory_swap", number(&directory.join("memory.swap.current")));
    set(counters, "memory_limit", optional(&directory.join("memory.max")));
    set(counters, "swap_limit", optional(&directory.join("memory.swap.max")));
    // OCI's reservation is memory.low; a kubelet that guarantees memory writes memory.min.
    set(
        counters,
        "memory_reservation",
        optional(&directory.join("memory.low")).max(optional(&directory.join("memory.min"))),
    );
    set(counters, "pids_limit", optional(&directory.join("pids.max")));
    let weight = optional(&directory.join("cpu.weight"));
    // The OCI runtimes' conversion of shares to weights, turned round.
    set(counters, "cpu_shares", weight.map(|weight| 2 + weight.saturating_sub(1) * 262_142 / 9_999));
    let max = fs::read_to_string(directory.join("cpu.max")).unwrap_or_default();
    let mut limits = max.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
    set(counters, "cpu_quota_us", limits.next().flatten());
    set(counters, "cpu_period_us", limits.next().flatten());
    let text = fs::read_to_string(directory.join("io.stat")).unwrap_or_default();
    text.lines().filter_map(unified_io).collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`
fn unified_io(line: &str) -> Option<wire::DeviceIo> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let value = |key: &str| {
        let found = rest.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
        found.unwrap_or(0)
    };
    Some(wire::DeviceIo {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        read_bytes: value("rbytes"),
        write_bytes: value("wbytes"),
        reads: value("rios"),
        writes: value("wios"),
    })
}

fn divided(cgroup: &Cgroup, counters: &mut Counters) -> Vec<wire::DeviceIo> {
    if let Some(cpuacct) = &cgroup.cpuacct {
        set(counters, "cpu_user_ns", number(&cpuacct.join("cpuacct.usage_user")));
        set(counters, "cpu_system_ns", number(&cpuacct.join("cpuacct.usage_sys")));
    }
    if let Some(cpu) = &cgroup.cpu {
        let stat = cpu.join("cpu.stat");
        set(counters, "cfs_periods", field(&stat, "nr_periods"));
        set(counters, "cfs_throttled_periods", field(&stat, "nr_throttled"));
        set(counters, "cfs_throttled_ns", field(&stat, "throttled_time"));
        set(counters, "cpu_shares", optional(&cpu.join("cpu.shares")));
        set(counters, "cpu_period_us", optional(&cpu.join("cpu.cfs_period_us")));
        // -1 is no quota, and no number here.
        set(counters, "cpu_quota_us", optional(&cpu.join("cpu.cfs_quota_us")));
    }
    if let Some(memory) = &cgroup.memory {
        // Near 2^63 stands for no limit.
        let limit = |file: &str| optional(&memory.join(file)).filter(|value| *value < 1 << 62);
        let stat = memory.join("memory.stat");
        set(counters, "memory_cache", field(&stat, "total_cache"));
        set(counters, "memory_mapped_file", field(&stat, "total_mapped_file"));
        set(counters, "memory_kernel", number(&memory.join("memory.kmem.usage_in_bytes")));
        set(counters, "memory_failures", number(&memory.join("memory.failcnt")));
        set(counters, "memory_max_usage", number(&memory.join("memory.max_usage_in_bytes")));
        set(counters, "memory_swap", field(&stat, "total_swap"));
        set(counters, "memory_limit", limit("memory.limit_in_bytes"));
        set(counters, "memory_reservation", limit("memory.soft_limit_in_bytes"));
        let both = limit("memory.memsw.limit_in_bytes");
        set(counters, "swap_limit", both.zip(limit("memory.limit_in_bytes")).map(|(a, b)| a.saturating_sub(b)));
    }
    set(counters, "pids_limit", cgroup.pids.as_ref().and_then(|pids| optional(&pids.join("pids.max"))));
    let mut devices: HashMap<(u32, u32), wire::DeviceIo> = HashMap::new();
    let mut read = |file: &str, add: fn(&mut wire::DeviceIo, &str, u64)| {
        let text = cgroup.blkio.as_ref().and_then(|blkio| fs::read_to_string(blkio.join(file)).ok());
        for line in text.unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let (Some((major, minor)), Some(operation), Some(Ok(value))) = (
                words.next().and_then(|device| device.split_once(':')),
                words.next(),
                words.next().map(str::parse::<u64>),
            ) else {
                continue;
            };
            let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
            let new = wire::DeviceIo { major, minor, ..Default::default() };
            add(devices.entry((major, minor)).or_insert(new), operation, value);
        }
    };
    read("blkio.throttle.io_service_bytes", |io, operation, value| match operation {
        "Read" => io.read_bytes = value,
        "Write" => io.write_bytes = value,
        _ => {}
    });
    read("blkio.throttle.io_serviced", |io, operation, value| match operation {
        "Read" => io.reads = value,
        "Write" => io.writes = value,
        _ => {}
    });
    devices.into_values().collect()
}

/// Threads, open files and sockets of the processes; those that end meanwhile do not count.
fn count_processes(processes: &[i32], counters: &mut Counters) {
    let (mut threads, mut files, mut sockets) = (0, 0, 0);
    for pid in processes {
        threads += fs::read_dir(format!("/proc/{pid}/task")).map(Iterator::count).unwrap_or(0) as u64;
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            files += 1;
            let is_socket = fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
            sockets += u64::from(is_socket);
        }
    }
    set(counters, "processes", processes.len() as u64);
    set(counters, "threads", threads);
    set(counters, "file_descriptors", files);
    set(counters, "sockets", sockets);
}

/// The file system that holds a container's writable layer.
fn count_file_system(directory: &Path, counters: &mut Counters) {
    let Ok(path) = sys::c_string(directory.to_string_lossy().as_bytes()) else { return };
    let mut info: libc::statvfs = unsafe { std::mem::zeroed() };
    if unsafe { libc::statvfs(path.as_ptr(), &mut info) } == 0 {
        set(counters, "fs_limit_bytes", info.f_blocks * info.f_frsize);
        set(counters, "fs_inodes_total", info.f_files);
        set(counters, "fs_inodes_free", info.f_ffree);
    }
}

/// How many files a process may have open; None when it has ended, or there is no limit. Read, not asked by prlimit: of
/// another user's process that takes CAP_SYS_RESOURCE.
fn open_files_limit(pid: i32) -> Option<u64> {
    soft_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?, "Max open files")
}

/// `Max open files            1024                 524288               files`
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Adds everything to the basic figures of a container, whose first process is `pid`.
pub fn complete(stats: &mut wire::ContainerStats, cgroup: &Cgroup, pid: i32, writable: &Path) {
    stats.pressure = cgroup.pressure.as_deref().and_then(pressure::of_cgroup);
    stats.huge_pages = huge_pages::of(cgroup);
    let counters = &mut stats.counters;
    stats.io = match &cgroup.unified {
        Some(directory) => unified(directory, counters),
        None => divided(cgroup, counters),
    };
    set(counters, "oom_kills", cgroup.oom_kills());
    set(counters, "open_files_limit", open_files_limit(pid));
    count_processes(&cgroup.processes(), counters);
    count_file_system(writable, counters);
}

/// The pod's network interfaces, from the network namespace that the agent is in, and its pressure: on the host that of
/// the pod's cgroup.
pub fn pod_stats(guest: bool) -> wire::PodStats {
    let own = || {
        let at = Cgroup::of(std::process::id() as i32).pressure?;
        pressure::of_cgroup(if at.ends_with(AGENT_CGROUP) { at.parent()? } else { &at })
    };
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let interfaces = text.lines().skip(2).filter_map(interface).filter(|one| one.name != "lo").collect();
    let pressure = if guest { pressure::of_machine() } else { own() };
    wire::PodStats { timestamp_ns: sys::now_ns(), interfaces, pressure }
}

/// A line of /proc/net/dev: name, then 8 numbers received and 8 sent.
fn interface(line: &str) -> Option<wire::InterfaceStats> {
    let (name, rest) = line.split_once(':')?;
    let numbers: Vec<u64> = rest.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    let at = |index: usize| numbers.get(index).copied();
    Some(wire::InterfaceStats {
        name: name.trim().to_owned(),
        rx_bytes: at(0)?,
        rx_packets: at(1)?,
        rx_errors: at(2)?,
        rx_dropped: at(3)?,
        tx_bytes: at(8)?,
        tx_packets: at(9)?,
        tx_errors: at(10)?,
        tx_dropped: at(11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_of_a_process() {
        assert!(open_files_limit(std::process::id() as i32).is_some_and(|limit| limit > 0));
        assert_eq!((open_files_limit(i32::MAX), open_files_limit(0)), (None, None));
        let text = "Limit   Soft Limit  Hard Limit  Units\nMax processes  unlimited  7  processes\nMax open files  1024  9  files\n";
        assert_eq!((soft_limit(text, "Max open files"), soft_limit(text, "Max processes")), (Some(1024), None));
    }

    #[test]
    fn lines_of_the_kernel() {
        let io = unified_io("254:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0").unwrap();
        assert_eq!((io.major, io.minor, io.read_bytes, io.writes), (254, 16, 1, 4));
        assert!(unified_io("nonsense").is_none());
        let line = "  eth0: 100 2 3 4 0 0 0 0 200 6 7 8 0 0 0 0";
        let one = interface(line).unwrap();
        assert_eq!((one.name.as_str(), one.rx_dropped, one.tx_bytes, one.tx_dropped), ("eth0", 4, 200, 8));
        assert!(interface("eth0: 1 2").is_none());
    }
}
