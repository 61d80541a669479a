//! A fetch session (KIP-227): the broker remembers the partitions of a connection's requests, and a
//! request names only what has changed.
//!
//! Pure. What must hold: what the broker remembers and what is kept here are the same, or the session
//! begins anew.

use super::fetch_message::Wanted;
use ottla_types::TopicPartition;
use std::collections::HashMap;

#[derive(Debug, Default)]
pub(super) struct Session {
    /// 0 without a session.
    id: i32,
    /// The number of the next request; 0 asks for a new session.
    epoch: i32,
    /// Whether its topics are named by their ids; a session cannot change that.
    pub(super) has_ids: bool,
    known: HashMap<TopicPartition, Known>,
}

/// A partition that is not asked for any more, with its topic's id.
pub(super) type Forgotten = (TopicPartition, [u8; 16]);

#[derive(Debug)]
struct Known {
    wanted: Wanted,
    /// Whether it is in the request that is made.
    is_asked: bool,
}

impl Session {
    pub(super) fn id(&self) -> i32 {
        self.id
    }

    pub(super) fn epoch(&self) -> i32 {
        self.epoch
    }

    /// The next request is one without a past.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// What the next request has to name, for all of `wanted` to be asked and nothing else: those
    /// that are new or have changed, and those that are not asked any more.
    pub(super) fn next<'a>(
        &mut self,
        wanted: Vec<(&'a TopicPartition, Wanted)>,
    ) -> (Vec<(&'a TopicPartition, Wanted)>, Vec<Forgotten>) {
        for known in self.known.values_mut() {
            known.is_asked = false;
        }
        let is_full = self.epoch == 0;
        if is_full {
            self.known.clear();
        }
        let (mut named, mut forgotten) = (Vec::with_capacity(wanted.len()), Vec::new());
        for (partition, wanted) in wanted {
            match self.known.get_mut(partition) {
                Some(known) => {
                    known.is_asked = true;
                    if known.wanted.topic_id != wanted.topic_id {
                        forgotten.push((partition.clone(), known.wanted.topic_id));
                    }
                    if known.wanted != wanted {
                        known.wanted = wanted;
                        named.push((partition, wanted));
                    }
                }
                None => {
                    let known = Known {
                        wanted,
                        is_asked: true,
                    };
                    self.known.insert(partition.clone(), known);
                    named.push((partition, wanted));
                }
            }
        }
        self.known.retain(|partition, known| {
            if !known.is_asked {
                forgotten.push((partition.clone(), known.wanted.topic_id));
            }
            known.is_asked
        });
        forgotten.sort_unstable();
        (named, forgotten)
    }

    /// The broker has answered without an error, with this session id.
    pub(super) fn answered(&mut self, id: i32) {
        if id == 0 {
            // No session, or none any more.
            return self.reset();
        }
        if id != self.id {
            (self.id, self.epoch) = (id, 0);
        }
        self.epoch = if self.epoch == i32::MAX {
            1
        } else {
            self.epoch + 1
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(offset: i64) -> Wanted {
        Wanted {
            offset,
            leader_epoch: 1,
            last_epoch: -1,
            max_bytes: 100,
            topic_id: [1; 16],
        }
    }

    fn next(
        session: &mut Session,
        asked: &[(&TopicPartition, i64)],
    ) -> (Vec<(TopicPartition, i64)>, Vec<TopicPartition>) {
        let asked = asked.iter().map(|(p, offset)| (*p, wanted(*offset)));
        let (named, forgotten) = session.next(asked.collect());
        let named = named.into_iter().map(|(p, w)| (p.clone(), w.offset));
        let forgotten = forgotten.into_iter().map(|(p, _)| p);
        (named.collect(), forgotten.collect())
    }

    #[test]
    fn a_session_names_only_what_has_changed() {
        let [a, b, c] = [0, 1, 2].map(|n| TopicPartition::new("t", n));
        let mut session = Session::default();
        assert_eq!((session.id(), session.epoch()), (0, 0));
        let (named, forgotten) = next(&mut session, &[(&a, 1), (&b, 2)]);
        assert_eq!((named.len(), forgotten.len()), (2, 0));
        session.answered(77);
        assert_eq!((session.id(), session.epoch()), (77, 1));

        let same = next(&mut session, &[(&a, 1), (&b, 2)]);
        assert_eq!(same, (vec![], vec![]));
        session.answered(77);
        assert_eq!(session.epoch(), 2);

        let changed = next(&mut session, &[(&b, 3), (&c, 4)]);
        assert_eq!(changed, (vec![(b.clone(), 3), (c, 4)], vec![a.clone()]));
        let back = next(&mut session, &[(&a, 1), (&b, 3)]);
        assert_eq!(back.0, [(a, 1)]);
    }

    #[test]
    fn trap_c15_a_topic_made_anew_takes_the_place_of_the_old_one() {
        let a = TopicPartition::new("t", 0);
        let mut session = Session::default();
        let asked = |id| Wanted {
            topic_id: [id; 16],
            ..wanted(5)
        };
        session.next(vec![(&a, asked(1))]);
        session.answered(9);
        let (named, forgotten) = session.next(vec![(&a, asked(2))]);
        assert_eq!(named, [(&a, asked(2))]);
        assert_eq!(forgotten, [(a.clone(), [1; 16])]);
    }

    #[test]
    fn without_a_session_everything_is_named_each_time() {
        let a = TopicPartition::new("t", 0);
        let mut session = Session::default();
        for _ in 0..3 {
            assert_eq!(
                next(&mut session, &[(&a, 1)]),
                (vec![(a.clone(), 1)], vec![])
            );
            assert_eq!((session.id(), session.epoch()), (0, 0));
            session.answered(0);
        }
    }

    #[test]
    fn a_session_that_is_lost_begins_anew() {
        let a = TopicPartition::new("t", 0);
        let mut session = Session::default();
        next(&mut session, &[(&a, 1)]);
        session.answered(5);
        session.reset();
        assert_eq!((session.id(), session.epoch()), (0, 0));
        assert_eq!(next(&mut session, &[(&a, 1)]).0, [(a, 1)]);
    }
}
