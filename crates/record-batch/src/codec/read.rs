//! Reading a decoder up to a limit.

use super::Failure;
use std::io::Read;

const SMALLEST: usize = 4 * 1024;

/// Reads `reader` to its end behind what `out` holds; `out` never gets longer than `limit`, nor
/// its capacity. `expected` is how much is believed to come.
pub(super) fn read_to_limit(
    reader: &mut impl Read,
    out: &mut Vec<u8>,
    expected: usize,
    limit: usize,
) -> Result<(), Failure> {
    let mut filled = out.len();
    let mut wanted = filled.saturating_add(expected.max(SMALLEST)).min(limit);
    loop {
        out.reserve_exact(wanted.saturating_sub(out.len()));
        out.resize(wanted.max(filled), 0);
        while filled < out.len() {
            match reader.read(&mut out[filled..]) {
                Ok(0) => {
                    out.truncate(filled);
                    return Ok(());
                }
                Ok(n) => filled += n,
                Err(_) => return Err(Failure::Corrupt),
            }
        }
        // Full: grow only for a byte that is there.
        let mut next = [0];
        match reader.read(&mut next) {
            Ok(0) => return Ok(()),
            Ok(_) if filled >= limit => return Err(Failure::TooLarge),
            Ok(_) => {}
            Err(_) => return Err(Failure::Corrupt),
        }
        wanted = filled.saturating_mul(2).max(SMALLEST).min(limit);
        out.reserve_exact(wanted - filled);
        out.push(next[0]);
        filled += 1;
    }
}
