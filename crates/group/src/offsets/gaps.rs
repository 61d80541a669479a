//! What is handled above the committed offset, as text for the metadata of the commit.
//!
//! The form is `ottla-gaps:1:` and then, in base64 without padding (the URL alphabet), numbers as
//! LEB128: the committed offset, and from there on run lengths in turn, not handled, handled, and so
//! on; the last run is a handled one. The offset is in it so that a text that was copied to another
//! offset, by a tool that resets a group, says nothing.
//!
//! Any other text is somebody else's and says nothing either. What is read comes from the broker, so
//! runs are checked for overflow; their number is bounded by the text.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ottla_types::Offset;
use std::ops::Range;

const PREFIX: &str = "ottla-gaps:1:";
/// The longest LEB128 form of an offset.
const NUMBER_MAX: usize = 9;
/// What Kafka takes as a commit's metadata (`offset.metadata.max.bytes`), in bytes.
pub const METADATA_MAX: usize = 4_096;

/// Offsets above the committed one that are handled: ascending, apart from each other, none empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gaps {
    handled: Vec<Range<Offset>>,
}

impl Gaps {
    /// Collects runs that ascend. Empty ones are dropped, touching ones joined.
    pub(super) fn from_runs(runs: impl IntoIterator<Item = Range<Offset>>) -> Self {
        let mut handled: Vec<Range<Offset>> = Vec::new();
        for run in runs {
            match handled.last_mut() {
                _ if run.is_empty() => {}
                Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
                _ => handled.push(run),
            }
        }
        Self { handled }
    }

    /// The runs of handled offsets, ascending.
    pub fn handled(&self) -> &[Range<Offset>] {
        &self.handled
    }

    /// Whether there is no gap: nothing above the committed offset is handled.
    pub fn is_empty(&self) -> bool {
        self.handled.is_empty()
    }

    /// Whether the record at `offset` is handled.
    pub fn contains(&self, offset: Offset) -> bool {
        self.run_at(offset).is_some()
    }

    pub(super) fn run_at(&self, offset: Offset) -> Option<&Range<Offset>> {
        let at = self.handled.partition_point(|run| run.end <= offset);
        self.handled.get(at).filter(|run| run.start <= offset)
    }

    /// The text for a commit of `committed`, at most `limit` bytes; empty when there is no gap. If not
    /// all runs fit, the lowest ones are in it.
    pub fn encode(&self, committed: Offset, limit: usize) -> String {
        let room = limit.saturating_sub(PREFIX.len()) * 3 / 4;
        let mut bytes = Vec::with_capacity(room.min(4 + 4 * self.handled.len()));
        put(&mut bytes, committed.max(0));
        let mut at = committed;
        let mut complete = 0;
        for run in self.handled.iter().filter(|run| run.start > committed) {
            put(&mut bytes, run.start - at);
            put(&mut bytes, run.end - run.start);
            if bytes.len() > room {
                break;
            }
            (at, complete) = (run.end, bytes.len());
        }
        if complete == 0 {
            return String::new();
        }
        let mut text = PREFIX.to_owned();
        URL_SAFE_NO_PAD.encode_string(&bytes[..complete], &mut text);
        text
    }

    /// Reads the metadata of a commit of `committed`. `None` when it does not say anything about
    /// that: it is empty, somebody else's, of a later version, of another offset, or damaged.
    pub fn decode(text: &str, committed: Offset) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let mut left = bytes.as_slice();
        if take(&mut left)? != committed {
            return None;
        }
        let mut handled = Vec::new();
        let mut at = committed;
        while !left.is_empty() {
            let start = at.checked_add(take(&mut left)?)?;
            let end = start.checked_add(take(&mut left)?)?;
            if start == at || end == start {
                return None;
            }
            handled.push(start..end);
            at = end;
        }
        Some(Self { handled })
    }
}

/// The longest text that `runs` handled runs, in all `span` offsets above the committed one, can
/// need: two numbers a run, which add up to `span`, so few of them are long.
pub(super) fn longest_text(runs: usize, span: Offset) -> usize {
    let numbers = 2 * runs;
    let span = usize::try_from(span).unwrap_or(0);
    let longer = (1..NUMBER_MAX as u32).map(|size| (span >> (7 * size)).min(numbers));
    let bytes = NUMBER_MAX + numbers + longer.sum::<usize>();
    PREFIX.len() + (bytes * 4).div_ceil(3)
}

fn put(out: &mut Vec<u8>, number: Offset) {
    let mut left = number.unsigned_abs();
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn take(input: &mut &[u8]) -> Option<Offset> {
    let mut number: u64 = 0;
    for shift in (0..7 * NUMBER_MAX).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return i64::try_from(number).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gaps(runs: &[(Offset, Offset)]) -> Gaps {
        Gaps::from_runs(runs.iter().map(|(start, end)| *start..*end))
    }

    #[test]
    fn the_form_is_fixed() {
        let some = gaps(&[(12, 13), (15, 400)]);
        let text = some.encode(10, METADATA_MAX);
        assert_eq!(text, "ottla-gaps:1:CgIBAoED");
        assert_eq!(Gaps::decode(&text, 10), Some(some));
        assert_eq!(Gaps::default().encode(10, METADATA_MAX), "");
    }

    #[test]
    fn text_that_says_nothing_of_this_offset_is_tolerated() {
        let text = gaps(&[(12, 13)]).encode(10, METADATA_MAX);
        for (text, offset) in [
            ("", 10),
            ("{\"note\":\"by hand\"}", 10),
            ("bQAAAAA", 10),
            ("ottla-gaps:2:CgIB", 10),
            ("ottla-gaps:1:", 10),
            ("ottla-gaps:1:CgI", 10),
            ("ottla-gaps:1:CgAB", 10),
            ("ottla-gaps:1:CgIA", 10),
            ("ottla-gaps:1:CgIB=", 10),
            ("ottla-gaps:1:\u{e4}\u{f6}", 10),
            (&text, 11),
            (&text, 0),
        ] {
            assert_eq!(Gaps::decode(text, offset), None, "{text} at {offset}");
        }
    }

    #[test]
    fn hostile_run_lengths_do_not_overflow() {
        let mut bytes = Vec::new();
        for number in [10, 1, i64::MAX - 11, 1, 1] {
            put(&mut bytes, number);
        }
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes));
        assert_eq!(Gaps::decode(&text, 10), None);
        let endless = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([0xff; 20]));
        assert_eq!(Gaps::decode(&endless, 10), None);
    }

    #[test]
    fn what_does_not_fit_leaves_the_highest_runs_out() {
        let many = gaps(
            &(0..5_000)
                .map(|i| (2 * i + 1, 2 * i + 2))
                .collect::<Vec<_>>(),
        );
        let text = many.encode(0, METADATA_MAX);
        assert!(text.len() <= METADATA_MAX && text.len() > METADATA_MAX - 8);
        let read = Gaps::decode(&text, 0).unwrap();
        assert_eq!(read.handled(), &many.handled()[..read.handled().len()]);
        assert!(read.handled().len() > 1_500, "{}", read.handled().len());
        assert_eq!(many.encode(0, 5), "");
    }

    fn some_gaps() -> impl Strategy<Value = (Offset, Gaps)> {
        let run = (1..3_000i64, prop_oneof![1..4i64, 1..1_000_000i64]);
        let runs = proptest::collection::vec(run, 0..60);
        (0..1i64 << 40, runs).prop_map(|(base, runs)| {
            let mut at = base;
            let runs = runs.into_iter().map(|(gap, length)| {
                let start = at + gap;
                at = start + length;
                start..at
            });
            let gaps = Gaps::from_runs(runs.collect::<Vec<_>>());
            (base, gaps)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn gaps_survive_the_round_trip_within_the_foretold_length((base, gaps) in some_gaps()) {
            let text = gaps.encode(base, METADATA_MAX);
            let span = gaps.handled().last().map_or(0, |run| run.end - base);
            prop_assert!(text.len() <= longest_text(gaps.handled().len(), span));
            prop_assert_eq!(Gaps::decode(&text, base).unwrap_or_default(), gaps);
        }

        #[test]
        fn any_limit_is_kept_and_any_cut_is_tolerated(
            (base, gaps) in some_gaps(), limit in 0..400usize, cut in any::<prop::sample::Index>(),
        ) {
            let text = gaps.encode(base, limit);
            prop_assert!(text.len() <= limit);
            let cut = &text[..cut.index(text.len() + 1)];
            if let Some(read) = Gaps::decode(cut, base) {
                prop_assert_eq!(read.handled(), &gaps.handled()[..read.handled().len()]);
            }
        }

        #[test]
        fn any_text_is_read_or_ignored(text in "(ottla-gaps:1:)?[A-Za-z0-9_-]{0,60}", base in 0..300i64) {
            let _ = Gaps::decode(&text, base);
        }
    }
}
