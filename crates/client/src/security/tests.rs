//! What is read, what is refused, and that secrets are not shown.

use super::*;
use crate::ClientConfig;

fn config(json: &str) -> ClientConfig {
    serde_json::from_str(json).unwrap()
}

#[test]
fn properties_stand_beside_the_others() {
    let config = config(
        r#"{
            "bootstrap.servers": "kafka:9093", "client.id": "x",
            "security.protocol": "sasl_ssl", "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "alice", "sasl.password": "pencil",
            "sasl.allow.without.tls": "true", "ssl.ca.location": "ca.pem",
            "ssl.key.pem": "graphite", "ssl.certificate.pem": "c",
            "ssl.endpoint.identification.algorithm": "none"
        }"#,
    );
    assert_eq!(config.client_id, "x");
    let security = &config.security;
    assert_eq!(security.protocol, SecurityProtocol::SaslSsl);
    assert_eq!(security.mechanism, Some(SaslMechanism::ScramSha512));
    assert_eq!(security.username.as_deref(), Some("alice"));
    assert_eq!(security.password, Some(Secret::new("pencil")));
    assert!(security.allow_without_tls);
    assert_eq!(security.host_verification, HostVerification::None);
    let debug = format!("{config:?}");
    let json = serde_json::to_string(&config).unwrap();
    for shown in [&debug, &json] {
        assert!(!shown.contains("pencil") && !shown.contains("graphite"));
        assert!(shown.contains("alice"));
    }
    let again: ClientConfig = serde_json::from_str(&json).unwrap();
    assert_eq!(again.security.password, None);
    assert_eq!(again.security.protocol, SecurityProtocol::SaslSsl);
    assert_eq!(again.connect_timeout, config.connect_timeout);
}

#[test]
fn trap_d_unknown_names_are_refused_and_secrets_are_not_repeated() {
    for json in [
        r#"{"sasl.pasword": "pencil"}"#,
        r#"{"ssl.keystore.location": "pencil"}"#,
        r#"{"sasl.password": 123456}"#,
        r#"{"sasl.mechanism": "GSSAPI"}"#,
        r#"{"security.protocol": "TLS"}"#,
        r#"{"sasl.allow.without.tls": "maybe"}"#,
    ] {
        let error = serde_json::from_str::<ClientConfig>(json).unwrap_err();
        let text = error.to_string();
        assert!(
            !text.contains("pencil") && !text.contains("123456"),
            "{text}"
        );
    }
}

#[test]
fn trap_a14_a_transport_without_tls_and_sasl_is_refused_by_name() {
    use crate::TransportKind;
    let mut config = ClientConfig::new("kafka:9093");
    config.transport = TransportKind::Rskafka;
    assert_eq!(config.validate(), Ok(()));
    config.security = SecurityConfig::new(SecurityProtocol::SaslPlaintext).sasl(
        SaslMechanism::ScramSha256,
        "alice",
        "pencil",
    );
    let error = config.validate().unwrap_err();
    assert_eq!(
        error.to_string(),
        "config `transport` = `rskafka` is not allowed: expected a transport with SASL, which \
         security.protocol = SASL_PLAINTEXT needs"
    );
    if cfg!(feature = "tls") {
        config.security.protocol = SecurityProtocol::SaslSsl;
        let error = config.validate().unwrap_err();
        assert!(error.expected.contains("TLS and SASL"), "{error}");
    }
}

#[test]
fn trap_d_what_cannot_work_or_is_not_safe_is_refused() {
    use SaslMechanism::{OauthBearer, Plain, ScramSha256};
    use SecurityProtocol::{Plaintext, SaslPlaintext, SaslSsl, Ssl};
    type Change = fn(&mut SecurityConfig);
    let with = |protocol, change: Change| {
        let mut security = SecurityConfig::new(protocol);
        change(&mut security);
        security.validate().err().map(|error| error.key)
    };
    let user: Change = |s| {
        s.username = Some("alice".into());
        s.password = Some("pencil".into());
    };
    assert_eq!(with(Plaintext, |_| {}), None);
    assert_eq!(with(Plaintext, user), Some("sasl.username"));
    assert_eq!(
        with(Plaintext, |s| s.ca_pem = Some("x".into())),
        Some("ssl.ca.pem")
    );
    assert_eq!(
        with(Plaintext, |s| s.host_verification = HostVerification::None),
        Some("ssl.endpoint.identification.algorithm")
    );
    assert_eq!(with(SaslPlaintext, |_| {}), Some("sasl.mechanism"));
    assert_eq!(
        with(SaslPlaintext, |s| s.mechanism = Some(ScramSha256)),
        Some("sasl.username")
    );
    assert_eq!(
        with(SaslPlaintext, |s| {
            *s = s.clone().sasl(ScramSha256, "alice", "a\nb");
        }),
        Some("sasl.password")
    );
    assert_eq!(
        with(SaslPlaintext, |s| {
            *s = s.clone().sasl(ScramSha256, "alice", "pencil");
        }),
        None
    );
    assert_eq!(
        with(SaslPlaintext, |s| *s = s.clone().sasl(Plain, "a", "b")),
        Some("security.protocol")
    );
    assert_eq!(
        with(SaslPlaintext, |s| {
            *s = s.clone().sasl(Plain, "a", "b");
            s.allow_without_tls = true;
        }),
        None
    );
    assert_eq!(
        with(SaslPlaintext, |s| {
            s.mechanism = Some(OauthBearer);
            s.allow_without_tls = true;
        }),
        Some("sasl.mechanism")
    );
    if cfg!(feature = "tls") {
        assert_eq!(with(Ssl, |_| {}), None);
        assert_eq!(
            with(SaslSsl, |s| *s = s.clone().sasl(Plain, "a", "b")),
            None
        );
        assert_eq!(
            with(Ssl, |s| {
                s.ca_pem = Some("x".into());
                s.ca_location = Some("x".into());
            }),
            Some("ssl.ca.pem")
        );
        assert_eq!(
            with(Ssl, |s| s.key_location = Some("x".into())),
            Some("ssl.certificate.location")
        );
        assert_eq!(
            with(Ssl, |s| s.certificate_pem = Some("x".into())),
            Some("ssl.key.location")
        );
    } else {
        assert_eq!(with(Ssl, |_| {}), Some("security.protocol"));
    }
}
