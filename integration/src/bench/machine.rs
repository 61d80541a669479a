//! What the figures were measured on, in one line that names nobody.

use super::BenchError;
use crate::harness::KAFKA_VERSION;
use std::fs;

/// Cores, memory, and the broker's place: `None` is our own Kafka on this machine.
pub(super) fn describe(bootstrap: Option<&str>) -> Result<String, BenchError> {
    let cores = std::thread::available_parallelism().map_err(BenchError::io("count the cores"))?;
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).map_err(BenchError::io(path))?;
    let kib = total_kib(&text).ok_or(std::io::ErrorKind::InvalidData);
    let kib = kib.map_err(|kind| BenchError::io(path)(kind.into()))?;
    let broker = match bootstrap {
        None => format!("Kafka {KAFKA_VERSION} on the same machine, over loopback"),
        Some(_) => "a broker that was there already".to_owned(),
    };
    let gib = kib / f64::from(1 << 20);
    Ok(format!(
        "{cores} cores, {gib:.0} GiB of memory, {} {}; {broker}",
        std::env::consts::OS,
        std::env::consts::ARCH,
    ))
}

fn total_kib(meminfo: &str) -> Option<f64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_its_cores_its_memory_and_its_broker() {
        let own = describe(None).unwrap();
        assert!(
            own.contains("cores") && own.contains(KAFKA_VERSION),
            "{own}"
        );
        let other = describe(Some("kafka.example:9092")).unwrap();
        assert!(
            !other.contains("example") && !other.contains(KAFKA_VERSION),
            "{other}"
        );
    }

    #[test]
    fn memory_is_what_the_kernel_says() {
        let text = "MemFree: 1 kB\nMemTotal:       24576000 kB\n";
        assert_eq!(total_kib(text), Some(24_576_000.0));
        assert_eq!(total_kib("MemFree: 1 kB\n"), None);
    }
}
