//! TLS and SASL on a real Kafka: a node of its own with a listener for each protocol, and the
//! client's own tests as what connects to it; then producers and groups.

use super::secured_flow::{self, Secured};
use super::{Context, Outcome};
use crate::harness::{Jars, KafkaCluster, KafkaOptions, Worker, free_ports};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

#[path = "../../../crates/client/src/connection/tls/certs.rs"]
mod certs;

const WITHIN: Duration = Duration::from_secs(250);
/// `connections.max.reauth.ms`: short, so that sessions are renewed while the tests run.
const SESSION_MS: u64 = 4000;
const MECHANISMS: &str = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER";
const OAUTH: &str = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule";

pub(super) async fn run(context: &mut Context) -> Outcome {
    let ports = free_ports(3)?;
    let files = Files::write(context.folder())?;
    let jars = context.jars().await?;
    let cluster = KafkaCluster::start(1, options(jars, &ports, &files)).await?;

    let described = context.folder().join("brokers.json");
    let address = |port: u16| format!("127.0.0.1:{port}");
    let brokers = json!({
        "plaintext": cluster.bootstrap(),
        "sasl_plaintext": address(ports[0]),
        "ssl": address(ports[1]),
        "sasl_ssl": address(ports[2]),
        "ca": files.authority,
        "certificate": files.client,
        "key": files.client_key,
        "session_ms": SESSION_MS,
    });
    fs::write(&described, brokers.to_string())?;
    let secured = Secured {
        ssl: address(ports[1]),
        sasl_ssl: address(ports[2]),
        ca: files.authority.clone(),
        certificate: files.client.clone(),
        key: files.client_key.clone(),
        session: Duration::from_millis(SESSION_MS),
    };
    let tested = async {
        test(&described).await?;
        secured_flow::run(&secured).await
    };
    let tested = tested.await;
    if tested.is_err() {
        eprintln!("{}", cluster.log_tail(0, 40));
    }
    cluster.stop().await?;
    tested
}

async fn test(described: &Path) -> Outcome {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["test", "--locked", "--package", "ottla-client"]);
    command.args(["--features", "tls", "--lib", "secured_brokers"]);
    command.args(["--", "--ignored", "--test-threads", "1"]);
    command.env("OTTLA_TEST_SECURITY", described);
    let mut tests = Worker::spawn("cargo test", command)?;
    let status = tests.wait(WITHIN).await?;
    let lines = tests.lines();
    let result = lines.iter().rfind(|line| line.starts_with("test result:"));
    match result {
        // No test at all would be a silent pass.
        Some(line) if status.success() && !line.contains(" 0 passed") => {
            println!("{line}");
            Ok(())
        }
        _ => Err(format!("{status}\n{}", tests.tail(60)).into()),
    }
}

/// What the node and its client find on disk.
struct Files {
    authority: PathBuf,
    /// The node's key and certificate in one file.
    server: PathBuf,
    client: PathBuf,
    client_key: PathBuf,
}

impl Files {
    fn write(folder: &Path) -> Result<Self, std::io::Error> {
        let authority = certs::Authority::new("the authority");
        // Not for `localhost`: that is how the check of the host is seen.
        let server = authority.sign(&["127.0.0.1"]);
        let client = authority.sign(&["client"]);
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map(|()| path)
        };
        Ok(Self {
            authority: write("ca.pem", &authority.pem)?,
            server: write(
                "server.pem",
                &format!("{}{}", server.key_pem, server.certificate_pem),
            )?,
            client: write("client.pem", &client.certificate_pem)?,
            client_key: write("client-key.pem", &client.key_pem)?,
        })
    }
}

fn options(jars: Jars, ports: &[u16], files: &Files) -> KafkaOptions {
    let secured = format!(
        "SASL_PLAINTEXT://127.0.0.1:{},SSL://127.0.0.1:{},SASL_SSL://127.0.0.1:{}",
        ports[0], ports[1], ports[2]
    );
    let plain = "PLAINTEXT://127.0.0.1:{broker.port}";
    let controller = "CONTROLLER://127.0.0.1:{controller.port}";
    let mut options = KafkaOptions::new(jars)
        .property("listeners", format!("{plain},{controller},{secured}"))
        .property("advertised.listeners", format!("{plain},{secured}"))
        .property(
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,\
             SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL",
        )
        .property("sasl.enabled.mechanisms", MECHANISMS)
        .property("connections.max.reauth.ms", SESSION_MS.to_string())
        .property("ssl.keystore.type", "PEM")
        .property("ssl.keystore.location", files.server.display().to_string())
        .property("ssl.truststore.type", "PEM")
        .property(
            "ssl.truststore.location",
            files.authority.display().to_string(),
        )
        .property("listener.name.ssl.ssl.client.auth", "required");
    for listener in ["sasl_plaintext", "sasl_ssl"] {
        let module = "org.apache.kafka.common.security";
        for (mechanism, login) in [
            (
                "plain",
                format!("{module}.plain.PlainLoginModule required user_alice=\"pencil\";"),
            ),
            (
                "scram-sha-256",
                format!("{module}.scram.ScramLoginModule required;"),
            ),
            (
                "scram-sha-512",
                format!("{module}.scram.ScramLoginModule required;"),
            ),
            (
                "oauthbearer",
                format!("{OAUTH} required unsecuredLoginStringClaim_sub=\"broker\";"),
            ),
        ] {
            let name = format!("listener.name.{listener}.{mechanism}.sasl.jaas.config");
            options = options.property(name, login);
        }
    }
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        options = options
            .format("--add-scram")
            .format(format!("{mechanism}=[name=alice,password=pencil]"));
    }
    options
}
