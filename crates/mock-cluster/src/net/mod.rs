//! The network edge of a broker: its port, its connections, frames in and out.

mod connection;
mod port;

pub(crate) use port::{Port, hold, report, serve};
