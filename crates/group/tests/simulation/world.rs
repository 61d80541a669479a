//! The virtual world: a clock, a network that loses, delays, doubles and reorders, and unrest.

use crate::broker::{Answer, Broker, REBALANCE, SESSION, error_for};
use crate::consumer::topic_id;
use crate::gaps::Gaps;
use crate::mutant::Mutant;
use crate::process::Process;
use ottla_group::{
    Assignor, ConsumerMembershipConfig, GroupMembership, GroupProtocol, Input, MembershipConfig,
    MembershipEvent, Phase, RequestBody, ResponseBody, RevocationId, TopicCounts,
};
use ottla_types::coordinator::TopicId;
use ottla_types::{ErrorCode, Offset, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

const LONGEST_TRIP: i64 = 1_500;
const QUIET: i64 = 45_000;
pub(crate) const TOPICS: [&str; 2] = ["a", "b"];

#[derive(Debug)]
pub(crate) enum Event {
    Arrives(usize, u64, RequestBody),
    Answered(usize, u64, ResponseBody),
    Broken(usize, u64),
    CommitArrives(usize, u64, bool),
    CommitAnswered(usize, u64, Option<ErrorCode>),
    GivenUp(usize, RevocationId),
    Located(usize, TopicPartition, u64),
    Metadata(usize),
    Names(usize, Vec<TopicId>),
    Polled(usize),
    Work(usize),
    Start(Option<String>, i64),
    Unrest,
}

/// How the group gets its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Eager(Assignor),
    Cooperative,
    /// Every member is static; eager or cooperative.
    Static(Assignor),
    Kip848,
    Kip848Static,
}

impl Mode {
    pub(crate) const ALL: [Self; 8] = [
        Self::Cooperative,
        Self::Kip848,
        Self::Eager(Assignor::Range),
        Self::Static(Assignor::CooperativeSticky),
        Self::Kip848Static,
        Self::Eager(Assignor::Sticky),
        Self::Static(Assignor::RoundRobin),
        Self::Kip848,
    ];

    fn is_kip848(self) -> bool {
        matches!(self, Self::Kip848 | Self::Kip848Static)
    }

    pub(crate) fn is_static(self) -> bool {
        matches!(self, Self::Static(_) | Self::Kip848Static)
    }

    pub(crate) fn assignor(self) -> Assignor {
        match self {
            Self::Eager(assignor) | Self::Static(assignor) => assignor,
            _ => Assignor::CooperativeSticky,
        }
    }
}

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) members_max: usize,
    /// How many there are from the start on.
    pub(crate) members_first: usize,
    pub(crate) partitions: i32,
    pub(crate) unrest: i64,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) keeps_history: bool,
}

pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) plan: Plan,
    pub(crate) unrest: i64,
    pub(crate) now: i64,
    pub(crate) order: u64,
    pub(crate) broker: Broker,
    pub(crate) processes: Vec<Process>,
    pub(crate) counts: TopicCounts,
    /// Who works on each partition.
    pub(crate) owners: BTreeMap<TopicPartition, usize>,
    pub(crate) handled: BTreeMap<TopicPartition, BTreeSet<Offset>>,
    /// For a mutant.
    pub(crate) late: Option<Offset>,
    pub(crate) commits: u64,
    pub(crate) assigned: u64,
    pub(crate) history: String,
    queue: BTreeMap<(i64, u64), Event>,
    pub(crate) calm: bool,
    pub(crate) gaps: Gaps,
    violation: Option<String>,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let counts = TOPICS.iter().map(|t| (Arc::from(*t), plan.partitions));
        Self {
            rng: fastrand::Rng::with_seed(plan.seed),
            plan,
            unrest: plan.unrest,
            now: 0,
            order: 0,
            broker: Broker::new(plan.mode.is_kip848()),
            processes: Vec::new(),
            counts: counts.collect(),
            owners: BTreeMap::new(),
            handled: BTreeMap::new(),
            late: None,
            commits: 0,
            assigned: 0,
            history: String::new(),
            queue: BTreeMap::new(),
            calm: false,
            gaps: Gaps::default(),
            violation: None,
        }
    }

    /// Unrest, then quiet, then the last look. The first thing that did not hold ends it.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.plan.members_first {
            self.start_new();
        }
        self.after(100, Event::Unrest);
        self.run_until(self.unrest);
        self.calm = true;
        for at in 0..self.processes.len() {
            if self.processes[at].is_live() {
                self.tell(at, Input::Polled);
                self.processes[at].cut_until = 0;
                self.subscribe(at, &TOPICS);
                self.metadata(at);
            }
        }
        let waits = self
            .queue
            .values()
            .any(|event| matches!(event, Event::Start(..)));
        if !waits && !self.processes.iter().any(Process::lasts) {
            self.start_new();
        }
        self.run_until(self.unrest + QUIET);
        if self.violation.is_none() {
            self.check_rest();
            self.check_progress();
        }
        self.violation.take().map_or(Ok(()), Err)
    }

    pub(crate) fn run_until(&mut self, end: i64) {
        let mut at_once = 0;
        while self.violation.is_none() {
            let event = self.queue.keys().next().map(|k| k.0);
            let timer = self.next_timer();
            let expiry = self.broker.next_timeout();
            let soonest = [event, timer.map(|t| t.0), expiry];
            let next = soonest.into_iter().flatten().min();
            let Some(next) = next.filter(|t| *t <= end) else {
                self.now = end;
                return;
            };
            at_once = if next > self.now { 0 } else { at_once + 1 };
            if at_once > 20_000 {
                self.violate("time stands still".to_owned());
            }
            self.now = self.now.max(next);
            // Members first: they must not rely on the coordinator being late.
            if let Some((_, at)) = timer.filter(|t| t.0 == next) {
                self.tell(at, Input::Tick);
            } else if expiry == Some(next) {
                let answers = self.broker.tick(&self.counts, self.now);
                self.send_back(answers);
            } else if let Some((_, event)) = self.queue.pop_first() {
                self.happen(event);
            }
        }
    }

    fn next_timer(&self) -> Option<(i64, usize)> {
        let stops = self.is(Mutant::StopsClock);
        let live = self.processes.iter().enumerate();
        let live = live.filter(|(at, p)| p.is_live() && !(stops && self.is_cut(*at)));
        live.filter_map(|(at, p)| Some((p.member.next_timeout()?, at)))
            .min()
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.plan.mutant == Some(mutant)
    }

    pub(crate) fn violate(&mut self, what: String) {
        self.note(|| format!("VIOLATION {what}"));
        let now = self.now;
        self.violation
            .get_or_insert_with(|| format!("at {now}: {what}"));
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.plan.keeps_history {
            let _ = writeln!(self.history, "{:>7} {}", self.now, what());
        }
    }

    pub(crate) fn after(&mut self, ms: i64, event: Event) {
        self.order += 1;
        self.queue.insert((self.now + ms, self.order), event);
    }

    pub(crate) fn is_cut(&self, at: usize) -> bool {
        self.now < self.processes[at].cut_until
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        !self.calm && self.rng.u32(0..100) < percent
    }

    pub(crate) fn trip(&mut self) -> i64 {
        if self.chance(10) {
            self.rng.i64(1..LONGEST_TRIP)
        } else {
            self.rng.i64(1..20)
        }
    }

    pub(crate) fn start_new(&mut self) {
        self.order += 1;
        let name = format!("static-{}", self.order);
        let instance = self.plan.mode.is_static().then_some(name);
        self.start(instance, 0);
    }

    fn start(&mut self, instance: Option<String>, last_arrival: i64) {
        self.order += 1;
        let mode = self.plan.mode;
        let name = match self.is(Mutant::SharesMemberId) {
            true => "m".to_owned(),
            false => format!("m{:04}", self.order),
        };
        let consumer = ConsumerMembershipConfig {
            session_timeout_ms: SESSION as i32,
            rebalance_timeout_ms: REBALANCE as i32,
            instance_id: instance.clone(),
            ..ConsumerMembershipConfig::new(name)
        };
        let classic = MembershipConfig {
            session_timeout_ms: SESSION as i32,
            rebalance_timeout_ms: REBALANCE as i32,
            heartbeat_interval_ms: 1_500,
            instance_id: instance.clone(),
            assignors: vec![mode.assignor()],
            ..MembershipConfig::default()
        };
        let protocol = match mode.is_kip848() {
            true => GroupProtocol::Consumer(consumer),
            false => GroupProtocol::Classic(classic),
        };
        let member = GroupMembership::new(protocol, self.rng.u64(..)).unwrap();
        let process = Process::new(member, instance, last_arrival);
        self.processes.push(process);
        let at = self.processes.len() - 1;
        self.after(300, Event::Work(at));
        self.subscribe(at, &TOPICS);
    }

    fn subscribe(&mut self, at: usize, topics: &[&str]) {
        let topics = topics.iter().map(|t| Arc::from(*t)).collect();
        self.tell(
            at,
            Input::Subscribe {
                topics,
                pattern: String::new(),
            },
        );
    }

    fn metadata(&mut self, at: usize) {
        let counts = self.counts.clone();
        self.tell(at, Input::Metadata { counts });
    }

    pub(crate) fn tell(&mut self, at: usize, input: Input) {
        self.note(|| format!("{at} <- {input:?}"));
        let input = match self.plan.mutant {
            Some(mutant) => mutant.spoil_input(input),
            None => Some(input),
        };
        if let Some(input) = input {
            self.processes[at].member.handle(input, self.now);
        }
        self.listen(at);
    }

    pub(crate) fn listen(&mut self, at: usize) {
        while let Some(event) = self.processes[at].member.poll_event() {
            self.note(|| format!("{at} -> {event:?}"));
            if self.processes[at].ended {
                self.violate(format!("an event of {at} after its end"));
            }
            self.on_event(at, event);
        }
        while let Some(request) = self.processes[at].member.poll_request() {
            self.send(at, request.body, Some(request.id));
        }
        if self.is(Mutant::SpeaksAfterEnd)
            && self.processes[at].ended
            && let Some(body) = self.processes[at].last_beat.take()
        {
            self.send(at, body, None);
        }
    }

    fn on_event(&mut self, at: usize, event: MembershipEvent) {
        match event {
            MembershipEvent::Revoked { id, partitions } => self.on_revoked(at, id, partitions),
            MembershipEvent::NeedMetadata { .. } => {
                let ms = self.trip();
                self.after(ms, Event::Metadata(at));
            }
            MembershipEvent::NeedTopicNames { ids } => {
                let ms = self.trip();
                self.after(ms, Event::Names(at, ids));
            }
            MembershipEvent::Assigned { added, .. } => {
                self.assigned += 1;
                self.on_assigned(at, added);
            }
            MembershipEvent::Lost { partitions } => self.on_lost(at, &partitions),
            MembershipEvent::Fatal { error } => {
                if !self.processes[at].fatal_asked {
                    self.violate(format!("{at}: {error}"));
                }
                self.processes[at].ended = true;
            }
            MembershipEvent::Left => self.processes[at].ended = true,
        }
        if self.processes[at].ended {
            let left: Vec<_> = self.processes[at].parts.keys().cloned().collect();
            if !left.is_empty() && self.plan.mutant.is_none() {
                self.violate(format!("{at} ended and still has {left:?}"));
            }
            left.iter().for_each(|tp| self.forget(at, tp));
        }
    }

    fn send(&mut self, at: usize, mut body: RequestBody, id: Option<ottla_group::RequestId>) {
        self.note(|| format!("{at} sends {body:?}"));
        if self.processes[at].ended {
            self.violate(format!("a request of {at} after its end"));
        }
        if let Some(mutant) = self.plan.mutant {
            let assignor = self.plan.mode.assignor();
            let led = &self.processes[at].led;
            mutant.spoil_request(&mut body, led, &self.counts, assignor);
        }
        self.order += 1;
        let number = self.order;
        let process = &mut self.processes[at];
        if let RequestBody::Heartbeat(_) | RequestBody::ConsumerHeartbeat(_) = &body {
            process.last_beat = Some(body.clone());
        }
        if let Some(id) = id {
            process.requests.insert(number, id);
            process.newest = Some(id);
        }
        if self.is_cut(at) || self.chance(3) {
            let ms = self.rng.i64(1..LONGEST_TRIP);
            self.after(ms, Event::Broken(at, number));
        } else {
            let ms = self.in_order(at);
            self.after(ms, Event::Arrives(at, number, body));
        }
    }

    /// One connection: what a member sends arrives in order.
    pub(crate) fn in_order(&mut self, at: usize) -> i64 {
        let arrives = (self.now + self.trip()).max(self.processes[at].last_arrival);
        self.processes[at].last_arrival = arrives;
        arrives - self.now
    }

    fn send_back(&mut self, answers: Vec<Answer>) {
        for ((at, number), body) in answers {
            let ms = self.trip();
            let Some(body) = body else {
                self.after(ms, Event::Broken(at, number));
                continue;
            };
            if self.is_cut(at) || self.chance(4) {
                // Lost, or so late that the member has given the request up.
                let broken = self.rng.i64(1..LONGEST_TRIP);
                self.after(broken, Event::Broken(at, number));
                if self.rng.bool() {
                    self.after(LONGEST_TRIP, Event::Answered(at, number, body));
                }
                continue;
            }
            if self.chance(4) {
                let again = self.trip();
                self.after(again, Event::Answered(at, number, body.clone()));
            }
            self.after(ms, Event::Answered(at, number, body));
        }
    }

    fn happen(&mut self, event: Event) {
        let live = |world: &Self, at: usize| world.processes[at].is_live();
        match event {
            Event::Unrest => self.stir(),
            Event::Start(Some(instance), last) if self.broker.holds(&instance) => {
                self.after(1_000, Event::Start(Some(instance), last));
            }
            Event::Start(instance, last_arrival) => self.start(instance, last_arrival),
            Event::Arrives(at, number, body) => self.on_arrival(at, number, body),
            Event::CommitArrives(at, number, answered) => {
                self.on_commit_arrives(at, number, answered);
            }
            Event::Answered(at, number, body) if live(self, at) => self.on_answer(at, number, body),
            Event::Broken(at, number) if live(self, at) => {
                if let Some(id) = self.processes[at].requests.get(&number).copied() {
                    self.tell(at, Input::Failed { id });
                }
            }
            Event::CommitAnswered(at, number, code) if live(self, at) => {
                self.on_commit_answered(at, number, code);
            }
            Event::GivenUp(at, id) if live(self, at) => self.on_given_up(at, id),
            Event::Located(at, tp, incarnation) if live(self, at) => {
                self.on_located(at, &tp, incarnation);
            }
            Event::Metadata(at) if live(self, at) => match self.chance(10) {
                true => self.tell(at, Input::MetadataFailed),
                false => self.metadata(at),
            },
            Event::Names(at, ids) if live(self, at) => self.on_names_wanted(at, &ids),
            Event::Polled(at) if live(self, at) => self.tell(at, Input::Polled),
            Event::Work(at) if live(self, at) || self.is(Mutant::SpeaksAfterEnd) => self.work(at),
            _ => {}
        }
    }

    fn on_arrival(&mut self, at: usize, number: u64, body: RequestBody) {
        let caller = (at, number);
        let is_fatal = self.processes[at].fatal_asked;
        let refused = match is_fatal {
            true => Some(ErrorCode::GROUP_AUTHORIZATION_FAILED),
            false if self.chance(3) => Some(ErrorCode(self.rng.i16(14..17))),
            false => None,
        };
        let answers = match refused {
            Some(code) => vec![(caller, Some(error_for(&body, code)))],
            None => self.broker.receive(caller, body, &self.counts, self.now),
        };
        self.send_back(answers);
    }

    fn on_answer(&mut self, at: usize, number: u64, body: ResponseBody) {
        if let ResponseBody::Join(join) = &body
            && !join.members.is_empty()
        {
            self.processes[at].led.clone_from(&join.members);
        }
        let stale = self.is(Mutant::AcceptsStale);
        let newest = self.processes[at].newest.filter(|_| stale);
        let asked = self.processes[at].requests.get(&number).copied();
        if let Some(id) = newest.or(asked) {
            self.tell(at, Input::Response { id, body });
        }
    }

    fn on_names_wanted(&mut self, at: usize, ids: &[TopicId]) {
        if self.chance(10) {
            return self.tell(at, Input::MetadataFailed);
        }
        // A broker that does not know every topic yet.
        let unknown = self.chance(20);
        let known = TOPICS.iter().filter(|t| !(unknown && **t == "b"));
        let names = known.map(|t| (topic_id(t), Arc::from(*t)));
        let names = names.filter(|(id, _)| ids.contains(id)).collect();
        self.tell(at, Input::TopicNames { names });
    }

    /// Something that nobody asked for.
    fn stir(&mut self) {
        if self.calm {
            return;
        }
        let ms = self.rng.i64(50..1_200);
        self.after(ms, Event::Unrest);
        let live = 0..self.processes.len();
        let live: Vec<usize> = live.filter(|&at| self.processes[at].is_live()).collect();
        let Some(&at) = live.get(self.rng.usize(0..live.len().max(1))) else {
            return self.start_new();
        };
        match self.rng.u32(0..60) {
            0..14 if live.len() < self.plan.members_max => self.start_new(),
            14..19 => {
                self.processes[at].closing = true;
                self.tell(at, Input::Close);
            }
            19..24 => self.crash(at),
            24..28 => {
                self.tell(at, Input::PollExpired);
                let ms = self.rng.i64(1..3_000);
                self.after(ms, Event::Polled(at));
            }
            28..34 => {
                let topics: &[&str] =
                    [&TOPICS[..1], &TOPICS[1..], &TOPICS[..], &[]][self.rng.usize(0..4)];
                self.subscribe(at, topics);
            }
            34..37 => {
                let which = self.rng.usize(0..TOPICS.len());
                let grown = self.counts.values_mut().nth(which).unwrap();
                *grown = (*grown + 1).min(3 * self.plan.partitions);
                live.iter().for_each(|&at| self.metadata(at));
            }
            // A broker that takes over forgets which id a static member got after the last stable
            // generation, and fences it: rightly fatal, so not part of these runs.
            37..40 if !self.plan.mode.is_static() || self.plan.mode.is_kip848() => {
                let answers = self.broker.fail_over(self.now);
                self.send_back(answers);
            }
            40..47 => self.processes[at].cut_until = self.now + self.rng.i64(1_000..15_000),
            47..49 => self.processes[at].fatal_asked = true,
            _ => {}
        }
    }

    fn crash(&mut self, at: usize) {
        self.note(|| format!("{at} crashes"));
        self.processes[at].alive = false;
        let parts: Vec<_> = self.processes[at].parts.keys().cloned().collect();
        parts.iter().for_each(|tp| self.forget(at, tp));
        let Some(instance) = self.processes[at].instance.clone() else {
            return;
        };
        // What the dead process had sent arrives before what its successor sends: the other way
        // round the broker would rightly fence the successor. With KIP-848 a successor is refused
        // until the place is free, and the operator starts it then.
        let last = self.processes[at].last_arrival;
        let ms = match self.plan.mode.is_kip848() {
            true => last.max(self.now) - self.now + 1,
            false => 0,
        };
        self.after(ms, Event::Start(Some(instance), last));
    }

    fn check_rest(&mut self) {
        let mut loads = Vec::new();
        for at in 0..self.processes.len() {
            let process = &self.processes[at];
            if !process.lasts() {
                continue;
            }
            let owned = process.member.owned();
            let same = owned.iter().eq(process.parts.keys());
            let phase = process.member.phase();
            if phase != Phase::Stable || !same {
                self.violate(format!("{at} is {phase:?} and owns {owned:?}"));
            }
            loads.push(owned.len());
        }
        let wanted: i32 = self.counts.values().sum();
        let total: usize = loads.iter().sum();
        let (most, least) = (loads.iter().max(), loads.iter().min());
        let spread = most.zip(least).map_or(0, |(most, least)| most - least);
        // Range levels each topic, not the sum.
        let slack = match self.plan.mode.assignor() {
            Assignor::Range => TOPICS.len(),
            _ => 1,
        };
        if total != wanted as usize || spread > slack {
            self.violate(format!("{loads:?} of {:?}", self.counts));
        }
    }
}
