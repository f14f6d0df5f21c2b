"""Files written by polars' own Parquet writer."""

import datetime
import decimal

import numpy as np
import polars as pl

from .cases import add
from .rows import json_text, make_rows, timestamptz_text

WRITER = f"polars {pl.__version__}"
LIST = pl.List(pl.Float32)


def vectors(rows, kind=LIST):
    values = [r.get("embedding") for r in rows]
    return pl.Series([None if v is None else [None if x is None else float(x) for x in v] for v in values], dtype=kind)


def column(rows, key, kind):
    return pl.Series([r.get(key) for r in rows], dtype=kind)


def frame(rows, **replaced):
    out = {}
    if "id" in rows[0].want:
        out["id"] = column(rows, "id", pl.Int64)
    out |= {
        "channel_id": lambda: column(rows, "channel_id", pl.Int64),
        "user_id": lambda: column(rows, "user_id", pl.Int64),
        "content": lambda: column(rows, "content", pl.String),
        "embedding": lambda: vectors(rows),
        "metadata": lambda: pl.Series([r.source.get("metadata", json_text(r.want["metadata"])) for r in rows], dtype=pl.String),
    } | replaced
    return pl.DataFrame({key: value() if callable(value) else value for key, value in out.items()})


def simple(name, what, group, *, rows=None, n=20, dim=8, dtype=np.float32, replaced=None, options=None, **kw):
    name = f"polars_{name}"
    rows = rows or make_rows(n, dim, dtype=dtype)
    replaced = replaced or {}
    add(
        name,
        WRITER,
        what,
        dim,
        rows,
        lambda path: frame(rows, **{key: make(rows) for key, make in replaced.items()}).write_parquet(path, **(options or {})),
        group=group,
        **kw,
    )


def register():
    g = "embedding"
    simple("list_f32", "List(Float32), defaults", g)
    simple("array_f32", "Array(Float32, 8)", g, replaced={"embedding": lambda rows: vectors(rows, pl.Array(pl.Float32, 8))})
    simple("list_f64", "List(Float64)", g, dtype=np.float64, replaced={"embedding": lambda rows: vectors(rows, pl.List(pl.Float64))})
    simple("array_f64", "Array(Float64, 8)", g, dtype=np.float64, replaced={"embedding": lambda rows: vectors(rows, pl.Array(pl.Float64, 8))})
    simple("list_f16", "List(Float16)", g, dtype=np.float16, replaced={"embedding": lambda rows: vectors(rows, pl.List(pl.Float16))})
    simple(
        "binary_f32le",
        "raw little-endian f32 in Binary",
        g,
        dim=6,
        replaced={"embedding": lambda rows: pl.Series([r.want["embedding"].astype("<f4").tobytes() for r in rows], dtype=pl.Binary)},
    )

    g = "codec"
    for codec in ("uncompressed", "snappy", "gzip", "brotli", "lz4"):
        simple(f"codec_{codec}", f"{codec}{' (LZ4_RAW)' if codec == 'lz4' else ''}", g, dim=4, options={"compression": codec})

    g = "pages"
    simple("row_groups", "row groups of 6, statistics full", g, n=20, dim=4, options={"row_group_size": 6, "statistics": "full"})
    simple("small_pages", "small data pages, no statistics", g, n=40, dim=16, options={"data_page_size": 256, "statistics": False})
    add("polars_no_rows", WRITER, "no rows", 8, [], lambda path: frame(make_rows(1)).clear().write_parquet(path), group="empty")

    g = "text"
    simple(
        "categorical",
        "content Categorical, metadata Enum",
        g,
        dim=4,
        replaced={
            "content": lambda rows: pl.Series([r.want["content"] for r in rows], dtype=pl.Categorical),
            "metadata": lambda rows: pl.Series(t := [json_text(r.want["metadata"]) for r in rows], dtype=pl.Enum(sorted(set(t)))),
        },
    )

    g = "integers"
    rows = make_rows(12, 4)
    for i, row in enumerate(rows):
        row.want["channel_id"] = [0, 255, 1][i % 3]
        if i in (4, 5):
            row.bad("out_of_range", "user_id", user_id=[2**63, 2**64 - 1][i - 4])
    rows[6].want["user_id"] = 2**63 - 1
    simple(
        "ints_u8_u64",
        "channel_id UInt8, user_id UInt64",
        g,
        rows=rows,
        dim=4,
        replaced={
            "channel_id": lambda rows: pl.Series([r.get("channel_id") for r in rows], dtype=pl.UInt8),
            "user_id": lambda rows: pl.Series([r.get("user_id") for r in rows], dtype=pl.UInt64),
        },
    )

    g = "metadata"
    rows_m = make_rows(16, 4)
    for i, row in enumerate(rows_m):
        row.want["metadata"] = {"lang": [None, "de", "漢"][i % 3], "n": 2**53 + 1 + i, "tags": ["a", None][: i % 3], "inner": {"ok": i % 2 == 0}}
    simple(
        "metadata_struct",
        "struct with a list and a struct inside",
        g,
        rows=rows_m,
        dim=4,
        replaced={
            "metadata": lambda rows: pl.Series(
                [r.want["metadata"] for r in rows],
                dtype=pl.Struct({"lang": pl.String, "n": pl.Int64, "tags": pl.List(pl.String), "inner": pl.Struct({"ok": pl.Boolean})}),
            )
        },
    )

    g = "rejects"
    for name, kind, lengths in [("bad_embeddings_list", LIST, True), ("bad_embeddings_array", pl.Array(pl.Float32, 4), False)]:
        rows_b = make_rows(20, 4)
        nan, inf = float("nan"), float("inf")
        for at, reason, value in [
            (2, "embedding_null", None),
            (3, "embedding_null_element", [1.0, None, 3.0, 4.0]),
            (4, "embedding_nan", [nan] * 4),
            (5, "embedding_infinite", [1.0, 1.0, -inf, 1.0]),
        ] + ([(6, "embedding_dimension", []), (7, "embedding_dimension", [1.0] * 3), (8, "embedding_dimension", [1.0] * 5)] if lengths else []):
            rows_b[at].bad(reason, "embedding", embedding=value)
        rows_b[9].put(embedding=[0.0] * 4).want["embedding"] = np.zeros(4, np.float32)
        simple(
            name,
            f"{'List' if lengths else 'Array'} with bad rows",
            g,
            rows=rows_b,
            dim=4,
            replaced={"embedding": lambda rows, kind=kind: vectors(rows, kind)},
            options={"row_group_size": 7},
        )
    rows_n = make_rows(14, 4)
    for at, key in [(1, "content"), (4, "channel_id"), (9, "user_id"), (13, "metadata")]:
        rows_n[at].bad("null", key, **{key: None})
    simple("bad_nulls", "nulls in required columns", g, rows=rows_n, dim=4)

    g = "times"
    micros = [0, -1, 1_714_567_890_123_456, 951_782_400_000_000, -2_208_988_800_000_000, 253_402_300_799_999_999]
    for name, unit, scale, zone in [
        ("datetime_ms_utc", "ms", 1000, "UTC"),
        ("datetime_us_naive", "us", 1, None),
        ("datetime_ns_zone", "ns", 1, "Asia/Tokyo"),
    ]:
        values = [v // scale for v in micros if unit != "ns" or abs(v) < 9_000_000_000_000_000]
        rows_t = make_rows(len(values), 4)
        for row, value in zip(rows_t, values):
            row.want["created_at"] = timestamptz_text(value * scale)
        ticks = [v * 1000 for v in values] if unit == "ns" else values
        simple(
            name,
            f"created_at: Datetime({unit}, {zone})",
            g,
            rows=rows_t,
            dim=4,
            replaced={"created_at": lambda rows, ticks=ticks, unit=unit, zone=zone: pl.Series(ticks, dtype=pl.Int64).cast(pl.Datetime(unit, zone))},
        )

    g = "scalars"
    rows_s = make_rows(8, 4)
    prices = ["0.00", "12.34", "-0.01", None, "99999999.99", "1.10", "2.20", "3.30"]
    for i, (row, price) in enumerate(zip(rows_s, prices)):
        row.extra = {
            "price": price,
            "flag": [None, "true", "false"][i % 3],
            "day": ["1970-01-01", "2024-02-29"][i % 2],
            "tags": ["{a,b}", "{}", "{NULL}"][i % 3],
        }
    simple(
        "scalars",
        "Decimal, Boolean, Date, List(String) into numeric, boolean, date, text[]",
        g,
        rows=rows_s,
        dim=4,
        replaced={
            "price": lambda rows: pl.Series([None if p is None else decimal.Decimal(p) for p in prices], dtype=pl.Decimal(10, 2)),
            "flag": lambda rows: pl.Series([[None, True, False][i % 3] for i in range(8)], dtype=pl.Boolean),
            "day": lambda rows: pl.Series([[datetime.date(1970, 1, 1), datetime.date(2024, 2, 29)][i % 2] for i in range(8)], dtype=pl.Date),
            "tags": lambda rows: pl.Series([[["a", "b"], [], [None]][i % 3] for i in range(8)], dtype=pl.List(pl.String)),
        },
        extra_columns=["price numeric(10,2)", "flag boolean", "day date", "tags text[]"],
    )
    simple("with_id", "an id column", "columns", rows=make_rows(12, 4, ids=True), dim=4)
