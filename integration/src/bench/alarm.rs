//! Sleeps to a tenth of a millisecond or so. The runtime's own timer counts in whole milliseconds and
//! rounds up, which is a third of what the handlers of `parallel` take.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A thread that wakes sleepers.
#[derive(Debug)]
pub(super) struct Alarm {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The places of those that sleep, the earliest due time first.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    sleepers: Vec<Option<oneshot::Sender<()>>>,
    free: Vec<usize>,
    is_closed: bool,
}

impl Alarm {
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("alarm".to_owned())
            .spawn(move || own.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Returns after `duration`.
    pub(super) async fn sleep(&self, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        let woken = self.shared.add(Instant::now() + duration);
        // The thread ends with the alarm, which is borrowed here.
        let _ = woken.await;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, at: Instant) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        let mut state = self.lock();
        let place = state.free.pop().unwrap_or(state.sleepers.len());
        if place == state.sleepers.len() {
            state.sleepers.push(None);
        }
        state.sleepers[place] = Some(wake);
        let is_first = state
            .due
            .peek()
            .is_none_or(|Reverse((earliest, _))| at < *earliest);
        state.due.push(Reverse((at, place)));
        drop(state);
        if is_first {
            self.changed.notify_one();
        }
        woken
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.is_closed {
            let now = Instant::now();
            state = match state.due.peek().copied() {
                None => {
                    let woken = self.changed.wait(state);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
                Some(Reverse((at, place))) if at <= now => {
                    state.due.pop();
                    state.free.push(place);
                    if let Some(wake) = state.sleepers[place].take() {
                        // A sleeper that is gone needs no waking.
                        let _ = wake.send(());
                    }
                    state
                }
                Some(Reverse((at, _))) => {
                    let woken = self.changed.wait_timeout(state, at - now);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    #[tokio::test]
    async fn nobody_is_woken_early_and_the_shorter_sleep_ends_first() {
        let alarm = Alarm::start().unwrap();
        let started = Instant::now();
        let sleep = |micros: u64| {
            let alarm = &alarm;
            async move {
                alarm.sleep(Duration::from_micros(micros)).await;
                assert!(started.elapsed() >= Duration::from_micros(micros));
                started.elapsed()
            }
        };
        let woken = join_all([40_000, 5_000, 0, 20_000].map(sleep)).await;
        assert!(woken[2] < woken[1] && woken[1] < woken[3] && woken[3] < woken[0]);
    }

    #[tokio::test]
    async fn places_are_used_again() {
        let alarm = Alarm::start().unwrap();
        for _ in 0..50 {
            join_all((0..4).map(|n| alarm.sleep(Duration::from_micros(50 * n)))).await;
        }
        assert!(alarm.shared.lock().sleepers.len() <= 4);
    }
}
