//! The core against both stores in memory: converge, backfill, sweep, sessions and the flip.

mod anchored;
mod canary;
mod converge;
mod cutover;
mod direct;
mod faults;
mod flip;
mod foreign;
mod gateway;
mod gateway_door;
mod groups;
mod harness;
mod large;
mod long;
mod plans;
mod plant;
mod property;
mod readers;
mod reverse;
mod reverse_sweep;
mod schedules;
mod session;
mod shadow;
mod steps;
mod sweep;
mod way_back;
