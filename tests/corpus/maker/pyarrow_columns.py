"""Names and order of columns, and directories, written by pyarrow and by pandas through it."""

import decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .cases import add
from .from_pyarrow import F32, WRITER, columns, ints, metadata, table, texts, vectors, writes
from .rows import make_rows


def column_shapes():
    g = "columns"

    def shaped(name, what, arrays, *, n=16, dim=4, ids=False, options=None, prefix="pyarrow", **kw):
        full = f"{prefix}_{name}"
        rows = make_rows(n, dim, ids=ids)
        add(full, WRITER, what, dim, rows, writes(lambda: arrays(rows), **(options or {})), group=g, **kw)
        return rows

    def pairs(rows, order):
        cols = columns(rows)
        return pa.Table.from_arrays([cols[source] for _, source in order], [name for name, _ in order])

    usual = ["channel_id", "user_id", "content", "embedding", "metadata"]
    shaped("with_id", "an id column", lambda rows: table(rows), ids=True)
    shaped("reversed_columns", "columns in reverse", lambda rows: pairs(rows, [(c, c) for c in reversed(usual)]))
    shaped(
        "names_text_emb",
        "columns `text` and `emb`",
        lambda rows: pairs(rows, [("channel_id",) * 2, ("user_id",) * 2, ("text", "content"), ("emb", "embedding"), ("metadata",) * 2]),
    )
    shaped("names_vector", "column `vector`", lambda rows: pairs(rows, [("vector", "embedding")] + [(c, c) for c in usual if c != "embedding"]))
    shaped(
        "names_embeddings",
        "column `embeddings`",
        lambda rows: pairs(rows, [("embeddings", "embedding")] + [(c, c) for c in usual if c != "embedding"]),
    )
    odd = {"channel_id": "Channel ID", "user_id": 'us"er', "content": "конт.ент", "embedding": "埋め込み", "metadata": "a.b;c,d=e"}
    shaped("names_odd", "spaces, quotes, dots, other scripts in names", lambda rows: pairs(rows, [(odd[c], c) for c in usual]), mapping=odd)
    shaped(
        "names_dotted",
        "`embedding` is a column; `embedding.list.element` another one, of text",
        lambda rows: table(rows).append_column("embedding.list.element", pa.array(["x"] * len(rows))),
    )
    shaped(
        "names_case",
        "`Content` beside `content`, `EMBEDDING` beside `embedding`",
        lambda rows: pa.Table.from_arrays(
            [pa.array(["not me"] * len(rows)), pa.array([[9.0] * 4] * len(rows), F32)] + list(columns(rows).values()),
            ["Content", "EMBEDDING"] + usual,
        ),
    )
    shaped(
        "names_empty",
        "a column with an empty name, unused",
        lambda rows: pa.Table.from_arrays([pa.array(range(len(rows)))] + list(columns(rows).values()), [""] + usual),
    )
    shaped(
        "names_duplicate",
        "two columns named `content`",
        lambda rows: pa.Table.from_arrays(list(columns(rows).values()) + [pa.array(["which one?"] * len(rows))], usual + ["content"]),
        refused="column name twice: content",
    )
    shaped(
        "names_duplicate_unused",
        "two columns named `note`, not wanted",
        lambda rows: pa.Table.from_arrays(
            list(columns(rows).values()) + [pa.array(range(len(rows))), pa.array(["x"] * len(rows))], usual + ["note", "note"]
        ),
    )
    shaped("no_embedding", "no embedding column at all", lambda rows: table(rows).drop_columns("embedding"), refused="no column for embedding")
    fixed = {"channel_id": 7, "user_id": 8}
    for row in shaped("no_channel", "no channel_id, user_id, metadata", lambda rows: table(rows).select(["content", "embedding"]), fixed=fixed):
        row.want |= fixed | {"metadata": {}}
    shaped(
        "unused_columns",
        "unused columns of many types, before, between and behind",
        lambda rows: pa.table(
            {
                "u_struct": pa.array([{"a": i, "b": [i]} for i in range(len(rows))], pa.struct([("a", pa.int32()), ("b", pa.list_(pa.int8()))])),
                "u_null": pa.nulls(len(rows)),
                "channel_id": ints(rows, "channel_id"),
                "u_map": pa.array([[("k", i)] for i in range(len(rows))], pa.map_(pa.string(), pa.int64())),
                "u_duration": pa.array(range(len(rows)), pa.duration("us")),
                "user_id": ints(rows, "user_id"),
                "u_time": pa.array(range(len(rows)), pa.time64("us")),
                "embedding": vectors(rows),
                "u_vectors": pa.array([[[1.0, 2.0], [3.0]]] * len(rows), pa.list_(pa.list_(pa.float32()))),
                "content": texts(rows),
                "u_decimal": pa.array([decimal.Decimal("1.5")] * len(rows), pa.decimal256(60, 3)),
                "metadata": metadata(rows),
                "u_dictionary": pa.array(["a", "b"] * (len(rows) // 2)).dictionary_encode(),
            }
        ),
    )
    shaped(
        "embedding_in_struct",
        "the vector inside a struct, beside a model's name",
        lambda rows: table(rows)
        .drop_columns("embedding")
        .append_column(
            "data",
            pa.array(
                [{"model": "m", "embedding": [float(x) for x in r.get("embedding")]} for r in rows],
                pa.struct([("model", pa.string()), ("embedding", F32)]),
            ),
        ),
        mapping={"embedding": "data.embedding"},
        note="may also be refused: no column for embedding",
    )

    full = "pandas_index"
    rows = make_rows(16, 4)

    def frame(path):
        pd.DataFrame(
            {
                "channel_id": [r.want["channel_id"] for r in rows],
                "user_id": [r.want["user_id"] for r in rows],
                "content": [r.want["content"] for r in rows],
                "embedding": [r.want["embedding"] for r in rows],
                "metadata": [r.want["metadata"] for r in rows],
            },
            index=[3 * i for i in range(len(rows))],
        ).to_parquet(path, engine="pyarrow")

    add(
        full,
        f"pandas {pd.__version__}, {WRITER}",
        "DataFrame.to_parquet: an index column, vectors from numpy, metadata struct from dicts",
        4,
        rows,
        frame,
        group=g,
    )


def directories():
    full = "pyarrow_directory"
    rows = make_rows(24, 4)

    def write(path):
        path.mkdir()
        whole = table(rows)
        for i, (at, size) in enumerate([(0, 10), (10, 0), (10, 9), (19, 5)]):
            pq.write_table(whole.slice(at, size), path / f"part-{i:05}.parquet")
        (path / "_SUCCESS").write_bytes(b"")
        (path / ".part-00000.parquet.crc").write_bytes(b"crc\0not a parquet file")

    add(
        full,
        WRITER,
        "a directory: parts of 10, 0, 9, 5 rows, `_SUCCESS` and a hidden file (both to be passed over)",
        4,
        rows,
        write,
        group="directory",
        directory=True,
    )

    full = "pyarrow_directory_types_differ"
    rows2 = make_rows(12, 4)

    def write2(path):
        path.mkdir()
        one, two = rows2[:6], rows2[6:]
        pq.write_table(table(one), path / "a.parquet")
        pq.write_table(
            table(
                two,
                channel_id=ints(two, "channel_id", pa.int32()),
                embedding=vectors(two, pa.list_(pa.float32(), 4)),
                content=texts(two, pa.large_string()),
            ).select(["embedding", "metadata", "content", "user_id", "channel_id"]),
            path / "b.parquet",
        )

    add(full, WRITER, "a directory whose two files differ in types and column order", 4, rows2, write2, group="directory", directory=True)

    full = "pyarrow_directory_partitioned"
    rows3 = sorted(make_rows(18, 4), key=lambda r: r.want["channel_id"])

    def write3(path):
        for channel in sorted({r.want["channel_id"] for r in rows3}):
            part = [r for r in rows3 if r.want["channel_id"] == channel]
            (path / f"channel_id={channel}").mkdir(parents=True)
            pq.write_table(table(part).drop_columns("channel_id"), path / f"channel_id={channel}" / "part-0.parquet")

    add(
        full,
        WRITER,
        "a directory with `channel_id=…` folders; the column is only in the path",
        4,
        rows3,
        write3,
        group="directory",
        directory=True,
        note="may also be refused: no column for channel_id",
    )


def register():
    column_shapes()
    directories()
