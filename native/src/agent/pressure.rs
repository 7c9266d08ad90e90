//! Pressure stall information: how long tasks waited for processor, memory and input or output.
use crate::wire;
use std::fs;
use std::path::Path;

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line of `full` likewise.
fn stalls(text: &str) -> Option<wire::Stalls> {
    let line = |kind: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = |key: &str| rest.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        Some(wire::Stall {
            total_us: value("total")?.parse().ok()?,
            avg10: value("avg10")?.parse().ok()?,
            avg60: value("avg60")?.parse().ok()?,
            avg300: value("avg300")?.parse().ok()?,
        })
    };
    let some = line("some")?;
    Some(wire::Stalls { some: Some(some), full: line("full") })
}

/// Of the files cpu, memory and io with this ending; None where the kernel counts none of it (`psi=0`).
fn read(directory: &Path, ending: &str) -> Option<wire::Pressure> {
    let of = |name: &str| stalls(&fs::read_to_string(directory.join(format!("{name}{ending}"))).ok()?);
    let pressure = wire::Pressure { cpu: of("cpu"), memory: of("memory"), io: of("io") };
    (pressure != wire::Pressure::default()).then_some(pressure)
}

/// Of a cgroup of version 2.
pub fn of_cgroup(directory: &Path) -> Option<wire::Pressure> {
    read(directory, ".pressure")
}

/// Of the whole machine.
pub fn of_machine() -> Option<wire::Pressure> {
    read(Path::new("/proc/pressure"), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let text =
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let both = stalls(text).unwrap();
        let some = both.some.unwrap();
        assert_eq!((some.total_us, some.avg10, some.avg60), (12345, 1.5, 0.25));
        assert_eq!(both.full.unwrap().total_us, 7);
        // Before Linux 5.13 the processor has no such line.
        assert!(stalls(text.lines().next().unwrap()).unwrap().full.is_none());
        assert!(stalls("").is_none());
        assert!(stalls("some avg10=x avg60=0 avg300=0 total=1").is_none());
        assert!(of_cgroup(Path::new("/nowhere")).is_none());
    }
}
