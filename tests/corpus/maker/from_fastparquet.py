"""Files written by fastparquet. It knows no lists of numbers: vectors are bytes, texts or JSON."""

import fastparquet
import numpy as np
import pandas as pd

from .cases import add
from .rows import json_text, make_rows, timestamptz_text

WRITER = f"fastparquet {fastparquet.__version__}"


def frame(rows, **replaced):
    out = {
        "channel_id": np.array([r.get("channel_id") for r in rows], np.int64),
        "user_id": np.array([r.get("user_id") for r in rows], np.int64),
        "content": [r.get("content") for r in rows],
        "embedding": [r.source["embedding"].astype("<f4").tobytes() for r in rows],
        "metadata": [json_text(r.want["metadata"]) for r in rows],
    } | replaced
    return pd.DataFrame({key: pd.Series(value, dtype=object) if isinstance(value, list) else value for key, value in out.items()})


def simple(name, what, group, *, n=16, dim=4, rows=None, replaced=None, options=None, **kw):
    name = f"fastparquet_{name}"
    rows = rows or make_rows(n, dim)
    replaced = replaced or {}
    encoding = {"content": "utf8", "embedding": "bytes", "metadata": "utf8"}
    options = {"object_encoding": encoding} | (options or {})
    add(
        name,
        WRITER,
        what,
        dim,
        rows,
        lambda path: fastparquet.write(str(path), frame(rows, **{key: make(rows) for key, make in replaced.items()}), **options),
        group=group,
        **kw,
    )


def register():
    g = "embedding"
    simple("bytes_f32le", "raw f32 in BYTE_ARRAY, defaults", g)
    simple("fixed_bytes_f32le", "raw f32 in FIXED_LEN_BYTE_ARRAY", g, options={"fixed_text": {"embedding": 16}})
    simple(
        "json_embedding",
        "vectors as JSON text (logical type JSON), dictionaries as metadata likewise",
        g,
        replaced={
            "embedding": lambda rows: [[float(x) for x in r.want["embedding"]] for r in rows],
            "metadata": lambda rows: [r.want["metadata"] for r in rows],
        },
        options={"object_encoding": {"content": "utf8", "embedding": "json", "metadata": "json"}},
    )
    for codec in ("GZIP", "SNAPPY", "ZSTD", "BROTLI", "LZ4_RAW"):
        simple(f"codec_{codec.lower()}", codec, "codec", options={"compression": codec})
    simple("codec_lz4_legacy", "LZ4, the old codec number 5 (framing differs between writers)", "codec", options={"compression": "LZ4"})
    simple("row_groups", "four row groups, all columns required (has_nulls=False)", "pages", options={"row_group_offsets": 5, "has_nulls": False})
    simple(
        "categories",
        "content as pandas categories",
        "text",
        replaced={"content": lambda rows: pd.Categorical([r.want["content"] for r in rows])},
        options={"object_encoding": {"embedding": "bytes", "metadata": "utf8"}},
    )
    rows_n = make_rows(14, 4)
    rows_n[3].bad("null", "content", content=None)
    rows_n[9].bad("null", "content", content=None)
    simple("nulls", "null contents", "rejects", rows=rows_n)
    micros = [0, 1_714_567_890_123_456, 951_782_400_000_000, -1_000_000, 1_000_001]
    for name, times in [("timestamp_int64", "int64"), ("timestamp_int96", "int96")]:
        rows_t = make_rows(len(micros), 4)
        for row, value in zip(rows_t, micros):
            row.want["created_at"] = timestamptz_text(value)
        simple(
            name,
            f"created_at: {times} times",
            "times",
            rows=rows_t,
            options={"times": times},
            replaced={"created_at": lambda rows: np.array(micros, "datetime64[us]").astype("datetime64[ns]")},
        )
    rows_d = make_rows(12, 4)
    add(
        "fastparquet_directory",
        WRITER,
        "file_scheme hive: parts, `_metadata` and `_common_metadata` (both to be passed over)",
        4,
        rows_d,
        lambda path: fastparquet.write(
            str(path),
            frame(rows_d),
            file_scheme="hive",
            row_group_offsets=5,
            object_encoding={"content": "utf8", "embedding": "bytes", "metadata": "utf8"},
        ),
        group="directory",
        directory=True,
    )
