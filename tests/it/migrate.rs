//! `vecload migrate` and `load --create`: the table, its indexes, and what an existing table is told.

use super::program::{Load, Outcome, Vecload, vecload};
use super::rows::Rows;
use super::server::{Db, LEDGER};

fn migrate(db: &Db, words: &[&str]) -> Outcome {
    vecload(["migrate"].iter().chain(words)).into(db).run()
}

fn embedding_type(db: &Db, table: &str) -> String {
    db.one(&format!(
        "select format_type(atttypid, atttypmod) from pg_attribute
         where attrelid = '{table}'::regclass and attname = 'embedding'"
    ))
}

fn hnsw(db: &Db, table: &str) -> Vec<String> {
    db.column(&format!(
        "select indexdef from pg_indexes where tablename = '{table}' and indexdef like '%hnsw%'"
    ))
}

#[test]
fn migrate_makes_extension_table_indexes_and_ledger_and_may_be_run_again() {
    let db = Db::bare();
    let status = migrate(&db, &["--status", "--json"]).exits(0).report;
    assert_eq!((&status["exists"], &status["ledger"]), (&false.into(), &().into()));
    assert!(
        !db.one::<bool>(&format!("select to_regnamespace('{LEDGER}') is not null")),
        "--status makes nothing"
    );
    migrate(&db, &[]).exits(0).answers("created").answers("vector(1536)");
    assert_eq!(embedding_type(&db, "chunks"), "vector(1536)");
    assert_eq!(db.count("pg_indexes where tablename = 'chunks'"), 6);
    assert!(hnsw(&db, "chunks")[0].contains("vector_cosine_ops"));
    let id_default: String = db.one(
        "select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = 'chunks'::regclass and adnum = 1",
    );
    assert!(id_default.contains("chunks_id_seq"), "{id_default}");
    migrate(&db, &[]).exits(0).answers("is there");
    let status = migrate(&db, &["--status", "--json"]).exits(0).report;
    assert_eq!((&status["exists"], &status["created"]), (&true.into(), &false.into()));
    assert_eq!(status["indexes"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        status["server"]["postgres"].as_str(),
        Some(db.one::<String>("select split_part(version(), ' ', 2)").as_str())
    );
}

#[test]
fn the_extension_may_come_from_another_session_meanwhile() {
    let db = Db::bare();
    let (first, watcher) = (db.session(), db.session());
    first.run("begin; create extension vector");
    let second = vecload(["migrate", "--dim", "8"]).into(&db).start();
    watcher.wait_until(
        "exists (select from pg_stat_activity where datname = current_database()
             and wait_event_type = 'Lock' and query ilike '%create extension%')",
    );
    first.run("commit");
    second.outcome().exits(0).answers("created");
}

#[test]
fn another_dimension_or_type_than_the_tables_is_refused_naming_both() {
    let db = Db::new();
    migrate(&db, &["--dim", "8"]).exits(0);
    migrate(&db, &["--dim", "9"]).exits(2).says("vector(8)").says("vector(9)");
    migrate(&db, &["--dim", "8", "--type", "halfvec"]).exits(2).says("vector(8)").says("halfvec(8)");
    migrate(&db, &[]).exits(2).says("vector(8)").says("vector(1536)");
    migrate(&db, &["--dim", "9", "--table", "others"]).exits(0);
    assert_eq!(embedding_type(&db, "chunks"), "vector(8)");
    db.run("create table plain (id bigint)");
    migrate(&db, &["--table", "plain"]).exits(2).says("plain").says("no vector column");
    db.run("create view seen as select * from chunks");
    migrate(&db, &["--table", "seen"]).exits(2).says("is a view");
}

#[test]
fn vectors_lie_in_line_where_that_is_asked_for_and_a_page_holds_them() {
    let db = Db::new();
    let with = |words: &[&str]| migrate(&db, &[&["--dim", "1536", "--no-index"], words].concat());
    with(&["--table", "a"]).exits(0);
    with(&["--table", "b", "--vectors", "inline"]).exits(0);
    // What is in TOAST takes a pointer in its row.
    for (table, pages) in [("a", 1), ("b", 20)] {
        db.run(&format!(
            "insert into {table} (channel_id, user_id, content, embedding)
             select 1, 1, 'short', (select array_agg(random()) from generate_series(1, 1536) where n > 0)::vector
             from generate_series(1, 20) n"
        ));
        assert_eq!(db.one::<i64>(&format!("select pg_relation_size('{table}') / 8192")), pages, "{table}");
    }
    // A row that no page holds is stored all the same.
    db.run(
        "insert into b (channel_id, user_id, content, embedding)
         select 1, 1, string_agg(md5(i::text), ''), (select embedding from b limit 1) from generate_series(1, 400) i",
    );
    with(&["--table", "b"]).exits(0);
    with(&["--table", "b", "--vectors", "inline"]).exits(0);
    with(&["--table", "b", "--vectors", "toast"])
        .exits(2)
        .says("is made for vectors in line")
        .says("reset (toast_tuple_target)");
    with(&["--table", "a", "--vectors", "inline"])
        .exits(2)
        .says("is not made for vectors in line")
        .says("toast_tuple_target = 8160");
    let words = ["--dim", "3072", "--table", "c", "--vectors", "inline"];
    migrate(&db, &words).exits(2).says("take 12296 bytes").says("halfvec");
    assert!(!db.one::<bool>("select to_regclass('c') is not null"), "refused before anything is made");
}

#[test]
fn many_dimensions_are_indexed_as_half_vectors_and_too_many_not_at_all() {
    let db = Db::new();
    let index_of = |dim: &str, kind: &str, table: &str| {
        migrate(&db, &["--dim", dim, "--type", kind, "--table", table]).exits(0);
        hnsw(&db, table).join("; ")
    };
    assert!(index_of("2000", "vector", "a").contains("(embedding vector_cosine_ops)"));
    assert!(index_of("2001", "vector", "b").contains("((embedding)::halfvec(2001)) halfvec_cosine_ops"));
    assert!(index_of("4000", "vector", "c").contains("halfvec(4000)"));
    assert!(index_of("4000", "halfvec", "d").contains("(embedding halfvec_cosine_ops)"));
    assert_eq!(embedding_type(&db, "d"), "halfvec(4000)");
    for kind in ["vector", "halfvec"] {
        let words = ["--dim", "4001", "--type", kind, "--table", "e"];
        migrate(&db, &words).exits(2).says("4000").says("4001 dimensions").says("--no-index");
        assert!(!db.one::<bool>("select to_regclass('e') is not null"), "refused before anything is made");
    }
    migrate(&db, &["--dim", "4001", "--table", "e", "--no-index"]).exits(0);
    assert_eq!(db.count("pg_indexes where tablename = 'e'"), 1);
    for dim in ["0", "16001"] {
        migrate(&db, &["--dim", dim, "--table", "f", "--no-index"]).exits(2).says("16000");
    }
    migrate(&db, &["--shards", "0"]).exits(2).says("--shards");
}

#[test]
fn tables_live_in_any_schema_and_under_any_name() {
    let db = Db::new();
    db.run("create schema \"My Schema\"");
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(50, 8);
    let path = rows.write(dir.path(), "rows.parquet");
    let name = "\"My Schema\".\"Table \"\"1\"\"\"";
    for _ in 0..2 {
        migrate(&db, &["--dim", "8", "--table", name]).exits(0);
    }
    Load::of(&path).into(&db).table(name).run().exits(0).rows(50, 0, 0);
    Rows::are_all_in(&[&rows], &db, name);
    // The sequence's name is the table's and some more.
    migrate(&db, &["--dim", "8", "--table", &"t".repeat(56)]).exits(2).says("longer than 55 bytes");
    assert_eq!(db.count("pg_class where relname like 'tttt%'"), 0);
    let long = "t".repeat(55);
    migrate(&db, &["--dim", "8", "--table", &long]).exits(0);
    Load::of(&path).into(&db).table(&long).run().exits(0);
    assert_eq!(db.count(&format!("pg_indexes where tablename = '{long}'")), 6);
    migrate(&db, &["--table", "nowhere.chunks"]).exits(2).says("nowhere");
    // Unquoted names fold as in SQL.
    db.table("lower", 8);
    Load::of(&path).into(&db).table("LOWER").run().exits(0);
    assert_eq!(db.count("lower"), 50);
}

fn create(db: &Db, path: &std::path::Path) -> Vecload {
    Load::of(path).into(db).arg("--create")
}

#[test]
fn load_creates_a_missing_table_only_when_asked_and_with_the_sources_dimension() {
    let db = Db::bare();
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(200, 24);
    let path = rows.write(dir.path(), "rows.parquet");
    Load::of(&path)
        .into(&db)
        .run()
        .exits(2)
        .says("there is no table chunks")
        .says("--create")
        .says("migrate");
    assert_eq!(db.count("pg_tables where tablename = 'chunks'"), 0);
    create(&db, &path).run().exits(0).state("complete").says("24 dimensions");
    Rows::are_all_in(&[&rows], &db, "chunks");
    assert_eq!(embedding_type(&db, "chunks"), "vector(24)");
    assert_eq!(db.count("pg_indexes where tablename = 'chunks'"), 6);
    create(&db, &path).run().exits(0).state("already_loaded");
    let other = Rows::new(10, 25).write(dir.path(), "other.parquet");
    create(&db, &other).run().exits(2).says("25 dimensions").says("vector(24)").says("other.parquet");
    // A mapping that can't work leaves no table behind.
    create(&db, &path).table("new").with("--map", "content=nothing").run().exits(2).says("nothing");
    assert_eq!(db.count("pg_tables where tablename = 'new'"), 0);
}

#[test]
fn a_session_without_the_right_to_create_gets_to_know_which() {
    let db = Db::new();
    migrate(&db, &["--dim", "8", "--no-index"]).exits(0);
    let embedded = migrate(&db, &["--dim", "8", "--table", "pg_catalog.chunks", "--no-index"]);
    assert!([1, 2].contains(&embedded.code()), "{embedded}");
    embedded.says("pg_catalog");
}
