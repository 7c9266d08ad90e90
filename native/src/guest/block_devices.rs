//! Block devices of the host in a container: its node for the guest's drive, and the cgroup's leave to use it.
use super::drives::Drives;
use crate::agent::{Fault, Outcome};
use crate::wire;
use serde_json::{json, Value};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The list at `path` of an OCI configuration, made when it is not there.
fn list<'a>(config: &'a mut Value, path: &[&str]) -> Outcome<&'a mut Vec<Value>> {
    let mut at = config;
    for (n, name) in path.iter().enumerate() {
        let object = at.as_object_mut().ok_or_else(|| Fault::invalid("config_json: an object is expected"))?;
        at = object.entry(*name).or_insert_with(|| if n + 1 == path.len() { json!([]) } else { json!({}) });
    }
    at.as_array_mut().ok_or_else(|| Fault::invalid(format!("config_json: {} must be a list", path.join("."))))
}

fn check(device: &wire::BlockDevice) -> Outcome<()> {
    let access = &device.access;
    if access.is_empty() || !access.bytes().all(|letter| b"rwm".contains(&letter)) {
        return Err(Fault::invalid(format!("block_devices.access '{}': some of r, w, m", access.escape_debug())));
    }
    if !device.path.starts_with('/') || device.path.split('/').any(|part| part == "..") {
        let path = device.path.escape_debug();
        return Err(Fault::invalid(format!("block_devices.path '{path}' must be absolute, without '..'")));
    }
    Ok(())
}

impl Drives {
    /// Makes the devices ready for container `user`; the configuration with their nodes and rules in it.
    pub fn add_devices(&self, devices: &[wire::BlockDevice], config: Vec<u8>, user: &str) -> Outcome<Vec<u8>> {
        if devices.is_empty() {
            return Ok(config);
        }
        let mut config: Value =
            serde_json::from_slice(&config).map_err(|e| Fault::invalid(format!("config_json is not JSON: {e}")))?;
        for device in devices {
            check(device)?;
            let path = self.attach(device.index, device.size_bytes, user)?;
            let number = fs::metadata(&path).map_err(|e| Fault::io(path.display(), e))?.rdev();
            let (major, minor) = (libc::major(number), libc::minor(number));
            list(&mut config, &["linux", "devices"])?.push(json!({
                "path": device.path, "type": "b", "major": major, "minor": minor,
                "fileMode": device.mode & 0o777, "uid": device.uid, "gid": device.gid,
            }));
            list(&mut config, &["linux", "resources", "devices"])?.push(json!({
                "allow": true, "type": "b", "major": major, "minor": minor, "access": device.access,
            }));
        }
        serde_json::to_vec(&config).map_err(|e| Fault::invalid(format!("config_json: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_make_no_sense_are_refused_before_any_drive_is_touched() {
        let drives = Drives::default();
        for (path, access) in [("dev/x", "r"), ("/dev/../x", "r"), ("/dev/x", ""), ("/dev/x", "rx")] {
            let device = wire::BlockDevice { path: path.into(), access: access.into(), ..Default::default() };
            assert!(drives.add_devices(&[device], b"{}".to_vec(), "user").is_err(), "{path} {access}");
        }
    }

    #[test]
    fn without_devices_the_configuration_stays_as_it_is() {
        let config = b"not even JSON".to_vec();
        assert_eq!(Drives::default().add_devices(&[], config.clone(), "user").ok(), Some(config));
    }
}
