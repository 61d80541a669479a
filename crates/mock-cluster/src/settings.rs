//! The settings of topics and brokers that can be asked for and changed. Pure.
//!
//! A topic's value is its own, or else the broker's under the broker's name for it, or else
//! Kafka's default. Only `message.timestamp.type` and `max.message.bytes` change what the mock does.

use std::collections::BTreeMap;

use crate::codes;

/// Settings by name.
pub(crate) type Settings = BTreeMap<String, String>;

/// Settings that one topic or broker may carry.
pub(crate) const MAX_SETTINGS: usize = 100;

/// What a value must be; the numbers are those of DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool = 1,
    Text = 2,
    Int = 3,
    Long = 5,
    List = 7,
}

/// A setting: its name on a topic, the broker's name for it, its default.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) broker_name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) kind: Kind,
}

const fn setting(
    name: &'static str,
    broker_name: &'static str,
    default: &'static str,
    kind: Kind,
) -> Setting {
    Setting {
        name,
        broker_name,
        default,
        kind,
    }
}

pub(crate) const SETTINGS: [Setting; 15] = [
    setting("cleanup.policy", "log.cleanup.policy", "delete", Kind::List),
    setting(
        "compression.type",
        "compression.type",
        "producer",
        Kind::Text,
    ),
    setting(
        "delete.retention.ms",
        "log.cleaner.delete.retention.ms",
        "86400000",
        Kind::Long,
    ),
    setting(
        "flush.messages",
        "log.flush.interval.messages",
        "9223372036854775807",
        Kind::Long,
    ),
    setting(
        "flush.ms",
        "log.flush.interval.ms",
        "9223372036854775807",
        Kind::Long,
    ),
    setting(
        "max.message.bytes",
        "message.max.bytes",
        "1048588",
        Kind::Int,
    ),
    setting(
        "message.timestamp.type",
        "log.message.timestamp.type",
        "CreateTime",
        Kind::Text,
    ),
    setting(
        "min.cleanable.dirty.ratio",
        "log.cleaner.min.cleanable.ratio",
        "0.5",
        Kind::Text,
    ),
    setting(
        "min.compaction.lag.ms",
        "log.cleaner.min.compaction.lag.ms",
        "0",
        Kind::Long,
    ),
    setting("min.insync.replicas", "min.insync.replicas", "1", Kind::Int),
    setting("retention.bytes", "log.retention.bytes", "-1", Kind::Long),
    setting("retention.ms", "log.retention.ms", "604800000", Kind::Long),
    setting(
        "segment.bytes",
        "log.segment.bytes",
        "1073741824",
        Kind::Int,
    ),
    setting("segment.ms", "log.roll.ms", "604800000", Kind::Long),
    setting(
        "unclean.leader.election.enable",
        "unclean.leader.election.enable",
        "false",
        Kind::Bool,
    ),
];

/// What is changed about one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Set(String),
    /// Back to the default.
    Delete,
    Append(String),
    Subtract(String),
}

impl Change {
    /// From the wire.
    pub(crate) fn from_wire(operation: i8, value: Option<String>) -> Result<Self, i16> {
        match (operation, value) {
            (0, Some(value)) => Ok(Self::Set(value)),
            (1, _) => Ok(Self::Delete),
            (2, Some(value)) => Ok(Self::Append(value)),
            (3, Some(value)) => Ok(Self::Subtract(value)),
            _ => Err(codes::INVALID_REQUEST),
        }
    }
}

/// The settings after `changes`; nothing is changed when one of them is refused. `name` gives the
/// name that a setting has here, and `inherited` the value that lies below.
pub(crate) fn alter(
    settings: &Settings,
    changes: &[(String, Change)],
    name: impl Fn(&Setting) -> &'static str,
    inherited: impl Fn(&Setting) -> String,
) -> Result<Settings, i16> {
    let mut altered = settings.clone();
    for (n, (key, change)) in changes.iter().enumerate() {
        if changes[..n].iter().any(|(earlier, _)| earlier == key) {
            return Err(codes::INVALID_REQUEST);
        }
        let found = SETTINGS.iter().find(|setting| name(setting) == key);
        let setting = found.ok_or(codes::INVALID_CONFIG)?;
        let list = || {
            let now = altered.get(key).cloned();
            now.unwrap_or_else(|| inherited(setting))
        };
        let value = match change {
            Change::Delete => {
                altered.remove(key);
                continue;
            }
            Change::Set(value) => value.clone(),
            Change::Append(_) | Change::Subtract(_) if setting.kind != Kind::List => {
                return Err(codes::INVALID_CONFIG);
            }
            Change::Append(more) => {
                let now = list();
                let mut items: Vec<&str> = items(&now).collect();
                items.extend(self::items(more).filter(|item| !now.split(',').any(|i| i == *item)));
                items.join(",")
            }
            Change::Subtract(less) => {
                let now = list();
                let left = items(&now).filter(|item| !less.split(',').any(|i| i == *item));
                left.collect::<Vec<_>>().join(",")
            }
        };
        check(setting, &value)?;
        altered.insert(key.clone(), value);
    }
    if altered.len() > MAX_SETTINGS {
        return Err(codes::INVALID_CONFIG);
    }
    Ok(altered)
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn check(setting: &Setting, value: &str) -> Result<(), i16> {
    let fits = match setting.kind {
        Kind::Bool => matches!(value, "true" | "false"),
        Kind::Int => value.parse::<i32>().is_ok_and(|n| n >= 0),
        Kind::Long => value.parse::<i64>().is_ok_and(|n| n >= -1),
        Kind::List => items(value).all(|item| matches!(item, "delete" | "compact")),
        Kind::Text if setting.name == "message.timestamp.type" => {
            matches!(value, "CreateTime" | "LogAppendTime")
        }
        Kind::Text => true,
    };
    let is_replicas = setting.name == "min.insync.replicas";
    if fits && !(is_replicas && value == "0") {
        Ok(())
    } else {
        Err(codes::INVALID_CONFIG)
    }
}

/// The settings of brokers: those of all, and those of one.
#[derive(Debug, Default)]
pub(crate) struct BrokerSettings {
    pub(crate) of_all: Settings,
    of_one: BTreeMap<i32, Settings>,
}

impl BrokerSettings {
    pub(crate) fn of(&self, broker: i32) -> Option<&Settings> {
        self.of_one.get(&broker)
    }

    /// `None` is all brokers.
    pub(crate) fn replace(&mut self, broker: Option<i32>, settings: Settings) {
        match broker {
            None => self.of_all = settings,
            Some(broker) => drop(self.of_one.insert(broker, settings)),
        }
    }

    /// The value that a broker has for a setting.
    pub(crate) fn value(&self, broker: i32, setting: &Setting) -> String {
        let own = self.of(broker).and_then(|own| own.get(setting.broker_name));
        let found = own.or_else(|| self.of_all.get(setting.broker_name));
        found.cloned().unwrap_or_else(|| setting.default.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[(&str, Change)]) -> Result<Settings, i16> {
        let changes: Vec<_> = changes
            .iter()
            .map(|(key, change)| ((*key).to_owned(), change.clone()))
            .collect();
        let settings = Settings::from([("retention.ms".to_owned(), "5".to_owned())]);
        alter(&settings, &changes, |s| s.name, |s| s.default.to_owned())
    }

    #[test]
    fn lists_grow_and_shrink_from_what_is_inherited() {
        let more = Change::Append("compact".to_owned());
        let grown = changed(&[("cleanup.policy", more.clone())]).unwrap();
        assert_eq!(grown["cleanup.policy"], "delete,compact");
        assert_eq!(grown["retention.ms"], "5");
        let less = Change::Subtract("delete".to_owned());
        let shrunk = changed(&[("cleanup.policy", less)]).unwrap();
        assert_eq!(shrunk["cleanup.policy"], "");
        assert_eq!(
            changed(&[("retention.ms", more)]),
            Err(codes::INVALID_CONFIG)
        );
    }

    #[test]
    fn one_refused_change_leaves_all_as_they_were() {
        let good = ("retention.ms", Change::Delete);
        for bad in [
            ("min.insync.replicas", "0"),
            ("retention.ms.", "1"),
            ("unclean.leader.election.enable", "yes"),
        ] {
            let bad = (bad.0, Change::Set(bad.1.to_owned()));
            assert_eq!(changed(&[good.clone(), bad]), Err(codes::INVALID_CONFIG));
        }
        assert_eq!(
            changed(&[good.clone(), good.clone()]),
            Err(codes::INVALID_REQUEST)
        );
        assert_eq!(changed(&[good]), Ok(Settings::new()));
    }
}
