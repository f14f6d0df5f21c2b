//! The integration tests: the program and the library against real servers.
#![cfg(test)]

mod bytes;
mod corpus;
mod history;
mod identity;
mod oracle;
mod rejects;
mod resume;
mod rows;
mod server;
mod vecload;
mod vectors;
