//! One effect for each thing that must happen.

use super::{Expected, History, Report, Violation};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(history: &History, report: &mut Report) {
    let mut times: BTreeMap<Expected, usize> = BTreeMap::new();
    for effect in &history.effects {
        let (group, id, kind) = (effect.group.clone(), effect.id.clone(), effect.kind.clone());
        *times.entry(Expected { group, id, kind }).or_default() += 1;
    }
    let expected: BTreeSet<&Expected> = history.expected.iter().collect();
    report.counts.effects = history.effects.len();
    report.counts.effects_expected = expected.len();
    for missing in expected.iter().filter(|one| !times.contains_key(one)) {
        let Expected { group, id, kind } = (*missing).clone();
        report
            .violations
            .push(Violation::EffectMissing { group, id, kind });
    }
    for (one, times) in &times {
        let Expected { group, id, kind } = one.clone();
        if !expected.contains(one) {
            report
                .violations
                .push(Violation::EffectInvented { group, id, kind });
        } else if *times > 1 {
            report.violations.push(Violation::EffectDuplicated {
                group,
                id,
                kind,
                times: *times,
            });
        }
    }
}
