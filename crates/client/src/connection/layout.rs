//! Walks an answer over a description of its fields before it is decoded.
//!
//! The message decoder reserves memory for as many array elements as the wire claims, so a frame of
//! a few bytes could ask for gigabytes and abort the process. The walk reserves nothing; it proves
//! that every length and count is backed by bytes of the frame, and that there are not too many of
//! the elements that take more memory than bytes of the frame. What the decoder reserves afterwards
//! is then a small multiple of what a frame may have.

/// What was wrong with an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("the answer ends where {wanted} bytes are announced and {left} are left")]
    Short { wanted: usize, left: usize },
    #[error("an array of {count} elements is announced where {left} bytes are left")]
    Count { count: usize, left: usize },
    #[error("the answer has more elements than receive.message.max.bytes is good for")]
    Elements,
    #[error("a length of {0} is announced")]
    Negative(i64),
    #[error("a variable-length number is longer than five bytes")]
    Varint,
    #[error("tagged field {tag} does not fill the {length} bytes that it announces")]
    Tag { tag: u32, length: usize },
}

/// The fields of one answer, over all versions that we speak.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The first flexible version (KIP-482): compact lengths and tagged fields.
    pub flexible_from: i16,
    /// The answer itself.
    pub body: Struct,
}

#[derive(Debug)]
pub(crate) struct Struct {
    pub fields: &'static [Field],
    /// The tagged fields that the decoder knows; others are skipped by their length.
    pub tags: &'static [(u32, Field)],
}

#[derive(Debug)]
pub(crate) struct Field {
    kind: Kind,
    since: i16,
    until: i16,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// This many bytes.
    Fixed(usize),
    /// A string that may be null.
    Text,
    /// Bytes that may be null.
    Blob,
    /// An array of four-byte numbers.
    Ints,
    /// An array of strings.
    Texts,
    /// An array of structs.
    Array(Struct),
    /// A struct.
    Inline(Struct),
    /// A struct that may be null: a byte below 0 for null, else the struct behind the byte.
    Nullable(Struct),
}

pub(crate) const fn always(kind: Kind) -> Field {
    between(0, i16::MAX, kind)
}

pub(crate) const fn since(version: i16, kind: Kind) -> Field {
    between(version, i16::MAX, kind)
}

pub(crate) const fn until(version: i16, kind: Kind) -> Field {
    between(0, version, kind)
}

pub(crate) const fn between(since: i16, until: i16, kind: Kind) -> Field {
    Field { kind, since, until }
}

pub(crate) const fn array(fields: &'static [Field]) -> Kind {
    Kind::Array(Struct { fields, tags: &[] })
}

impl Layout {
    /// Checks `body`, an answer of `version` without its header, to have `elements` at most. Bytes that
    /// follow it are ignored.
    pub(crate) fn check(
        &self,
        body: &[u8],
        version: i16,
        elements: usize,
    ) -> Result<(), LayoutError> {
        let mut walk = self.walk(body, version, elements);
        walk.structure(&self.body)
    }

    /// Checks `body` behind the header's tagged fields, if the header has them.
    pub(crate) fn check_with_tags(
        &self,
        body: &[u8],
        version: i16,
        elements: usize,
    ) -> Result<(), LayoutError> {
        let mut walk = self.walk(body, version, elements);
        walk.tags(&[])?;
        walk.structure(&self.body)
    }

    fn walk<'a>(&self, left: &'a [u8], version: i16, elements: usize) -> Walk<'a> {
        Walk {
            left,
            version,
            elements,
            flexible: version >= self.flexible_from,
        }
    }
}

struct Walk<'a> {
    left: &'a [u8],
    version: i16,
    flexible: bool,
    /// How many more elements there may be.
    elements: usize,
}

impl Walk<'_> {
    fn structure(&mut self, layout: &Struct) -> Result<(), LayoutError> {
        for field in layout.fields {
            self.field(field)?;
        }
        if self.flexible {
            self.tags(layout.tags)?;
        }
        Ok(())
    }

    fn field(&mut self, field: &Field) -> Result<(), LayoutError> {
        if !(field.since..=field.until).contains(&self.version) {
            return Ok(());
        }
        match &field.kind {
            Kind::Fixed(bytes) => self.skip(*bytes),
            Kind::Text => {
                let length = self.length(2)?;
                self.skip(length.unwrap_or(0))
            }
            Kind::Blob => {
                let length = self.length(4)?;
                self.skip(length.unwrap_or(0))
            }
            Kind::Ints => {
                let count = self.count()?;
                self.skip(count.saturating_mul(4))
            }
            Kind::Inline(inside) => self.structure(inside),
            Kind::Nullable(inside) => match self.take(1)? {
                [0..=0x7f] => self.structure(inside),
                _ => Ok(()),
            },
            Kind::Texts => {
                for _ in 0..self.elements()? {
                    let length = self.length(2)?;
                    self.skip(length.unwrap_or(0))?;
                }
                Ok(())
            }
            Kind::Array(element) => {
                for _ in 0..self.elements()? {
                    self.structure(element)?;
                }
                Ok(())
            }
        }
    }

    fn tags(&mut self, known: &[(u32, Field)]) -> Result<(), LayoutError> {
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let length = self.varint()? as usize;
            let before = self.left.len();
            match known.iter().find(|(known, _)| *known == tag) {
                None => {
                    // The decoder keeps it.
                    self.take_elements(1)?;
                    self.skip(length)?;
                }
                Some((_, field)) => {
                    self.field(field)?;
                    // The decoder reads a known field by its type and not by its length; where the
                    // two differ it would go on at another byte than this walk.
                    if before - self.left.len() != length {
                        return Err(LayoutError::Tag { tag, length });
                    }
                }
            }
        }
        Ok(())
    }

    /// An array's count; every element takes a byte at least.
    fn count(&mut self) -> Result<usize, LayoutError> {
        let count = self.length(4)?.unwrap_or(0);
        let left = self.left.len();
        if count > left {
            return Err(LayoutError::Count { count, left });
        }
        Ok(count)
    }

    /// The count of an array whose elements take memory of their own.
    fn elements(&mut self) -> Result<usize, LayoutError> {
        let count = self.count()?;
        self.take_elements(count)?;
        Ok(count)
    }

    fn take_elements(&mut self, count: usize) -> Result<(), LayoutError> {
        let left = self.elements.checked_sub(count);
        self.elements = left.ok_or(LayoutError::Elements)?;
        Ok(())
    }

    /// A length, `None` for null: `width` bytes, or a varint above by one in flexible versions.
    fn length(&mut self, width: usize) -> Result<Option<usize>, LayoutError> {
        if self.flexible {
            return Ok((self.varint()? as usize).checked_sub(1));
        }
        let bytes = self.take(width)?;
        let length = match *bytes {
            [a, b] => i64::from(i16::from_be_bytes([a, b])),
            [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
            _ => 0,
        };
        match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(LayoutError::Negative(length)),
        }
    }

    fn varint(&mut self) -> Result<u32, LayoutError> {
        let mut value = 0_u64;
        for i in 0..5 {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| LayoutError::Varint);
            }
        }
        Err(LayoutError::Varint)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), LayoutError> {
        self.take(bytes).map(drop)
    }

    fn take(&mut self, wanted: usize) -> Result<&[u8], LayoutError> {
        let left = self.left.len();
        let (head, rest) = self
            .left
            .split_at_checked(wanted)
            .ok_or(LayoutError::Short { wanted, left })?;
        self.left = rest;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        flexible_from: 1,
        body: Struct {
            fields: &[
                always(Kind::Fixed(2)),
                always(array(&[always(Kind::Text), since(1, Kind::Fixed(4))])),
                always(Kind::Ints),
            ],
            tags: &[(0, always(Kind::Fixed(8)))],
        },
    };

    #[test]
    fn whole_answers_pass_and_every_cut_of_them_fails() {
        let old = b"\0\0\0\0\0\x02\0\x01a\xff\xff\0\0\0\x01\0\0\0\x07".as_slice();
        let new =
            b"\0\0\x02\x02a\0\0\0\x01\0\x02\0\0\0\x07\x02\x00\x0812345678\x09\x01x".as_slice();
        for (version, answer) in [(0, old), (1, new)] {
            assert_eq!(LAYOUT.check(answer, version, 100), Ok(()));
            for end in 0..answer.len() {
                assert!(
                    LAYOUT.check(&answer[..end], version, 100).is_err(),
                    "v{version} cut at {end}"
                );
            }
        }
    }

    #[test]
    fn trap_d_counts_above_what_is_left_are_refused() {
        let huge = b"\0\0\x7f\xff\xff\xff\0\x01a";
        let expected = LayoutError::Count {
            count: 0x7fff_ffff,
            left: 3,
        };
        assert_eq!(LAYOUT.check(huge, 0, 100), Err(expected));
        let huge = b"\0\0\xff\xff\xff\xff\x0fabc";
        assert!(matches!(
            LAYOUT.check(huge, 1, 100),
            Err(LayoutError::Count { .. })
        ));
        assert_eq!(
            LAYOUT.check(b"\0\0\xff\xff\xff\xff\xff\x01", 1, 100),
            Err(LayoutError::Varint)
        );
        assert_eq!(
            LAYOUT.check(b"\0\0\xff\xff\xff\xfe", 0, 100),
            Err(LayoutError::Negative(-2))
        );
        // Two elements, and an unknown tagged field.
        let three = b"\0\0\x03\x01\0\0\0\0\0\x01\0\0\0\0\0\x01\x01\x09\0";
        assert_eq!(LAYOUT.check(three, 1, 3), Ok(()));
        assert_eq!(LAYOUT.check(three, 1, 2), Err(LayoutError::Elements));
        assert_eq!(LAYOUT.check(three, 1, 1), Err(LayoutError::Elements));
        let lying_tag = b"\0\0\x01\x01\x01\x00\x0712345678";
        assert_eq!(
            LAYOUT.check(lying_tag, 1, 100),
            Err(LayoutError::Tag { tag: 0, length: 7 })
        );
    }
}
