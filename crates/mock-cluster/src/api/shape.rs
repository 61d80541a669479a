//! The shapes of requests, walked before decoding.
//!
//! The message decoder reserves memory for whatever count an array announces. Here every count and
//! length is checked against the bytes that are there, and all elements of a request together
//! against a bound.

/// Array elements and tagged fields that one request may hold.
const MAX_ELEMENTS: usize = 200_000;

/// The kind of a field.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// A string, nullable or not.
    Text,
    /// Bytes or records, nullable or not.
    Blob,
    /// An array of numbers of so many bytes.
    Numbers(usize),
    /// An array of strings.
    Texts,
    /// An array of structs.
    Structs(&'static [Field]),
}

/// A field and the versions that have it.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    kind: Kind,
    min: i16,
    max: i16,
}

impl Field {
    /// In the versions from `min` on.
    pub(crate) const fn from(self, min: i16) -> Self {
        Self { min, ..self }
    }

    /// In the versions up to `max`.
    pub(crate) const fn to(self, max: i16) -> Self {
        Self { max, ..self }
    }
}

const fn always(kind: Kind) -> Field {
    Field {
        kind,
        min: 0,
        max: i16::MAX,
    }
}

pub(crate) const I8: Field = always(Kind::Fixed(1));
pub(crate) const BOOL: Field = I8;
pub(crate) const I16: Field = always(Kind::Fixed(2));
pub(crate) const I32: Field = always(Kind::Fixed(4));
pub(crate) const I64: Field = always(Kind::Fixed(8));
pub(crate) const UUID: Field = always(Kind::Fixed(16));
pub(crate) const TEXT: Field = always(Kind::Text);
pub(crate) const BLOB: Field = always(Kind::Blob);
pub(crate) const I32S: Field = always(Kind::Numbers(4));
pub(crate) const TEXTS: Field = always(Kind::Texts);
pub(crate) const fn structs(fields: &'static [Field]) -> Field {
    always(Kind::Structs(fields))
}

/// Whether a body has this shape. Bytes after its end are let pass, as Kafka does.
pub(crate) fn check(fields: &[Field], body: &[u8], version: i16, flexible: i16) -> Option<()> {
    let is_flexible = version >= flexible;
    Walk {
        rest: body,
        version,
        is_flexible,
        elements: 0,
    }
    .fields(fields)
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    is_flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    fn fields(&mut self, fields: &[Field]) -> Option<()> {
        for field in fields {
            if (field.min..=field.max).contains(&self.version) {
                self.field(field.kind)?;
            }
        }
        if self.is_flexible {
            for _ in 0..self.uvarint()? {
                self.element()?;
                self.uvarint()?;
                let size = self.uvarint()?;
                self.skip(size)?;
            }
        }
        Some(())
    }

    fn field(&mut self, kind: Kind) -> Option<()> {
        match kind {
            Kind::Fixed(size) => self.skip(size),
            Kind::Text => self.text(),
            Kind::Blob => {
                let length = self.length()?;
                self.skip(length)
            }
            Kind::Numbers(size) => {
                for _ in 0..self.length()? {
                    self.element()?;
                    self.skip(size)?;
                }
                Some(())
            }
            Kind::Texts => {
                for _ in 0..self.length()? {
                    self.element()?;
                    self.text()?;
                }
                Some(())
            }
            Kind::Structs(fields) => {
                for _ in 0..self.length()? {
                    self.element()?;
                    self.fields(fields)?;
                }
                Some(())
            }
        }
    }

    fn element(&mut self) -> Option<()> {
        self.elements += 1;
        (self.elements <= MAX_ELEMENTS).then_some(())
    }

    fn text(&mut self) -> Option<()> {
        let length = if self.is_flexible {
            self.length()?
        } else {
            let bytes = self.take(2)?;
            match i16::from_be_bytes([bytes[0], bytes[1]]) {
                -1 => 0,
                length => usize::try_from(length).ok()?,
            }
        };
        self.skip(length)
    }

    /// A length or count; null counts as none.
    fn length(&mut self) -> Option<usize> {
        if self.is_flexible {
            return Some(self.uvarint()?.saturating_sub(1));
        }
        let bytes = self.take(4)?;
        match i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) {
            -1 => Some(0),
            length => usize::try_from(length).ok(),
        }
    }

    fn uvarint(&mut self) -> Option<usize> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).ok();
            }
        }
        None
    }

    fn take(&mut self, size: usize) -> Option<&[u8]> {
        let (head, tail) = self.rest.split_at_checked(size)?;
        self.rest = tail;
        Some(head)
    }

    fn skip(&mut self, size: usize) -> Option<()> {
        self.take(size).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: &[Field] = &[I16, structs(&[TEXT, I32S]).from(1)];

    #[test]
    fn a_count_above_what_is_there_is_refused() {
        assert_eq!(check(SHAPE, &[0, 0], 0, 9), Some(()));
        assert_eq!(check(SHAPE, &[0, 0, 0, 0, 0, 0], 1, 9), Some(()));
        assert_eq!(check(SHAPE, &[0, 0, 0x7f, 0xff, 0xff, 0xff], 1, 9), None);
        assert_eq!(check(SHAPE, &[0, 0, 0xff, 0xff, 0xff, 0xfe], 1, 9), None);
    }

    #[test]
    fn compact_lengths_and_tags_are_walked() {
        // One struct: "a", [1]; no tags in it; one tag of two bytes at the end.
        let body = [0, 0, 2, 2, b'a', 2, 0, 0, 0, 1, 0, 1, 7, 2, 9, 9];
        assert_eq!(check(SHAPE, &body, 9, 9), Some(()));
        assert_eq!(check(SHAPE, &body[..15], 9, 9), None);
        assert_eq!(
            check(SHAPE, &[0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f], 9, 9),
            None
        );
    }
}
