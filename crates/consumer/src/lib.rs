//! placeholder
mod handler;
pub use handler::*;
pub use ottla_types::ConsumedRecord;
