//! The coordinator's rules, one by one.

use super::*;

const SESSION: u64 = 1_000;

fn topic(name: &str, partitions: i32) -> TopicView {
    let mut id = [0; 16];
    id[..name.len()].copy_from_slice(name.as_bytes());
    TopicView {
        name: name.to_owned(),
        id: Uuid::from_bytes(id),
        partitions,
    }
}

fn set(topic: &TopicView, numbers: &[i32]) -> Set {
    numbers.iter().map(|number| (topic.id, *number)).collect()
}

/// A group of readers of one topic.
struct Rig {
    group: ConsumerGroup,
    topic: TopicView,
    now: u64,
}

impl Rig {
    fn new(partitions: i32) -> Self {
        let timers = Timers {
            session_ms: SESSION,
            interval_ms: 100,
        };
        Self {
            group: ConsumerGroup::new(timers),
            topic: topic("t", partitions),
            now: 0,
        }
    }

    fn beat(&mut self, beat: Heartbeat) -> Result<Beaten, i16> {
        let topics = [self.topic.clone(), topic("other", 2)];
        self.group.heartbeat(beat, &topics, self.now)
    }

    fn join(&mut self, id: &str) -> Beaten {
        self.beat(join(id)).unwrap()
    }

    /// A heartbeat of a member that says what it owns, if it does.
    fn says(&mut self, id: &str, epoch: i32, owned: Option<&[i32]>) -> Result<Beaten, i16> {
        let owned = owned.map(|owned| set(&self.topic, owned));
        self.beat(Heartbeat {
            member_id: id.to_owned(),
            epoch,
            owned,
            ..Heartbeat::default()
        })
    }

    fn given(&self, beaten: &Beaten) -> Vec<i32> {
        let assignment = beaten.assignment.iter().flatten();
        assignment.map(|(_, number)| *number).collect()
    }
}

fn join(id: &str) -> Heartbeat {
    Heartbeat {
        member_id: id.to_owned(),
        rebalance_ms: Some(5_000),
        topics: Some(vec!["t".to_owned()]),
        owned: Some(Set::new()),
        ..Heartbeat::default()
    }
}

#[test]
fn a_partition_changes_hands_only_after_it_was_given_up() {
    let mut rig = Rig::new(4);
    let first = rig.join("a");
    assert_eq!((rig.given(&first).len(), first.interval_ms), (4, 100));
    let second = rig.join("b");
    assert!(rig.given(&second).is_empty(), "a still has them");
    let told = rig.says("a", first.epoch, None).unwrap();
    let kept = rig.given(&told);
    assert_eq!(
        (kept.len(), told.epoch),
        (2, first.epoch),
        "the epoch waits, too"
    );
    let waits = rig.says("b", second.epoch, None).unwrap();
    assert_eq!(waits.assignment, None);
    let still = rig.says("a", first.epoch, Some(&[0, 1, 2, 3])).unwrap();
    assert_eq!(still.epoch, first.epoch);
    let done = rig.says("a", first.epoch, Some(&kept)).unwrap();
    assert_eq!(done.epoch, second.epoch);
    let got = rig.says("b", second.epoch, None).unwrap();
    assert_eq!(rig.given(&got).len(), 2);
    assert!(rig.given(&got).iter().all(|p| !kept.contains(p)));
}

#[test]
fn epochs_that_do_not_fit_are_fenced_and_a_lost_answer_is_not() {
    let mut rig = Rig::new(1);
    let first = rig.join("a");
    rig.join("b");
    let second = rig.says("a", first.epoch, Some(&[0])).unwrap();
    assert!(second.epoch > first.epoch);
    let again = rig.says("a", first.epoch, Some(&[0])).unwrap();
    assert_eq!(again.epoch, second.epoch, "the answer was lost");
    let fenced = Err(codes::FENCED_MEMBER_EPOCH);
    assert_eq!(rig.says("a", first.epoch, None), fenced);
    assert_eq!(rig.says("a", second.epoch + 1, None), fenced);
    assert_eq!(rig.says("x", 1, None), Err(codes::UNKNOWN_MEMBER_ID));
}

#[test]
fn a_join_says_everything() {
    let mut rig = Rig::new(1);
    for spoil in [
        |b: &mut Heartbeat| b.owned = None,
        |b: &mut Heartbeat| b.topics = None,
        |b: &mut Heartbeat| b.rebalance_ms = None,
        |b: &mut Heartbeat| b.owned = Some(set(&topic("t", 1), &[0])),
    ] {
        let mut beat = join("a");
        spoil(&mut beat);
        assert_eq!(rig.beat(beat), Err(codes::INVALID_REQUEST));
    }
    let assignor = Some("sticky".to_owned());
    let beat = Heartbeat {
        assignor,
        ..join("a")
    };
    assert_eq!(rig.beat(beat), Err(codes::UNSUPPORTED_ASSIGNOR));
    let pattern = Some("(".to_owned());
    let beat = Heartbeat {
        pattern,
        ..join("a")
    };
    assert_eq!(rig.beat(beat), Err(codes::INVALID_REGULAR_EXPRESSION));
    assert!(rig.group.is_empty());
}

#[test]
fn a_static_place_is_kept_when_released_and_refused_when_not() {
    let mut rig = Rig::new(3);
    let instance_id = Some("i".to_owned());
    let one = |id: &str| Heartbeat {
        instance_id: instance_id.clone(),
        ..join(id)
    };
    let leave = |id: &str, epoch| Heartbeat { epoch, ..one(id) };
    let first = rig.beat(one("a")).unwrap();
    let unreleased = Err(codes::UNRELEASED_INSTANCE_ID);
    assert_eq!(rig.beat(one("b")), unreleased);
    assert_eq!(rig.beat(one("a")), unreleased, "its own lost join, too");
    assert_eq!(rig.beat(leave("b", -2)), Err(codes::FENCED_INSTANCE_ID));
    rig.beat(leave("a", -2)).unwrap();
    let epoch = rig.group.epoch();
    let second = rig.beat(one("b")).unwrap();
    assert_eq!(
        (rig.group.epoch(), second.epoch),
        (epoch, first.epoch),
        "no rebalance"
    );
    assert_eq!(rig.given(&second), [0, 1, 2]);
    let late = Heartbeat {
        epoch: first.epoch,
        ..one("a")
    };
    assert_eq!(rig.beat(late), Err(codes::FENCED_INSTANCE_ID));
    rig.beat(leave("b", -1)).unwrap();
    assert!(rig.group.is_empty());
}

#[test]
fn who_is_silent_or_does_not_give_up_in_time_is_fenced() {
    let mut rig = Rig::new(2);
    let first = rig.join("a");
    rig.join("b");
    assert_eq!(rig.group.next_deadline(), Some(SESSION));
    rig.says("a", first.epoch, None).unwrap();
    while rig.now < 5_000 {
        rig.now += 500;
        rig.group.tick(rig.now);
        let answer = rig.says("a", first.epoch, None);
        assert_eq!(answer.is_ok(), rig.now < 5_000, "at {}", rig.now);
    }
    rig.group.tick(rig.now);
    assert!(rig.group.is_empty(), "b was silent all the time");
}

#[test]
fn an_expression_reads_the_topics_whose_whole_name_matches() {
    let mut rig = Rig::new(2);
    let pattern = Some("t|oth".to_owned());
    let beat = Heartbeat {
        pattern,
        topics: None,
        ..join("a")
    };
    let first = rig.beat(beat).unwrap();
    assert_eq!(rig.given(&first), [0, 1]);
    let pattern = Some("o|other".to_owned());
    let beat = Heartbeat {
        member_id: "a".to_owned(),
        epoch: first.epoch,
        pattern,
        ..Heartbeat::default()
    };
    rig.beat(beat).unwrap();
    let other = rig.says("a", first.epoch, Some(&[])).unwrap();
    let id = topic("other", 2).id;
    assert!(
        other
            .assignment
            .unwrap()
            .iter()
            .all(|(topic, _)| *topic == id)
    );
}

#[test]
fn new_partitions_are_given_out() {
    let mut rig = Rig::new(1);
    let first = rig.join("a");
    rig.topic.partitions = 3;
    let more = rig.says("a", first.epoch, None).unwrap();
    assert_eq!(
        (rig.given(&more), more.epoch),
        (vec![0, 1, 2], first.epoch + 1)
    );
}

#[test]
fn commits_need_the_newest_epoch() {
    let mut rig = Rig::new(1);
    let first = rig.join("a");
    let check = |epoch| rig.group.check_epoch("a", None, epoch);
    assert_eq!(check(first.epoch), codes::NONE);
    assert_eq!(check(first.epoch - 1), codes::STALE_MEMBER_EPOCH);
    let unknown = rig.group.check_epoch("x", None, first.epoch);
    assert_eq!(unknown, codes::UNKNOWN_MEMBER_ID);
}

#[test]
fn both_assignors_are_level_and_uniform_keeps() {
    let topics = [topic("t", 7), topic("u", 5)];
    let members = ["a", "b", "c"];
    let of = |given: &BTreeMap<String, Set>| -> Vec<usize> {
        members
            .iter()
            .map(|m| given.get(*m).map_or(0, Set::len))
            .collect()
    };
    let none = BTreeMap::new();
    let range = ServerAssignor::Range.assign(&topics, |_| members.to_vec(), &none);
    assert_eq!(of(&range), [5, 4, 3]);
    let first = ServerAssignor::Uniform.assign(&topics, |_| members.to_vec(), &none);
    assert_eq!(of(&first), [4, 4, 4]);
    let two = ServerAssignor::Uniform.assign(&topics, |_| members[..2].to_vec(), &first);
    assert_eq!(of(&two), [6, 6, 0]);
    assert!(members[..2].iter().all(|m| first[*m].is_subset(&two[*m])));
    let three = ServerAssignor::Uniform.assign(&topics, |_| members.to_vec(), &two);
    assert_eq!(of(&three), [4, 4, 4]);
    assert!(members[..2].iter().all(|m| three[*m].is_subset(&two[*m])));
}
