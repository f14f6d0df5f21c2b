"""Rows that must be rejected, written by pyarrow."""

import numpy as np
import pyarrow as pa

from .cases import add
from .from_pyarrow import F32, WRITER, raw_bytes, table, vectors, writes
from .rows import make_rows


def bad_rows():
    g = "rejects"
    nan, inf = float("nan"), float("inf")
    vector = [1.0, 2.0, 3.0, 4.0]
    common = [
        (3, "embedding_null", None),
        (4, "embedding_null_element", [1.0, None, 3.0, 4.0]),
        (5, "embedding_null_element", [None] * 4),
        (6, "embedding_nan", [1.0, 2.0, 3.0, nan]),
        (7, "embedding_infinite", [inf, 2.0, 3.0, 4.0]),
        (8, "embedding_infinite", [1.0, -inf, 3.0, 4.0]),
        (19, "embedding_null", None),
    ]
    lengths = [(10, vector[:3]), (11, vector + [5.0]), (12, []), (13, vector * 2), (14, vector[:1])]
    for name, what, kind, dims in [
        ("bad_embeddings_fixed", "FixedSizeList with nulls, null elements, NaN, infinities, a zero vector", pa.list_(pa.float32(), 4), False),
        ("bad_embeddings_list", "List with the same, and rows of other lengths", F32, True),
        ("bad_embeddings_f16", "the same in List<f16>", pa.list_(pa.float16()), True),
    ]:
        full = f"pyarrow_{name}"
        rows = make_rows(20, 4, dtype=np.float16 if "f16" in name else np.float32)
        for at, reason, value in common + [(at, "embedding_dimension", value) for at, value in (lengths if dims else [])]:
            rows[at].bad(reason, "embedding", embedding=value)
        rows[9].put(embedding=[0.0] * 4).want["embedding"] = np.zeros(4, np.float32)
        add(full, WRITER, what, 4, rows, writes(lambda rows=rows, kind=kind: table(rows, embedding=vectors(rows, kind)), row_group_size=7), group=g)

    full = "pyarrow_bad_embeddings_compensating"
    rows = make_rows(12, 4)
    rows[4].bad("embedding_dimension", "embedding", embedding=vector[:3])
    rows[5].bad("embedding_dimension", "embedding", embedding=vector + [5.0])
    add(
        full,
        WRITER,
        "a vector one short beside one too long: the count of values fits, the rows don't",
        4,
        rows,
        writes(lambda: table(rows)),
        group=g,
    )

    full = "pyarrow_bad_embeddings_binary"
    rows = make_rows(14, 4)
    raws = raw_bytes(rows)
    for at, reason, raw in [
        (3, "embedding_null", None),
        (4, "embedding_dimension", b""),
        (5, "embedding_dimension", b"\0" * 12),
        (6, "embedding_dimension", b"\0" * 15),
        (7, "embedding_dimension", b"\0" * 20),
        (8, "embedding_nan", np.array([1, nan, 1, 1], "<f4").tobytes()),
        (9, "embedding_infinite", np.array([1, inf, 1, 1], "<f4").tobytes()),
    ]:
        rows[at].bad(reason, "embedding")
        raws[at] = raw
    add(
        full,
        WRITER,
        "raw f32 in Binary: null, empty, short, not whole floats, long, NaN, infinite",
        4,
        rows,
        writes(lambda: table(rows, embedding=pa.array(raws, pa.binary()))),
        group=g,
    )

    full = "pyarrow_bad_all_null_embeddings"
    rows = make_rows(6, 4)
    for row in rows:
        row.bad("embedding_null", "embedding", embedding=None)
    add(full, WRITER, "every embedding null: nothing tells the dimension", 4, rows, writes(lambda: table(rows)), group=g)

    full = "pyarrow_bad_nulls"
    rows = make_rows(16, 4)
    for at, key in [(2, "channel_id"), (3, "user_id"), (4, "content"), (5, "metadata"), (15, "content")]:
        rows[at].bad("null", key, **{key: None})
    add(full, WRITER, "nulls in each required scalar column", 4, rows, writes(lambda: table(rows)), group=g)

    full = "pyarrow_bad_nul_byte"
    rows = make_rows(14, 4)
    for at, text in [(2, "\0"), (3, "in the \0 middle"), (4, "at the end\0"), (13, "\0" * 40)]:
        rows[at].bad("nul_byte", "content", content=text)
    add(full, WRITER, "NUL bytes in texts", 4, rows, writes(lambda: table(rows)), group=g)

    for name, large in [("bad_utf8", False), ("bad_utf8_large", True)]:
        full = f"pyarrow_{name}"
        rows = make_rows(20, 4)
        raws = [row.want["content"].encode() for row in rows]
        for at, raw in [
            (2, b"\xff\xfe\xfd"),
            (3, b"cut caf\xc3"),
            (4, b"overlong \xc0\xaf"),
            (5, b"surrogate \xed\xa0\x80"),
            (6, b"beyond \xf4\x90\x80\x80"),
            (12, b"lone \x80 continuation"),
            (19, b"x" * 300 + b"\xe9"),
        ]:
            raws[at] = raw
            rows[at].bad("invalid_utf8", "content")
        # Two neighbours that are valid only together: a reader that checks the whole buffer sees nothing wrong.
        for at, raw in [(9, b"split \xe2\x82"), (10, b"\xac split")]:
            raws[at] = raw
            rows[at].bad("invalid_utf8", "content")

        def build(rows=rows, raws=raws, large=large):
            offsets = np.cumsum([0] + [len(raw) for raw in raws]).astype(np.int64 if large else np.int32)
            kind = pa.LargeStringArray if large else pa.StringArray
            content = kind.from_buffers(len(raws), pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(raws)))
            return table(rows, content=content)

        add(full, WRITER, f"invalid UTF-8 in a {'LargeUtf8' if large else 'Utf8'} column", 4, rows, writes(build, use_dictionary=False), group=g)
    bad_json()


JSON_GOOD = [
    ' {"a" : 1}\r\n\t ',
    "[]",
    '"text"',
    "17",
    "null",
    "true",
    '{"a":1,"a":2}',
    "12345678901234567890123456789012345678901234567890",
    '{"n":1e400,"m":-1E-400,"z":-0,"t":1.10}',
    '"\\u00e9\\ud83d\\ude00\\/\\b\\f\\n\\r\\t\\"\\\\"',
    '{"":{"":[]}}',
    "9007199254740993",
    "1e131071",
    "-1e-16383",
    "[" * 200 + "]" * 200,
    '"\x7f\u2028"',
]
JSON_BAD = [
    "",
    " ",
    "{",
    "{'a':1}",
    '{"a":NaN}',
    "Infinity",
    '{"a":1,}',
    "[1,]",
    "nul",
    "True",
    "01",
    "1.",
    ".5",
    "+1",
    "1 2",
    '{"a" 1}',
    "{a:1}",
    '"\\u0000"',
    '{"k":"a\\u0000b"}',
    '{"\\u0000":1}',
    '"\\ud800"',
    '"\\udc00"',
    '"\\ud800\\u0041"',
    '"\\x41"',
    '"\\u12g4"',
    '"open',
    '"raw\nline feed"',
    '"raw\ttab"',
    "\ufeff{}",
    "1e131072",
    "1e-16384",
    '{"n":1E-20000}',
    '{"n":[1e200000]}',
    "// comment\n{}",
    "0x10",
    "[1}",
    "\u00a0{}",
]


def bad_json():
    full = "pyarrow_bad_json"
    texts_of = [(None, t) for t in JSON_GOOD] + [("invalid_json", t) for t in JSON_BAD] + [("nul_byte", '{"a":"\0"}')]
    rows = make_rows(len(texts_of), 4)
    for row, (reason, text) in zip(rows, texts_of):
        row.put(metadata=text).want["metadata_text"] = text
        if reason:
            row.bad(reason, "metadata")
    add(
        full,
        WRITER,
        "JSON texts at the edge of what jsonb takes, and beyond",
        4,
        rows,
        writes(lambda: table(rows), compression="zstd"),
        group="rejects",
        note="`nul_byte` may be told as invalid_json; row 14 is nested 200 deep, which jsonb takes",
    )


def register():
    bad_rows()
