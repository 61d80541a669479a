//! Every configuration against its documented keys: what stands in `CONFIGURATION.md` is what the
//! types take.
//!
//! With `OTTLA_WRITE_CONFIGURATION` set, the page is written anew.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use ottla::client::security::{SaslMechanism, SecurityConfig, SecurityProtocol};
use ottla::consumer::ConsumerConfig;
use ottla::outbox::RelayConfig;
use ottla::producer::TransactionalConfig;
use ottla::reliability::{DedupConfig, RetryPolicy};
use ottla::types::Configuration;
use ottla::types::config::{from_properties, from_vars};
use ottla::{ClientConfig, ProducerConfig};
use serde_json::{Map, Value};
use std::fmt::{Debug, Write};
use std::path::Path;

/// What is given for a key: its default, or an example where there is none.
fn given(key: &ottla::types::ConfigKey) -> String {
    let example = match key.name {
        "bootstrap.servers" => "a:9092,b:9092",
        "sasl.mechanism" => "SCRAM-SHA-256",
        "batch.records" | "rate.limit" | "transaction.timeout.ms" => "1000",
        "enable.idempotence" => "true",
        "max.in.flight.requests.per.connection" => "5",
        _ => "some-text",
    };
    match key.default {
        "" => example.to_owned(),
        default => default.to_owned(),
    }
}

/// A default as the table writes it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn as_map<T: Configuration>(config: &T) -> Map<String, Value> {
    match serde_json::to_value(config).unwrap() {
        Value::Object(map) => map,
        other => panic!("{other}"),
    }
}

/// `must` is what a configuration needs at least, and makes `default`.
fn check<T: Configuration + PartialEq + Debug>(default: &T, must: &[(&str, &str)]) {
    let (name, keys) = (T::NAME, T::KEYS);
    let must = || {
        must.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
    };
    let is_must = |name: &str| must().any(|(key, _)| key == name);
    for (key, value) in &as_map(default) {
        let known = keys.iter().find(|known| known.name == key);
        let known = known.unwrap_or_else(|| panic!("{name}: `{key}` is not documented"));
        if known.unit != "table" && !is_must(key) {
            assert_eq!(text(value), known.default, "{name}: the default of `{key}`");
        }
    }
    let scalars = || keys.iter().filter(|key| key.unit != "table");
    for key in scalars() {
        let pair = (key.name.to_owned(), given(key));
        let config: T = from_properties(must().chain([pair.clone()]))
            .unwrap_or_else(|error| panic!("{name}: `{}` from a text: {error}", key.name));
        let of_must = must().map(|(key, value)| (as_variable(&key).into(), value.into()));
        let vars = of_must.chain([(as_variable(key.name).into(), pair.1.into())]);
        let from_env = from_vars::<T>("APP_", vars).unwrap();
        assert_eq!(from_env, config, "{name}: `{}`", key.name);
        refuses::<T>(key);
    }
    let all = scalars().map(|key| (key.name.to_owned(), given(key)));
    round_trip::<T>(&from_properties(all).unwrap());
    round_trip(default);
}

fn as_variable(key: &str) -> String {
    format!("APP_{}", key.to_uppercase().replace('.', "_"))
}

/// Noise for a value, and a misspelt key, each with an error that names the key.
fn refuses<T: Configuration + Debug>(key: &ottla::types::ConfigKey) {
    let error = |name: String, value: &str| {
        let read = from_properties::<T>([(name, value.to_owned())]);
        read.unwrap_err().to_string()
    };
    let noise = [
        ("ms", "soon"),
        ("bytes", "1 MB"),
        ("count", "x"),
        ("bool", "yes"),
    ];
    if let Some((_, noise)) = noise.iter().find(|(unit, _)| *unit == key.unit) {
        let error = error(key.name.to_owned(), noise);
        assert!(error.contains(key.name) && error.contains(noise), "{error}");
    }
    let error = error(format!("{}s", key.name), &given(key));
    let nearest = format!("did you mean `{}`?", key.name);
    assert!(error.contains(&nearest), "{error}");
}

/// Through JSON and TOML; secrets are not written, so they are not there afterwards.
fn round_trip<T: Configuration + PartialEq + Debug>(config: &T) {
    let map = as_map(config);
    let json: T = serde_json::from_value(Value::Object(map.clone())).unwrap();
    let toml: T = toml::from_str(&toml::to_string(config).unwrap()).unwrap();
    assert_eq!((as_map(&json), as_map(&toml)), (map.clone(), map));
    assert_eq!(json, toml);
    if !T::KEYS.iter().any(|key| key.unit == "secret") {
        assert_eq!(&json, config);
    }
}

#[test]
fn every_documented_key_is_taken_as_a_text_and_survives_json_and_toml() {
    check(&ClientConfig::default(), &[]);
    check(&ProducerConfig::default(), &[]);
    let transactional = TransactionalConfig::new("billing");
    check(&transactional, &[("transactional.id", "billing")]);
    check(&ConsumerConfig::default(), &[]);
    check(&RelayConfig::default(), &[]);
    check(&DedupConfig::default(), &[]);
    check(&RetryPolicy::default(), &[]);
}

/// How many ends of ranges were tried; a step out of each is refused by `validate`, by name.
fn outside<T: Configuration>(validate: impl Fn(T) -> Option<&'static str>) -> usize {
    let mut tried = 0;
    let numbers = T::KEYS.iter();
    let numbers = numbers.filter(|key| matches!(key.unit, "ms" | "bytes" | "count"));
    for key in numbers {
        let Some((low, high)) = key.allowed.split_once(" to ") else {
            continue;
        };
        let low = low.parse::<u64>().ok().and_then(|low| low.checked_sub(1));
        let high = high
            .parse::<u64>()
            .ok()
            .and_then(|high| high.checked_add(1));
        for value in low.into_iter().chain(high) {
            let pair = (key.name.to_owned(), value.to_string());
            let config = from_properties::<T>([pair]).unwrap_or_else(|error| panic!("{error}"));
            let refused = validate(config);
            assert_eq!(refused, Some(key.name), "{}: {value}", T::NAME);
            tried += 1;
        }
    }
    tried
}

#[test]
fn documented_ranges_are_those_that_are_checked() {
    let client = outside(|mut config: ClientConfig| {
        config.bootstrap = vec!["a:1".to_owned()];
        config.validate().err().map(|error| error.key)
    });
    let producer = outside(|config: ProducerConfig| config.validate().err().map(|e| e.key));
    let consumer = outside(|mut config: ConsumerConfig| {
        config.group_id = "g".to_owned();
        config.validate().err().map(|error| error.key)
    });
    let relay = outside(|config: RelayConfig| config.validate().err().map(|e| e.key));
    let tried = (client, producer, consumer, relay);
    assert!(
        client > 8 && producer > 5 && consumer > 12 && relay > 8,
        "{tried:?}"
    );
}

#[test]
fn secrets_are_read_from_texts_and_never_shown() {
    let pairs = [
        ("bootstrap.servers", "a:9092"),
        ("transport", "native"),
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "orders"),
        ("sasl.password", "pencil"),
    ];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let config: ClientConfig = from_properties(pairs).unwrap();
    config.validate().unwrap();
    let by_hand = SecurityConfig::new(SecurityProtocol::SaslSsl);
    let by_hand = by_hand.sasl(SaslMechanism::Plain, "orders", "pencil");
    assert_eq!(config.security, by_hand);
    let written = serde_json::to_string(&config).unwrap();
    assert!(!format!("{config:?}{written}").contains("pencil"));
    // Of another type in JSON: its error does not repeat it.
    let number = serde_json::from_str::<ClientConfig>(r#"{"sasl.password": 4711}"#).unwrap_err();
    assert!(!number.to_string().contains("4711"), "{number}");
}

fn table<T: Configuration>(page: &mut String, about: &str) {
    writeln!(page, "\n## `{}`\n\n{about}\n", T::NAME).unwrap();
    page.push_str("| key | unit | default | allowed |\n|---|---|---|---|\n");
    for key in T::KEYS {
        let default = match key.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let (name, unit, allowed) = (key.name, key.unit, key.allowed);
        writeln!(page, "| `{name}` | {unit} | {default} | {allowed} |").unwrap();
    }
}

const INTRODUCTION: &str = "# Configuration

Every configuration is a serde type: TOML, JSON, or anything else that serde reads. Values may be texts (`\"500\"`, `\"true\"`, `\"a,b\"`).
`ottla::types::config` reads the environment (`from_env`: with the prefix `OTTLA_CLIENT_`, `bootstrap.servers` is `OTTLA_CLIENT_BOOTSTRAP_SERVERS`)
and Java's properties (`from_properties`, `parse_properties`). A key that is not known is refused, with the nearest known one. Ranges are checked when a client,
producer, consumer or relay is built. Secrets are read and never written. This page is checked by a test against the types.
";

#[test]
fn the_page_says_what_the_types_take() {
    let mut page = INTRODUCTION.to_owned();
    table::<ClientConfig>(&mut page, "The client, its connections and their security.");
    table::<ProducerConfig>(&mut page, "A producer.");
    table::<TransactionalConfig>(
        &mut page,
        "A producer of transactions, besides its producer's settings.",
    );
    table::<ConsumerConfig>(&mut page, "A member of a consumer group.");
    table::<RelayConfig>(&mut page, "The relay of an outbox.");
    table::<RetryPolicy>(
        &mut page,
        "Retries of failed records; tables are of TOML and JSON.",
    );
    table::<DedupConfig>(&mut page, "Deduplication around a handler.");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../CONFIGURATION.md");
    if std::env::var_os("OTTLA_WRITE_CONFIGURATION").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        written, page,
        "run this test with OTTLA_WRITE_CONFIGURATION=1"
    );
}
