//! Incremental fetch sessions (KIP-227) of one broker. Pure.
//!
//! | epoch of the request | what it does |
//! |---|---|
//! | -1 | no session; the named one is closed |
//! | 0 | a new session with the named partitions; the named one is closed |
//! | other | the next step of the named session: changes and forgotten partitions alone |
//!
//! Must hold: a session answers each epoch once; what all sessions keep is bounded. Where there is
//! no room, a client gets id 0, and goes on without.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use crate::codes;

/// Sessions that one broker keeps (`max.incremental.fetch.session.cache.slots`).
const MAX_SESSIONS: usize = 1000;
/// What the sessions of one broker may keep, about.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What a partition costs beside its topic's name.
const PARTITION_BYTES: usize = 200;

/// A topic as a request names it: by its name, or from version 13 on by its id alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TopicKey {
    pub(crate) name: Arc<str>,
    pub(crate) id: Uuid,
}

/// A partition that a client wants to read.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) topic: TopicKey,
    pub(crate) index: i32,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) max_bytes: i32,
}

impl Wanted {
    fn key(&self) -> (TopicKey, i32) {
        (self.topic.clone(), self.index)
    }

    fn cost(&self) -> usize {
        PARTITION_BYTES + self.topic.name.len()
    }
}

/// What an answer says of a partition, as far as a session must know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// Whether there is more to say than watermark and log start: records, or an error.
    pub(crate) has_news: bool,
    /// Watermark and log start; `None` with an error, so that the next answer is told.
    pub(crate) marks: Option<(i64, i64)>,
}

#[derive(Debug)]
struct Cached {
    wanted: Wanted,
    marks: Option<(i64, i64)>,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    uses_ids: bool,
    next_place: u64,
    places: HashMap<(TopicKey, i32), u64>,
    /// In the order of answering: who had records goes to the end.
    partitions: BTreeMap<u64, Cached>,
    bytes: usize,
}

impl Session {
    fn new(uses_ids: bool) -> Self {
        Self {
            epoch: 1,
            uses_ids,
            next_place: 0,
            places: HashMap::new(),
            partitions: BTreeMap::new(),
            bytes: 0,
        }
    }

    fn want(&mut self, wanted: Wanted) {
        let known = self.places.get(&wanted.key());
        if let Some(cached) = known.and_then(|place| self.partitions.get_mut(place)) {
            cached.wanted = wanted;
            return;
        }
        self.bytes += wanted.cost();
        self.append(Cached {
            wanted,
            marks: None,
        });
    }

    fn append(&mut self, cached: Cached) {
        self.places.insert(cached.wanted.key(), self.next_place);
        self.partitions.insert(self.next_place, cached);
        self.next_place += 1;
    }

    fn forget(&mut self, key: &(TopicKey, i32)) {
        let place = self.places.remove(key);
        if let Some(cached) = place.and_then(|place| self.partitions.remove(&place)) {
            self.bytes -= cached.wanted.cost();
        }
    }

    fn wanted(&self) -> Vec<Wanted> {
        let all = self.partitions.values();
        all.map(|cached| cached.wanted.clone()).collect()
    }

    /// Whether the partition belongs into an incremental answer.
    fn tells(&mut self, key: &(TopicKey, i32), told: Told) -> bool {
        let Some(place) = self.places.get(key).copied() else {
            return true;
        };
        let Some(mut cached) = self.partitions.remove(&place) else {
            return true;
        };
        let has_changed = told.has_news || cached.marks != told.marks;
        cached.marks = told.marks;
        if told.has_news {
            self.append(cached);
        } else {
            self.partitions.insert(place, cached);
        }
        has_changed
    }
}

/// What a request asks of the sessions.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) id: i32,
    pub(crate) epoch: i32,
    pub(crate) uses_ids: bool,
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) forgotten: Vec<(TopicKey, i32)>,
}

/// What is to be read for it, and how to answer.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// 0 without a session.
    pub(crate) session: i32,
    pub(crate) is_incremental: bool,
    pub(crate) wanted: Vec<Wanted>,
}

/// The sessions of one broker.
#[derive(Debug, Default)]
pub(crate) struct FetchSessions {
    sessions: BTreeMap<i32, Session>,
    last_id: i32,
    bytes: usize,
}

impl FetchSessions {
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The topics of a session.
    pub(crate) fn topics(&self, id: i32) -> BTreeSet<TopicKey> {
        let session = self.sessions.get(&id).into_iter();
        let partitions = session.flat_map(|session| session.partitions.values());
        partitions
            .map(|cached| cached.wanted.topic.clone())
            .collect()
    }

    /// Takes one step.
    pub(crate) fn step(&mut self, step: Step) -> Result<Plan, i16> {
        if step.epoch > 0 {
            return self.resume(step);
        }
        self.close(step.id);
        let session = match step.epoch {
            0 => self.open(step.uses_ids, &step.wanted),
            _ => 0,
        };
        Ok(Plan {
            session,
            is_incremental: false,
            wanted: step.wanted,
        })
    }

    fn open(&mut self, uses_ids: bool, wanted: &[Wanted]) -> i32 {
        let cost: usize = wanted.iter().map(Wanted::cost).sum();
        let has_room = self.sessions.len() < MAX_SESSIONS && self.bytes + cost <= MAX_BYTES;
        if wanted.is_empty() || !has_room {
            return 0;
        }
        let mut session = Session::new(uses_ids);
        for wanted in wanted {
            session.want(wanted.clone());
        }
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.bytes += session.bytes;
        self.sessions.insert(self.last_id, session);
        self.last_id
    }

    fn resume(&mut self, step: Step) -> Result<Plan, i16> {
        let session = self
            .sessions
            .get_mut(&step.id)
            .ok_or(codes::FETCH_SESSION_ID_NOT_FOUND)?;
        if session.uses_ids != step.uses_ids {
            return Err(codes::FETCH_SESSION_TOPIC_ID_ERROR);
        }
        if session.epoch != step.epoch {
            return Err(codes::INVALID_FETCH_SESSION_EPOCH);
        }
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        self.bytes -= session.bytes;
        for wanted in step.wanted {
            session.want(wanted);
        }
        for key in &step.forgotten {
            session.forget(key);
        }
        self.bytes += session.bytes;
        let plan = Plan {
            session: step.id,
            is_incremental: true,
            wanted: session.wanted(),
        };
        if plan.wanted.is_empty() || self.bytes > MAX_BYTES {
            self.close(step.id);
            return Ok(Plan {
                session: 0,
                is_incremental: false,
                ..plan
            });
        }
        Ok(plan)
    }

    pub(crate) fn close(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.bytes -= session.bytes;
        }
    }

    /// Forgets every session, as a full cache may.
    pub(crate) fn evict_all(&mut self) {
        self.sessions.clear();
        self.bytes = 0;
    }

    /// Keeps what an answer tells; gives whether the partition belongs into it.
    pub(crate) fn tells(&mut self, plan: &Plan, wanted: &Wanted, told: Told) -> bool {
        let session = self.sessions.get_mut(&plan.session);
        let is_news = session.is_none_or(|session| session.tells(&wanted.key(), told));
        is_news || !plan.is_incremental
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(index: i32, offset: i64) -> Wanted {
        let topic = TopicKey {
            name: "t".into(),
            id: Uuid::nil(),
        };
        Wanted {
            topic,
            index,
            offset,
            leader_epoch: -1,
            last_fetched_epoch: -1,
            max_bytes: 1,
        }
    }

    fn step(id: i32, epoch: i32, wanted: Vec<Wanted>) -> Step {
        Step {
            id,
            epoch,
            uses_ids: false,
            wanted,
            forgotten: Vec::new(),
        }
    }

    #[test]
    fn a_session_keeps_what_is_wanted_and_counts_its_steps() {
        let mut sessions = FetchSessions::default();
        let plan = sessions
            .step(step(0, 0, vec![wanted(0, 5), wanted(1, 6)]))
            .unwrap();
        assert_eq!((plan.session, plan.is_incremental), (1, false));
        let plan = sessions.step(step(1, 1, vec![wanted(1, 9)])).unwrap();
        let offsets: Vec<i64> = plan.wanted.iter().map(|wanted| wanted.offset).collect();
        assert_eq!((plan.is_incremental, offsets), (true, vec![5, 9]));
        let repeated = sessions.step(step(1, 1, Vec::new())).unwrap_err();
        assert_eq!(repeated, codes::INVALID_FETCH_SESSION_EPOCH);
        let unknown = sessions.step(step(9, 1, Vec::new())).unwrap_err();
        assert_eq!(unknown, codes::FETCH_SESSION_ID_NOT_FOUND);
        let mut last = step(1, 2, Vec::new());
        last.forgotten = vec![wanted(0, 0).key(), wanted(1, 0).key()];
        assert_eq!(sessions.step(last).unwrap().session, 0);
        assert_eq!((sessions.len(), sessions.bytes), (0, 0));
    }

    #[test]
    fn an_incremental_answer_tells_news_alone() {
        let mut sessions = FetchSessions::default();
        let first = sessions
            .step(step(0, 0, vec![wanted(0, 0), wanted(1, 0)]))
            .unwrap();
        let told = |has_news, marks| Told { has_news, marks };
        let quiet = told(false, Some((1, 0)));
        assert!(sessions.tells(&first, &wanted(0, 0), quiet));
        let next = sessions.step(step(1, 1, Vec::new())).unwrap();
        assert!(!sessions.tells(&next, &wanted(0, 0), quiet));
        assert!(sessions.tells(&next, &wanted(0, 0), told(false, Some((2, 0)))));
        assert!(sessions.tells(&next, &wanted(0, 0), told(true, None)));
        assert!(sessions.tells(&next, &wanted(0, 0), quiet));
        // Who had news is answered last the next time.
        let after = sessions.step(step(1, 2, Vec::new())).unwrap();
        assert_eq!(after.wanted[0].index, 1);
    }

    #[test]
    fn without_room_there_is_no_session() {
        let mut sessions = FetchSessions::default();
        for _ in 0..MAX_SESSIONS {
            let plan = sessions.step(step(0, 0, vec![wanted(0, 0)])).unwrap();
            assert_ne!(plan.session, 0);
        }
        let plan = sessions.step(step(0, 0, vec![wanted(0, 0)])).unwrap();
        assert_eq!((plan.session, plan.wanted.len()), (0, 1));
        sessions.evict_all();
        let huge = (0..400_000).map(|index| wanted(index, 0)).collect();
        assert_eq!(sessions.step(step(0, 0, huge)).unwrap().session, 0);
    }
}
