//! Whatever happens, in any order.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Put { partition: i32, size: usize },
    Wait(u64),
    Write(usize),
    Lose(usize),
    TooLarge(usize),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3, 0_usize..600).prop_map(|(partition, size)| Step::Put { partition, size }),
        2 => (1_u64..200).prop_map(Step::Wait),
        3 => (0_usize..3).prop_map(Step::Write),
        1 => (0_usize..3).prop_map(Step::Lose),
        1 => (0_usize..3).prop_map(Step::TooLarge),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens: each record has one result at the end, the buffer's bound holds and all of
    /// it is free again, and what was written is in the order of the calls.
    #[test]
    fn every_record_has_one_result_and_its_place(steps in prop::collection::vec(step(), 1..150)) {
        let config = ProducerConfig {
            buffer_memory: 8_000,
            max_request_size: 2_000,
            batch_size: 1_000,
            ..config()
        };
        let mut bed = Bed::new(config, 3);
        let mut handles = Vec::new();
        let mut flying: Vec<Dispatch> = Vec::new();
        let mut log: [Vec<String>; 3] = Default::default();
        let mut number = 0;
        for step in steps {
            let sent = bed.drain();
            flying.extend(sent);
            match step {
                Step::Put { partition, size } => {
                    let value = format!("{number:06}{}", "x".repeat(size));
                    let record = Record::new("t").partition(partition).value(value);
                    if let Some(handle) = bed.try_put(record) {
                        number += 1;
                        handles.push(handle);
                    }
                }
                Step::Wait(wait) => bed.now += ms(wait),
                Step::Flush => { bed.acc.flush(); }
                Step::Write(i) if i < flying.len() => {
                    let dispatch = flying.remove(i);
                    let partition = dispatch.partition.partition as usize;
                    log[partition].extend(values(&dispatch.batch));
                    bed.write(vec![dispatch]);
                }
                Step::Lose(i) if i < flying.len() => {
                    let dispatch = flying.remove(i);
                    bed.fail(dispatch, lost());
                }
                Step::TooLarge(i) if i < flying.len() => {
                    let dispatch = flying.remove(i);
                    let code = ErrorCode::MESSAGE_TOO_LARGE;
                    bed.fail(dispatch, Error::from_code(code, "Produce"));
                }
                _ => {}
            }
            prop_assert!(bed.acc.used() <= 8_000);
            prop_assert_eq!(bed.acc.reserved, held_in_buffers(&bed.acc));
            bed.settle();
        }
        let report = bed.acc.close_now();
        bed.settle();
        let mut written = 0;
        for handle in handles {
            let result = handle.now_or_never();
            prop_assert!(result.is_some());
            written += u64::from(result.is_some_and(|r| r.is_ok()));
        }
        prop_assert_eq!(report.delivered, written + 1);
        prop_assert_eq!(log.iter().map(|l| l.len() as u64).sum::<u64>(), written);
        for values in log {
            prop_assert!(values.is_sorted());
        }
        prop_assert_eq!(bed.acc.used(), 0);
        prop_assert_eq!((bed.acc.reserved, bed.acc.in_flight), (0, 0));
        prop_assert!(bed.acc.outstanding == 0 && bed.acc.outstanding_before.is_empty());
    }
}

/// What the buffers of all batches take, counted one by one.
fn held_in_buffers(acc: &Accumulator) -> usize {
    let of_queue = |queue: &Queue| {
        let open = queue.open.iter().map(|open| open.builder.capacity());
        let ready = queue.ready.iter().map(|batch| batch.reserved);
        let in_flight = queue.in_flight.iter().map(|flight| flight.batch.reserved);
        open.chain(ready).chain(in_flight).sum::<usize>()
    };
    acc.queues.iter().map(of_queue).sum()
}
