//! What a process needs whatever it does: the clock, tasks and their stop, signs of life, programs.

pub mod activity;
pub mod backoff;
pub mod clock;
pub mod health;
pub mod lasting;
pub mod programs;
pub mod stop;
pub mod tasks;
