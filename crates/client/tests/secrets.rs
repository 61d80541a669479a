//! Passwords and tokens stand in no log, no error and no debug text, at whatever level one logs.
//! One test, alone in its process: it takes what every thread of the process logs.

#![allow(clippy::unwrap_used, reason = "tests")]

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use ottla_client::security::{OauthToken, SaslMechanism, SecurityConfig, SecurityProtocol};
use ottla_client::{Client, ClientConfig, NewTopic, TransportKind};
use ottla_mock_cluster::{MockCluster, Sasl};
use ottla_types::with_causes;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const SECRETS: [&str; 4] = [
    "correct-horse-battery",
    "wrong-horse-battery",
    "good.token.of.alice",
    "stolen.token.of.bob",
];

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn with<T>(&self, run: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        run(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.with(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A secret as it could stand somewhere: as it is, as bytes in decimal or hexadecimal, in base64.
fn forms(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let decimal = format!("{:?}", secret.as_bytes());
    vec![
        secret.to_owned(),
        hex,
        decimal.trim_matches(['[', ']']).to_owned(),
        STANDARD.encode(secret),
        STANDARD_NO_PAD.encode(secret),
        URL_SAFE.encode(secret),
        // As the message of PLAIN has it.
        STANDARD.encode(format!("\0alice\0{secret}")),
    ]
}

fn configs(good: bool) -> Vec<SecurityConfig> {
    let (password, token) = match good {
        true => (SECRETS[0], SECRETS[2]),
        false => (SECRETS[1], SECRETS[3]),
    };
    let mut security = SecurityConfig::new(SecurityProtocol::SaslPlaintext);
    security.allow_without_tls = true;
    let mechanisms = [
        SaslMechanism::Plain,
        SaslMechanism::ScramSha256,
        SaslMechanism::ScramSha512,
    ];
    let passwords = mechanisms.map(|m| security.clone().sasl(m, "alice", password));
    let token = security.oauth(move || async move { Ok(OauthToken::new(token)) });
    passwords.into_iter().chain([token]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_shown_anywhere() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let sasl = Sasl::new()
        .user("alice", SECRETS[0])
        .token(SECRETS[2])
        .session_lifetime(Duration::from_millis(1500));
    let mock = MockCluster::builder().sasl(sasl).start().await.unwrap();

    let mut shown = String::new();
    for good in [true, false] {
        for security in configs(good) {
            let mut config = ClientConfig::new(&mock.bootstrap());
            config.transport = TransportKind::Native;
            config.security = security;
            shown.push_str(&format!("{config:?}\n{config:#?}\n"));
            shown.push_str(&serde_json::to_string(&config).unwrap());
            let connected = Client::connect(config).await;
            assert_eq!(connected.is_ok(), good);
            match connected {
                Ok(client) => {
                    let topics = vec![NewTopic::new("t", 1)];
                    client.ensure_topics(topics).await.unwrap();
                    shown.push_str(&format!("{client:?} {:?}", client.config()));
                    client.close().await;
                }
                Err(error) => shown.push_str(&format!("{error:?} {}\n", with_causes(&error))),
            }
        }
    }
    shown.push_str(&String::from_utf8(log.with(std::mem::take)).unwrap());
    // The log is there: it tells of connections and of the user.
    for expected in ["authenticated", "SCRAM-SHA-512", "OAUTHBEARER", "alice"] {
        assert!(shown.contains(expected), "{expected}");
    }
    for secret in SECRETS {
        for form in forms(secret) {
            let at = shown.find(&form);
            let around = at.map(|at| &shown[at.saturating_sub(200)..at]);
            assert!(around.is_none(), "a secret stands behind: {around:?}");
        }
    }
}
