//! Cuts the byte stream of a broker into frames: a length of four bytes, then that many bytes.
//!
//! Pure. The length is untrusted and checked before anything is reserved for it.

use bytes::{Buf, Bytes, BytesMut};

/// How an answer broke the framing. Always the [`source`](std::error::Error::source) of an error of
/// kind `Protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame length {0} is negative")]
    NegativeLength(i32),
    #[error(
        "frame length {length} is above {limit} (receive.message.max.bytes, and 1 MiB at most before \
         authentication is through)"
    )]
    TooLong { length: usize, limit: usize },
    #[error("frame length {0} leaves no room for a correlation id")]
    TooShort(usize),
    #[error("this is an HTTP answer: the port does not speak Kafka's protocol")]
    Http,
    #[error("this is a TLS record: the port expects TLS and was spoken to in plain text")]
    Tls,
    #[error("correlation id {got} where {expected} was next")]
    WrongCorrelationId { expected: i32, got: i32 },
    #[error("an answer with correlation id {0}, but no request waits for one")]
    Unasked(i32),
}

/// Takes the next whole frame (without its length) from the front of `buffer`; `None` until there
/// is one.
pub(crate) fn next_frame(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, FrameError> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = frame_length(*head, limit)?;
    if buffer.len() - 4 < length {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Checks a frame's length.
pub(crate) fn frame_length(head: [u8; 4], limit: usize) -> Result<usize, FrameError> {
    // As lengths these would be 1.2 GB and 352 MB; the config keeps the limit below both.
    match head {
        [b'H', b'T', b'T', b'P'] => return Err(FrameError::Http),
        // An alert or a handshake record of TLS 1.0 to 1.3.
        [0x15 | 0x16, 0x03, 0x00..=0x04, _] => return Err(FrameError::Tls),
        _ => {}
    }
    let length = i32::from_be_bytes(head);
    let Ok(length) = usize::try_from(length) else {
        return Err(FrameError::NegativeLength(length));
    };
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    if length < 4 {
        return Err(FrameError::TooShort(length));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(bytes: &[u8]) -> Result<Option<Bytes>, FrameError> {
        next_frame(&mut BytesMut::from(bytes), 1024)
    }

    #[test]
    fn frames_are_cut_wherever_the_bytes_are_split() {
        let stream = b"\0\0\0\x05hello\0\0\0\x04four";
        for split in 0..=stream.len() {
            let mut buffer = BytesMut::new();
            let mut frames = Vec::new();
            for part in [&stream[..split], &stream[split..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = next_frame(&mut buffer, 1024).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [&b"hello"[..], &b"four"[..]]);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn trap_d_hostile_lengths_are_refused_before_the_body_arrives() {
        assert_eq!(next(&[0xff; 4]), Err(FrameError::NegativeLength(-1)));
        let too_long = FrameError::TooLong {
            length: 1025,
            limit: 1024,
        };
        assert_eq!(next(&1025_i32.to_be_bytes()), Err(too_long));
        assert_eq!(next(&[0, 0, 0, 3]), Err(FrameError::TooShort(3)));
        assert_eq!(next(&[0, 0, 0, 0]), Err(FrameError::TooShort(0)));
        assert_eq!(next(b"HTTP/1.1 400 Bad Request"), Err(FrameError::Http));
        assert_eq!(next(&[0x15, 3, 1, 0, 2, 2, 70]), Err(FrameError::Tls));
        assert_eq!(next(&[0, 0, 4]), Ok(None));
        assert_eq!(next(&1024_i32.to_be_bytes()), Ok(None));
    }
}
