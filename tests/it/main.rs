//! The integration tests: the program and the library against real servers.
#![cfg(test)]

mod program;
mod server;
mod session;

mod oracle;
mod rows;

mod bytes;
mod citus;
mod connect;
mod corpus;
mod damage;
mod embedded;
mod floats;
mod generate;
mod help;
mod history;
mod identity;
mod indexes;
mod inputs;
mod mapping;
mod migrate;
mod nested;
mod output;
mod rejects;
mod resume;
mod search;
mod vectors;
