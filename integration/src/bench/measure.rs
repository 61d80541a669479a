//! What the kernel says about another process.

use super::BenchError;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// User and system time of all threads, ended ones included, since the process began: what getrusage
/// would tell it, with nanoseconds.
pub(super) fn cpu(pid: u32) -> Result<Duration, BenchError> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()));
    let time = clock.and_then(clock_gettime);
    let time = time.map_err(|error| BenchError::io("read a CPU clock")(error.into()))?;
    Ok(time.into())
}

/// `VmHWM`, in MiB.
pub(super) fn peak_mib(pid: u32) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(BenchError::io(&path))?;
    let kib = high_water_kib(&text).ok_or(std::io::ErrorKind::InvalidData);
    let kib = kib.map_err(|kind| BenchError::io(&path)(kind.into()))?;
    Ok(kib / 1024.0)
}

fn high_water_kib(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Established TCP connections.
pub(super) fn sockets(pid: u32) -> Result<usize, BenchError> {
    let mut own = BTreeSet::new();
    let folder = format!("/proc/{pid}/fd");
    for entry in fs::read_dir(&folder).map_err(BenchError::io(&folder))? {
        let entry = entry.map_err(BenchError::io(&folder))?;
        // A descriptor that was closed meanwhile is no connection.
        if let Ok(target) = fs::read_link(entry.path())
            && let Some(inode) = target.to_str().and_then(socket_inode)
        {
            own.insert(inode.to_owned());
        }
    }
    let mut count = 0;
    for table in ["tcp", "tcp6"] {
        let path = format!("/proc/{pid}/net/{table}");
        let text = fs::read_to_string(&path).map_err(BenchError::io(&path))?;
        count += established(&text)
            .filter(|inode| own.contains(*inode))
            .count();
    }
    Ok(count)
}

fn socket_inode(target: &str) -> Option<&str> {
    target.strip_prefix("socket:[")?.strip_suffix(']')
}

fn established(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(3);
        let state = words.next()?;
        // uid, timeout and inode stand at 7, 8 and 9.
        (state == "01").then(|| words.nth(5))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn this_process_is_measured() {
        let pid = std::process::id();
        let before = cpu(pid).unwrap();
        let mut x = 1_u64;
        while cpu(pid).unwrap() == before {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(peak_mib(pid).unwrap() > 1.0);
    }

    #[test]
    fn both_ends_of_a_connection_are_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_far, _) = listener.accept().unwrap();
        assert!(sockets(std::process::id()).unwrap() >= 2);
    }

    #[test]
    fn only_established_connections_are_counted() {
        let table = "sl local rem st tx tr retrnsmt uid timeout inode\n\
                     0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 77 1 x\n\
                     1: 0100007F:1F90 0100007F:1F91 01 0:0 00:0 0 0 0 78 1 x\n\
                     2: 0100007F:1F90 0100007F:1F92 06 0:0 00:0 0 0 0 0 1 x\n";
        assert_eq!(established(table).collect::<Vec<_>>(), ["78"]);
    }

    #[test]
    fn the_high_water_mark_is_found() {
        assert_eq!(
            high_water_kib("VmPeak:\t 9 kB\nVmHWM:\t   13512 kB\n"),
            Some(13512.0)
        );
        assert_eq!(high_water_kib("VmPeak:\t 9 kB\n"), None);
    }
}
