//! Shows how the flow goes: bars on a terminal, plain lines elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Orders confirmed or refused, of how many.
    pub orders: (u64, u64),
    /// Orders paid or closed, of those placed.
    pub settled: (u64, u64),
    /// Outbox rows that wait.
    pub pending_rows: u64,
    /// Messages to customers so far.
    pub effects: u64,
    /// Records that the groups have not committed as handled.
    pub lag: Option<i64>,
}

impl Snapshot {
    /// Whether nothing is left to do.
    pub fn is_at_rest(&self) -> bool {
        self.settled.0 == self.settled.1 && self.pending_rows == 0 && self.lag == Some(0)
    }
}

/// Where it is shown.
pub enum Progress {
    /// Bars that are drawn over.
    Bars {
        /// Orders.
        orders: ProgressBar,
        /// Paid or closed orders.
        settled: ProgressBar,
        /// One line of text.
        text: ProgressBar,
        /// Keeps the bars together.
        all: MultiProgress,
    },
    /// A line whenever something changed, once a second at most.
    Lines {
        /// What was said last, and when.
        last: Option<(Instant, Snapshot)>,
    },
}

impl Progress {
    /// Bars if standard output is a terminal.
    pub fn new() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::Lines { last: None };
        }
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>10} [{bar:40}] {pos}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let text = ProgressStyle::with_template("{msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = |prefix: &'static str| {
            all.add(
                ProgressBar::new(0)
                    .with_style(style.clone())
                    .with_prefix(prefix),
            )
        };
        let (orders, settled) = (bar("orders"), bar("settled"));
        let text = all.add(ProgressBar::new_spinner().with_style(text));
        Self::Bars {
            orders,
            settled,
            text,
            all,
        }
    }

    /// Says something that stays.
    pub fn say(&self, line: &str) {
        match self {
            // A terminal that has gone away has nobody to tell.
            Self::Bars { all, .. } => drop(all.println(line)),
            Self::Lines { .. } => println!("{line}"),
        }
    }

    /// Shows the present state.
    pub fn show(&mut self, now: Snapshot) {
        match self {
            Self::Bars {
                orders,
                settled,
                text,
                ..
            } => {
                for (bar, (done, of)) in [(orders, now.orders), (settled, now.settled)] {
                    bar.set_length(of);
                    bar.set_position(done);
                }
                text.set_message(describe(&now));
            }
            Self::Lines { last } => {
                let due = last.is_none_or(|(at, before)| {
                    before != now && at.elapsed() >= Duration::from_secs(1)
                });
                if due {
                    println!(
                        "orders {}/{}, settled {}/{}, {}",
                        now.orders.0,
                        now.orders.1,
                        now.settled.0,
                        now.settled.1,
                        describe(&now)
                    );
                    *last = Some((Instant::now(), now));
                }
            }
        }
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        if let Self::Bars {
            orders,
            settled,
            text,
            ..
        } = self
        {
            for bar in [orders, settled, text] {
                bar.finish_and_clear();
            }
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

fn describe(now: &Snapshot) -> String {
    let lag = now
        .lag
        .map_or_else(|| "not known".to_owned(), |lag| lag.to_string());
    format!(
        "outbox {} waiting, {} messages sent, lag {lag}",
        now.pending_rows, now.effects
    )
}
