//! Which leader epoch began at which offset (KIP-101). Pure.
//!
//! Must hold: epochs and offsets ascend strictly.

/// The epochs of one log.
#[derive(Debug, Default)]
pub(crate) struct Epochs(Vec<(i32, i64)>);

impl Epochs {
    /// A leader begins at `start`; epochs in which nothing was appended are forgotten.
    pub(crate) fn begin(&mut self, epoch: i32, start: i64) {
        if self.0.last().is_some_and(|(last, _)| *last >= epoch) {
            return;
        }
        self.truncate(start);
        self.0.push((epoch, start));
    }

    /// The log was cut: what began at `end` or above is gone.
    pub(crate) fn truncate(&mut self, end: i64) {
        self.0.retain(|(_, start)| *start < end);
    }

    /// The highest epoch up to `asked` and the offset after its last record; `None` when the
    /// epoch lies above all that are known, or is none.
    pub(crate) fn end_of(&self, asked: i32, log_end: i64) -> Option<(i32, i64)> {
        let (latest, _) = *self.0.last()?;
        if asked < 0 {
            return None;
        }
        if asked == latest {
            return Some((latest, log_end));
        }
        let above = self.0.iter().position(|(epoch, _)| *epoch > asked)?;
        let end = self.0[above].1;
        let epoch = match above.checked_sub(1) {
            Some(below) => self.0[below].0,
            None => asked,
        };
        Some((epoch, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_ends_where_the_next_one_begins() {
        let mut epochs = Epochs::default();
        epochs.begin(0, 0);
        epochs.begin(2, 10);
        epochs.begin(3, 10);
        epochs.begin(5, 17);
        assert_eq!(epochs.end_of(0, 20), Some((0, 10)));
        assert_eq!(epochs.end_of(2, 20), Some((0, 10)));
        assert_eq!(epochs.end_of(3, 20), Some((3, 17)));
        assert_eq!(epochs.end_of(4, 20), Some((3, 17)));
        assert_eq!(epochs.end_of(5, 20), Some((5, 20)));
        assert_eq!(epochs.end_of(6, 20), None);
        assert_eq!(epochs.end_of(-1, 20), None);
        epochs.truncate(12);
        epochs.begin(6, 12);
        assert_eq!(epochs.end_of(5, 12), Some((3, 12)));
    }
}
