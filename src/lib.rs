//! vecload loads embeddings in bulk into a pgvector table, on one PostgreSQL server or sharded by Citus,
//! through `COPY … FROM STDIN` in binary, every row exactly once.
//!
//! # The path of the data
//!
//! A [`source`] is cut into units. Lanes, which are threads, read units as batches; the [`batch`]er maps
//! their columns to the target's and checks every row; the [`partition`]er hashes each row's channel and
//! encodes it for [`copy`]. Encoded rows gather in blocks, which go to a [`route`]'s endpoint: a [`writer`]
//! commits each block in one transaction with its row in the [`ledger`]. The [`pipeline`] wires these
//! stages, within the [`memory`] that it is given.
//!
//! Around it: [`postgres`] connects and knows the catalog, [`mod@index`] drops and builds indexes, [`report`]
//! tells what happened, [`search`] finds rows again, [`tune`] sets a database up for that, [`mod@verify`] looks whether
//! all is well, [`cluster`] looks after the nodes of a Citus cluster, [`mod@generate`] writes synthetic rows to files,
//! [`embedded`] runs a server, [`config`] reads `pipeline.toml`, and [`cli`] is the command line. [`mod@fault`] has the
//! places where tests let the process die.

pub mod batch;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod copy;
pub mod embedded;
pub mod error;
pub mod fault;
pub mod generate;
pub mod index;
pub mod ledger;
pub mod memory;
pub mod partition;
pub mod pipeline;
pub mod postgres;
pub mod report;
pub mod route;
pub mod search;
pub mod source;
pub mod tune;
pub mod verify;
pub mod writer;
