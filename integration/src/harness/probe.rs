//! Asks a broker whom it knows, in a few bytes of the protocol and nothing of the product: the
//! harness must not share the mistakes of what it tests.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer that is longer is no answer to this question.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The brokers that take part, as one of them sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerList {
    /// Node ids, sorted.
    pub ids: Vec<i32>,
    /// The controller, or -1.
    pub controller: i32,
}

/// Sends Metadata version 1 for no topics to `address`.
///
/// # Errors
/// Connection failures, `TimedOut` after `within`, `InvalidData` for an answer that is none.
pub async fn brokers(address: &str, within: Duration) -> io::Result<BrokerList> {
    tokio::time::timeout(within, ask(address))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
}

async fn ask(address: &str) -> io::Result<BrokerList> {
    let mut stream = TcpStream::connect(address).await?;
    let mut request = Vec::new();
    request.extend_from_slice(&3_i16.to_be_bytes()); // Metadata
    request.extend_from_slice(&1_i16.to_be_bytes());
    request.extend_from_slice(&7_i32.to_be_bytes()); // correlation id
    request.extend_from_slice(&(-1_i16).to_be_bytes()); // no client id
    request.extend_from_slice(&0_i32.to_be_bytes()); // no topics
    stream
        .write_all(&(request.len() as i32).to_be_bytes())
        .await?;
    stream.write_all(&request).await?;

    let length = usize::try_from(stream.read_i32().await?).unwrap_or(usize::MAX);
    if length > ANSWER_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    parse(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(answer: &[u8]) -> Option<BrokerList> {
    let mut input = answer;
    let _correlation = int(&mut input)?;
    let count = int(&mut input)?;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(int(&mut input)?);
        string(&mut input)?; // host
        int(&mut input)?; // port
        string(&mut input)?; // rack
    }
    ids.sort_unstable();
    Some(BrokerList {
        ids,
        controller: int(&mut input)?,
    })
}

fn int(input: &mut &[u8]) -> Option<i32> {
    let (head, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(i32::from_be_bytes(*head))
}

fn string(input: &mut &[u8]) -> Option<()> {
    let (head, rest) = input.split_first_chunk()?;
    // A null string has length -1 and no bytes.
    let length = usize::try_from(i16::from_be_bytes(*head)).unwrap_or(0);
    *input = rest.get(length..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let mut answer = vec![0, 0, 0, 7, 0, 0, 0, 2];
        answer.extend([0, 0, 0, 2, 0, 1, b'h', 0, 0, 0x23, 0x84, 0xff, 0xff]);
        answer.extend([0, 0, 0, 1, 0, 1, b'h', 0, 0, 0x23, 0x84, 0, 1, b'r']);
        answer.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(
            parse(&answer),
            Some(BrokerList {
                ids: vec![1, 2],
                controller: 1
            })
        );
        for cut in 0..answer.len() - 4 {
            assert_eq!(parse(&answer[..cut]), None, "cut at {cut}");
        }
    }
}
