//! When batches close and which go out.

use super::*;

#[test]
fn a_batch_is_sent_when_it_lingered() {
    let mut bed = Bed::new(config(), 1);
    let handle = bed.put(to_zero(5));
    assert!(bed.drain().is_empty());
    assert_eq!(bed.acc.next_wake(bed.now), Some(bed.now + ms(10)));
    bed.now += ms(10);
    let sent = bed.drain();
    assert_eq!(sent.len(), 1);
    bed.write(sent);
    let written = bed.result(handle).expect("a result").expect("written");
    assert_eq!((written.offset, written.timestamp_ms), (Some(0), 1_000));
    assert_eq!(bed.acc.used(), 0);
}

#[test]
fn ten_records_or_one_second_whichever_is_first() {
    let config = ProducerConfig {
        linger: ms(1_000),
        delivery_timeout: ms(5_000),
        batch_records: NonZeroU32::new(10),
        ..config()
    };
    let mut bed = Bed::new(config, 1);
    let handles: Vec<_> = (0..13).map(|_| bed.put(to_zero(1))).collect();
    let sent = bed.drain();
    assert_eq!(sent[0].batch.record_count(), 10);
    bed.write(sent);
    assert!(bed.drain().is_empty());
    bed.now += ms(1_000);
    let sent = bed.drain();
    assert_eq!(sent[0].batch.record_count(), 3);
    bed.write(sent);
    let offsets: Vec<_> = handles
        .into_iter()
        .map(|h| bed.result(h).expect("a result").expect("written").offset)
        .collect();
    assert_eq!(offsets, (0..13).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_full_batch_does_not_linger_and_a_large_record_has_its_own() {
    let config = ProducerConfig {
        batch_size: 500,
        ..config()
    };
    let mut bed = Bed::new(config, 1);
    for _ in 0..3 {
        drop(bed.put(to_zero(200)));
    }
    drop(bed.put(to_zero(5_000)));
    drop(bed.put(to_zero(1)));
    let mut sizes = Vec::new();
    bed.now += ms(10);
    loop {
        let sent = bed.drain();
        let Some(dispatch) = sent.first() else { break };
        sizes.push(dispatch.batch.record_count());
        bed.write(sent);
    }
    assert_eq!(sizes, [2, 1, 1, 1]);
}

#[test]
fn one_batch_of_a_partition_is_in_flight_and_a_retry_goes_first() {
    let config = ProducerConfig {
        batch_records: NonZeroU32::new(1),
        ..config()
    };
    let mut bed = Bed::new(config, 2);
    for value in ["a", "b"] {
        drop(bed.put(Record::new("t").partition(0).value(value)));
        drop(bed.put(Record::new("t").partition(1).value(value)));
    }
    let mut sent = bed.drain();
    assert_eq!(sent.len(), 2, "one a partition");
    assert!(bed.drain().is_empty());
    let other = sent.pop().expect("two");
    let first = sent.pop().expect("two");
    bed.write(vec![other]);
    assert_eq!(is_sent_again(&bed.fail(first, lost())), Some(true));
    // The other partition goes on meanwhile.
    let sent = bed.drain();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].partition.partition, 1);
    let failed_at = bed.now;
    let mut sent = Vec::new();
    while sent.is_empty() {
        bed.now = bed.acc.next_wake(bed.now).expect("a time");
        sent = bed.drain();
    }
    assert!(bed.now > failed_at && bed.now <= failed_at + ms(100));
    assert_eq!(values(&sent[0].batch), ["a"]);
    bed.write(sent);
    assert_eq!(values(&bed.drain()[0].batch), ["b"]);
}

#[test]
fn the_buffer_is_bounded_and_room_comes_back() {
    let config = ProducerConfig {
        buffer_memory: 10_000,
        max_request_size: 5_000,
        batch_size: 4_000,
        ..config()
    };
    let mut bed = Bed::new(config, 1);
    let mut taken = 0;
    while bed.try_put(to_zero(900)).is_some() {
        taken += 1;
        assert!(bed.acc.used() <= 10_000);
    }
    assert_eq!(taken, 10);
    assert_eq!(bed.acc.room(900), Ok(false));
    assert_eq!(bed.acc.room(5_000), Err(PublishErrorKind::RecordTooLarge));
    let sent = bed.drain();
    bed.write(sent);
    assert!(bed.acc.take_effects().is_some_and(|e| e.progress));
    assert_eq!(bed.acc.room(900), Ok(true));
    assert!(bed.try_put(to_zero(900)).is_some());
}

#[test]
fn records_wait_for_their_topic_in_order() {
    let mut bed = Bed::unknown(config());
    for i in 0..5 {
        drop(bed.put(Record::new("t").key("k").value(i.to_string())));
    }
    assert_eq!(bed.acc.take_wanted(), [Arc::from("t")]);
    bed.now += ms(150);
    let topic = Arc::from("t");
    let creating = Error::from_code(ErrorCode::LEADER_NOT_AVAILABLE, "Metadata");
    let next = bed.acc.apply_topic(&topic, Err(creating), bed.now);
    assert_eq!(next, TopicNext::Retry);
    bed.acc.apply_topic(&topic, Ok(described("t", 3)), bed.now);
    drop(bed.put(Record::new("t").key("k").value("5")));
    let sent = bed.drain();
    assert_eq!(sent.len(), 1);
    assert_eq!(values(&sent[0].batch), ["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn the_rate_limit_holds_batches_back() {
    let mut bed = Bed::new(config(), 1);
    drop(bed.put(to_zero(1)));
    bed.now += ms(10);
    bed.gate = Some(bed.now + ms(30));
    assert!(bed.drain().is_empty());
    assert_eq!(bed.acc.next_wake(bed.now), bed.gate);
    bed.gate = None;
    assert_eq!(bed.drain().len(), 1);
}

#[test]
fn the_rate_limit_lets_partitions_take_turns() {
    let config = ProducerConfig {
        batch_records: NonZeroU32::new(1),
        max_in_flight: NonZeroU32::new(5),
        ..config()
    };
    let mut bed = Bed::new(config, 3);
    for partition in [0, 1, 2].repeat(20) {
        drop(bed.put(Record::new("t").partition(partition)));
    }
    let mut counts = [0; 3];
    for _ in 0..10 {
        let (mut left, until) = (3, bed.now + ms(10));
        let sent = bed.acc.drain(bed.now, &mut |_| {
            left -= 1;
            (left < 0).then_some(until)
        });
        assert_eq!(sent.len(), 3);
        for dispatch in &sent {
            counts[dispatch.partition.partition as usize] += 1;
        }
        bed.write(sent);
        bed.now = until;
    }
    assert!(counts.iter().all(|count| *count >= 7), "{counts:?}");
}

#[test]
fn sticky_records_fill_one_batch_then_move_on() {
    let config = ProducerConfig {
        batch_records: NonZeroU32::new(4),
        ..config()
    };
    let mut bed = Bed::new(config, 3);
    let mut partitions = Vec::new();
    for _ in 0..6 {
        for _ in 0..4 {
            drop(bed.put(Record::new("t")));
        }
        let sent = bed.drain();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].batch.record_count(), 4);
        partitions.push(sent[0].partition.partition);
        bed.write(sent);
    }
    assert!(
        partitions.windows(2).all(|pair| pair[0] != pair[1]),
        "{partitions:?}"
    );
}

#[test]
fn buffers_are_used_again_and_stay_within_buffer_memory() {
    let config = ProducerConfig {
        buffer_memory: 100_000,
        max_request_size: 100_000,
        batch_size: 20_000,
        ..config()
    };
    let mut bed = Bed::new(config, 8);
    let mut most = 0;
    for _ in 0..50 {
        // Half of the memory in records, over more partitions than have room for a whole batch each.
        let handles: Vec<_> = (0..80)
            .map(|i| bed.put(Record::new("t").partition(i % 8).value(vec![0; 600])))
            .collect();
        most = most.max(bed.acc.reserved + bed.acc.spares.bytes());
        bed.now += ms(10);
        let sent = bed.drain();
        assert_eq!(sent.len(), 8);
        let (first, rest) = sent
            .into_iter()
            .enumerate()
            .partition::<Vec<_>, _>(|(i, _)| *i == 0);
        let others = rest.into_iter().map(|(_, dispatch)| dispatch).collect();
        bed.write(others);
        assert!(bed.acc.spares.bytes() > 0, "what was written is kept");
        bed.write(first.into_iter().map(|(_, dispatch)| dispatch).collect());
        // Nothing is under way: one small piece is kept.
        assert_eq!((bed.acc.reserved, bed.acc.spares.bytes()), (0, 4_096));
        drop(handles);
    }
    assert!(most <= 100_000 + 8 * 4_096, "{most}");
}

#[test]
fn a_batch_that_somebody_reads_is_no_spare() {
    let mut bed = Bed::new(config(), 2);
    let (kept, _other) = (bed.put(to_zero(5)), bed.put(Record::new("t").partition(1)));
    bed.now += ms(10);
    let mut sent = bed.drain();
    let read = sent[0].batch.bytes().clone();
    let before = read.to_vec();
    bed.write(vec![sent.remove(0)]);
    assert!(bed.result(kept).is_some_and(|result| result.is_ok()));
    assert_eq!(bed.acc.spares.bytes(), 0);
    drop(bed.put(to_zero(9)));
    assert_eq!(read, before);
}

#[test]
fn buffers_that_are_hardly_filled_stay_within_the_memory() {
    let memory = 1_000_000;
    let mut bed = Bed::new(
        ProducerConfig {
            buffer_memory: memory,
            max_request_size: memory,
            ..config()
        },
        2_000,
    );
    let mut handles = Vec::new();
    for partition in 0..2_000 {
        handles.push(bed.put(Record::new("t").partition(partition).value("few")));
    }
    // More than half of them have just what they need.
    let needed = 2_000 * 512;
    assert!(bed.acc.reserved <= memory + needed, "{}", bed.acc.reserved);
    let mut large = 0;
    while let Some(handle) = bed.try_put(to_zero(8_500)) {
        large += 1;
        handles.push(handle);
    }
    assert!(large > 80);
    let used = bed.acc.used();
    assert!(
        bed.acc.reserved <= memory + needed + used,
        "{}",
        bed.acc.reserved
    );
    drop(handles);
}

#[test]
fn who_can_wait_for_a_topic_does_not_pile_records_up() {
    let mut bed = Bed::unknown(config());
    let now = bed.now;
    let put = |bed: &mut Bed, caller| {
        let record = Record::new("t").partition(0);
        bed.acc.enqueue(&record, caller, At(now))
    };
    let mut handles: Vec<_> = (0..1_000).map(|_| put(&mut bed, Caller::Waits)).collect();
    assert!(handles.iter().all(Option::is_some));
    assert!(put(&mut bed, Caller::Waits).is_none());
    handles.push(put(&mut bed, Caller::Insists));
    assert!(handles[1_000].is_some());
    bed.acc.take_effects();
    let topic = Arc::from("t");
    bed.acc.apply_topic(&topic, Ok(described("t", 1)), now);
    let effects = bed.acc.take_effects().expect("effects");
    assert!(effects.apply().progress, "those who wait look again");
    assert!(put(&mut bed, Caller::Waits).is_some());
}
