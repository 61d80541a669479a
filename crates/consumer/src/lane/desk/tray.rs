//! [`Tray`]: one partition on the desk. [`Handed`]: what the caller takes from it.

use crate::handler::Context;
use crate::lane::Progress;
use crate::lane::call::{Epochs, Meters};
use crate::lane::feed::Feed;
use crate::latch::Latch;
use crate::status::MemberBoard;
use ottla_types::{ConsumedRecord, Offset, TopicPartition};
use std::sync::Arc;

pub(super) struct Tray {
    pub(super) incarnation: u64,
    /// `None` while the caller decodes, and between a seek and the new position.
    pub(super) feed: Option<Box<Feed>>,
    /// What is left of a batch that was taken and put back.
    pub(super) rest: Option<Handed>,
    pub(super) progress: Arc<Progress>,
    pub(super) context: Context,
    pub(super) board: Arc<MemberBoard>,
    pub(super) drain: Latch,
    /// The lane may end.
    pub(super) idle: Latch,
    pub(super) epochs: Epochs,
    pub(super) meters: Meters,
    pub(super) in_turn: bool,
    /// The caller has records of it that it is not done with.
    pub(super) is_out: bool,
    /// The caller has had records of it, or has chosen its position.
    pub(super) was_out: bool,
    /// How many records were taken last.
    pub(super) taken: usize,
}

/// Records of one partition for the caller.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) partition: TopicPartition,
    pub(crate) records: std::vec::IntoIter<ConsumedRecord>,
    /// Where reading goes on behind them.
    pub(crate) next_offset: Offset,
    pub(crate) progress: Arc<Progress>,
    pub(crate) context: Context,
    pub(super) drain: Latch,
}

impl Handed {
    /// Whether records of it may still be given to the caller (C24).
    pub(crate) fn is_current(&self) -> bool {
        !self.drain.is_set() && !self.context.lease().is_revoked()
    }
}

impl Tray {
    /// Whether its records may be given to the caller (C24).
    pub(super) fn is_current(&self) -> bool {
        !self.drain.is_set() && !self.context.lease().is_revoked()
    }

    /// The caller is done with what it has.
    pub(super) fn settle(&mut self) {
        self.is_out = false;
        self.progress.mark_done_with();
        if self.drain.is_set() {
            self.idle.set();
        }
    }
}

impl std::fmt::Debug for Tray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tray")
            .field("incarnation", &self.incarnation)
            .field("is_out", &self.is_out)
            .finish_non_exhaustive()
    }
}
