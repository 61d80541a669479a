//! What can go wrong when a test drives the cluster.

use std::io;

/// A call on the cluster that could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MockError {
    /// The port of a broker could not be opened.
    #[error("cannot open the port of broker {broker}")]
    Bind {
        /// The broker.
        broker: i32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A builder value outside its range.
    #[error("{setting} is {value}, allowed is {allowed}")]
    Setting {
        /// The builder method.
        setting: &'static str,
        /// What was given.
        value: i64,
        /// The range.
        allowed: &'static str,
    },
    /// No broker has this id.
    #[error("no broker {0}")]
    UnknownBroker(i32),
    /// The broker is down, and the call needs it up.
    #[error("broker {0} is down")]
    BrokerDown(i32),
    /// The broker is up, and the call needs it down.
    #[error("broker {0} is up")]
    BrokerUp(i32),
    /// The topic or partition does not exist.
    #[error("no partition {topic}-{partition}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// The topic could not be created or deleted; the code is Kafka's.
    #[error("topic {topic} refused with error code {code}")]
    Topic {
        /// The topic.
        topic: String,
        /// Kafka's error code.
        code: i16,
    },
    /// Something with a transactional id was refused; the code is Kafka's.
    #[error("transactional id {id} refused with error code {code}")]
    Transaction {
        /// The transactional id.
        id: String,
        /// Kafka's error code.
        code: i16,
    },
    /// The cluster has been shut down.
    #[error("the cluster has been shut down")]
    ShutDown,
}
