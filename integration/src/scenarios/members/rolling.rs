//! One after the other: members are replaced, brokers restarted.

use super::{Bed, MEMBERS, millis, rebalances};
use crate::scenarios::{Context, Outcome};
use std::time::Duration;

/// A coordinator that moves asks for no shorter one.
const SESSION_OVER_RESTARTS: Duration = Duration::from_secs(20);

/// Each member is replaced by a new one and gets SIGTERM: nothing is lost, nothing comes twice.
pub(in crate::scenarios) async fn deploy(context: &mut Context) -> Outcome {
    let bed = Bed::new(context).await?;
    let mut members = bed.members(MEMBERS, |_, _| {}).await?;
    let mut gone = Vec::new();
    let replacing = async {
        for _ in 0..MEMBERS {
            for way in bed.ways {
                members.push(bed.member(way, |_| {})?);
            }
            bed.settled(&members).await?;
            let mut leaving = bed.take_one_each(&mut members);
            for member in &leaving {
                member.worker.terminate()?;
            }
            for member in &mut leaving {
                member.ends_well().await?;
            }
            bed.settled(&members).await?;
            gone.append(&mut leaving);
        }
        Ok(())
    };
    let ((), sent) = bed.under_load(replacing).await?;
    bed.finish(&mut members).await?;
    members.append(&mut gone);
    let verdict = bed.judge(sent, &members).await?;
    for way in bed.ways {
        let longest = verdict.gaps(&bed.group(way));
        println!("{}: {} rebalances, {longest}", way.name, 2 * MEMBERS);
    }
    verdict.expect_once(&bed)
}

/// Every broker is restarted: static members see no rebalance, nothing is lost, nothing comes twice.
pub(in crate::scenarios) async fn restart(context: &mut Context) -> Outcome {
    let bed = Bed::new(context).await?;
    let members = bed.members(MEMBERS, |options, number| {
        options.instance = Some(format!("instance-{number}"));
        options.session_ms = millis(SESSION_OVER_RESTARTS);
    });
    let mut members = members.await?;
    let before = rebalances(&members)?;
    let kafka = context.harness()?;
    let restarting = async {
        for node in 0..kafka.len() {
            kafka.terminate(node).await?;
            kafka.restart(node).await?;
            println!("broker {node} is back");
        }
        Ok(())
    };
    let ((), sent) = bed.under_load(restarting).await?;
    bed.finish(&mut members).await?;
    let after = rebalances(&members)?;
    let verdict = bed.judge(sent, &members).await?;
    println!("rebalances of each member before {before:?}, after {after:?}");
    if before != after {
        return Err("a static member saw a rebalance".into());
    }
    verdict.expect_once(&bed)
}
