//! `vecload seed` and `vecload search`: the nearest rows, in one channel and in all, with and without index.

use super::program::{Load, Outcome, vecload};
use super::rows::{Rows, embedding};
use super::server::Db;

fn search(db: &Db, words: &[&str]) -> Outcome {
    vecload(["search", "--json"].iter().chain(words)).into(db).run()
}

fn ids(outcome: &Outcome) -> Vec<i64> {
    let hits = outcome.report["hits"].as_array().unwrap_or_else(|| panic!("hits{outcome}"));
    hits.iter().map(|hit| hit["id"].as_i64().expect("an id")).collect()
}

#[test]
fn the_sample_chunks_are_loaded_once_and_found() {
    let db = Db::new();
    vecload(["seed"]).into(&db).run().exits(2).says("no table chunks");
    vecload(["migrate", "--dim", "256"]).into(&db).run().exits(0);
    vecload(["seed", "--json"]).into(&db).run().exits(0).state("complete").rows(20, 0, 0);
    vecload(["seed", "--json"]).into(&db).run().exits(0).state("already_loaded").rows(0, 0, 20);
    assert_eq!(db.count("chunks"), 20);
    assert_eq!(db.count("(select distinct channel_id from chunks) as channels"), 4);
    let parquet: i64 = db.one("select id from chunks where content like 'Parquet stores%'");
    let found = search(&db, &["--like", &parquet.to_string(), "--channel", "4", "-k", "4"]).exits(0);
    assert_eq!(ids(&found).len(), 4, "{found}");
    assert!(!ids(&found).contains(&parquet), "the row itself is no neighbour");
    assert!(found.report["like"].as_str().is_some_and(|like| like.starts_with("Parquet")), "{found}");
    let text = vecload(["search", "--like", &parquet.to_string(), "--channel", "4"]).into(&db).run().exits(0);
    text.answers("distance").answers("Parquet file").says("like: Parquet").says("4 rows");
}

struct Filled {
    db: Db,
    dir: tempfile::TempDir,
}

/// 4,000 rows with all indexes; channel 42 has a few of them.
fn filled() -> Filled {
    let (db, dir) = (Db::new(), tempfile::tempdir().expect("a directory"));
    vecload(["migrate", "--dim", "32"]).into(&db).run().exits(0);
    let path = Rows::new(4_000, 32).channels(40).write(dir.path(), "rows.parquet");
    Load::of(path).into(&db).run().exits(0);
    db.run(
        "update chunks set channel_id = 42
         where content < '000000120' and content like '%0 chunk%'; analyze chunks",
    );
    Filled { db, dir }
}

/// The true neighbours of a vector, by comparing all rows.
fn neighbours(db: &Db, vector: &[f32], filter: &str, k: usize) -> Vec<i64> {
    let session = db.session();
    session.run("set enable_indexscan = off; set enable_bitmapscan = off");
    let elements: Vec<String> = vector.iter().map(f32::to_string).collect();
    let vector = elements.join(",");
    session.column(&format!(
        "select id from chunks where {filter} order by embedding <=> '[{vector}]', id limit {k}"
    ))
}

#[test]
fn neighbours_are_the_nearest_rows_for_each_kind_of_query() {
    let Filled { db, dir } = filled();
    let query = embedding(777_777, 32);
    let raw = dir.path().join("query.f32");
    std::fs::write(&raw, query.iter().flat_map(|element| element.to_le_bytes()).collect::<Vec<u8>>())
        .expect("write");
    let json = dir.path().join("query.json");
    std::fs::write(&json, serde_json::to_string(&query).expect("JSON")).expect("write");
    let path = |path: &std::path::Path| path.display().to_string();
    for file in [path(&raw), path(&json)] {
        let found =
            search(&db, &["--vector", &file, "--channel", "42", "-k", "5"]).exits(0).never_says("warning");
        assert_eq!(ids(&found), neighbours(&db, &query, "channel_id = 42", 5), "{found}");
        let found = search(&db, &["--vector", &file, "-k", "10", "--ef-search", "400"])
            .exits(0)
            .says("warning")
            .says("--channel");
        assert_eq!(ids(&found), neighbours(&db, &query, "true", 10), "{found}");
    }
    let distances: Vec<f64> = search(&db, &["--random", "-k", "50"]).exits(0).report["hits"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|hit| hit["distance"].as_f64().expect("a distance"))
        .collect();
    assert!(distances.len() == 50 && distances.is_sorted(), "{distances:?}");
    let id: i64 = db.one("select id from chunks where content like '000000777%'");
    let like = search(&db, &["--like", &id.to_string(), "-k", "5", "--ef-search", "400"]).exits(0);
    assert_eq!(ids(&like), neighbours(&db, &embedding(777, 32), &format!("id <> {id}"), 5), "{like}");
}

#[test]
fn a_search_gives_as_many_rows_as_asked_for_and_as_there_are() {
    let Filled { db, .. } = filled();
    let id: i64 = db.one("select id from chunks where content like '000003333%'");
    let like = id.to_string();
    assert_eq!(ids(&search(&db, &["--like", &like, "-k", "100"]).exits(0)).len(), 100);
    assert_eq!(ids(&search(&db, &["--like", &like, "-k", "1000"]).exits(0)).len(), 1_000);
    // A small channel: the index alone would come back short.
    let few = db.count("chunks where channel_id = 42");
    assert!((10..13).contains(&few));
    assert_eq!(ids(&search(&db, &["--like", &like, "--channel", "42", "-k", "10"]).exits(0)).len(), 10);
    assert_eq!(
        ids(&search(&db, &["--like", &like, "--channel", "42", "-k", "100"]).exits(0)).len() as i64,
        few
    );
    let none = search(&db, &["--like", &like, "--channel", "987654"]).exits(0);
    assert_eq!(ids(&none), Vec::<i64>::new());
    let odd = search(&db, &["--like", &like, "--where", "odd=true", "-k", "30"]).exits(0);
    assert_eq!(ids(&odd).len(), 30, "{odd}");
    let all: Vec<i64> = db.column("select id from chunks where (metadata ->> 'odd')::boolean");
    assert!(ids(&odd).iter().all(|id| all.contains(id)));
    let one = search(&db, &["--random", "--where", "n=17", "--where", "odd=true"]).exits(0);
    assert_eq!(ids(&one).len(), 1, "{one}");
    let explained = search(&db, &["--like", &like, "--explain"]).exits(0);
    assert!(explained.report["plan"].to_string().contains("chunks"), "{explained}");
}

#[test]
fn a_search_takes_its_depth_from_the_command_the_file_or_the_database() {
    let Filled { db, .. } = filled();
    let depth = |words: &[&str]| {
        let told = search(&db, &[&["--random"], words].concat()).exits(0);
        told.report["ef_search"].as_u64().unwrap_or_else(|| panic!("a number{told}"))
    };
    assert_eq!(depth(&[]), 40, "pgvector's default");
    assert_eq!(depth(&["-k", "90"]), 90, "as many as are asked for");
    vecload(["tune", "--ef-search", "130"]).into(&db).run().exits(0);
    assert_eq!(depth(&[]), 130, "what the database has");
    assert_eq!(depth(&["--ef-search", "400"]), 400);
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("pipeline.toml"), "[search]\nef_search = 70\n").expect("write");
    let by_file = vecload(["search", "--json", "--random"]).into(&db).within(dir.path()).run().exits(0);
    assert_eq!(by_file.report["ef_search"], 70, "{by_file}");
}

#[test]
fn searches_that_make_no_sense_are_refused() {
    let Filled { db, dir } = filled();
    search(&db, &[]).exits(2).says("--like ID");
    search(&db, &["--like", "1", "--random"]).exits(2);
    search(&db, &["--like", "123456789"]).exits(2).says("no row with id 123456789");
    search(&db, &["--random", "-k", "0"]).exits(2).says("-k 0");
    search(&db, &["--random", "-k", "1001"]).exits(2).says("1000");
    search(&db, &["--random", "--ef-search", "0"]).exits(2).says("--ef-search");
    search(&db, &["--random", "--where", "odd"]).exits(2).says("--where");
    search(&db, &["--random", "--table", "nowhere"]).exits(2).says("no table nowhere");
    let short = dir.path().join("short.json");
    std::fs::write(&short, "[1, 2, 3]").expect("write");
    let file = short.display().to_string();
    search(&db, &["--vector", &file]).exits(2).says("3 dimensions").says("vector(32)");
    for nonsense in ["", "[]", "[1, x]", "hello"] {
        std::fs::write(&short, nonsense).expect("write");
        search(&db, &["--vector", &file]).exits(2).says("short.json");
    }
    search(&db, &["--vector", "/nowhere/at/all"]).exits(2).says("/nowhere/at/all");
}

#[test]
fn half_vectors_and_wide_vectors_are_searched_through_their_index() {
    let (db, dir) = (Db::new(), tempfile::tempdir().expect("a directory"));
    for (table, kind, dim) in [("halves", "halfvec", 48usize), ("wide", "vector", 2_100)] {
        vecload(["migrate", "--dim", &dim.to_string(), "--type", kind, "--table", table])
            .into(&db)
            .run()
            .exits(0);
        let path = Rows::new(300, dim).write(dir.path(), &format!("{table}.parquet"));
        Load::of(path).into(&db).table(table).run().exits(0);
        db.run(&format!("analyze {table}"));
        let id: i64 = db.one(&format!("select id from {table} where content like '000000123%'"));
        let found =
            search(&db, &["--table", table, "--like", &id.to_string(), "-k", "20", "--explain"]).exits(0);
        assert_eq!(ids(&found).len(), 20, "{found}");
    }
}

#[test]
fn smaller_integers_name_channels_and_rows_too() {
    let db = Db::new();
    db.run(
        "create table small (id int primary key, channel_id smallint, embedding vector(3));
         insert into small select i, i % 3, array[i, 1, 0]::real[]::vector from generate_series(1, 30) i",
    );
    let found = search(&db, &["--table", "small", "--like", "7", "--channel", "1", "-k", "3"]).exits(0);
    assert_eq!(ids(&found), [10, 13, 16], "{found}");
}
