//! Whatever is killed, every row of a source is in the table once: deaths at named points, rounds of random faults.

mod cluster_rounds;
mod commits;
mod dice;
mod field;
mod own_server;
mod points;
mod proxy;
mod rounds;
mod source;
mod tally;
mod workers;
