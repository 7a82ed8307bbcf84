//! Hostile guests and hostile clients, each beside an innocent tenant.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "hostile/beside.rs"]
mod beside;
#[path = "hostile/computing.rs"]
mod computing;
#[path = "hostile/guests.rs"]
mod guests;
#[path = "hostile/holding.rs"]
mod holding;
