//! The records that all contenders write and read. Programs in other languages make the same ones:
//! `integration/peers/README.md` says how.

use bytes::Bytes;

const KEYS: u64 = 10_000;
const VALUES: u64 = 1_000;

/// Keys and values, made before the clock starts and used in turn.
#[derive(Debug)]
pub(super) struct Workload {
    keys: Vec<Bytes>,
    values: Vec<Bytes>,
}

impl Workload {
    pub(super) fn new(value_bytes: usize) -> Self {
        let key = |i: u64| Bytes::from(format!("key-{i:08}"));
        let value = |i: u64| {
            let byte = |at: u64| b'a' + ((i + at * 7) % 26) as u8;
            Bytes::from_iter((0..value_bytes as u64).map(byte))
        };
        Self {
            keys: (0..KEYS).map(key).collect(),
            values: (0..VALUES).map(value).collect(),
        }
    }

    /// Key and value of record `i`.
    pub(super) fn record(&self, i: u64) -> (&Bytes, &Bytes) {
        let key = &self.keys[(i % KEYS) as usize];
        (key, &self.values[(i % VALUES) as usize])
    }

    /// What reading records 0 to `count` adds up to.
    pub(super) fn sum(&self, count: u64) -> u64 {
        let touched = (0..count).map(|i| {
            let (key, value) = self.record(i);
            touch(key, value)
        });
        touched.sum()
    }
}

/// What a reader must have looked at: both lengths, and bytes at both ends.
pub(super) fn touch(key: &[u8], value: &[u8]) -> u64 {
    let edge = |byte: Option<&u8>| byte.copied().map_or(0, u64::from);
    key.len() as u64
        + value.len() as u64
        + edge(key.last())
        + edge(value.first())
        + edge(value.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_as_the_peers_make_them() {
        let workload = Workload::new(200);
        let (key, value) = workload.record(10_003);
        assert_eq!(key, "key-00000003");
        assert_eq!(value.len(), 200);
        assert_eq!(&value[..3], b"dkr");
        // 12 + 200 + '0' + 'a' + the value's 199th byte: (0 + 199 * 7) % 26 = 15, 'p'.
        assert_eq!(workload.sum(1), 12 + 200 + 48 + 97 + 112);
    }

    #[test]
    fn an_empty_record_can_be_touched() {
        assert_eq!(touch(b"", b""), 0);
    }
}
