//! rskafka's errors as ours: the kind, whether the data may be written, and what has to be mended
//! before the next attempt.

use crate::transport::codes::{surely_not_written, wants_new_leader};
use crate::{Error, ErrorKind};
use ::rskafka::BackoffError;
use ::rskafka::client::error::{Error as RsError, ProtocolError, RequestError};
use ottla_types::{ErrorCode, Fate, TopicPartition};

/// What has to happen before the same call can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cure {
    /// Nothing helps.
    None,
    /// Time.
    Wait,
    /// A fresh look at who leads the partition, and a new connection to it.
    Reconnect,
    /// All of rskafka anew: something does not answer, and it may be what metadata is asked from.
    Rebuild,
}

/// Where a call stood when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No request of the call was sent: the leader was looked up.
    Connect,
    /// The request may have been sent.
    Request,
}

impl Phase {
    /// What may have become of a produce that failed here.
    fn fate(self) -> Fate {
        match self {
            Self::Connect => Fate::NotWritten,
            Self::Request => Fate::MaybeWritten,
        }
    }
}

/// What lies behind a failure.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The broker's answer made rskafka panic.
#[derive(Debug, thiserror::Error)]
#[error("reading the answer panicked: it holds numbers that cannot be")]
struct Panicked;

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) code: Option<ErrorCode>,
    pub(super) cure: Cure,
    pub(super) fate: Fate,
    /// An answer came, but rskafka could not read it.
    pub(super) undecodable: bool,
    pub(super) source: Option<Cause>,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, cure: Cure, fate: Fate) -> Self {
        Self {
            kind,
            code: None,
            cure,
            fate,
            undecodable: false,
            source: None,
        }
    }

    pub(super) fn of(error: RsError, phase: Phase) -> Self {
        let mut failure = judge(&error, phase);
        failure.source = Some(Box::new(error));
        failure
    }

    /// rskafka panicked: an answer came, and it cannot be read. Another attempt would meet it again.
    pub(super) fn panicked(phase: Phase) -> Self {
        let mut failure = Self::new(ErrorKind::Protocol, Cure::None, phase.fate());
        failure.source = Some(Box::new(Panicked));
        failure
    }

    pub(super) fn into_error(self, operation: &'static str, partition: &TopicPartition) -> Error {
        let mut error = match self.code {
            Some(code) => Error::from_code(code, operation),
            None => Error::new(self.kind, operation),
        };
        if let Some(source) = self.source {
            error = error.with_source(source);
        }
        error.with_partition(partition.clone()).with_fate(self.fate)
    }
}

fn judge(error: &RsError, phase: Phase) -> Failure {
    let sent = phase.fate();
    match error {
        RsError::ServerError {
            protocol_error,
            is_virtual,
            ..
        } => {
            let code = code_of(*protocol_error);
            let fate = if *is_virtual || surely_not_written(code) {
                Fate::NotWritten
            } else {
                sent
            };
            let kind = Error::from_code(code, "").kind();
            Failure {
                code: Some(code),
                ..Failure::new(kind, cure_of(code), fate)
            }
        }
        RsError::Connection(_) => {
            Failure::new(ErrorKind::Connect, Cure::Reconnect, Fate::NotWritten)
        }
        RsError::Request(request) => judge_request(request, sent),
        // While connecting: the partition, or the broker that leads it, is not in the metadata.
        RsError::InvalidResponse(_) if phase == Phase::Connect => {
            Failure::new(ErrorKind::UnknownTopic, Cure::Reconnect, Fate::NotWritten)
        }
        RsError::InvalidResponse(_) => undecodable(sent),
        RsError::RetryFailed(BackoffError::DeadlineExceded { source, .. }) => {
            match source.downcast_ref::<RsError>() {
                Some(inner) => judge(inner, phase),
                None => Failure::new(ErrorKind::ConnectionLost, Cure::Reconnect, sent),
            }
        }
        RsError::Timeout => Failure::new(ErrorKind::TimedOut, Cure::Rebuild, sent),
        _ => Failure::new(ErrorKind::Protocol, Cure::None, sent),
    }
}

fn judge_request(error: &RequestError, sent: Fate) -> Failure {
    match error {
        RequestError::Poisoned(_)
        | RequestError::IO(_)
        | RequestError::ReadFramedMessageError(_) => {
            Failure::new(ErrorKind::ConnectionLost, Cure::Reconnect, sent)
        }
        RequestError::NoVersionMatch { .. } => {
            Failure::new(ErrorKind::Unsupported, Cure::None, Fate::NotWritten)
        }
        RequestError::WriteError(_) | RequestError::WriteMessageError(_) => {
            Failure::new(ErrorKind::InvalidRecord, Cure::None, Fate::NotWritten)
        }
        RequestError::ReadError(_)
        | RequestError::ReadVersionedError(_)
        | RequestError::TooMuchData { .. } => undecodable(sent),
        _ => Failure::new(ErrorKind::Protocol, Cure::None, sent),
    }
}

fn undecodable(fate: Fate) -> Failure {
    Failure {
        undecodable: true,
        ..Failure::new(ErrorKind::Protocol, Cure::None, fate)
    }
}

/// Whether rskafka got an answer that it could not read.
pub(super) fn is_undecodable(error: &RsError) -> bool {
    judge(error, Phase::Request).undecodable
}

/// rskafka keeps the number to itself; its way from number to name is turned round.
fn code_of(error: ProtocolError) -> ErrorCode {
    let number = match error {
        ProtocolError::Unknown(number) => Some(number),
        known => (-1..i16::from(i8::MAX)).find(|n| ProtocolError::new(*n) == Some(known)),
    };
    number.map_or(ErrorCode::UNKNOWN_SERVER_ERROR, ErrorCode)
}

fn cure_of(code: ErrorCode) -> Cure {
    match code {
        code if wants_new_leader(code) => Cure::Reconnect,
        code if code.is_retriable() => Cure::Wait,
        _ => Cure::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::rskafka::client::error::RequestContext;
    use std::sync::Arc;

    fn server(code: i16, is_virtual: bool) -> RsError {
        RsError::ServerError {
            protocol_error: ProtocolError::new(code).unwrap(),
            error_message: None,
            request: RequestContext::Partition("t".into(), 0),
            response: None,
            is_virtual,
        }
    }

    fn judged(error: RsError, phase: Phase) -> (ErrorKind, Cure, Fate) {
        let f = Failure::of(error, phase);
        (f.kind, f.cure, f.fate)
    }

    fn wrapped(error: RsError) -> RsError {
        RsError::RetryFailed(BackoffError::DeadlineExceded {
            deadline: std::time::Duration::ZERO,
            source: Box::new(error),
        })
    }

    #[test]
    fn every_code_keeps_its_number() {
        for n in (-1..=130).filter(|n| *n != 0) {
            let failure = Failure::of(server(n, false), Phase::Request);
            assert_eq!(failure.code, Some(ErrorCode(n)));
        }
    }

    #[test]
    fn trap_a9_codes_that_pass_are_retried_and_say_what_became_of_the_data() {
        use Cure::{None, Reconnect, Wait};
        use ErrorKind::{Broker, RecordTooLarge, UnknownTopic};
        use Fate::{MaybeWritten, NotWritten};
        for (code, wanted) in [
            (19, (Broker, Wait, NotWritten)),
            (20, (Broker, Wait, MaybeWritten)),
            (7, (Broker, Wait, MaybeWritten)),
            (13, (Broker, Reconnect, MaybeWritten)),
            (56, (Broker, Reconnect, MaybeWritten)),
            (74, (Broker, Reconnect, MaybeWritten)),
            (75, (Broker, Reconnect, MaybeWritten)),
            (6, (Broker, Reconnect, MaybeWritten)),
            (5, (Broker, Reconnect, NotWritten)),
            (3, (UnknownTopic, Reconnect, NotWritten)),
            (10, (RecordTooLarge, None, NotWritten)),
            (87, (Broker, None, NotWritten)),
            (-1, (Broker, None, MaybeWritten)),
        ] {
            assert_eq!(
                judged(server(code, false), Phase::Request),
                wanted,
                "{code}"
            );
            assert_eq!(judged(wrapped(server(code, false)), Phase::Request), wanted);
        }
    }

    #[test]
    fn nothing_is_written_before_the_leader_is_found() {
        assert_eq!(
            judged(server(6, true), Phase::Request),
            (ErrorKind::Broker, Cure::Reconnect, Fate::NotWritten)
        );
        assert_eq!(
            judged(wrapped(server(7, false)), Phase::Connect).2,
            Fate::NotWritten
        );
        assert_eq!(
            judged(RsError::InvalidResponse("x".into()), Phase::Connect),
            (ErrorKind::UnknownTopic, Cure::Reconnect, Fate::NotWritten)
        );
    }

    #[test]
    fn a_lost_connection_may_have_written_and_is_looked_up_anew() {
        let io = || RequestError::IO(std::io::ErrorKind::ConnectionReset.into());
        let lost = (
            ErrorKind::ConnectionLost,
            Cure::Reconnect,
            Fate::MaybeWritten,
        );
        assert_eq!(judged(RsError::Request(io()), Phase::Request), lost);
        let poisoned = RsError::Request(RequestError::Poisoned(Arc::new(io())));
        assert_eq!(judged(wrapped(poisoned), Phase::Request), lost);
    }

    #[test]
    fn an_error_names_operation_partition_code_and_fate() {
        let failure = Failure::of(server(20, false), Phase::Request);
        let error = failure.into_error("Produce", &TopicPartition::new("t", 3));
        assert_eq!(
            error.to_string(),
            "Produce for partition t-3: the broker answered with an error: \
             NOT_ENOUGH_REPLICAS_AFTER_APPEND (20) (the data may be written)"
        );
        assert!(error.is_retriable());
        assert!(std::error::Error::source(&error).is_some());
    }
}
