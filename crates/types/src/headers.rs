//! Record headers: ordered, duplicates allowed, values nullable, as the wire format has them.

use bytes::Bytes;

/// One header. The key is UTF-8 text; the value is bytes or null.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// The header's name; may be empty, may occur more than once in a record.
    pub key: Bytes,
    /// The header's value; `None` is the protocol's null, which differs from empty.
    pub value: Option<Bytes>,
}

impl Header {
    /// The key as text; bytes that are no UTF-8 are replaced (U+FFFD).
    pub fn key_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }

    /// The value as text: `None` when it is null or not UTF-8.
    pub fn value_str(&self) -> Option<&str> {
        self.value
            .as_deref()
            .and_then(|v| std::str::from_utf8(v).ok())
    }
}

/// The headers of a record, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<Header>);

impl Headers {
    /// No headers; allocates nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a header at the end and returns the headers.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.push(key, Some(value.into()));
        self
    }

    /// Adds a header at the end. Headers of the same name stay.
    pub fn push(&mut self, key: impl Into<String>, value: Option<Bytes>) {
        self.0.push(Header {
            key: Bytes::from(key.into()),
            value,
        });
    }

    /// Adds a header as it came from the wire, at the end.
    pub fn push_raw(&mut self, header: Header) {
        self.0.push(header);
    }

    /// Makes `key` occur exactly once, with `value`: the first occurrence keeps its place and takes
    /// the value, later ones are removed, and a new header goes to the end.
    pub fn set(&mut self, key: &str, value: impl Into<Bytes>) {
        let mut value = Some(value.into());
        self.0.retain_mut(|h| {
            if h.key != key.as_bytes() {
                return true;
            }
            match value.take() {
                Some(v) => {
                    h.value = Some(v);
                    true
                }
                None => false,
            }
        });
        if let Some(v) = value {
            self.push(key, Some(v));
        }
    }

    /// Removes every header named `key` and says how many there were.
    pub fn remove(&mut self, key: &str) -> usize {
        let before = self.0.len();
        self.0.retain(|h| h.key != key.as_bytes());
        before - self.0.len()
    }

    /// The last header named `key`: Kafka's `lastHeader`.
    pub fn last(&self, key: &str) -> Option<&Header> {
        self.0.iter().rev().find(|h| h.key == key.as_bytes())
    }

    /// The last header named `key` as text; `None` if absent, null or not UTF-8.
    pub fn last_str(&self, key: &str) -> Option<&str> {
        self.last(key).and_then(Header::value_str)
    }

    /// The last header named `key` as a decimal number; `None` if absent or no such number.
    pub fn last_i64(&self, key: &str) -> Option<i64> {
        self.last_str(key).and_then(|v| v.trim().parse().ok())
    }

    /// All headers, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Header> {
        self.0.iter()
    }

    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all keys and values together.
    pub fn size(&self) -> usize {
        self.0
            .iter()
            .map(|h| h.key.len() + h.value.as_ref().map_or(0, Bytes::len))
            .sum()
    }
}

impl FromIterator<Header> for Headers {
    fn from_iter<I: IntoIterator<Item = Header>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a Header;
    type IntoIter = std::slice::Iter<'a, Header>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Headers {
    type Item = Header;
    type IntoIter = std::vec::IntoIter<Header>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_the_first_and_drops_the_rest() {
        let mut headers = Headers::new().with("a", "1").with("b", "2").with("a", "3");
        headers.set("a", "9");
        assert_eq!(headers, Headers::new().with("a", "9").with("b", "2"));
        headers.set("c", "4");
        assert_eq!(headers.last_str("c"), Some("4"));
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn null_and_empty_values_differ_and_duplicates_keep_their_order() {
        let mut headers = Headers::new();
        headers.push("k", None);
        headers.push("k", Some(Bytes::new()));
        assert_ne!(headers.iter().next(), headers.iter().nth(1));
        assert_eq!(headers.last("k").unwrap().value, Some(Bytes::new()));
        assert_eq!(headers.remove("k"), 2);
    }
}
