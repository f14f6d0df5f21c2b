"""Files written by DuckDB's COPY … TO … (FORMAT parquet)."""

import duckdb
import numpy as np
import pyarrow as pa

from . import from_pyarrow as arrow
from .cases import add
from .rows import make_rows, timestamptz_text

WRITER = f"DuckDB {duckdb.__version__}"
SELECT = "channel_id, user_id, content, embedding, metadata"


def copy(table, path, select=SELECT, options=""):
    with duckdb.connect() as connection:
        connection.execute("set threads = 1; set timezone = 'UTC'; set preserve_insertion_order = true")
        connection.register("t", table)
        connection.execute(f"copy (select {select} from t) to '{path}' (format parquet{options})")


def simple(name, what, group, *, rows=None, n=20, dim=8, dtype=np.float32, replaced=None, select=SELECT, options="", **kw):
    name = f"duckdb_{name}"
    rows = rows or make_rows(n, dim, dtype=dtype)
    replaced = replaced or {}
    add(
        name,
        WRITER,
        what,
        dim,
        rows,
        lambda path: copy(arrow.table(rows, **{key: make(rows) for key, make in replaced.items()}), path, select, options),
        group=group,
        **kw,
    )


def register():
    g = "embedding"
    cast = "channel_id, user_id, content, embedding::{} as embedding, metadata"
    simple("list_float", "FLOAT[], defaults", g)
    simple("array_float", "FLOAT[8]", g, select=cast.format("float[8]"))
    simple("list_double", "DOUBLE[]", g, dtype=np.float64, replaced={"embedding": lambda rows: arrow.vectors(rows, pa.list_(pa.float64()))})
    simple("array_double", "DOUBLE[8]", g, dtype=np.float64, replaced={"embedding": lambda rows: arrow.vectors(rows, pa.list_(pa.float64(), 8))})
    simple("blob_f32le", "raw little-endian f32 in BLOB", g, dim=6, replaced={"embedding": lambda rows: pa.array(arrow.raw_bytes(rows), pa.binary())})
    rows_v = make_rows(16, 4)
    for row in rows_v:
        row.put(embedding="[" + ", ".join(repr(float(x)) for x in row.want["embedding"]) + "]")
    simple(
        "text_embedding", "VARCHAR `[…]`", g, rows=rows_v, dim=4, replaced={"embedding": lambda rows: pa.array([r.get("embedding") for r in rows])}
    )

    for codec in ("uncompressed", "gzip", "zstd", "brotli", "lz4_raw"):
        simple(f"codec_{codec}", codec, "codec", dim=4, options=f", codec '{codec}'")
    g = "encoding"
    simple(
        "parquet_v2",
        "parquet_version v2: DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, BYTE_STREAM_SPLIT",
        g,
        options=", parquet_version v2, codec 'zstd'",
    )
    simple(
        "parquet_v2_double",
        "the same with DOUBLE[8]",
        g,
        dtype=np.float64,
        options=", parquet_version v2",
        replaced={"embedding": lambda rows: arrow.vectors(rows, pa.list_(pa.float64(), 8))},
    )
    rows_d = make_rows(40, 4)
    for i, row in enumerate(rows_d):
        row.want["embedding"] = np.array([[1, 2, 3, 4], [0.5, 0, 0, 1]][i % 2], np.float32)
        row.put(embedding=row.want["embedding"])
        row.want["content"] = ["same text", "other text"][i % 2]
    simple("dictionary", "few distinct values: dictionaries", g, rows=rows_d, dim=4)
    add("duckdb_no_rows", WRITER, "no rows", 8, [], lambda path: copy(arrow.table(make_rows(1)).slice(0, 0), path), group="empty")

    g = "metadata"
    simple("json_type", "metadata of type JSON", g, dim=4, select="channel_id, user_id, content, embedding, metadata::json as metadata")
    rows_s = make_rows(12, 4)
    rows_m = make_rows(12, 4)
    for i, row in enumerate(rows_s):
        row.want["metadata"] = {"a": i, "b": {"c": [f"x{i}", None]}}
    for i, row in enumerate(rows_m):
        row.want["metadata"] = {f"k{k}": i * k for k in range(i % 4)}
    simple("metadata_struct", "STRUCT", g, rows=rows_s, dim=4, replaced={"metadata": lambda rows: pa.array([r.want["metadata"] for r in rows])})
    simple(
        "metadata_map",
        "MAP(VARCHAR, BIGINT)",
        g,
        rows=rows_m,
        dim=4,
        replaced={"metadata": lambda rows: pa.array([list(r.want["metadata"].items()) for r in rows], pa.map_(pa.string(), pa.int64()))},
    )
    rows_t = make_rows(8, 4)
    for i, row in enumerate(rows_t):
        row.want["metadata"] = {"a": i, "b": ["x", None, {"c": True}]}
    simple(
        "metadata_variant",
        "VARIANT, shredded",
        g,
        rows=rows_t,
        dim=4,
        select="channel_id, user_id, content, embedding, metadata::json::variant as metadata",
        note="may also be refused as a whole: a type of its own",
    )

    g = "rejects"
    rows_b = make_rows(20, 4)
    nan, inf = float("nan"), float("inf")
    for at, reason, value in [
        (1, "embedding_null", None),
        (2, "embedding_null_element", [None, 1.0, 1.0, 1.0]),
        (3, "embedding_nan", [1.0, nan, 1.0, 1.0]),
        (4, "embedding_infinite", [inf] * 4),
        (5, "embedding_dimension", [1.0]),
        (6, "embedding_dimension", []),
    ]:
        rows_b[at].bad(reason, "embedding", embedding=value)
    rows_b[8].bad("null", "content", content=None)
    rows_b[9].bad("null", "channel_id", channel_id=None)
    rows_b[10].bad("nul_byte", "content", content="a\0b")
    rows_b[11].bad("invalid_json", "metadata", metadata="{broken")
    simple("bad_rows", "bad embeddings, nulls, a NUL byte, broken JSON", g, rows=rows_b, dim=4)

    g = "scalars"
    rows_x = make_rows(8, 4)
    for i, row in enumerate(rows_x):
        day = f"2024-02-{20 + i:02}"
        row.want["created_at"] = timestamptz_text(1_708_387_200_000_000 + i * 86_400_000_001)
        row.extra = {
            "price": f"{i}.50",
            "uid": f"00000000-0000-4000-8000-{i:012}",
            "flag": "true" if i % 2 else "false",
            "day": day,
            "blob": f"\\x0{i}ff",
            "tags": f"{{t{i},NULL}}",
            "mood": ["calm", "glad"][i % 2],
        }
    simple(
        "scalars",
        "DECIMAL, UUID, BOOLEAN, DATE, BLOB, VARCHAR[], ENUM, TIMESTAMPTZ; unused INTERVAL, TIME, HUGEINT, BIT",
        g,
        rows=rows_x,
        dim=4,
        replaced={
            "i": lambda rows: pa.array(range(8), pa.int64()),
            "created_at": lambda rows: pa.array([1_708_387_200_000_000 + i * 86_400_000_001 for i in range(8)], pa.timestamp("us", "UTC")),
        },
        select=f"""interval (i) day as u_interval, {SELECT}, created_at, (i + 0.5)::decimal(10, 2) as price, ('00000000-0000-4000-8000-' || lpad(i::varchar, 12, '0'))::uuid as uid, i % 2 = 1 as flag,
                      date '2024-02-20' + i::int as day, ('\\x0' || i || '\\xFF')::blob as blob, ['t' || i, null] as tags, (case when i % 2 = 0 then 'calm' else 'glad' end)::enum ('calm', 'glad') as mood,
                      time '10:00' as u_time, i::hugeint as u_huge, '101'::bit as u_bit""",
        extra_columns=["price numeric(10,2)", "uid uuid", "flag boolean", "day date", "blob bytea", "tags text[]", "mood text"],
    )
    rows_i = make_rows(10, 4)
    rows_i[3].bad("out_of_range", "user_id", user_id=2**64 - 1)
    rows_i[4].want["user_id"] = 2**63 - 1
    simple(
        "ints_ubigint",
        "channel_id UTINYINT, user_id UBIGINT",
        "integers",
        rows=rows_i,
        dim=4,
        select="channel_id::utinyint as channel_id, user_id, content, embedding, metadata",
        replaced={"user_id": lambda rows: arrow.ints(rows, "user_id", pa.uint64())},
    )
    rows_h = make_rows(6, 4)
    simple(
        "hugeint",
        "user_id HUGEINT, which DuckDB stores as double",
        "integers",
        rows=rows_h,
        dim=4,
        select="channel_id, user_id::hugeint as user_id, content, embedding, metadata",
        note="may also be refused as a whole; if it is loaded, whole numbers become integers",
    )
    simple("field_ids", "field ids in the schema", "columns", dim=4, options=", field_ids 'auto'")
    rows_p = sorted(make_rows(16, 4), key=lambda r: r.want["channel_id"])
    add(
        "duckdb_directory_flat",
        WRITER,
        "a directory of two files",
        4,
        rows_p,
        lambda path: (
            path.mkdir(),
            copy(arrow.table(rows_p).slice(0, 9), path / "data_0.parquet"),
            copy(arrow.table(rows_p).slice(9), path / "data_1.parquet"),
        ),
        group="directory",
        directory=True,
    )
