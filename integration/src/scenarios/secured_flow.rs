//! Records and a group over every way to prove who one is: written and read for longer than
//! sessions last, each exactly once.

use super::Outcome;
use crate::Failure;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::try_join_all;
use ottla::client::security::{OauthToken, SaslMechanism, SecurityConfig, SecurityProtocol};
use ottla::client::{Client, ClientConfig, NewTopic, TransportKind};
use ottla::consumer::{AutoOffsetReset, Consumer, ConsumerConfig};
use ottla::types::Record;
use ottla::{Producer, ProducerConfig};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::{interval, timeout};

const WITHIN: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 3;
/// One record in so much time, for each way.
const EVERY: Duration = Duration::from_millis(10);

/// Where the broker listens, and what its clients need.
pub(super) struct Secured {
    pub(super) ssl: String,
    pub(super) sasl_ssl: String,
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// The sessions' time.
    pub(super) session: Duration,
}

impl Secured {
    fn ways(&self) -> Vec<(&'static str, &str, SecurityConfig)> {
        let sasl = || SecurityConfig::new(SecurityProtocol::SaslSsl).ca_location(&self.ca);
        let password = |mechanism: SaslMechanism| sasl().sasl(mechanism, "alice", "pencil");
        let tls = SecurityConfig::new(SecurityProtocol::Ssl).ca_location(&self.ca);
        vec![
            (
                "tls",
                &self.ssl,
                tls.certificate_location(&self.certificate, &self.key),
            ),
            ("plain", &self.sasl_ssl, password(SaslMechanism::Plain)),
            (
                "scram-256",
                &self.sasl_ssl,
                password(SaslMechanism::ScramSha256),
            ),
            (
                "scram-512",
                &self.sasl_ssl,
                password(SaslMechanism::ScramSha512),
            ),
            (
                "oauth",
                &self.sasl_ssl,
                sasl().oauth(|| async { Ok(OauthToken::new(token("alice"))) }),
            ),
        ]
    }
}

/// All ways side by side.
pub(super) async fn run(secured: &Secured) -> Outcome {
    let flows = secured
        .ways()
        .into_iter()
        .map(|(name, address, security)| async move {
            let flow = flow(name, address, security, secured.session * 3);
            let sent = match timeout(WITHIN, flow).await {
                Ok(sent) => sent.map_err(|error| format!("{name}: {error}"))?,
                Err(_) => return Err(format!("{name}: not through in {WITHIN:?}").into()),
            };
            println!("{name}: {sent} records written and read once");
            Outcome::Ok(())
        });
    try_join_all(flows).await?;
    Ok(())
}

async fn flow(
    name: &str,
    address: &str,
    security: SecurityConfig,
    lasting: Duration,
) -> Result<usize, Failure> {
    let mut config = ClientConfig::new(address);
    config.transport = TransportKind::Native;
    config.security = security;
    let client = Client::connect(config).await?;
    let topic = format!("secured-{name}-{:08x}", fastrand::u32(..));
    let new = NewTopic::new(&topic, PARTITIONS).replication(1);
    client.ensure_topics(vec![new]).await?;

    let writing = async {
        let producer = Producer::new(&client, ProducerConfig::default())?;
        let (mut tick, end) = (interval(EVERY), Instant::now() + lasting);
        let mut sent = 0_usize;
        while Instant::now() < end {
            tick.tick().await;
            let record = Record::new(topic.as_str()).key(format!("{}", sent % 7));
            producer.send(record.value(sent.to_string())).await?;
            sent += 1;
        }
        Ok::<_, Failure>(sent)
    };
    let mut group = ConsumerConfig::new(format!("group-{topic}"));
    group.auto_offset_reset = AutoOffsetReset::Earliest;
    // Reads beside the writing, and then on to the end.
    let (written, mut writes) = tokio::sync::oneshot::channel();
    let reading = async {
        let mut consumer = Consumer::subscribe(&client, group, [topic.as_str()]).await?;
        let mut seen = Vec::new();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| seen.len() < wanted) {
            tokio::select! {
                sent = &mut writes, if wanted.is_none() => wanted = Some(sent?),
                batch = consumer.recv() => {
                    for record in &batch? {
                        let value = record.value.as_deref().unwrap_or_default();
                        seen.push(std::str::from_utf8(value)?.parse::<usize>()?);
                    }
                }
            }
        }
        Ok::<_, Failure>((consumer, seen))
    };
    let writing = async {
        let sent = writing.await?;
        written.send(sent).map_err(|_| "the reader has failed")?;
        Ok(sent)
    };
    let (sent, (consumer, mut seen)) = tokio::try_join!(writing, reading)?;
    let report = consumer.close(Duration::from_secs(10)).await;
    client.close().await;
    seen.sort_unstable();
    if !seen.iter().copied().eq(0..sent) {
        return Err(format!("{sent} records were written, {} read", seen.len()).into());
    }
    if !report.clean {
        return Err(format!("the group left {report:?}").into());
    }
    Ok(sent)
}

/// An unsecured JWT, as Kafka's development setup takes it.
fn token(subject: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let claims = format!(
        "{{\"sub\":\"{subject}\",\"iat\":{now},\"exp\":{}}}",
        now + 600
    );
    let (header, claims) = (
        URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"),
        URL_SAFE_NO_PAD.encode(claims),
    );
    format!("{header}.{claims}.")
}
