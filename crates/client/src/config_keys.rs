//! The keys of [`ClientConfig`], for reading and for the documentation.

use crate::ClientConfig;
use ottla_types::ConfigKey;

const fn key(
    name: &'static str,
    unit: &'static str,
    default: &'static str,
    allowed: &'static str,
) -> ConfigKey {
    ConfigKey::new(name, unit, default, allowed)
}

ottla_types::configuration!(
    ClientConfig,
    &[
        key("bootstrap.servers", "list", "", "`host:port`, one or more"),
        key(
            "client.id",
            "text",
            "ottla",
            "up to 249 bytes, no control characters"
        ),
        key(
            "client.rack",
            "text",
            "",
            "up to 255 bytes, no control characters"
        ),
        key(
            "socket.connection.setup.timeout.ms",
            "ms",
            "10000",
            "1 to 600000"
        ),
        key("request.timeout.ms", "ms", "30000", "1 to 600000"),
        key("connections.max.idle.ms", "ms", "540000", "100 to 86400000"),
        key("metadata.max.age.ms", "ms", "300000", "1 to 86400000"),
        key(
            "retry.backoff.ms",
            "ms",
            "100",
            "1 to `retry.backoff.max.ms`"
        ),
        key("retry.backoff.max.ms", "ms", "1000", "1 to 600000"),
        key(
            "receive.message.max.bytes",
            "bytes",
            "67108864",
            "1024 to 268435456"
        ),
        key(
            "isolation.level",
            "name",
            "read_committed",
            "`read_committed`, `read_uncommitted`"
        ),
        key("transport", "name", "native", "`native`, `rskafka`"),
        key(
            "security.protocol",
            "name",
            "PLAINTEXT",
            "`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT`, `SASL_SSL`",
        ),
        key(
            "sasl.mechanism",
            "name",
            "",
            "`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER`",
        ),
        key("sasl.username", "text", "", "no control characters"),
        key("sasl.password", "secret", "", "no control characters"),
        key("sasl.allow.without.tls", "bool", "false", "`true`, `false`"),
        key("ssl.ca.location", "file", "", "PEM"),
        key("ssl.ca.pem", "text", "", "PEM"),
        key("ssl.certificate.location", "file", "", "PEM"),
        key("ssl.certificate.pem", "text", "", "PEM"),
        key("ssl.key.location", "file", "", "PEM"),
        key("ssl.key.pem", "secret", "", "PEM"),
        key(
            "ssl.endpoint.identification.algorithm",
            "name",
            "https",
            "`https`, `none`"
        ),
    ]
);
