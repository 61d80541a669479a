//! A record's identity, made where the record is made.

use ottla_types::{Headers, names};
use uuid::Uuid;

/// Makes sure that the headers carry a `message_id`, so that every copy of the record has the same
/// identity. An id that is there stays; a missing, null, empty or non-UTF-8 one becomes a new UUID
/// v7 (time-ordered).
pub fn ensure_message_id(headers: &mut Headers) {
    if headers
        .last_str(names::MESSAGE_ID)
        .is_none_or(|id| id.is_empty())
    {
        headers.set(names::MESSAGE_ID, Uuid::now_v7().to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_then_stays() {
        let mut headers = Headers::new();
        headers.push(names::MESSAGE_ID, None);
        ensure_message_id(&mut headers);
        let made = headers.last_str(names::MESSAGE_ID).unwrap().to_owned();
        assert_eq!(Uuid::parse_str(&made).unwrap().get_version_num(), 7);
        ensure_message_id(&mut headers);
        assert_eq!(headers.last_str(names::MESSAGE_ID), Some(made.as_str()));
        assert_eq!(headers.len(), 1);
    }
}
