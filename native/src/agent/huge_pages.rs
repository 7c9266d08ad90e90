//! Huge pages: what a container uses of them, and limits that there is nothing to set for.
use super::cgroup::{number, optional, Cgroup};
use crate::wire;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Huge pages of each size that the kernel has: `hugetlb.2MB.current` in version 2, `hugetlb.2MB.usage_in_bytes` in 1.
pub fn of(cgroup: &Cgroup) -> Vec<wire::HugePages> {
    let (directory, usage) = match (&cgroup.unified, &cgroup.hugetlb) {
        (Some(unified), _) => (unified, ".current"),
        (None, Some(hugetlb)) => (hugetlb, ".usage_in_bytes"),
        (None, None) => return Vec::new(),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(usage));
        // `hugetlb.2MB.rsvd.current` counts what is promised, not what is used.
        let Some(size) = size.filter(|size| !size.contains('.')) else { continue };
        found.push(wire::HugePages {
            page_size: size.to_owned(),
            usage_bytes: number(&entry.path()),
            max_usage_bytes: optional(&directory.join(format!("hugetlb.{size}.max_usage_in_bytes"))),
        });
    }
    found.sort_by(|one, other| one.page_size.cmp(&other.page_size));
    found
}

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

/// Takes limits of nothing out of OCI resources where nothing is what there is: a kubelet sends them for each size that
/// its node has, a guest may have fewer, and an OCI runtime fails for want of the file.
pub fn drop_vain_limits(resources: &mut Value) {
    drop_vain_limits_in(Path::new("/sys"), resources);
}

fn drop_vain_limits_in(sys: &Path, resources: &mut Value) {
    if let Some(limits) = resources.get_mut("hugepageLimits").and_then(Value::as_array_mut) {
        limits.retain(|one| one["limit"] != 0 || one["pageSize"].as_str().is_some_and(|s| can_be_limited(sys, s)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    fn directory(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("tinderbox-huge-pages-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for (file, text) in files {
            fs::write(directory.join(file), text).unwrap();
        }
        directory
    }

    #[test]
    fn counts_of_both_versions() {
        let two = directory("two", &[("hugetlb.2MB.current", "4194304\n"), ("hugetlb.2MB.rsvd.current", "9\n")]);
        let one = directory(
            "one",
            &[
                ("hugetlb.2MB.usage_in_bytes", "0\n"),
                ("hugetlb.2MB.rsvd.usage_in_bytes", "9\n"),
                ("hugetlb.2MB.max_usage_in_bytes", "2097152\n"),
                ("hugetlb.1GB.usage_in_bytes", "0\n"),
            ],
        );
        let in_two = of(&Cgroup { unified: Some(two.clone()), ..Default::default() });
        let in_one = of(&Cgroup { hugetlb: Some(one.clone()), ..Default::default() });
        fs::remove_dir_all(two).unwrap();
        fs::remove_dir_all(one).unwrap();
        let figures = |pages: &[wire::HugePages]| {
            pages.iter().map(|one| (one.page_size.clone(), one.usage_bytes, one.max_usage_bytes)).collect::<Vec<_>>()
        };
        assert_eq!(figures(&in_two), [("2MB".to_owned(), 4_194_304, None)]);
        assert_eq!(figures(&in_one), [("1GB".to_owned(), 0, None), ("2MB".to_owned(), 0, Some(2_097_152))]);
        assert!(of(&Cgroup::default()).is_empty());
    }

    #[test]
    fn only_limits_of_nothing_on_nothing_are_dropped() {
        let sys = directory("sys", &[]);
        fs::create_dir_all(sys.join("kernel/mm/hugepages/hugepages-2048kB")).unwrap();
        fs::create_dir_all(sys.join("fs/cgroup/hugetlb")).unwrap();
        let left = |sys: &Path| {
            let limit = |size: &str, limit: u64| json!({ "pageSize": size, "limit": limit });
            let mut resources = json!({ "hugepageLimits": [limit("2MB", 0), limit("1GB", 0), limit("1GB", 7)] });
            drop_vain_limits_in(sys, &mut resources);
            let left = resources["hugepageLimits"].as_array().unwrap().clone();
            left.iter().map(|one| format!("{} {}", one["pageSize"], one["limit"])).collect::<Vec<_>>()
        };
        let without_controller = left(&sys);
        fs::write(sys.join("fs/cgroup/hugetlb/cgroup.procs"), "").unwrap();
        let with_controller = left(&sys);
        fs::remove_dir_all(&sys).unwrap();
        assert_eq!(without_controller, ["\"1GB\" 7"]);
        assert_eq!(with_controller, ["\"2MB\" 0", "\"1GB\" 7"]);
    }
}
