//! What a round loads, and what has to be in the table then.

use std::path::PathBuf;

use tempfile::TempDir;

use super::dice::Dice;
use crate::program::{Load, Vecload, vecload};
use crate::rows::Rows;
use crate::session::Session;
use crate::texts::{Packing, Producer, Style, file, piped};

/// Columns that all sources fill.
const COLUMNS: &str = "channel_id, user_id, content, metadata, embedding";

/// The source of a round.
pub(crate) struct Source {
    /// What it is.
    pub(crate) kind: &'static str,
    /// Dimension of its embeddings.
    pub(crate) dim: usize,
    /// All its rows.
    pub(crate) rows: u64,
    /// Those that are rejected.
    pub(crate) rejected: u64,
    material: Material,
    dir: TempDir,
}

enum Material {
    Files(Vec<(Rows, PathBuf)>),
    Stream(Rows, Vec<u8>),
    Synthetic { seed: u64 },
}

impl Source {
    /// Makes the source of a seed; kinds come in turn.
    pub(crate) fn of(seed: u64) -> Self {
        let dice = &mut Dice::of(seed, 1);
        let dir = tempfile::tempdir().expect("a directory");
        let kind = ["parquet", "CSV", "gzip CSV", "standard input", "synthetic", "several files"];
        let kind = kind[(seed % 6) as usize];
        let dim = dice.pick(&[32, 64, 128]);
        // Some 20 to 40 MB of tuples.
        let count = dice.of_range(20..40) * 1_000_000 / (dim as u64 * 4 + 150);
        let has_bad_rows = dice.one_in(3);
        let mut make = |count: u64, first: u64| {
            let group = dice.of_range(1_000..9_000) as usize;
            let rows = Rows::new(count, dim).group(group).from(first);
            match has_bad_rows {
                true => rows.bad((first..first + count).step_by(dice.of_range(400..3_000) as usize).skip(1)),
                false => rows,
            }
        };
        // Rows of a stream take memory twice, as text and as rows to compare.
        let of_text = count * 3 / 4;
        let csv = |rows: &Rows| Style::CSV.bytes(rows);
        let material = match kind {
            "parquet" => {
                let rows = make(count, 0);
                let path = rows.write(dir.path(), "rows.parquet");
                Material::Files(vec![(rows, path)])
            }
            "CSV" => {
                let rows = make(of_text, 0).tricky();
                let path = file(dir.path(), "rows.csv", csv(&rows));
                Material::Files(vec![(rows, path)])
            }
            "gzip CSV" => {
                let rows = make(of_text, 0);
                let path = file(dir.path(), "rows.csv.gz", Packing::Gzip(3_000_000).pack(&csv(&rows)));
                Material::Files(vec![(rows, path)])
            }
            "standard input" => {
                let rows = make(of_text, 0);
                let bytes = csv(&rows);
                Material::Stream(rows, bytes)
            }
            "synthetic" => Material::Synthetic { seed },
            _ => {
                let [a, b, c] = [make(count / 2, 0), make(count / 5, 1_000_000), make(count / 5, 2_000_000)];
                let paths = [
                    a.write(dir.path(), "a.parquet"),
                    b.write(dir.path(), "b.parquet"),
                    file(dir.path(), "c.csv", csv(&c)),
                ];
                Material::Files([a, b, c].into_iter().zip(paths).collect())
            }
        };
        let mut source = Self { kind, dim, rows: count, rejected: 0, material, dir };
        let made = source.made();
        if !made.is_empty() {
            let count = |of: fn(&Rows) -> u64| made.iter().map(|rows| of(rows)).sum();
            (source.rows, source.rejected) = (count(Rows::count), count(Rows::count_bad));
        }
        source
    }

    /// How many sources it is for the ledger.
    pub(crate) fn parts(&self) -> i64 {
        self.made().len().max(1) as i64
    }

    fn made(&self) -> Vec<&Rows> {
        match &self.material {
            Material::Files(files) => files.iter().map(|(rows, _)| rows).collect(),
            Material::Stream(rows, _) => vec![rows],
            Material::Synthetic { .. } => Vec::new(),
        }
    }

    /// The command that loads it, its files in any order; a stream comes from its start.
    pub(crate) fn load(&self, dice: &mut Dice) -> (Vecload, Option<Producer>) {
        let load = vecload(["load", "--json"]);
        match &self.material {
            Material::Files(files) => {
                let first = dice.of_range(0..files.len() as u64) as usize;
                let (after, before) = files.split_at(first);
                let paths = before.iter().chain(after).map(|(_, path)| path);
                (paths.fold(load, Vecload::arg), None)
            }
            Material::Stream(_, bytes) => {
                let (load, producer) = piped(Load::of("-").with("--name", "stream"), bytes.clone());
                (load, Some(producer))
            }
            Material::Synthetic { seed } => {
                let load = load.with("--synthetic", self.rows).with("--dim", self.dim).with("--seed", seed);
                (load.with("--clusters", 8).with("--channels", 50), None)
            }
        }
    }

    /// What of the table is not as the source has it, with examples.
    pub(crate) fn differences(&self, session: &Session, table: &str) -> Option<String> {
        let Material::Synthetic { seed } = &self.material else {
            return Rows::differences(&self.made(), session, table);
        };
        // The server reads the same rows from a file.
        let path = self.dir.path().join("rows.csv");
        let generate = vecload(["generate"]).arg(&path).with("--rows", self.rows).with("--dim", self.dim);
        let generate = generate.with("--seed", seed).with("--clusters", 8).with("--channels", 50);
        generate.arg("--force").run().exits(0);
        session.run(&format!("create temporary table wanted as select {COLUMNS} from chunks limit 0"));
        let copy = format!("copy wanted ({COLUMNS}) from stdin with (format csv, header)");
        session.copy_in(&copy, std::fs::read(path).expect("the generated file"));
        let row = "channel_id, user_id, content, metadata, embedding::text";
        let found = |what: &str, one: &str, other: &str| {
            let numbers: Vec<String> = session.column(&format!(
                "select metadata ->> 'row' from
                     (select {row} from {one} except all select {row} from {other}) as differing order by 1"
            ));
            let some = &numbers[..numbers.len().min(5)];
            (!numbers.is_empty()).then(|| format!("{} rows are {what}, such as {some:?}", numbers.len()))
        };
        let told =
            [found("in the table only", table, "wanted"), found("in the source only", "wanted", table)];
        session.run("drop table wanted");
        let told: Vec<String> = told.into_iter().flatten().collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}
