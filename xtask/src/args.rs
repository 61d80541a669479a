//! The command line: every command, its flags and the usage text.

use lexopt::prelude::*;
use std::ffi::OsString;

pub(crate) const USAGE: &str = "\
Usage: cargo xtask <command>

Commands:
  demo [ARGS]   the order flow on an in-process cluster and an embedded database;
                --help shows its arguments (--bootstrap H:P puts it on a real cluster)
  test          everything that needs no service: fmt, clippy, docs, tests, tidy
  e2e           scenarios on a real broker
      --broker kafka|redpanda|mock|external   default: redpanda where Docker answers, else kafka
      --bootstrap H:P                         the cluster of --broker external
      --kafka VERSION                         the Apache Kafka of --broker kafka: 3.9.2, 4.3.1 (the default)
      --nodes 1|3                             only scenarios of that cluster size
      --scenario NAME                         one scenario
      --suite ci|full                         default: full
      --transport rskafka|native              default: the client's
      --provision                             install what is missing (Debian packages, Kafka)
  conformance   the transports' suite: its results must be those of ARCHITECTURE.md's table
      --kafka                                 on a real Kafka too
      --write                                 writes the table
      --provision                             installs what is missing for --kafka
  bench [ARGS]  records/s, CPU and memory of our transports and of other clients, on a real Kafka;
                --help shows its arguments
  fuzz [TARGET] all fuzz targets, those of a package (client), or one (client/frames)
      --seconds N                             each for so long; default: 60
  no-c          no C code in any build
      --quick                                 the musl build, the graph and wasm32 only
  tidy          the rules of ARCHITECTURE.md
  --help        this text";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Test,
    Tidy,
    NoC { quick: bool },
    Demo { passed_on: Vec<OsString> },
    Bench { passed_on: Vec<OsString> },
    Conformance(ConformanceOptions),
    Fuzz(FuzzOptions),
    E2e(E2eOptions),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConformanceOptions {
    pub(crate) kafka: bool,
    pub(crate) write: bool,
    pub(crate) provision: bool,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct E2eOptions {
    /// `None`: redpanda where a Docker engine answers, else kafka.
    pub(crate) broker: Option<Broker>,
    pub(crate) bootstrap: Option<String>,
    /// A version of Apache Kafka; `None`: the harness's own choice.
    pub(crate) kafka: Option<String>,
    pub(crate) nodes: Option<Nodes>,
    pub(crate) scenario: Option<String>,
    pub(crate) suite: Option<Suite>,
    pub(crate) transport: Option<Transport>,
    pub(crate) provision: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FuzzOptions {
    /// `package` or `package/name`; `None`: every target.
    pub(crate) target: Option<String>,
    /// For each target.
    pub(crate) seconds: u32,
}

/// One flag value out of a fixed list.
trait Choice: Sized + Copy + 'static {
    const ALL: &'static [(&'static str, Self)];
}

macro_rules! choice {
    ($name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($variant),+ }

        impl Choice for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];
        }

        impl $name {
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

choice!(Broker { Kafka = "kafka", Redpanda = "redpanda", Mock = "mock", External = "external" });
choice!(Nodes { One = "1", Three = "3" });
choice!(Suite { Ci = "ci", Full = "full" });
choice!(Transport { Rskafka = "rskafka", Native = "native" });

pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut parser = lexopt::Parser::from_args(args);
    let name = match next(&mut parser)? {
        None => return Err("which command?".to_owned()),
        Some(Short('h') | Long("help")) => return Ok(Command::Help),
        Some(Value(name)) => name,
        Some(other) => return Err(other.unexpected().to_string()),
    };
    match name.to_str() {
        Some("help") => Ok(Command::Help),
        Some("test") => no_flags(parser, Command::Test),
        Some("tidy") => no_flags(parser, Command::Tidy),
        Some("no-c") => parse_no_c(parser),
        Some("demo") => Ok(Command::Demo {
            passed_on: rest(&mut parser)?,
        }),
        Some("bench") => Ok(Command::Bench {
            passed_on: rest(&mut parser)?,
        }),
        Some("fuzz") => parse_fuzz(parser),
        Some("e2e") => parse_e2e(parser),
        Some("conformance") => parse_conformance(parser),
        _ => Err(format!("unknown command {name:?}")),
    }
}

/// All words that are left, for a program that reads them itself.
fn rest(parser: &mut lexopt::Parser) -> Result<Vec<OsString>, String> {
    let rest = parser.raw_args().map_err(|error| error.to_string())?;
    Ok(rest.collect())
}

fn no_flags(mut parser: lexopt::Parser, command: Command) -> Result<Command, String> {
    match next(&mut parser)? {
        None => Ok(command),
        Some(Short('h') | Long("help")) => Ok(Command::Help),
        Some(other) => Err(other.unexpected().to_string()),
    }
}

fn parse_no_c(mut parser: lexopt::Parser) -> Result<Command, String> {
    let mut quick = false;
    while let Some(arg) = next(&mut parser)? {
        match arg {
            Long("quick") => quick = true,
            Short('h') | Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(Command::NoC { quick })
}

fn parse_conformance(mut parser: lexopt::Parser) -> Result<Command, String> {
    let mut options = ConformanceOptions::default();
    while let Some(arg) = next(&mut parser)? {
        match arg {
            Long("kafka") => options.kafka = true,
            Long("write") => options.write = true,
            Long("provision") => options.provision = true,
            Short('h') | Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(Command::Conformance(options))
}

fn parse_fuzz(mut parser: lexopt::Parser) -> Result<Command, String> {
    let mut options = FuzzOptions {
        target: None,
        seconds: 60,
    };
    while let Some(arg) = next(&mut parser)? {
        match arg {
            Long("seconds") => {
                let value = text(&mut parser, "--seconds")?;
                let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                options.seconds = seconds.ok_or_else(|| format!("--seconds {value}: a number"))?;
            }
            Value(name) if options.target.is_none() => {
                options.target = Some(name.to_string_lossy().into_owned());
            }
            Short('h') | Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(Command::Fuzz(options))
}

fn parse_e2e(mut parser: lexopt::Parser) -> Result<Command, String> {
    let mut options = E2eOptions::default();
    while let Some(arg) = next(&mut parser)? {
        match arg {
            Long("broker") => options.broker = Some(choose(&mut parser, "--broker")?),
            Long("bootstrap") => options.bootstrap = Some(text(&mut parser, "--bootstrap")?),
            Long("kafka") => options.kafka = Some(version(&mut parser, "--kafka")?),
            Long("nodes") => options.nodes = Some(choose(&mut parser, "--nodes")?),
            Long("scenario") => options.scenario = Some(text(&mut parser, "--scenario")?),
            Long("suite") => options.suite = Some(choose(&mut parser, "--suite")?),
            Long("transport") => options.transport = Some(choose(&mut parser, "--transport")?),
            Long("provision") => options.provision = true,
            Short('h') | Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected().to_string()),
        }
    }
    if options.kafka.is_some() && *options.broker.get_or_insert(Broker::Kafka) != Broker::Kafka {
        return Err("--kafka is the version of --broker kafka".to_owned());
    }
    match (options.broker, &options.bootstrap) {
        (Some(Broker::External), None) => {
            Err("--broker external needs --bootstrap host:port".to_owned())
        }
        (None, Some(_)) => {
            options.broker = Some(Broker::External);
            Ok(Command::E2e(options))
        }
        (Some(broker), Some(_)) if broker != Broker::External => Err(format!(
            "--bootstrap names a cluster of yours: it goes with --broker external, not {}",
            broker.as_str()
        )),
        _ => Ok(Command::E2e(options)),
    }
}

fn next(parser: &mut lexopt::Parser) -> Result<Option<lexopt::Arg<'_>>, String> {
    parser.next().map_err(|error| error.to_string())
}

fn text(parser: &mut lexopt::Parser, flag: &str) -> Result<String, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    match value.into_string() {
        Ok(text) if !text.is_empty() => Ok(text),
        Ok(_) => Err(format!("{flag} is empty")),
        Err(other) => Err(format!("{flag}: {other:?} is no text")),
    }
}

/// Numbers with points between them: it becomes part of paths.
fn version(parser: &mut lexopt::Parser, flag: &str) -> Result<String, String> {
    let value = text(parser, flag)?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match value.split('.').count() == 3 && value.split('.').all(is_number) {
        true => Ok(value),
        false => Err(format!("{flag} {value}: a version such as 3.9.2")),
    }
}

fn choose<T: Choice>(parser: &mut lexopt::Parser, flag: &str) -> Result<T, String> {
    let value = text(parser, flag)?;
    let found = T::ALL.iter().find(|(name, _)| *name == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = T::ALL.iter().map(|(name, _)| *name).collect();
        format!("{flag} {value}: it is one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<Command, String> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn unknown_commands_and_flags_are_refused() {
        for words in [
            &["frobnicate"][..],
            &["test", "--fast"],
            &["no-c", "x"],
            &["--quick"],
            &[],
        ] {
            assert!(of(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_wrong_choice_names_the_right_ones() {
        let error = of(&["e2e", "--nodes", "2"]).unwrap_err();
        assert_eq!(error, "--nodes 2: it is one of 1, 3");
    }

    #[test]
    fn e2e_flags_are_read() {
        let parsed = of(&[
            "e2e",
            "--broker",
            "kafka",
            "--nodes=3",
            "--suite",
            "ci",
            "--provision",
            "--scenario",
            "broker-smoke",
        ]);
        let expected = E2eOptions {
            broker: Some(Broker::Kafka),
            nodes: Some(Nodes::Three),
            suite: Some(Suite::Ci),
            scenario: Some("broker-smoke".to_owned()),
            provision: true,
            ..E2eOptions::default()
        };
        assert_eq!(parsed, Ok(Command::E2e(expected)));
    }

    #[test]
    fn a_version_is_for_a_kafka_of_our_own() {
        let expected = E2eOptions {
            broker: Some(Broker::Kafka),
            kafka: Some("3.9.2".to_owned()),
            ..E2eOptions::default()
        };
        assert_eq!(of(&["e2e", "--kafka", "3.9.2"]), Ok(Command::E2e(expected)));
        for words in [
            &["e2e", "--kafka", "3.9"][..],
            &["e2e", "--kafka", "../../x"],
            &["e2e", "--kafka", "3.9.2", "--broker", "redpanda"],
            &["e2e", "--kafka", "3.9.2", "--bootstrap", "h:1"],
        ] {
            assert!(of(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn fuzz_takes_a_target_and_a_time() {
        let options = |target: Option<&str>, seconds| FuzzOptions {
            target: target.map(str::to_owned),
            seconds,
        };
        assert_eq!(of(&["fuzz"]), Ok(Command::Fuzz(options(None, 60))));
        let parsed = of(&["fuzz", "client/frames", "--seconds", "5"]);
        assert_eq!(parsed, Ok(Command::Fuzz(options(Some("client/frames"), 5))));
        for words in [&["fuzz", "--seconds", "0"][..], &["fuzz", "a", "b"]] {
            assert!(of(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn bootstrap_belongs_to_an_external_broker() {
        assert!(of(&["e2e", "--broker", "external"]).is_err());
        assert!(of(&["e2e", "--broker", "kafka", "--bootstrap", "h:1"]).is_err());
        let Ok(Command::E2e(options)) = of(&["e2e", "--bootstrap", "h:1"]) else {
            panic!()
        };
        assert_eq!(options.broker, Some(Broker::External));
    }

    #[test]
    fn the_demo_and_the_bench_take_their_own_arguments() {
        let Ok(Command::Demo { passed_on }) = of(&["demo", "--orders", "5"]) else {
            panic!()
        };
        assert_eq!(passed_on, ["--orders", "5"]);
        let Ok(Command::Bench { passed_on }) = of(&["bench", "produce", "--json"]) else {
            panic!()
        };
        assert_eq!(passed_on, ["produce", "--json"]);
    }
}
