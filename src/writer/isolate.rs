//! The rows of a block that the server refuses: found one by one, so that the rest can go in.
//!
//! The block is sent again from where it is known to be good. The server names the line of the COPY at which it
//! stopped, as PostgreSQL does for rows, constraints and triggers that are checked row by row; where it doesn't (checks
//! at the end of a statement or a transaction, Citus), the shortest beginning that it refuses is found by halving. All
//! of it happens in one transaction that is rolled back.

use bytes::{Bytes, BytesMut};
use tokio_postgres::error::SqlState;

use super::{WriteFailure, Writer};
use crate::copy::{HEADER, TRAILER};
use crate::error::Error;
use crate::partition::HeldBlock;
use crate::postgres::ServerError;
use crate::postgres::watch::Watched;

/// A block of which so many rows, and half of them, are refused, is guilty as a whole: something is wrong with the
/// table or the source, and not with rows.
const GUILTY_ROWS_MIN: usize = 100;

/// A tuple that the server refuses, by its number in sending order, and what it says.
pub type RefusedTuple = (usize, ServerError);

impl Writer {
    /// Finds the tuples of a block that the server refuses, at most `most` of them.
    pub async fn find_refused(
        &mut self,
        held: &HeldBlock,
        most: usize,
        watched: &Watched,
    ) -> Result<Vec<RefusedTuple>, WriteFailure> {
        self.turn_to(self.endpoint.table_of(held.place)).await?;
        let tuples = held.block.tuples();
        let found = self.search(&tuples, most, watched).await;
        self.roll_back().await;
        found
    }

    async fn search(
        &self,
        tuples: &[Bytes],
        most: usize,
        watched: &Watched,
    ) -> Result<Vec<RefusedTuple>, WriteFailure> {
        self.execute("begin").await?;
        self.guard(watched).await?;
        let mut refused = Vec::new();
        let mut good = 0;
        while good < tuples.len() && refused.len() < most {
            // Everything before `good` is in, or refused.
            let rest = &tuples[good..];
            let Some(refusal) = self.try_rows(rest, watched).await? else { break };
            let named = refusal.copy_line(&self.table().relation).filter(|line| *line <= rest.len());
            self.execute("savepoint vecload_round").await?;
            let guilty = match named {
                Some(line) if self.goes_in_before(rest, line, watched).await? => line,
                _ => {
                    self.execute("rollback to savepoint vecload_round").await?;
                    self.halve(rest, watched).await?
                }
            };
            // By itself: what refused it before may be over.
            let last = self.try_rows(&rest[guilty - 1..guilty], watched).await?;
            self.execute("release savepoint vecload_round").await?;
            if let Some(last) = last {
                refused.push((good + guilty - 1, last));
            }
            good += guilty;
            if refused.len() >= GUILTY_ROWS_MIN && refused.len() * 2 > tuples.len() {
                return Err(self.whole_block(&refused, tuples.len()).into());
            }
        }
        Ok(refused)
    }

    /// Whether the rows before the one of this line go in; then they are in.
    async fn goes_in_before(
        &self,
        rows: &[Bytes],
        line: usize,
        watched: &Watched,
    ) -> Result<bool, WriteFailure> {
        Ok(self.try_rows(&rows[..line - 1], watched).await?.is_none())
    }

    /// The length of the shortest beginning that is refused; the rows before its last one are in afterwards.
    async fn halve(&self, rows: &[Bytes], watched: &Watched) -> Result<usize, WriteFailure> {
        let (mut accepted, mut refused) = (0, rows.len());
        while refused - accepted > 1 {
            let middle = accepted + (refused - accepted) / 2;
            // What is accepted stays in, so that each row is sent a few times only.
            match self.try_rows(&rows[accepted..middle], watched).await? {
                None => accepted = middle,
                Some(_) => refused = middle,
            }
        }
        Ok(refused)
    }

    /// Copies rows; if the server refuses them, the transaction is as it was before.
    async fn try_rows(&self, rows: &[Bytes], watched: &Watched) -> Result<Option<ServerError>, WriteFailure> {
        if rows.is_empty() {
            return Ok(None);
        }
        self.execute("savepoint vecload_rows").await?;
        watched.beat();
        let outcome = match self.copy(&self.prepared()?.copy, messages(rows), watched).await {
            Ok(copied) if copied as usize == rows.len() => match self.table().has_deferrable {
                true => self.execute("set constraints all immediate").await,
                false => Ok(()),
            },
            Ok(copied) => {
                Err(Error::failed(format!("the server took {copied} of {} rows", rows.len())).into())
            }
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(()) => {
                self.execute("release savepoint vecload_rows").await?;
                Ok(None)
            }
            Err(WriteFailure { refusal: Some(refusal), .. }) => {
                self.execute("rollback to savepoint vecload_rows; release savepoint vecload_rows").await?;
                Ok(Some(refusal))
            }
            Err(failure) => Err(failure),
        }
    }

    fn whole_block(&self, refused: &[RefusedTuple], rows: usize) -> Error {
        let Some((_, last)) = refused.last() else { return Error::bug("no row is refused") };
        let constraint = match &last.constraint {
            Some(constraint) => format!("constraint \"{constraint}\""),
            None => "the server".to_owned(),
        };
        let hint = if last.code == SqlState::UNIQUE_VIOLATION.code() {
            "are these rows in the table already, by other means than vecload? If ids collide, the id column's \
             sequence is behind the table: select setval(sequence, (select max(id) from table))"
        } else {
            "mend the source or the constraint, then run the same command again"
        };
        Error::failed(format!(
            "COPY into {}: {constraint} refuses {} of {rows} rows of a block, the last with: {}",
            self.table().table,
            refused.len(),
            last.summary()
        ))
        .hint(hint)
    }
}

/// The rows as a COPY's data.
fn messages(rows: &[Bytes]) -> Vec<Bytes> {
    let mut data = BytesMut::from(HEADER);
    rows.iter().for_each(|row| data.extend_from_slice(row));
    data.extend_from_slice(TRAILER);
    vec![data.freeze()]
}
