//! Vectors and half vectors against pgvector's own casts, and the channel's hash against `hashint8`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float32Builder, ListBuilder};
use proptest::collection::vec;
use proptest::num::f32::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
use proptest::prelude::any;
use vecload::partition::hash::hash_int8;

use super::oracle::{Column, Oracle, some};
use super::program::Load;
use super::rows::{vectors, write_parquet};
use super::server::{Db, LEDGER, server};

fn text(elements: &[f32]) -> String {
    let elements: Vec<String> = elements.iter().map(f32::to_string).collect();
    format!("'[{}]'", elements.join(","))
}

/// Every kind of half: zeros, subnormals, ties to even, the largest and what lies beyond.
fn edges() -> Vec<Vec<f32>> {
    let tie = |bits: u16, up: f32| half::f16::from_bits(bits).to_f32() * up;
    [
        [0.0, -0.0],
        [1.0, -1.0],
        [5.96e-8, 2.98e-8],
        [2.980_232_2e-8, 2.980_233e-8],
        [6.097_555e-5, 6.103_515_6e-5],
        [65_504.0, -65_504.0],
        [65_519.996, 1.0],
        [65_520.0, 1.0],
        [70_000.0, 1.0],
        [f32::MAX, 1.0],
        [1e-40, 1e-10],
        [2_049.0, 2_051.0],
        [tie(0x3c00, 1.000_488_3), tie(0x3c01, 1.000_488)],
        [0.1, 0.2],
        [1.000_976_6, 1.000_488_3],
    ]
    .map(|pair| pair.to_vec())
    .to_vec()
}

#[test]
fn half_vectors_are_rounded_as_pgvector_rounds() {
    let db = Db::new();
    let dir = tempfile::tempdir().expect("a directory");
    db.run("create table loaded (n bigint, embedding halfvec(2))");
    let halves = (0..0x7c00u16).step_by(13).map(|bits| half::f16::from_bits(bits).to_f32());
    // Between two halves, just below the middle, the middle, and just above.
    let between = halves.flat_map(|value| {
        let next = half::f16::from_bits(half::f16::from_f32(value).to_bits() + 1).to_f32();
        let middle = value + (next - value) / 2.0;
        [middle, f32::from_bits(middle.to_bits() - 1), f32::from_bits(middle.to_bits() + 1), -middle]
    });
    let mut all = edges();
    all.extend(between.filter(|value| value.is_finite()).map(|value| vec![value, 1.0]));
    let path = dir.path().join("halves.parquet");
    let numbers = arrow::array::Int64Array::from_iter_values(0..all.len() as i64);
    let elements = Float32Array::from_iter_values(all.iter().flatten().copied());
    let columns: [(&str, ArrayRef); 2] = [("n", Arc::new(numbers)), ("embedding", vectors(2, elements))];
    write_parquet(&path, columns, 1 << 20);
    let load =
        Load::of(path).into(&db).table("loaded").with("--max-rejects", "all").with("--index", "none").run();
    let load = load.exits(3).load();
    let rejected: Vec<i64> =
        db.column(&format!("select row from {LEDGER}.rejects where load_id = {load} order by row"));
    db.run("create table truth (n bigint, embedding halfvec(2))");
    let mut refused = Vec::new();
    for (number, elements) in (0..).zip(&all) {
        if elements.iter().any(|value| value.abs() >= 65_520.0) {
            refused.push(number);
        }
    }
    assert_eq!(rejected, refused);
    let texts: Vec<String> =
        all.iter().map(|elements| text(elements).trim_matches('\'').to_string()).collect();
    let insert = "insert into truth select n - 1, t::vector::halfvec
        from unnest($1::text[]) with ordinality as u(t, n)
        where not n - 1 = any($2)";
    db.rows(insert, &[&texts, &refused]);
    let rows = |table: &str| db.binary(&format!("select n, embedding from {table} order by n"));
    let (found, wanted) = (rows("loaded"), rows("truth"));
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(&wanted) {
        let number = i64::from_be_bytes(wanted[0].as_deref().expect("a number").try_into().expect("8 bytes"));
        assert_eq!(found, wanted, "{:?}", all[number as usize]);
    }
}

#[test]
fn a_second_vector_column_is_the_servers_too() {
    let oracle = Oracle::new();
    let finite = vec(POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO, 2);
    for (type_sql, cast) in [("vector(2)", "vector"), ("halfvec(2)", "vector"), ("vector", "vector")] {
        let mut edges = edges();
        edges.push(vec![1.0, 2.0, 3.0]);
        edges.push(vec![f32::NAN, 0.0]);
        edges.push(vec![f32::INFINITY, 0.0]);
        let values = some(finite.clone(), edges);
        let mut builder = ListBuilder::new(Float32Builder::new());
        for value in &values {
            builder.append_option(value.as_ref().map(|value| value.iter().copied().map(Some)));
        }
        let sql = |value: &Vec<f32>| format!("{}::{cast}", text(value));
        let expressions = values.iter().map(|value| value.as_ref().map(sql)).collect();
        oracle.agrees(type_sql, Column { values: Arc::new(builder.finish()), expressions });
    }
}

#[test]
fn channels_hash_as_the_server_hashes_them() {
    let mut values: Vec<i64> = some(any::<i64>(), []).into_iter().flatten().collect();
    values.extend((0..10_000).map(|row| super::rows::hash(row, 9) as i64));
    values.extend((-600..600).chain([i64::MIN, i64::MAX]));
    for shift in 0..64 {
        let power = 1i64 << shift;
        values.extend([power, power.wrapping_sub(1), power.wrapping_neg(), !power]);
    }
    let admin = server().admin();
    let query = "select hashint8(v) from unnest($1::bigint[]) with ordinality as u(v, n) order by n";
    let hashes: Vec<i32> = admin.rows(query, &[&values]).iter().map(|row| row.get(0)).collect();
    for (value, hash) in values.iter().zip(&hashes) {
        assert_eq!(hash_int8(*value), *hash, "{value}");
    }
}
