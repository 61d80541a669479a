//! Measures every codec on batches of order events: ratio, MB/s in and out, best of five.
//!
//! `cargo run --release -p ottla-record-batch --example codecs`

use ottla_record_batch::{
    AppendError, BatchBuilder, Compression, Compressor, EncodedBatch, RecordSet,
};
use ottla_types::Headers;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const BYTES_PER_SIZE: usize = 8 << 20;
const STATES: [&str; 3] = ["created", "paid", "packed"];
const CITIES: [&str; 4] = ["Berlin", "Lyon", "Porto", "Oslo"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("| batch | codec | ratio | MB/s compressed | MB/s read |\n|---|---|---|---|---|");
    for size in [64 << 10, 256 << 10, 1 << 20] {
        let batches = (0..BYTES_PER_SIZE / size).map(|seed| orders(size, seed as u64));
        let batches: Vec<EncodedBatch> = batches.collect::<Result<_, _>>()?;
        let bytes: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
        for codec in Compression::SUPPORTED.iter().skip(1) {
            measure(size, *codec, &batches, bytes)?;
        }
    }
    Ok(())
}

fn measure(
    size: usize,
    codec: Compression,
    batches: &[EncodedBatch],
    bytes: usize,
) -> Result<(), Box<dyn Error>> {
    let mut compressor = Compressor::new(codec)?;
    let (mut best_write, mut best_read) = (Duration::MAX, Duration::MAX);
    let mut compressed_bytes = 0;
    for _ in 0..ROUNDS {
        let started = now();
        let compressed: Vec<EncodedBatch> = batches
            .iter()
            .map(|batch| batch.clone().compressed(&mut compressor))
            .collect();
        best_write = best_write.min(started.elapsed());
        compressed_bytes = compressed.iter().map(|batch| batch.bytes().len()).sum();
        let started = now();
        for batch in compressed {
            for view in RecordSet::from(batch).batches() {
                for record in view?.records() {
                    black_box(record?);
                }
            }
        }
        best_read = best_read.min(started.elapsed());
    }
    println!(
        "| {} KiB | {codec} | {:.2} | {:.0} | {:.0} |",
        size >> 10,
        bytes as f64 / compressed_bytes as f64,
        bytes as f64 / 1e6 / best_write.as_secs_f64(),
        bytes as f64 / 1e6 / best_read.as_secs_f64(),
    );
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "a measurement, outside of the pure crate"
)]
fn now() -> Instant {
    Instant::now()
}

/// A full batch of JSON order events of about 400 bytes each.
fn orders(size: usize, seed: u64) -> Result<EncodedBatch, AppendError> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut builder = BatchBuilder::new(size);
    for number in 0_i64.. {
        let items: Vec<String> = (0..random.usize(1..4))
            .map(|_| {
                format!(
                    r#"{{"sku":"SKU-{:06}","quantity":{},"unit_price_cents":{}}}"#,
                    random.u32(0..50_000),
                    random.u32(1..6),
                    random.u32(199..99_999)
                )
            })
            .collect();
        let value = format!(
            r#"{{"type":"order.created","event_id":"{:032x}","order_id":"order-{number}","customer_id":"c-{:07}","created_at":"2026-05-{:02}T10:{:02}:{:02}.{:03}Z","currency":"EUR","status":"{}","shipping":{{"city":"{}","zip":"{:05}"}},"items":[{}]}}"#,
            random.u128(..),
            random.u32(0..400_000),
            random.u32(1..29),
            random.u32(0..60),
            random.u32(0..60),
            random.u32(0..1_000),
            STATES[random.usize(0..STATES.len())],
            CITIES[random.usize(0..CITIES.len())],
            random.u32(0..100_000),
            items.join(",")
        );
        let key = format!("order-{number}");
        let at = 1_700_000_000_000 + number;
        let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
        match builder.try_append(at, key, value, &Headers::new()) {
            Ok(_) => {}
            Err(AppendError::Full) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(builder.finish())
}
