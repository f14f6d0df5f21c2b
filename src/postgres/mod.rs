//! The way to PostgreSQL: where to connect and how, sessions, and what the server says.
//!
//! [`ConnectSettings::resolve`] reads URL, service file, environment and password file as libpq does;
//! [`ConnectSettings::connect`] opens a [`Session`].

mod advice;
pub mod catalog;
pub mod citus;
mod connect;
mod conninfo;
pub mod distribute;
mod failure;
mod hosts;
pub mod migrate;
mod options;
mod parameters;
mod passfile;
mod pooler;
pub mod quote;
pub mod server_error;
mod service;
pub mod session;
pub mod settings;
pub mod sqlstate;
mod tls;
mod tls_files;
pub mod types;
mod verifier;
pub mod watch;

pub use conninfo::redacted;
pub use quote::{QualifiedName, quote_ident, quote_literal};
pub use server_error::{ServerError, pg_error};
pub use session::{Canceller, Session, SessionOptions};
pub use settings::ConnectSettings;
