//! Commits that a caller asks for, and the word that each of them gets.
//!
//! For a partition at most one commit is out and one waits. Asking again while one waits replaces its
//! offset, and both askers hear of the one that is sent. A text belongs to its offset: who asks for the
//! same offset without one leaves it. A [`Round`] is ended exactly once, also when the partition is lost
//! or the member is dropped.

use crate::latch::Latch;
use crate::{Error, ErrorKind};
use ottla_types::Offset;
use std::sync::{Arc, OnceLock};

/// What became of a commit.
#[derive(Debug, Default)]
pub(crate) struct Round {
    end: OnceLock<End>,
    told: Latch,
}

#[derive(Debug)]
enum End {
    Committed,
    Failed(Error),
    /// It is tried again as a part of a later one.
    Later(Arc<Round>),
}

impl Round {
    fn end(&self, end: End) {
        // The first word counts.
        if self.end.set(end).is_ok() {
            self.told.set();
        }
    }

    /// Resolves when it is known. Safe to cancel.
    pub(crate) async fn wait(self: Arc<Self>) -> Result<(), Error> {
        let mut round = self;
        loop {
            round.told.wait().await;
            let later = match round.end.get() {
                Some(End::Committed) => return Ok(()),
                Some(End::Failed(error)) => return Err(error.clone()),
                Some(End::Later(later)) => later.clone(),
                // Told is set behind the end.
                None => return Err(Error::new(ErrorKind::Closed)),
            };
            round = later;
        }
    }
}

/// The commits of one partition in one assignment.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Whether what the caller is done with is committed unasked.
    auto: bool,
    waiting: Option<Want>,
    out: Option<Want>,
    committed: Option<Offset>,
    /// An unasked commit of it was refused: it is not tried again.
    refused: Option<Offset>,
    /// Why nothing can be committed any more.
    ended: Option<Error>,
}

#[derive(Debug)]
struct Want {
    offset: Offset,
    /// What is to be kept beside it; `None` for one that nobody cares about.
    metadata: Option<String>,
    /// `None` for one that nobody asked for.
    round: Option<Arc<Round>>,
}

impl Want {
    /// Whether it is a commit of this, too.
    fn says(&self, offset: Offset, metadata: Option<&str>) -> bool {
        self.offset == offset && (metadata.is_none() || self.metadata.as_deref() == metadata)
    }

    fn end(self, end: End) {
        if let Some(round) = self.round {
            round.end(end);
        }
    }
}

impl Asked {
    pub(super) fn new(auto: bool) -> Self {
        Self {
            auto,
            ..Self::default()
        }
    }

    /// Asks for a commit of `offset`; `None` when it is committed already. With a text it is sent
    /// in any case.
    pub(super) fn ask(&mut self, offset: Offset, metadata: Option<String>) -> Option<Arc<Round>> {
        if let Some(error) = &self.ended {
            let round = Round::default();
            round.end(End::Failed(error.clone()));
            return Some(Arc::new(round));
        }
        if let Some(waiting) = &mut self.waiting {
            if metadata.is_some() || waiting.offset != offset {
                (waiting.offset, waiting.metadata) = (offset, metadata);
            }
            return Some(waiting.round.get_or_insert_default().clone());
        }
        match &mut self.out {
            Some(out) if out.says(offset, metadata.as_deref()) => {
                Some(out.round.get_or_insert_default().clone())
            }
            None if self.committed == Some(offset) && metadata.is_none() => None,
            _ => {
                let round = Arc::new(Round::default());
                self.waiting = Some(Want {
                    offset,
                    metadata,
                    round: Some(round.clone()),
                });
                Some(round)
            }
        }
    }

    /// The offset to send now, if any, and its text; `done_with` is what the caller is done with.
    pub(super) fn start(&mut self, done_with: Option<Offset>) -> Option<(Offset, String)> {
        if self.out.is_some() {
            return None;
        }
        let want = match self.waiting.take() {
            Some(want) => want,
            None => self.unasked(done_with)?,
        };
        let commit = (want.offset, want.metadata.clone().unwrap_or_default());
        self.out = Some(want);
        Some(commit)
    }

    fn unasked(&self, done_with: Option<Offset>) -> Option<Want> {
        let offset = done_with.filter(|_| self.auto)?;
        let is_news = ![self.committed, self.refused].contains(&Some(offset));
        (is_news && self.ended.is_none()).then_some(Want {
            offset,
            metadata: None,
            round: None,
        })
    }

    /// What is to be committed and is not, if anything.
    pub(super) fn uncommitted(&self, done_with: Option<Offset>) -> Option<Offset> {
        let known = self.waiting.as_ref().or(self.out.as_ref());
        known
            .map(|want| want.offset)
            .or_else(|| self.unasked(done_with).map(|want| want.offset))
    }

    /// What the coordinator had before.
    pub(super) fn located(&mut self, committed: Option<Offset>) {
        self.committed = committed.or(self.committed);
    }

    pub(super) fn last_committed(&self) -> Option<Offset> {
        self.committed
    }

    pub(super) fn committed(&mut self, offset: Offset) {
        self.committed = Some(offset);
        if let Some(out) = self.out.take() {
            out.end(End::Committed);
        }
    }

    /// The commit that is out is to be tried again.
    pub(super) fn failed(&mut self) {
        let Some(out) = self.out.take() else { return };
        match &mut self.waiting {
            None => self.waiting = Some(out),
            Some(waiting) => {
                let later = waiting.round.get_or_insert_default().clone();
                out.end(End::Later(later));
            }
        }
    }

    /// The commit that is out was refused for good.
    pub(super) fn refused(&mut self, error: Error) {
        if let Some(out) = self.out.take() {
            self.refused = Some(out.offset);
            out.end(End::Failed(error));
        }
    }

    /// There will be no commits any more.
    pub(super) fn end(&mut self, error: &Error) {
        self.ended.get_or_insert_with(|| error.clone());
        for want in [self.waiting.take(), self.out.take()].into_iter().flatten() {
            want.end(End::Failed(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn word(round: &Arc<Round>) -> Option<Result<(), ErrorKind>> {
        let word = round.clone().wait().now_or_never()?;
        Some(word.map_err(|error| error.kind()))
    }

    /// The offset that is sent.
    fn start(asked: &mut Asked, done_with: Option<Offset>) -> Option<Offset> {
        asked.start(done_with).map(|(offset, _)| offset)
    }

    #[test]
    fn one_is_out_and_those_that_wait_are_one() {
        let mut asked = Asked::new(false);
        let first = asked.ask(5, None).unwrap();
        assert_eq!(
            (start(&mut asked, None), start(&mut asked, None)),
            (Some(5), None)
        );
        let second = asked.ask(7, None).unwrap();
        let third = asked.ask(9, None).unwrap();
        assert_eq!(asked.uncommitted(None), Some(9));
        asked.committed(5);
        assert_eq!((word(&first), word(&second)), (Some(Ok(())), None));
        assert_eq!(start(&mut asked, None), Some(9));
        asked.committed(9);
        assert_eq!((word(&second), word(&third)), (Some(Ok(())), Some(Ok(()))));
        assert!(asked.ask(9, None).is_none(), "it is committed");
        assert!(
            asked.ask(3, None).is_some(),
            "an earlier one is a commit, too"
        );
    }

    #[test]
    fn what_failed_goes_with_the_next() {
        let mut asked = Asked::new(false);
        let first = asked.ask(5, None).unwrap();
        start(&mut asked, None);
        asked.failed();
        assert_eq!(start(&mut asked, None), Some(5));
        let second = asked.ask(7, None).unwrap();
        asked.failed();
        assert_eq!((start(&mut asked, None), word(&first)), (Some(7), None));
        asked.committed(7);
        assert_eq!((word(&first), word(&second)), (Some(Ok(())), Some(Ok(()))));
    }

    #[test]
    fn every_asker_hears_of_the_end() {
        let mut asked = Asked::new(true);
        let out = asked.ask(5, None).unwrap();
        start(&mut asked, None);
        let waiting = asked.ask(7, None).unwrap();
        asked.end(&Error::new(ErrorKind::NotOwner));
        for round in [out, waiting] {
            assert_eq!(word(&round), Some(Err(ErrorKind::NotOwner)));
        }
        assert_eq!(asked.uncommitted(Some(8)), None);
        let late = asked.ask(9, None).unwrap();
        assert_eq!(
            (word(&late), start(&mut asked, Some(9))),
            (Some(Err(ErrorKind::NotOwner)), None)
        );
        let mut asked = Asked::new(true);
        let refused = asked.ask(9, None).unwrap();
        start(&mut asked, None);
        asked.refused(Error::new(ErrorKind::Coordinator));
        assert_eq!(word(&refused), Some(Err(ErrorKind::Coordinator)));
        assert_eq!(
            (start(&mut asked, Some(9)), start(&mut asked, Some(10))),
            (None, Some(10))
        );
    }

    #[test]
    fn what_the_caller_is_done_with_is_committed_unasked_if_so_configured() {
        let mut asked = Asked::new(false);
        assert_eq!(
            (start(&mut asked, Some(4)), asked.uncommitted(Some(4))),
            (None, None)
        );
        let mut asked = Asked::new(true);
        asked.located(Some(2));
        assert_eq!(start(&mut asked, Some(2)), None);
        assert_eq!(
            (asked.uncommitted(Some(4)), start(&mut asked, Some(4))),
            (Some(4), Some(4))
        );
        let joined = asked.ask(4, None).unwrap();
        asked.committed(4);
        assert_eq!(word(&joined), Some(Ok(())));
        asked.ask(6, None).unwrap();
        assert_eq!(start(&mut asked, Some(4)), Some(6), "a word comes first");
    }

    #[test]
    fn a_text_goes_with_its_offset() {
        let text = |text: &str| Some(text.to_owned());
        let mut asked = Asked::new(false);
        let sent = |offset, text: &str| Some((offset, text.to_owned()));
        let first = asked.ask(5, text("a")).unwrap();
        asked.ask(5, None).unwrap();
        assert_eq!(
            asked.start(None),
            sent(5, "a"),
            "it is left by who has none"
        );
        let same = [asked.ask(5, None), asked.ask(5, text("a"))];
        assert!(
            same.into_iter()
                .flatten()
                .all(|round| Arc::ptr_eq(&round, &first))
        );
        let other = asked.ask(5, text("b")).unwrap();
        asked.failed();
        assert_eq!(asked.start(None), sent(5, "b"), "the last word counts");
        asked.committed(5);
        assert_eq!((word(&first), word(&other)), (Some(Ok(())), Some(Ok(()))));
        assert!(asked.ask(5, None).is_none());
        asked.ask(5, text("")).unwrap();
        assert_eq!(asked.start(None), sent(5, ""), "a text is sent in any case");
        asked.ask(6, text("c")).unwrap();
        asked.ask(7, None).unwrap();
        asked.committed(5);
        assert_eq!(asked.start(None), sent(7, ""), "another offset has none");
    }
}
