//! What follows from a publish error.

use crate::RelayConfig;
use ottla_types::{PublishError, PublishErrorKind};

/// What to do with a row that was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send it again.
    Again(Retry),
    /// Set it aside: it can never be published.
    Park,
    /// Nothing can be published through this producer.
    Stop,
}

/// When to send a row again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// When the producer has room.
    WhenRoom,
    /// After this many milliseconds.
    After(i64),
}

/// The verdict on a row that has failed `attempts` times before.
pub(crate) fn verdict(error: &PublishError, attempts: u32, config: &RelayConfig) -> Verdict {
    let again = Verdict::Again(Retry::After(backoff_ms(attempts, config)));
    match error.kind() {
        PublishErrorKind::BufferFull => Verdict::Again(Retry::WhenRoom),
        PublishErrorKind::RecordTooLarge | PublishErrorKind::InvalidRecord => Verdict::Park,
        PublishErrorKind::Closed | PublishErrorKind::Fenced => Verdict::Stop,
        // The topic may be about to be created and the permission to be granted, but not for ever.
        PublishErrorKind::UnknownTopic | PublishErrorKind::Refused => {
            if attempts.saturating_add(1) >= config.park_after_attempts {
                Verdict::Park
            } else {
                again
            }
        }
        _ => again,
    }
}

fn backoff_ms(attempts: u32, config: &RelayConfig) -> i64 {
    let factor = 1u32.checked_shl(attempts).unwrap_or(u32::MAX);
    let wait = config.retry_backoff.saturating_mul(factor);
    let wait = wait.min(config.retry_backoff_max);
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_types::Fate;

    fn verdict_on(kind: PublishErrorKind, attempts: u32) -> Verdict {
        let error = PublishError::new(kind, Fate::NotWritten, "t");
        verdict(&error, attempts, &RelayConfig::default())
    }

    #[test]
    fn an_outage_is_waited_out_and_only_hopeless_rows_are_parked() {
        use PublishErrorKind as Kind;
        assert_eq!(
            verdict_on(Kind::Unavailable, 0),
            Verdict::Again(Retry::After(100))
        );
        for attempts in [20, 31, 32, 1000, u32::MAX] {
            let verdict = verdict_on(Kind::TimedOut, attempts);
            assert_eq!(verdict, Verdict::Again(Retry::After(10_000)));
        }
        assert_eq!(verdict_on(Kind::RecordTooLarge, 0), Verdict::Park);
        assert_eq!(
            verdict_on(Kind::UnknownTopic, 8),
            Verdict::Again(Retry::After(10_000))
        );
        assert_eq!(verdict_on(Kind::UnknownTopic, 9), Verdict::Park);
        assert_eq!(verdict_on(Kind::Closed, 0), Verdict::Stop);
        assert_eq!(
            verdict_on(Kind::BufferFull, 0),
            Verdict::Again(Retry::WhenRoom)
        );
    }
}
