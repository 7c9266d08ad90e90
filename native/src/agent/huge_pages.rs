//! Huge pages: what a container uses of them.
use super::cgroup::{number, optional, Cgroup};
use crate::wire;
use std::fs;

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

#[cfg(test)]
mod tests {
    use super::*;
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
}
