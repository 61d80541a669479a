//! Members that are gone without a word: killed, or frozen and back as zombies.

use super::verdict::Verdict;
use super::{Bed, Failure, HEARTBEAT, MEMBERS, Member, SESSION, WITHIN, Way};
use crate::member::{BEGUN, REFUSED, now_ns};
use crate::read_back::{read_topic, record_id};
use crate::scenarios::{Context, Outcome};
use ottla::client::NewTopic;
use ottla::producer::{TransactionalConfig, TransactionalProducer};
use ottla::types::coordinator::{CommitOffset, OffsetCommitRequest};
use ottla::types::transactions::GroupMetadata;
use ottla::types::{ErrorCode, Offset, Record, TopicPartition, names};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;

/// Beyond the session's time-out and a heartbeat.
const SLACK: Duration = Duration::from_secs(2);
/// How long the call takes that a member is frozen in.
const CALL: Duration = Duration::from_secs(3);
/// What is written in the name of a zombie.
const ZOMBIES: &str = "a zombie's";

/// A member that is gone, and since when.
struct Gone {
    way: Way,
    name: String,
    group: String,
    partitions: Vec<i32>,
    /// What its group had committed right after.
    committed: BTreeMap<i32, Offset>,
    at_ns: u64,
}

impl Gone {
    async fn now(bed: &Bed, member: &Member) -> Result<Self, Failure> {
        let at_ns = now_ns();
        Ok(Self {
            way: member.way,
            name: member.name.clone(),
            group: member.group.clone(),
            partitions: member.standing()?.partitions,
            committed: bed.committed(&member.group).await?,
            at_ns,
        })
    }

    /// Its partitions were taken over in time, and only what it had not committed came again.
    fn judge(&self, verdict: &Verdict) -> Outcome {
        let mut longest = Duration::ZERO;
        for partition in &self.partitions {
            let theirs = verdict.given.iter().find(|given| {
                let is_other = given.member != self.name && given.at_ns > self.at_ns;
                is_other && given.group == self.group && given.partition == *partition
            });
            let theirs = theirs.ok_or_else(|| format!("nobody took {partition} over"))?;
            longest = longest.max(Duration::from_nanos(theirs.at_ns - self.at_ns));
        }
        let most = SESSION + HEARTBEAT + SLACK;
        println!(
            "{}: {} partitions taken over within {longest:.2?}; {most:?} are allowed",
            self.way.name,
            self.partitions.len()
        );
        if longest > most {
            return Err("they were taken over too late".into());
        }
        for givens in verdict.repeated(&self.group) {
            let first = &givens[0];
            let committed = self.committed.get(&first.partition).copied();
            let is_its = first.member == self.name && first.at_ns < self.at_ns;
            if !is_its || first.offset < committed.unwrap_or(0) {
                return Err(format!("{committed:?} was committed: {givens:?}").into());
            }
        }
        Ok(())
    }
}

/// kill -9 of a member: its partitions are taken over in time, and only what it had not committed
/// comes again.
pub(in crate::scenarios) async fn member_kill(context: &mut Context) -> Outcome {
    let bed = Bed::new(context).await?;
    let mut members = bed.members(MEMBERS, |_, _| {}).await?;
    let (mut killed, mut gone) = (Vec::new(), Vec::new());
    let killing = async {
        bed.all_at_work().await?;
        for mut member in bed.take_one_each(&mut members) {
            member.worker.kill9().await?;
            gone.push(Gone::now(&bed, &member).await?);
            killed.push(member);
        }
        bed.settled(&members).await
    };
    let ((), sent) = bed.under_load(killing).await?;
    bed.finish(&mut members).await?;
    members.append(&mut killed);
    let verdict = bed.judge(sent, &members).await?;
    gone.iter().try_for_each(|gone| gone.judge(&verdict))
}

/// SIGSTOP of a member for twice the session's time-out, then SIGCONT: its partitions are taken over,
/// and whatever it does for them has no effect.
pub(in crate::scenarios) async fn zombie(context: &mut Context) -> Outcome {
    let bed = Bed::new(context).await?;
    let output = context.unique("output");
    let new = NewTopic::new(&output, 1).replication(context.replication());
    bed.client.ensure_topics(vec![new]).await?;
    let members = bed.members(MEMBERS, |options, _| options.output = Some(output.clone()));
    let mut members = members.await?;
    let (mut zombies, mut gone, mut slow) = (Vec::new(), Vec::new(), Vec::new());
    let freezing = async {
        bed.all_at_work().await?;
        for member in bed.take_one_each(&mut members) {
            let partition = member.standing()?.partitions[0];
            slow.push(bed.send_slow(&member.name, partition, CALL).await?);
            let begun = |line: &str| line.starts_with(BEGUN);
            let begun = member.worker.wait_line(begun, WITHIN).await?;
            member.worker.freeze()?;
            let one = Gone::now(&bed, &member).await?;
            zombies.push((member, metadata(&one.group, &begun)?));
            gone.push(one);
        }
        sleep(2 * SESSION).await;
        bed.settled(&members).await?;
        for (zombie, metadata) in &zombies {
            let taken = bed.refuses(metadata, &output).await;
            zombie.worker.thaw()?;
            taken?;
            let refuses = |line: &str| line.starts_with(REFUSED);
            let refused = zombie.worker.wait_line(refuses, WITHIN).await?;
            println!("{}: its context {refused}", zombie.way.name);
        }
        let all = members
            .iter()
            .chain(zombies.iter().map(|(zombie, _)| zombie));
        bed.settled(all).await
    };
    let ((), mut sent) = bed.under_load(freezing).await?;
    members.extend(zombies.into_iter().map(|(zombie, _)| zombie));
    let slow_ids: Vec<_> = slow.iter().map(|slow| slow.id.clone()).collect();
    sent.append(&mut slow);
    bed.finish(&mut members).await?;
    let verdict = bed.judge(sent, &members).await?;
    gone.iter().try_for_each(|gone| gone.judge(&verdict))?;
    // Each of the two groups handles both.
    let published = read_topic(&bed.client, &output, WITHIN).await?;
    let ids: Vec<_> = published.iter().map(record_id).collect();
    for id in slow_ids {
        let times = ids.iter().filter(|known| **known == id).count();
        if times != bed.ways.len() {
            return Err(format!("{id} was published {times} times").into());
        }
    }
    match ids.iter().any(|id| id == ZOMBIES) {
        true => Err("what a zombie wrote in a transaction was committed".into()),
        false => Ok(()),
    }
}

/// The member as its handler saw it.
fn metadata(group: &str, begun: &str) -> Result<GroupMetadata, Failure> {
    let mut words = begun.split_whitespace().skip(1);
    let (generation, member_id) = words.next().zip(words.next()).ok_or("it named no member")?;
    Ok(GroupMetadata {
        group_id: group.to_owned(),
        generation: generation.parse()?,
        member_id: member_id.to_owned(),
        instance_id: None,
    })
}

impl Bed {
    /// What a member that is gone commits is refused, with a transaction and without.
    async fn refuses(&self, zombie: &GroupMetadata, output: &str) -> Outcome {
        let offsets = vec![CommitOffset {
            partition: TopicPartition::new(self.topic.as_str(), 0),
            offset: 0,
            leader_epoch: None,
            metadata: String::new(),
        }];
        let commit = OffsetCommitRequest {
            generation: zombie.generation,
            member_id: zombie.member_id.clone(),
            instance_id: None,
            offsets: offsets.clone(),
        };
        let group = self.client.group(zombie.group_id.as_str());
        let answers = group.commit(commit).await?;
        let codes: Vec<ErrorCode> = answers.into_iter().map(|(_, code)| code).collect();
        let config = TransactionalConfig::new(format!("{}-zombie", zombie.group_id));
        let producer = TransactionalProducer::new(&self.client, config)?;
        producer.init().await?;
        producer.begin().await?;
        let record = Record::new(output).header(names::MESSAGE_ID, ZOMBIES);
        producer.enqueue(record).await?;
        let sent = producer.send_offsets(zombie.clone(), offsets).await;
        producer.abort().await?;
        producer.close(WITHIN).await?;
        println!("{}: a commit is answered {codes:?}", zombie.group_id);
        match sent {
            Err(error) if error.is_abortable() && codes.iter().all(|code| refuses(*code)) => Ok(()),
            sent => Err(format!("a zombie commits: {codes:?}, {sent:?}").into()),
        }
    }
}

fn refuses(code: ErrorCode) -> bool {
    code == ErrorCode::UNKNOWN_MEMBER_ID
        || code == ErrorCode::ILLEGAL_GENERATION
        || code == ErrorCode::FENCED_MEMBER_EPOCH
        || code == ErrorCode::STALE_MEMBER_EPOCH
}
