//! Firecracker's rate limiter: a bucket of `size` tokens that fills up in `refill_time`, and a burst that is spent first, once.
use serde_json::Value;
use std::time::{Duration, Instant};

pub struct TokenBucket {
    size: u64,
    refill_ns: u64,
    burst: u64,
    budget: u64,
    filled_at: Instant,
}

impl TokenBucket {
    /// None is no limit: a size or a refill time of 0.
    pub fn new(size: u64, burst: u64, refill_ms: u64) -> Option<TokenBucket> {
        let refill_ns = refill_ms.checked_mul(1_000_000).filter(|&ns| ns > 0)?;
        (size > 0).then(|| TokenBucket { size, refill_ns, burst, budget: size, filled_at: Instant::now() })
    }

    /// Of `{size, refill_time, one_time_burst}`.
    fn from_json(value: &Value) -> Option<TokenBucket> {
        let number = |name: &str| value[name].as_u64().unwrap_or(0);
        TokenBucket::new(number("size"), number("one_time_burst"), number("refill_time"))
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).as_nanos();
        let tokens = u64::try_from(elapsed * u128::from(self.size) / u128::from(self.refill_ns)).unwrap_or(u64::MAX);
        if tokens >= self.size - self.budget.min(self.size) {
            self.budget = self.size;
            self.filled_at = now;
        } else if tokens > 0 {
            self.budget += tokens;
            // Only the time that made whole tokens is used up.
            let used = u128::from(tokens) * u128::from(self.refill_ns) / u128::from(self.size);
            self.filled_at += Duration::from_nanos(u64::try_from(used).unwrap_or(u64::MAX));
        }
    }

    /// Spends `tokens`, or says when to ask again. More than a whole bucket is let through when it is full.
    fn missing(&mut self, tokens: u64, now: Instant) -> Option<Instant> {
        self.refill(now);
        let needed = tokens.saturating_sub(self.burst).min(self.size);
        if self.budget >= needed {
            return None;
        }
        let lacking = u128::from(needed - self.budget) * u128::from(self.refill_ns);
        let wait = lacking.div_ceil(u128::from(self.size));
        Some(self.filled_at + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    fn spend(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        self.budget = self.budget.saturating_sub(tokens - from_burst);
    }
}

/// Bytes and operations of one direction of a device.
#[derive(Default)]
pub struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    ops: Option<TokenBucket>,
}

impl RateLimiter {
    /// Takes the buckets that `value` names; an absent or null one stays as it is.
    pub fn update(&mut self, value: &Value) {
        if value["bandwidth"].is_object() {
            self.bandwidth = TokenBucket::from_json(&value["bandwidth"]);
        }
        if value["ops"].is_object() {
            self.ops = TokenBucket::from_json(&value["ops"]);
        }
    }

    /// Lets one operation of `bytes` through, or says when to ask again.
    pub fn admit(&mut self, bytes: u64) -> Result<(), Instant> {
        if self.bandwidth.is_none() && self.ops.is_none() {
            return Ok(());
        }
        let now = Instant::now();
        let until = [(&mut self.bandwidth, bytes), (&mut self.ops, 1)]
            .into_iter()
            .filter_map(|(bucket, tokens)| bucket.as_mut()?.missing(tokens, now))
            .max();
        if let Some(at) = until {
            return Err(at);
        }
        if let Some(bucket) = &mut self.bandwidth {
            bucket.spend(bytes);
        }
        if let Some(bucket) = &mut self.ops {
            bucket.spend(1);
        }
        Ok(())
    }
}

/// A single bucket, for bytes that are dropped rather than delayed. @returns how many of `bytes` may pass now
pub fn admit_part(bucket: &mut TokenBucket, bytes: u64) -> u64 {
    bucket.refill(Instant::now());
    let allowed = bytes.min(bucket.budget.saturating_add(bucket.burst));
    bucket.spend(allowed);
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_spent_first_and_once() {
        let mut bucket = TokenBucket::new(100, 50, 60_000).expect("a bucket");
        assert_eq!(admit_part(&mut bucket, 120), 120);
        assert_eq!(admit_part(&mut bucket, 100), 30);
        assert_eq!(admit_part(&mut bucket, 1), 0);
    }

    #[test]
    fn zero_is_no_limit_and_absent_changes_nothing() {
        let mut limiter = RateLimiter::default();
        limiter.update(&serde_json::json!({"ops": {"size": 1, "refill_time": 60_000}}));
        assert!(limiter.admit(10).is_ok());
        assert!(limiter.admit(10).is_err());
        limiter.update(&serde_json::json!({"bandwidth": {"size": 5, "refill_time": 1000}}));
        assert!(limiter.admit(1).is_err());
        limiter.update(&serde_json::json!({"ops": {"size": 0, "refill_time": 0}}));
        assert!(limiter.admit(1).is_ok());
    }

    #[test]
    fn more_than_a_bucket_passes_when_it_is_full() {
        let mut limiter = RateLimiter::default();
        limiter.update(&serde_json::json!({"bandwidth": {"size": 100, "refill_time": 60_000}}));
        assert!(limiter.admit(1000).is_ok());
        assert!(limiter.admit(1).is_err());
    }
}
