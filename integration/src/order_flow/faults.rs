//! Which deliveries fail on purpose. The plan follows from names alone, so that every process and
//! the ledger agree on it without talking.

/// How a group's handler treats an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// The first attempt succeeds.
    Succeed,
    /// The first so many attempts fail, the next one succeeds.
    FailFirst(u32),
    /// Every attempt fails: the record ends in the dead letter topic.
    FailAlways,
}

/// How many attempts a record gets before it is dead-lettered.
pub const ATTEMPTS: u32 = 3;

/// The plan for `event_id` in `group`: about 4 in 200 fail once or twice, 1 in 200 for good. So few,
/// because a customer whose event is retried is left out when the order is judged.
pub fn plan(group: &str, event_id: &str) -> Plan {
    match hash(&[group, event_id]) % 200 {
        0 => Plan::FailAlways,
        1..=3 => Plan::FailFirst(1),
        4 => Plan::FailFirst(2),
        _ => Plan::Succeed,
    }
}

/// Whether the customer of `order_id` forgets to pay: about 1 in 4.
pub fn stays_unpaid(order_id: &str) -> bool {
    hash(&["unpaid", order_id]).is_multiple_of(4)
}

/// Whether `event_id` is published a second time on purpose: about 1 in 10.
pub fn is_sent_twice(event_id: &str) -> bool {
    hash(&["twice", event_id]).is_multiple_of(10)
}

fn hash(parts: &[&str]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_plan_occurs_and_most_succeed() {
        let plans: Vec<Plan> = (0..1000)
            .map(|i| plan("g", &format!("o-{i}/paid")))
            .collect();
        let count = |wanted| plans.iter().filter(|p| **p == wanted).count();
        assert!(count(Plan::Succeed) > 880);
        for kind in [Plan::FailFirst(1), Plan::FailFirst(2), Plan::FailAlways] {
            assert!(count(kind) > 0, "{kind:?}");
        }
    }
}
