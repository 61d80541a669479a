//! What the shop's database promises: which rows must be published, and what must follow from them.

use super::event::{CloseUnpaid, EventKind, OrderEvent};
use super::extras::Extras;
use super::faults::{Plan, plan};
use super::load;
use super::service::tier_topics;
use super::shop::{Order, Status};
use super::topics::{CLOSE_GROUP, NOTIFY_GROUPS, PAYMENT_WINDOW, Topics};
use crate::history::{Copies, Derived, Expected, FailedForGood, History, OutboxRow, RowState};
use ottla::store::{OutboxStore, Settled, StoreError};
use ottla::store_redb::RedbOutbox;
use ottla::types::{Record, names};
use std::collections::BTreeMap;

const PAGE: usize = 1000;

/// A row as the database has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredRow {
    state: RowState,
    value_crc: Option<u32>,
}

/// The orders that customers were told of, or refused, of the first `placed` ones.
pub(super) fn promise_orders(placed: u64, orders: &[Order], history: &mut History) {
    for n in 0..placed {
        let order = load::order_id(n);
        if load::is_refused(n) {
            let created = OrderEvent::id(&order, EventKind::Created);
            history.rolled_back.insert(created);
            history.rolled_back.insert(CloseUnpaid::message_id(&order));
        } else {
            history.confirmed.insert(format!("order {order}"));
        }
    }
    let stored = orders.iter().map(|o| format!("order {}", o.order_id));
    history.stored.extend(stored);
}

/// Which topics hold copies of which.
pub(super) fn promise_copies(topics: &Topics, history: &mut History) {
    let main = topics.orders();
    let delay_ms = i64::try_from(PAYMENT_WINDOW.as_millis()).unwrap_or(i64::MAX);
    let mut derived = vec![
        (topics.dead_letters(), main.clone(), Copies::DeadLetters),
        (
            topics.timeouts(),
            topics.payment_delay(),
            Copies::Delayed { delay_ms },
        ),
    ];
    for group in NOTIFY_GROUPS.map(|g| topics.group(g)) {
        for (failures, tier) in (1..).zip(tier_topics(topics, &group)) {
            let group = group.clone();
            derived.push((tier, main.clone(), Copies::Retry { group, failures }));
        }
    }
    let derived = derived.into_iter().map(|(topic, source, copies)| Derived {
        topic,
        source,
        copies,
    });
    history.derived.extend(derived);
}

/// Every event and every closing message of a stored order is a row of the outbox.
pub(super) fn promise_rows(
    topics: &Topics,
    orders: &[Order],
    stored: &BTreeMap<String, StoredRow>,
    history: &mut History,
) {
    let mut rows = Vec::new();
    let mut closes: BTreeMap<&str, u64> = BTreeMap::new();
    for order in orders {
        for event in &order.events {
            rows.push((
                event.event_id.clone(),
                topics.orders(),
                &order.customer,
                event.seq,
            ));
        }
        // The order of a customer's orders is that of their first events.
        if let Some(first) = order.events.first() {
            closes.insert(&order.order_id, first.seq);
            let id = CloseUnpaid::message_id(&order.order_id);
            rows.push((id, topics.payment_delay(), &order.customer, first.seq));
        }
    }
    history
        .outbox
        .extend(rows.into_iter().map(|(id, topic, key, seq)| OutboxRow {
            state: stored.get(&id).map_or(RowState::Absent, |row| row.state),
            value_crc: stored.get(&id).and_then(|row| row.value_crc),
            id,
            topic,
            key: Some(key.clone()),
            seq,
            committed: true,
        }));
}

/// Every event is told to the customer by each group, or fails for good; every order that is not paid
/// is closed.
pub(super) fn promise_effects(
    topics: &Topics,
    orders: &[Order],
    extras: &Extras,
    history: &mut History,
) {
    for group in NOTIFY_GROUPS {
        let name = topics.group(group);
        let failed = |id: &str| FailedForGood {
            group: name.clone(),
            topic: topics.orders(),
            id: id.to_owned(),
            dead_letter_topic: topics.dead_letters(),
        };
        for event in orders.iter().flat_map(|o| &o.events) {
            if plan(group, &event.event_id) == Plan::FailAlways {
                history.failed_for_good.push(failed(&event.event_id));
            } else {
                history.expected.push(Expected {
                    group: name.clone(),
                    id: event.event_id.clone(),
                    kind: "notify".into(),
                });
            }
        }
        history
            .failed_for_good
            .extend(extras.poison.iter().map(|id| failed(id)));
    }
    for order in orders.iter().filter(|o| o.status != Status::Paid) {
        history.expected.push(Expected {
            group: topics.group(CLOSE_GROUP),
            id: order.order_id.clone(),
            kind: "close".into(),
        });
    }
}

/// The rows of the outbox, whatever has become of them.
pub(super) async fn rows(outbox: &RedbOutbox) -> Result<BTreeMap<String, StoredRow>, StoreError> {
    let mut states = BTreeMap::new();
    let mut after = None;
    loop {
        let page = outbox.pending(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        states.extend(
            page.iter()
                .map(|r| stored_row(&r.record, RowState::Pending)),
        );
    }
    for (settled, state) in [
        (Settled::Sent, RowState::Sent),
        (Settled::Parked, RowState::Parked),
    ] {
        after = None;
        loop {
            let page = outbox.settled(settled, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.row.id);
            states.extend(page.iter().map(|r| stored_row(&r.row.record, state)));
        }
    }
    Ok(states)
}

fn stored_row(record: &Record, state: RowState) -> (String, StoredRow) {
    let id = record.headers.last_str(names::MESSAGE_ID);
    let value_crc = record.value.as_deref().map(crc32fast::hash);
    let row = StoredRow { state, value_crc };
    (id.unwrap_or_default().to_owned(), row)
}
