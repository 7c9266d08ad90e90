//! Limits of what there is nothing of.
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Whether there are pages of this size ("2MB") and a controller that limits them, in `sys` = /sys.
fn can_be_limited(sys: &Path, size: &str) -> bool {
    let unit = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let factor = match &size[unit..] {
        "KB" => 1,
        "MB" => 1 << 10,
        "GB" => 1 << 20,
        _ => return false,
    };
    let Some(kib) = size[..unit].parse::<u64>().ok().and_then(|count| count.checked_mul(factor)) else { return false };
    let cgroup = sys.join("fs/cgroup");
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap_or_default();
    let has_controller = controllers.split_ascii_whitespace().any(|one| one == "hugetlb")
        || cgroup.join("hugetlb/cgroup.procs").exists();
    has_controller && sys.join(format!("kernel/mm/hugepages/hugepages-{kib}kB")).exists()
}

/// Takes out of OCI resources what holds by itself, and what an OCI runtime fails with for want of a file: limits of no huge pages, which
/// a kubelet sends for each size that its node has, where a guest has fewer, and any limit of swap where the kernel has no swap.
pub fn drop_vain_limits(resources: &mut Value) {
    drop_vain_limits_in(Path::new("/"), resources);
}

fn drop_vain_limits_in(root: &Path, resources: &mut Value) {
    let sys = &root.join("sys");
    if let Some(limits) = resources.get_mut("hugepageLimits").and_then(Value::as_array_mut) {
        limits.retain(|one| one["limit"] != 0 || one["pageSize"].as_str().is_some_and(|s| can_be_limited(sys, s)));
    }
    if let Some(memory) = resources.get_mut("memory").and_then(Value::as_object_mut) {
        if !root.join("proc/swaps").exists() {
            memory.remove("swap");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("tinderbox-vain-limits-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn of_huge_pages_only_limits_of_nothing_on_nothing_are_dropped() {
        let root = directory("pages");
        fs::create_dir_all(root.join("sys/kernel/mm/hugepages/hugepages-2048kB")).unwrap();
        fs::create_dir_all(root.join("sys/fs/cgroup/hugetlb")).unwrap();
        let left = || {
            let limit = |size: &str, limit: u64| json!({ "pageSize": size, "limit": limit });
            let mut resources = json!({ "hugepageLimits": [limit("2MB", 0), limit("1GB", 0), limit("1GB", 7)] });
            drop_vain_limits_in(&root, &mut resources);
            let left = resources["hugepageLimits"].as_array().unwrap().clone();
            left.iter().map(|one| format!("{} {}", one["pageSize"], one["limit"])).collect::<Vec<_>>()
        };
        let without_controller = left();
        fs::write(root.join("sys/fs/cgroup/hugetlb/cgroup.procs"), "").unwrap();
        let with_controller = left();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(without_controller, ["\"1GB\" 7"]);
        assert_eq!(with_controller, ["\"2MB\" 0", "\"1GB\" 7"]);
    }

    #[test]
    fn a_limit_of_swap_is_dropped_where_the_kernel_has_none() {
        let root = directory("swap");
        let left = || {
            let mut resources = json!({ "memory": { "limit": 5, "swap": 5 } });
            drop_vain_limits_in(&root, &mut resources);
            resources["memory"].to_string()
        };
        let without = left();
        fs::create_dir(root.join("proc")).unwrap();
        fs::write(root.join("proc/swaps"), "Filename\n").unwrap();
        let with = left();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(without, r#"{"limit":5}"#);
        assert_eq!(with, r#"{"limit":5,"swap":5}"#);
    }
}
