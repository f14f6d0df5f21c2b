//! The rows of a block that the server refuses: found one by one, so that the rest can go in.
//!
//! The block is sent again from where it is known to be good. The server names the line of the COPY at which it
//! stopped, as PostgreSQL does for rows, constraints and triggers that are checked row by row; where it doesn't (checks
//! at the end of a statement or a transaction, Citus), the shortest beginning that it refuses is found by halving. All
//! of it happens in one transaction that is rolled back.

use bytes::{Bytes, BytesMut};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::{INTERNAL, WriteFailure, Writer};
use crate::copy::{HEADER, TRAILER};
use crate::error::Error;
use crate::partition::HeldBlock;
use crate::postgres::ServerError;
use crate::postgres::sqlstate::{Reaction, reaction};
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
            let alone = &rest[guilty - 1..guilty];
            let last = match (self.try_rows(alone, watched).await?, &self.table().insert_sql) {
                (Some(passed_on), Some(sql)) if passed_on.code == INTERNAL => {
                    self.try_insert(&alone[0], sql, watched).await?
                }
                (last, _) => last,
            };
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

    /// What a worker says against a row, with its code: by that a row at fault is told from a disk that is full, which
    /// stops a COPY at some row just as well.
    async fn try_insert(
        &self,
        row: &Bytes,
        sql: &str,
        watched: &Watched,
    ) -> Result<Option<ServerError>, WriteFailure> {
        let fields = fields(row).ok_or_else(|| Error::bug("a tuple that does not hold its fields"))?;
        let parameters: Vec<&(dyn ToSql + Sync)> = fields.iter().map(|field| field as _).collect();
        self.execute("savepoint vecload_rows").await?;
        watched.beat();
        let inserted = self.session.execute(sql, &parameters).await;
        watched.beat();
        let Err(error) = inserted else {
            self.execute("release savepoint vecload_rows").await?;
            return Ok(None);
        };
        match ServerError::of(&error).filter(|said| reaction(&said.code) == Reaction::Isolate) {
            Some(refusal) => {
                self.execute("rollback to savepoint vecload_rows; release savepoint vecload_rows").await?;
                Ok(Some(refusal))
            }
            None => Err(self.session.error(format!("COPY into {}", self.table().table), error).into()),
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

/// A field of a tuple: a value in its type's binary form, or null.
#[derive(Debug, PartialEq, Eq)]
struct Field<'tuple>(Option<&'tuple [u8]>);

impl ToSql for Field<'_> {
    fn to_sql(
        &self,
        _type: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.0 {
            Some(value) => {
                out.extend_from_slice(value);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    // It was encoded for its column.
    fn accepts(_type: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The fields of a tuple of a binary COPY: their number in two bytes, before each its length in four, -1 for null
/// (PostgreSQL manual, "COPY", binary format).
fn fields(tuple: &[u8]) -> Option<Vec<Field<'_>>> {
    let (count, mut rest) = tuple.split_first_chunk()?;
    let mut fields = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        let field = match i32::from_be_bytes(*length) {
            -1 => (None, after),
            length => {
                let (value, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
                (Some(value), after)
            }
        };
        fields.push(Field(field.0));
        rest = field.1;
    }
    rest.is_empty().then_some(fields)
}

/// The rows as a COPY's data.
fn messages(rows: &[Bytes]) -> Vec<Bytes> {
    let mut data = BytesMut::from(HEADER);
    rows.iter().for_each(|row| data.extend_from_slice(row));
    data.extend_from_slice(TRAILER);
    vec![data.freeze()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_gives_its_fields_or_nothing() {
        let tuple = [0, 3, 0, 0, 0, 2, 7, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(fields(&tuple), Some(vec![Field(Some(&[7, 8])), Field(None), Field(Some(&[]))]));
        for end in 0..tuple.len() {
            assert_eq!(fields(&tuple[..end]), None, "{end} bytes of it");
        }
        assert_eq!(fields(&[&tuple[..], &[0]].concat()), None);
    }
}
