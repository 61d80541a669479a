//! OAUTHBEARER's one message (RFC 7628, KIP-255, KIP-342).

use crate::security::OauthToken;

/// What a client says to a server that has told why it refuses.
pub(super) const GIVING_UP: &[u8] = b"\x01";

/// The message that carries the token.
///
/// # Errors
/// What is wrong with the token or an extension; neither is repeated.
pub(super) fn first_message(token: &OauthToken) -> Result<Vec<u8>, &'static str> {
    let text = token.token.reveal();
    // RFC 6750: b64token, `=` at the end.
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-._~+/=".contains(&c);
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err("it is empty or has characters that a bearer token cannot have");
    }
    let mut message = format!("n,,\x01auth=Bearer {text}\x01");
    for (name, value) in &token.extensions {
        let is_name = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphabetic());
        if !is_name || name == "auth" {
            return Err("the name of an extension is not one of ASCII letters, or is `auth`");
        }
        let printable = |c: u8| matches!(c, b'\t' | b'\r' | b'\n' | 0x20..=0x7e);
        if !value.bytes().all(printable) {
            return Err("the value of an extension is not printable ASCII");
        }
        message.push_str(&format!("{name}={value}\x01"));
    }
    message.push('\x01');
    Ok(message.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_rfc_7628_as_kafka_reads_it() {
        let token = OauthToken::new("vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==")
            .extension("logicalCluster", "lkc-1 x");
        let message = first_message(&token).unwrap();
        let expected = "n,,\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\
                        logicalCluster=lkc-1 x\x01\x01";
        assert_eq!(message, expected.as_bytes());
    }

    #[test]
    fn what_would_break_the_message_is_refused() {
        for token in ["", "a b", "a\x01b", "tökén"] {
            assert!(first_message(&OauthToken::new(token)).is_err());
        }
        for (name, value) in [
            ("", "v"),
            ("auth", "v"),
            ("a=b", "v"),
            ("n", "\x01"),
            ("n", "ö"),
        ] {
            let token = OauthToken::new("t").extension(name, value);
            assert!(first_message(&token).is_err(), "{name}={value}");
        }
    }
}
