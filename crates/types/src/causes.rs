//! One line of text for an error and what is behind it.

use std::error::Error;
use std::fmt::Write;

/// The error's text and those of its causes, the outermost first, joined by `: `.
///
/// For logs and status texts. Our errors name their cause only in `source()`.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fate, PublishError, PublishErrorKind};

    #[test]
    fn causes_follow_the_error_that_they_explain() {
        let inner = PublishError::new(PublishErrorKind::Closed, Fate::NotWritten, "b");
        let outer = PublishError::new(PublishErrorKind::TimedOut, Fate::NotWritten, "a");
        assert_eq!(with_causes(&inner), inner.to_string());
        let both = outer.clone().with_source(inner.clone());
        assert_eq!(with_causes(&both), format!("{outer}: {inner}"));
    }
}
