//! Free loopback ports.

use super::HarnessError;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

/// Below the range that the kernel hands out for outgoing connections, so that the port of a killed
/// broker is not taken before the broker is back.
const RANGE: std::ops::Range<u16> = 18_000..32_000;

/// `count` distinct ports on which nothing listens now.
///
/// # Errors
/// `Io` if too few are free.
pub fn free_ports(count: usize) -> Result<Vec<u16>, HarnessError> {
    let mut found = BTreeSet::new();
    for _ in 0..1000 {
        if found.len() == count {
            return Ok(found.into_iter().collect());
        }
        let port = fastrand::u16(RANGE);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            found.insert(port);
        }
    }
    let source = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    Err(HarnessError::Io {
        doing: format!("find {count} free ports"),
        source,
    })
}
