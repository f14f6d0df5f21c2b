//! The server as an oracle: what vecload loads must be, byte for byte, what the server makes of the same value.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Int64Array};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};

use super::program::{Load, Outcome};
use super::rows::{vectors, write_parquet};
use super::server::{Db, LEDGER};

/// Inserts what SQL expressions give, assigned to a column as INSERT does; gives the numbers of those refused.
const FILL: &str = "
create function fill(target regclass, expressions text[]) returns bigint[] language plpgsql as $f$
declare refused bigint[] := '{}';
begin
    for i in 1..cardinality(expressions) loop
        begin
            execute format('insert into %s values (%s, %s)', target, i - 1, coalesce(expressions[i], 'null'));
        exception when others then
            refused := refused || (i - 1)::bigint;
        end;
    end loop;
    return refused;
end $f$";

/// A database whose server is asked.
pub(crate) struct Oracle {
    db: Db,
    dir: tempfile::TempDir,
    tables: std::cell::Cell<u32>,
}

/// A column of a source, and for each row the SQL expression of the same value; `None` is null.
pub(crate) struct Column {
    /// As the source has it.
    pub(crate) values: ArrayRef,
    /// As SQL writes it.
    pub(crate) expressions: Vec<Option<String>>,
}

impl Column {
    /// Values that make an array, and how each is written in SQL.
    pub(crate) fn of<T>(values: Vec<Option<T>>, sql: impl Fn(&T) -> String) -> Self
    where
        Vec<Option<T>>: IntoColumn,
    {
        let expressions = values.iter().map(|value| value.as_ref().map(&sql)).collect();
        Self { values: values.into_column(), expressions }
    }
}

/// Rust values that make an Arrow array of their own type.
pub(crate) trait IntoColumn {
    /// The array.
    fn into_column(self) -> ArrayRef;
}

macro_rules! into_column {
    ($($value:ty => $array:ty),*) => {$(
        impl IntoColumn for Vec<Option<$value>> {
            fn into_column(self) -> ArrayRef {
                Arc::new(self.into_iter().collect::<$array>())
            }
        }
    )*};
}

into_column!(
    bool => arrow::array::BooleanArray, i8 => arrow::array::Int8Array, u8 => arrow::array::UInt8Array,
    i16 => arrow::array::Int16Array, u32 => arrow::array::UInt32Array, i32 => arrow::array::Int32Array,
    i64 => Int64Array, u64 => arrow::array::UInt64Array, f32 => Float32Array, f64 => arrow::array::Float64Array,
    String => arrow::array::StringArray, Vec<u8> => arrow::array::BinaryArray
);

impl Oracle {
    /// Ready for questions.
    pub(crate) fn new() -> Self {
        let db = Db::new();
        db.run(FILL);
        Self { db, dir: tempfile::tempdir().expect("a directory"), tables: 1.into() }
    }

    /// Runs statements first.
    pub(crate) fn after(self, sql: &str) -> Self {
        self.db.run(sql);
        self
    }

    /// Loads a column into a type and compares. The same rows have to be refused.
    #[track_caller]
    pub(crate) fn agrees(&self, type_sql: &str, column: Column) {
        let (refused, rejected) = self.compare(type_sql, column);
        assert_eq!(rejected, refused, "{type_sql}: rows that vecload rejects, and that the server refuses");
    }

    /// As [`Self::agrees`], but vecload may also reject what the server takes.
    #[track_caller]
    pub(crate) fn agrees_where_it_accepts(&self, type_sql: &str, column: Column) {
        let (refused, rejected) = self.compare(type_sql, column);
        let only: Vec<_> = refused.difference(&rejected).collect();
        assert!(only.is_empty(), "{type_sql}: rows that the server refuses and vecload takes: {only:?}");
    }

    /// Loads a column into a type; the whole load is refused.
    #[track_caller]
    pub(crate) fn is_refused(&self, type_sql: &str, column: Column) -> Outcome {
        let (table, path) = self.prepare(type_sql, &column);
        let outcome = Load::of(path).into(&self.db).table(&table).run().exits(2);
        assert_eq!(self.db.count(&table), 0);
        outcome
    }

    fn prepare(&self, type_sql: &str, column: &Column) -> (String, std::path::PathBuf) {
        let number = self.tables.replace(self.tables.get() + 1);
        let table = format!("loaded_{number}");
        self.db.run(&format!("create table {table} (n bigint, embedding vector(1), v {type_sql})"));
        let count = column.expressions.len();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from_iter_values(0..count as i64))),
            ("embedding", vectors(1, Float32Array::from(vec![1.0; count]))),
            ("v", Arc::clone(&column.values)),
        ];
        let path = self.dir.path().join(format!("{number}.parquet"));
        write_parquet(&path, columns, 1 << 20);
        (table, path)
    }

    #[track_caller]
    fn compare(&self, type_sql: &str, column: Column) -> (BTreeSet<i64>, BTreeSet<i64>) {
        assert_eq!(column.values.len(), column.expressions.len());
        let db = &self.db;
        let (table, path) = self.prepare(type_sql, &column);
        let load =
            Load::of(path).into(db).table(&table).with("--max-rejects", "all").with("--index", "none").run();
        let code = load.code();
        assert!(code == 0 || code == 3, "{type_sql}{load}");
        let rejects = format!("select row from {LEDGER}.rejects where load_id = {}", load.load());
        let rejected: BTreeSet<i64> = db.column(&rejects).into_iter().collect();

        let truth = format!("truth_of_{table}");
        db.run(&format!("create table {truth} (n bigint, v {type_sql})"));
        let refused = db.rows(&format!("select fill('{truth}', $1)"), &[&column.expressions]);
        let refused: BTreeSet<i64> = refused[0].get::<_, Vec<i64>>(0).into_iter().collect();
        let found = db.binary(&format!("select n, v from {table} order by n"));
        let wanted = db.binary(&format!("select n, v from {truth} order by n"));
        let both = |row: &&Vec<Option<Vec<u8>>>| {
            let number = row[0].as_ref().and_then(|bytes| bytes.as_slice().try_into().ok());
            number.is_none_or(|number| {
                let number = i64::from_be_bytes(number);
                !rejected.contains(&number) && !refused.contains(&number)
            })
        };
        let found: Vec<_> = found.iter().filter(both).collect();
        let wanted: Vec<_> = wanted.iter().filter(both).collect();
        assert_eq!(found.len(), wanted.len(), "{type_sql}: rows loaded and inserted");
        for (found, wanted) in found.iter().zip(&wanted) {
            let number =
                i64::from_be_bytes(wanted[0].as_deref().unwrap_or_default().try_into().expect("a number"));
            let expression = &column.expressions[number as usize];
            assert_eq!(found, wanted, "{type_sql}: {expression:?}, loaded (left) and inserted (right)");
        }
        (refused, rejected)
    }
}

/// A text as SQL writes it.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Some values of a strategy, the same in every run, and a null.
pub(crate) fn some<S: Strategy>(
    strategy: S,
    edges: impl IntoIterator<Item = S::Value>,
) -> Vec<Option<S::Value>> {
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let mut values: Vec<_> = edges.into_iter().map(Some).collect();
    values.push(None);
    for _ in 0..60 {
        values.push(Some(strategy.new_tree(&mut runner).expect("a value").current()));
    }
    values
}
