//! Zigzag varints: 7 bits a byte, the lowest first, the high bit says that more follow.

use bytes::BytesMut;

/// Bytes left to read; every read is checked against them.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    #[inline]
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// A varint of at most 5 bytes; `None` if it is cut off or does not fit 32 bits.
    #[inline]
    pub(crate) fn varint(&mut self) -> Option<i32> {
        let raw = u32::try_from(self.raw(5)?).ok()?;
        Some(((raw >> 1) as i32) ^ -((raw & 1) as i32))
    }

    /// A varint of at most 10 bytes; `None` if it is cut off or does not fit 64 bits.
    #[inline]
    pub(crate) fn varlong(&mut self) -> Option<i64> {
        let raw = self.raw(10)?;
        Some(((raw >> 1) as i64) ^ -((raw & 1) as i64))
    }

    /// A record's length and what it counts; `None` if it is negative or above what is left.
    #[inline]
    pub(crate) fn record(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.take(length)
    }

    #[inline]
    fn raw(&mut self, max_bytes: u32) -> Option<u64> {
        // Most lengths and deltas take one byte.
        if let Some((&first, rest)) = self.0.split_first()
            && first < 0x80
        {
            self.0 = rest;
            return Some(u64::from(first));
        }
        self.raw_long(max_bytes)
    }

    fn raw_long(&mut self, max_bytes: u32) -> Option<u64> {
        let mut value = 0u64;
        for i in 0..max_bytes {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * i;
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// How many bytes [`put_varlong`] writes.
#[inline]
pub(crate) fn varlong_len(value: i64) -> usize {
    let bits = 64 - zigzag(value).leading_zeros() as usize;
    bits.div_ceil(7).max(1)
}

/// Writes a varint; a 32-bit value has the same encoding in the short and the long form.
pub(crate) fn put_varlong(buf: &mut BytesMut, value: i64) {
    let mut numbers = Numbers::new();
    numbers.varlong(value);
    buf.extend_from_slice(numbers.as_slice());
}

/// The most bytes of one varint.
const VARLONG_MAX: usize = 10;

/// The numbers in front of a field, gathered so that they are written at once: as many as five.
pub(crate) struct Numbers {
    bytes: [u8; 5 * VARLONG_MAX],
    len: usize,
}

impl Numbers {
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; 5 * VARLONG_MAX],
            len: 0,
        }
    }

    #[inline]
    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline]
    pub(crate) fn varlong(&mut self, value: i64) {
        let mut raw = zigzag(value);
        while raw >= 0x80 {
            self.byte((raw as u8) | 0x80);
            raw >>= 7;
        }
        self.byte(raw as u8);
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: i64) -> BytesMut {
        let mut buf = BytesMut::new();
        put_varlong(&mut buf, value);
        buf
    }

    #[test]
    fn known_values_have_the_bytes_of_the_specification() {
        // From protobuf's description of zigzag: 0, -1, 1, -2 map to 0, 1, 2, 3; 150 << 1 = 300.
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (-2, &[0x03]),
            (63, &[0x7e]),
            (64, &[0x80, 0x01]),
            (150, &[0xac, 0x02]),
        ] {
            assert_eq!(&encoded(value)[..], bytes, "{value}");
        }
    }

    #[test]
    fn the_ends_of_both_ranges_are_read_as_written() {
        for value in [
            0,
            1,
            -1,
            i64::from(i32::MAX),
            i64::from(i32::MIN),
            i64::MAX,
            i64::MIN,
        ] {
            let bytes = encoded(value);
            assert_eq!(bytes.len(), varlong_len(value));
            assert_eq!(Reader(&bytes).varlong(), Some(value));
            assert_eq!(Reader(&bytes).varint(), i32::try_from(value).ok());
        }
    }

    #[test]
    fn endless_and_overflowing_varints_are_refused() {
        assert_eq!(Reader(&[0xff; 32]).varint(), None);
        assert_eq!(Reader(&[0xff; 32]).varlong(), None);
        assert_eq!(Reader(&[0x80, 0x80]).varlong(), None);
        // 10 bytes whose last one carries bits 64 and above.
        let mut ten = [0xff; 10];
        ten[9] = 0x02;
        assert_eq!(Reader(&ten).varlong(), None);
        // 5 bytes that need 35 bits.
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff, 0x7f]).varint(), None);
    }
}
