//! The integration tests: the program and the library against real servers.
#![cfg(test)]

mod cluster;
mod program;
mod server;
mod session;

mod oracle;
mod rows;
mod texts;

mod bytes;
mod citus;
mod compaction;
mod compose;
mod connect;
mod corpus;
mod damage;
mod embedded;
mod faults;
mod floats;
mod generate;
mod help;
mod history;
mod identity;
mod indexes;
mod inputs;
mod jsonl;
mod lost_node;
mod mapping;
mod migrate;
mod migrate_citus;
mod nested;
mod nodes;
mod output;
mod refusals;
mod rejects;
mod resume;
mod search;
mod search_citus;
mod shards;
mod streams;
mod text;
mod text_damage;
mod text_rejects;
mod tune;
mod vectors;
mod verify;
