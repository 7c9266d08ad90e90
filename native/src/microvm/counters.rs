//! What a device has done since it was last asked, under Firecracker's names.
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Default)]
pub struct Counters(Mutex<BTreeMap<&'static str, u64>>);

impl Counters {
    pub fn add(&self, name: &'static str, count: u64) {
        if let Ok(mut counts) = self.0.lock() {
            *counts.entry(name).or_default() += count;
        }
    }

    pub fn to_json(&self) -> Value {
        self.0.lock().map(|counts| serde_json::json!(*counts)).unwrap_or(Value::Null)
    }
}
