//! The keys of [`ClientConfig`], for reading and for the documentation.

use crate::ClientConfig;
use ottla_types::ConfigKey;

ottla_types::configuration!(
    ClientConfig,
    &[
        ConfigKey::new("bootstrap.servers", "list", "", "`host:port`, one or more"),
        ConfigKey::new(
            "client.id",
            "text",
            "ottla",
            "up to 249 bytes, no control characters"
        ),
        ConfigKey::new(
            "client.rack",
            "text",
            "",
            "up to 255 bytes, no control characters"
        ),
        ConfigKey::new(
            "socket.connection.setup.timeout.ms",
            "ms",
            "10000",
            "1 to 600000"
        ),
        ConfigKey::new("request.timeout.ms", "ms", "30000", "1 to 600000"),
        ConfigKey::new("connections.max.idle.ms", "ms", "540000", "100 to 86400000"),
        ConfigKey::new("metadata.max.age.ms", "ms", "300000", "1 to 86400000"),
        ConfigKey::new(
            "retry.backoff.ms",
            "ms",
            "100",
            "1 to `retry.backoff.max.ms`"
        ),
        ConfigKey::new("retry.backoff.max.ms", "ms", "1000", "1 to 600000"),
        ConfigKey::new(
            "receive.message.max.bytes",
            "bytes",
            "67108864",
            "1024 to 268435456"
        ),
        ConfigKey::new(
            "isolation.level",
            "name",
            "read_committed",
            "`read_committed`, `read_uncommitted`"
        ),
        ConfigKey::new("transport", "name", "native", "`native`, `rskafka`"),
        ConfigKey::new(
            "security.protocol",
            "name",
            "PLAINTEXT",
            "`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT`, `SASL_SSL`",
        ),
        ConfigKey::new(
            "sasl.mechanism",
            "name",
            "",
            "`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER`",
        ),
        ConfigKey::new("sasl.username", "text", "", "no control characters"),
        ConfigKey::new("sasl.password", "secret", "", "no control characters"),
        ConfigKey::new("sasl.allow.without.tls", "bool", "false", "`true`, `false`"),
        ConfigKey::new("ssl.ca.location", "file", "", "PEM"),
        ConfigKey::new("ssl.ca.pem", "text", "", "PEM"),
        ConfigKey::new("ssl.certificate.location", "file", "", "PEM"),
        ConfigKey::new("ssl.certificate.pem", "text", "", "PEM"),
        ConfigKey::new("ssl.key.location", "file", "", "PEM"),
        ConfigKey::new("ssl.key.pem", "secret", "", "PEM"),
        ConfigKey::new(
            "ssl.endpoint.identification.algorithm",
            "name",
            "https",
            "`https`, `none`"
        ),
    ]
);
