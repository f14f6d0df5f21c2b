//! `pipeline.toml`, sizes and counts.

pub mod file;
pub mod sizes;
