//! A member whose steps are made one by one.

mod assignments;
mod rig;
mod transactions;
