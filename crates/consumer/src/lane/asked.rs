//! Commits that a caller asks for, and the word that each of them gets.
//!
//! For a partition at most one commit is out and one waits. Asking again while one waits replaces its
//! offset, and both askers hear of the one that is sent. A [`Round`] is ended exactly once, also when
//! the partition is lost or the member is dropped.

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
    /// `None` for one that nobody asked for.
    round: Option<Arc<Round>>,
}

impl Want {
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

    /// Asks for a commit of `offset`; `None` when it is committed already.
    pub(super) fn ask(&mut self, offset: Offset) -> Option<Arc<Round>> {
        if let Some(error) = &self.ended {
            let round = Round::default();
            round.end(End::Failed(error.clone()));
            return Some(Arc::new(round));
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.offset = offset;
            return Some(waiting.round.get_or_insert_default().clone());
        }
        match &mut self.out {
            Some(out) if out.offset == offset => Some(out.round.get_or_insert_default().clone()),
            None if self.committed == Some(offset) => None,
            _ => {
                let round = Arc::new(Round::default());
                self.waiting = Some(Want {
                    offset,
                    round: Some(round.clone()),
                });
                Some(round)
            }
        }
    }

    /// The offset to send now, if any; `done_with` is what the caller is done with.
    pub(super) fn start(&mut self, done_with: Option<Offset>) -> Option<Offset> {
        if self.out.is_some() {
            return None;
        }
        let want = match self.waiting.take() {
            Some(want) => want,
            None => self.unasked(done_with)?,
        };
        let offset = want.offset;
        self.out = Some(want);
        Some(offset)
    }

    fn unasked(&self, done_with: Option<Offset>) -> Option<Want> {
        let offset = done_with.filter(|_| self.auto)?;
        let is_news = ![self.committed, self.refused].contains(&Some(offset));
        (is_news && self.ended.is_none()).then_some(Want {
            offset,
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

    #[test]
    fn one_is_out_and_those_that_wait_are_one() {
        let mut asked = Asked::new(false);
        let first = asked.ask(5).unwrap();
        assert_eq!((asked.start(None), asked.start(None)), (Some(5), None));
        let second = asked.ask(7).unwrap();
        let third = asked.ask(9).unwrap();
        assert_eq!(asked.uncommitted(None), Some(9));
        asked.committed(5);
        assert_eq!((word(&first), word(&second)), (Some(Ok(())), None));
        assert_eq!(asked.start(None), Some(9));
        asked.committed(9);
        assert_eq!((word(&second), word(&third)), (Some(Ok(())), Some(Ok(()))));
        assert!(asked.ask(9).is_none(), "it is committed");
        assert!(asked.ask(3).is_some(), "an earlier one is a commit, too");
    }

    #[test]
    fn what_failed_goes_with_the_next() {
        let mut asked = Asked::new(false);
        let first = asked.ask(5).unwrap();
        asked.start(None);
        asked.failed();
        assert_eq!(asked.start(None), Some(5));
        let second = asked.ask(7).unwrap();
        asked.failed();
        assert_eq!((asked.start(None), word(&first)), (Some(7), None));
        asked.committed(7);
        assert_eq!((word(&first), word(&second)), (Some(Ok(())), Some(Ok(()))));
    }

    #[test]
    fn every_asker_hears_of_the_end() {
        let mut asked = Asked::new(true);
        let out = asked.ask(5).unwrap();
        asked.start(None);
        let waiting = asked.ask(7).unwrap();
        asked.end(&Error::new(ErrorKind::NotOwner));
        for round in [out, waiting] {
            assert_eq!(word(&round), Some(Err(ErrorKind::NotOwner)));
        }
        assert_eq!(asked.uncommitted(Some(8)), None);
        let late = asked.ask(9).unwrap();
        assert_eq!(
            (word(&late), asked.start(Some(9))),
            (Some(Err(ErrorKind::NotOwner)), None)
        );
        let mut asked = Asked::new(true);
        let refused = asked.ask(9).unwrap();
        asked.start(None);
        asked.refused(Error::new(ErrorKind::Coordinator));
        assert_eq!(word(&refused), Some(Err(ErrorKind::Coordinator)));
        assert_eq!(
            (asked.start(Some(9)), asked.start(Some(10))),
            (None, Some(10))
        );
    }

    #[test]
    fn what_the_caller_is_done_with_is_committed_unasked_if_so_configured() {
        let mut asked = Asked::new(false);
        assert_eq!(
            (asked.start(Some(4)), asked.uncommitted(Some(4))),
            (None, None)
        );
        let mut asked = Asked::new(true);
        asked.located(Some(2));
        assert_eq!(asked.start(Some(2)), None);
        assert_eq!(
            (asked.uncommitted(Some(4)), asked.start(Some(4))),
            (Some(4), Some(4))
        );
        let joined = asked.ask(4).unwrap();
        asked.committed(4);
        assert_eq!(word(&joined), Some(Ok(())));
        asked.ask(6).unwrap();
        assert_eq!(asked.start(Some(4)), Some(6), "a word comes first");
    }
}
