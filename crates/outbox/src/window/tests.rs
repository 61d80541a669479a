use super::*;
use proptest::prelude::*;

fn row(id: u64, key: Option<&'static str>) -> OutboxRow {
    let mut record = Record::new("orders").value(id.to_string());
    record.key = key.map(|k| k.as_bytes().into());
    OutboxRow {
        id: OutboxId(id),
        record,
        enqueued_at_ms: 500,
    }
}

fn started(window: &mut Window, now_ms: i64) -> Vec<u64> {
    std::iter::from_fn(|| window.start_next(now_ms))
        .map(|(id, _)| id.0)
        .collect()
}

#[test]
fn keys_go_side_by_side_and_a_key_one_by_one() {
    let mut window = Window::new(1000);
    for (id, key) in [(1, "a"), (2, "a"), (3, "b"), (4, "a")] {
        window.admit(row(id, Some(key)));
    }
    window.admit(row(5, None));
    window.admit(row(6, None));
    assert_eq!(started(&mut window, 0), [1, 3, 5, 6]);
    window.acknowledged(OutboxId(1));
    assert_eq!(started(&mut window, 0), [2]);
    assert_eq!(window.to_mark(10), [OutboxId(1)]);
}

#[test]
fn a_failed_row_holds_its_key_back_and_no_other() {
    let mut window = Window::new(1000);
    for (id, key) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        window.admit(row(id, Some(key)));
    }
    assert_eq!(started(&mut window, 0), [1, 3]);
    window.failed(OutboxId(1), 100);
    window.acknowledged(OutboxId(3));
    assert_eq!(started(&mut window, 99), [4]);
    assert_eq!(window.next_due_ms(), Some(100));
    assert_eq!(started(&mut window, 100), [1]);
    assert_eq!(window.attempts(OutboxId(1)), 1);
    window.given_up(OutboxId(1), "no".into());
    assert_eq!(started(&mut window, 100), [2]);
    assert_eq!(window.to_park(), Some((OutboxId(1), "no".into())));
}

#[test]
fn a_row_stays_until_it_is_marked_and_is_not_admitted_twice() {
    let mut window = Window::new(1000);
    window.admit(row(1, Some("a")));
    window.admit(row(1, Some("a")));
    assert_eq!(started(&mut window, 0), [1]);
    window.acknowledged(OutboxId(1));
    window.acknowledged(OutboxId(1));
    window.admit(row(1, Some("a")));
    assert!(started(&mut window, 0).is_empty());
    assert!(window.has_unmarked());
    window.settled(&[OutboxId(1)]);
    assert_eq!(
        (window.len(), window.bytes(), window.in_flight()),
        (0, 0, 0)
    );
    assert!(window.lanes.is_empty());
}

#[test]
fn a_full_lane_is_skipped_without_a_gap_and_others_are_not() {
    let mut window = Window::new(2);
    for id in 1..=5 {
        window.admit(row(id, Some("hot")));
    }
    window.admit(row(6, Some("b")));
    assert_eq!((window.len(), window.has_skipped()), (3, true));
    assert_eq!(started(&mut window, 0), [1, 6]);
    // There is room now, but row 3 was skipped: row 7 must not come before it.
    window.acknowledged(OutboxId(1));
    window.admit(row(7, Some("hot")));
    assert_eq!(started(&mut window, 0), [2]);
    assert!(!window.has_starving_lane());
    window.acknowledged(OutboxId(2));
    assert!(window.has_starving_lane());
    window.admit(row(8, Some("hot")));
    assert!(started(&mut window, 0).is_empty());
    window.begin_sweep();
    for id in 3..=8 {
        window.admit(row(id, Some("hot")));
    }
    assert_eq!(started(&mut window, 0), [3]);
}

#[test]
fn every_copy_of_a_record_has_the_same_timestamp() {
    let mut window = Window::new(1000);
    window.admit(row(1, None));
    let (_, first) = window.start_next(0).unwrap();
    window.failed(OutboxId(1), 0);
    let (_, second) = window.start_next(0).unwrap();
    assert_eq!(first, second);
    assert_eq!(first.timestamp_ms, Some(500));
}

proptest! {
    /// Whatever fails and in whatever order answers come, a row is started only after every earlier
    /// row of its key was acknowledged, and in the end each row was.
    #[test]
    fn no_row_overtakes_an_earlier_one_of_its_key(
        keys in proptest::collection::vec(proptest::option::of(0usize..3), 1..40),
        choices in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..4), 0..200),
    ) {
        const KEYS: [&str; 3] = ["a", "b", "c"];
        let key_of = |id: u64| keys[id as usize - 1];
        let mut window = Window::new(1000);
        for (index, key) in keys.iter().enumerate() {
            window.admit(row(index as u64 + 1, key.map(|k| KEYS[k])));
        }
        let mut flying: Vec<u64> = Vec::new();
        let mut acked: Vec<u64> = Vec::new();
        let mut now_ms = 0;
        let mut choices = choices.into_iter();
        while acked.len() < keys.len() {
            for id in started(&mut window, now_ms) {
                if let Some(key) = key_of(id) {
                    let earlier = (1..id).filter(|e| key_of(*e) == Some(key));
                    for earlier in earlier {
                        prop_assert!(acked.contains(&earlier), "{id} overtook {earlier}");
                    }
                }
                flying.push(id);
            }
            prop_assert_eq!(window.in_flight(), flying.len());
            now_ms += 10;
            if flying.is_empty() {
                prop_assert!(window.next_due_ms().is_some(), "nothing moves");
                continue;
            }
            // When the choices are used up, all succeeds.
            let (index, fault) = choices
                .next()
                .map_or((0, 0), |(index, fault)| (index.index(flying.len()), fault));
            let id = flying.swap_remove(index);
            match fault {
                1 => window.failed(OutboxId(id), now_ms + 15),
                2 => window.not_taken(OutboxId(id)),
                _ => {
                    window.acknowledged(OutboxId(id));
                    acked.push(id);
                }
            }
        }
        let all = window.to_mark(usize::MAX);
        prop_assert_eq!(all.len(), keys.len());
        window.settled(&all);
        prop_assert_eq!((window.len(), window.bytes()), (0, 0));
        prop_assert!(window.lanes.is_empty());
    }
}
