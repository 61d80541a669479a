//! One line of text for an error and what is behind it.

use std::error::Error;

/// The error's text and those of its causes, the outermost first, joined by `: `.
///
/// For logs and status texts. Our errors name their cause only in `source()`; of others' that name it
/// in their own text too, it is not said twice.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    add_causes(&mut text, error);
    text
}

/// Puts the texts of the error's causes behind `text`, as [`with_causes`] does behind the error's own.
pub fn add_causes(text: &mut String, error: &dyn Error) {
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
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

    #[derive(Debug)]
    struct Talkative(PublishError);

    impl std::fmt::Display for Talkative {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "it did not go out: {}", self.0)
        }
    }

    impl Error for Talkative {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_cause_that_the_error_names_itself_is_not_said_twice() {
        let inner = PublishError::new(PublishErrorKind::Closed, Fate::NotWritten, "b");
        let middle = PublishError::new(PublishErrorKind::TimedOut, Fate::NotWritten, "a");
        let text = format!("it did not go out: {middle}: {inner}");
        let outer = Talkative(middle.with_source(inner));
        assert_eq!(with_causes(&outer), text);
    }
}
