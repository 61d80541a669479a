//! The RFC's own exchange, others computed with Python's hashlib, and servers that lie.

use super::*;

const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

fn start(hash: Hash, username: &str, password: &str) -> Scram {
    Scram::new(hash, username, Secret::new(password), NONCE.to_owned())
}

fn answer(server_first: &str) -> Result<(Vec<u8>, ServerProof), ScramError> {
    start(Hash::Sha256, "user", "pencil").answer(server_first.as_bytes())
}

#[test]
fn the_exchange_of_rfc_7677() {
    let scram = start(Hash::Sha256, "user", "pencil");
    assert_eq!(scram.first_message(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let (message, proof) = scram.answer(SERVER_FIRST.as_bytes()).unwrap();
    assert_eq!(
        str::from_utf8(&message).unwrap(),
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    );
    let server_final = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    assert_eq!(proof.verify(server_final), Ok(()));
}

#[test]
fn the_same_with_sha_512_and_with_names_that_need_care() {
    let (message, proof) = start(Hash::Sha512, "user", "pencil")
        .answer(SERVER_FIRST.as_bytes())
        .unwrap();
    assert!(message.ends_with(
        b",p=gMGXRcevScNtxZ6/8lQYpGtnsNAc3mGcmNomv+xnoOMw+3R2xNJdMNnzMlTN8PPC6wdp6dybEmDYXYTxwnYPJQ=="
    ));
    let server_final = b"v=ZQnYEgWQMFmmsM8aQMF0nDDCy/AgCzkwk8CmMZYcMg0vSVlKDanekLtifDSeVGT4+5ZxXnJq199RVG2rR7N7Zw==";
    assert_eq!(proof.verify(server_final), Ok(()));

    // The user name `a=b,c`, a password outside of ASCII, 8,192 iterations.
    let scram = start(Hash::Sha512, "a=b,c", "pâ₪");
    assert_eq!(
        scram.first_message(),
        b"n,,n=a=3Db=2Cc,r=rOprNGfwEbeRWgbNEkqO"
    );
    let first = b"r=rOprNGfwEbeRWgbNEkqOxyz,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=8192";
    let (message, proof) = scram.answer(first).unwrap();
    assert!(message.ends_with(
        b",p=SBpPl9J3IsmHe5ORIL/4o/7G5fkPL6qiJK6LvE27I8tawFTefDL8PW3ljwsmmZxJ1PGMQXxknLi/yknUFz+qLw=="
    ));
    let server_final = b"v=uAwauoB461m593MGodwQxWSSYYgQwSt9Ah77xivzPYnBY9ZFjPYC70c94lUuT94ZtFO9VrGYioY772yI0g58FQ==";
    assert_eq!(proof.verify(server_final), Ok(()));
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    let (_, proof) = answer(SERVER_FIRST).unwrap();
    let right = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    assert_eq!(proof.verify(right.as_bytes()), Ok(()));
    let tampered = right.replace("6rri", "7rri");
    assert_eq!(
        proof.verify(tampered.as_bytes()),
        Err(ScramError::Signature)
    );
    let cut = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl9";
    assert_eq!(proof.verify(cut.as_bytes()), Err(ScramError::Signature));
    assert_eq!(proof.verify(b"v="), Err(ScramError::Signature));
    for bad in ["", "v=!", "x=6rri", "6rri"] {
        let refused = proof.verify(bad.as_bytes());
        assert!(matches!(refused, Err(ScramError::Malformed(_))), "{bad}");
    }
    assert_eq!(
        proof.verify(b"e=invalid-proof"),
        Err(ScramError::Server("invalid-proof".to_owned()))
    );
}

#[test]
fn the_iteration_count_is_bounded_both_ways() {
    let with = |count: &str| answer(&SERVER_FIRST.replace("4096", count)).err();
    assert_eq!(with("4096"), None);
    assert_eq!(with("4095"), Some(ScramError::Iterations(4095)));
    assert_eq!(with("0"), Some(ScramError::Iterations(0)));
    assert_eq!(with("1000001"), Some(ScramError::Iterations(1_000_001)));
    assert_eq!(
        with("4294971392"),
        Some(ScramError::Iterations(4_294_971_392))
    );
    assert_eq!(
        with("99999999999999999999999999"),
        Some(ScramError::Iterations(u64::MAX))
    );
    for bad in ["", "-4096", "+4096", "4096x", "0x1000"] {
        assert!(matches!(with(bad), Some(ScramError::Malformed(_))), "{bad}");
    }
}

#[test]
fn messages_that_do_not_follow_the_rules_are_refused() {
    let nonce = |nonce: &str| answer(&format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
    assert_eq!(nonce(NONCE).err(), Some(ScramError::Nonce));
    assert_eq!(
        nonce("other-nonce-altogether").err(),
        Some(ScramError::Nonce)
    );
    assert_eq!(nonce("").err(), Some(ScramError::Nonce));
    let first = format!("m=ext,{SERVER_FIRST}");
    assert_eq!(answer(&first).err(), Some(ScramError::Extension));
    let no_user = ScramError::Server("unknown-user".to_owned());
    assert_eq!(answer("e=unknown-user").err(), Some(no_user));
    for bad in [
        "",
        "r=",
        "s=W22Z,i=4096",
        "r=rOprNGfwEbeRWgbNEkqOx,i=4096",
        "r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096",
        "r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22Z",
    ] {
        assert!(answer(bad).is_err(), "{bad}");
    }
    let not_text = start(Hash::Sha256, "user", "pencil").answer(b"r=\xff");
    assert!(matches!(not_text, Err(ScramError::Malformed(_))));
    let long = vec![b'r'; MESSAGE_BYTES_MAX + 1];
    let too_long = start(Hash::Sha256, "user", "pencil").answer(&long);
    assert_eq!(too_long.err(), Some(ScramError::TooLong));
}

#[test]
fn nothing_of_an_exchange_shows_the_password() {
    let scram = start(Hash::Sha256, "user", "pencil");
    assert!(!format!("{scram:?}").contains("pencil"));
}

/// Whatever a server sends: no panic, no memory, and what is accepted keeps the bounds.
#[test]
fn fuzz_server_first() {
    bolero::check!()
        .with_iterations(1000)
        .for_each(|input: &[u8]| {
            let mut parsed = None;
            let taken = allocation_counter::measure(|| {
                let challenge = text(input).and_then(|message| Challenge::parse(message, NONCE));
                parsed = challenge.ok();
            });
            assert!(taken.bytes_max <= 2 * MESSAGE_BYTES_MAX as u64, "{taken:?}");
            if let Some(challenge) = parsed {
                assert!(ITERATIONS.contains(&challenge.iterations));
                assert!(challenge.nonce.starts_with(NONCE) && challenge.nonce != NONCE);
                assert!(!challenge.salt.is_empty());
            }
        });
}

#[test]
fn fuzz_server_final() {
    bolero::check!()
        .with_iterations(1000)
        .for_each(|input: &[u8]| {
            let proof = ServerProof {
                hash: Hash::Sha256,
                server_key: Zeroizing::new(vec![7; 32]),
                auth_message: SERVER_FIRST.to_owned(),
            };
            let signature = proof.hash.hmac(&proof.server_key, SERVER_FIRST.as_bytes());
            let right = format!("v={}", BASE64.encode(&*signature));
            // Only the signature opens the door, alone or with extensions behind it.
            let is_right =
                input == right.as_bytes() || input.starts_with(format!("{right},").as_bytes());
            let is_text = input.len() <= MESSAGE_BYTES_MAX && str::from_utf8(input).is_ok();
            assert_eq!(proof.verify(input).is_ok(), is_right && is_text);
        });
}
