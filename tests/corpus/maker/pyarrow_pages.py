"""Codecs, encodings, pages and row groups, written by pyarrow."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .cases import add
from .from_pyarrow import WRITER, simple, table, vectors, writes
from .rows import make_rows


def pages():
    g = "codec"
    for codec in ("none", "snappy", "gzip", "zstd", "brotli", "lz4"):
        for version in ("1.0", "2.0"):
            simple(
                f"codec_{codec}_page_v{version[0]}",
                f"{'LZ4_RAW' if codec == 'lz4' else codec}, data page v{version[0]}",
                g,
                n=20,
                dim=4,
                options={"compression": codec, "data_page_version": version},
            )
    simple(
        "codec_per_column",
        "another codec for each column",
        g,
        dim=4,
        options={
            "compression": {"channel_id": "none", "user_id": "gzip", "content": "brotli", "embedding.list.element": "zstd", "metadata": "snappy"}
        },
    )

    g = "encoding"
    few = [[1.0, -0.0, 0.5, 2.0], [0.25, 0.5, 1.0, 0.0], [0.1, 0.2, 0.3, 0.4]]

    def repeated(name, n=40):
        rows = make_rows(n, 4)
        for i, row in enumerate(rows):
            row.want["embedding"] = np.array(few[i % 3], np.float32)
            row.put(embedding=row.want["embedding"])
        return rows

    simple(
        "dictionary_everywhere",
        "dictionary encoding of all columns, embeddings of few values",
        g,
        dim=4,
        rows=repeated("dictionary_everywhere"),
        options={"use_dictionary": True},
    )
    simple("dictionary_nowhere", "no dictionary encoding", g, dim=4, options={"use_dictionary": False})
    simple(
        "dictionary_fallback",
        "dictionary pages that overflow: the chunk goes on PLAIN",
        g,
        n=40,
        dim=8,
        options={"dictionary_pagesize_limit": 256, "data_page_size": 128, "write_batch_size": 8, "compression": "none"},
    )
    simple(
        "plain_dictionary_v1",
        "format 1.0 (PLAIN_DICTIONARY), data page v2",
        g,
        dim=4,
        rows=repeated("plain_dictionary_v1", 20),
        options={"version": "1.0", "data_page_version": "2.0"},
    )
    name_of = {"embedding": "embedding.list.element"}

    def encoded(name, what, encoding, **kw):
        simple(
            name,
            what,
            g,
            options={"use_dictionary": False, "column_encoding": {name_of.get(k, k): v for k, v in encoding.items()}} | kw.pop("options", {}),
            **kw,
        )

    encoded("byte_stream_split_f32", "BYTE_STREAM_SPLIT: f32, int64", {"embedding": "BYTE_STREAM_SPLIT", "user_id": "BYTE_STREAM_SPLIT"}, dim=8)
    encoded(
        "byte_stream_split_f32_v2",
        "BYTE_STREAM_SPLIT f32, data page v2, zstd",
        {"embedding": "BYTE_STREAM_SPLIT"},
        options={"data_page_version": "2.0", "compression": "zstd"},
    )
    encoded(
        "byte_stream_split_f64",
        "BYTE_STREAM_SPLIT f64",
        {"embedding": "BYTE_STREAM_SPLIT"},
        dtype=np.float64,
        replaced={"embedding": lambda rows: vectors(rows, pa.list_(pa.float64()))},
    )
    encoded(
        "byte_stream_split_f16",
        "BYTE_STREAM_SPLIT f16",
        {"embedding": "BYTE_STREAM_SPLIT"},
        dtype=np.float16,
        replaced={"embedding": lambda rows: vectors(rows, pa.list_(pa.float16()))},
    )
    encoded(
        "delta",
        "DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY",
        {"channel_id": "DELTA_BINARY_PACKED", "user_id": "DELTA_BINARY_PACKED", "content": "DELTA_LENGTH_BYTE_ARRAY", "metadata": "DELTA_BYTE_ARRAY"},
        dim=4,
    )
    encoded(
        "delta_v2",
        "the same with the two texts exchanged, data page v2",
        {"channel_id": "DELTA_BINARY_PACKED", "user_id": "DELTA_BINARY_PACKED", "content": "DELTA_BYTE_ARRAY", "metadata": "DELTA_LENGTH_BYTE_ARRAY"},
        dim=4,
        options={"data_page_version": "2.0"},
    )

    g = "pages"
    tiny = {"data_page_size": 64, "write_batch_size": 5, "use_dictionary": False}
    simple("tiny_pages_v1", "tiny v1 pages, no page index", g, n=30, options=tiny)
    simple("tiny_pages_v1_index", "tiny v1 pages with page index", g, n=30, options=tiny | {"write_page_index": True})
    simple("tiny_pages_v2", "tiny v2 pages", g, n=30, options=tiny | {"data_page_version": "2.0", "write_page_index": True})
    simple(
        "page_index_dictionary", "page index, dictionary pages, several row groups", g, n=30, options={"write_page_index": True, "row_group_size": 11}
    )
    simple("page_checksums", "CRC-32 in the page headers", g, options={"write_page_checksum": True, "compression": "zstd"})
    simple("no_statistics", "no statistics", g, dim=4, options={"write_statistics": False})
    simple(
        "row_group_each", "a row group for each row", g, n=20, dim=4, options={"row_group_size": 1, "use_dictionary": False, "compression": "none"}
    )
    simple("row_groups_uneven", "row groups of 7 rows, the last of 2", g, n=30, options={"row_group_size": 7})
    full = "pyarrow_bloom_filter"
    rows = make_rows(20, 4)
    add(full, WRITER, "a bloom filter", 4, rows, writes(lambda: table(rows), bloom_filter_options={"channel_id": True}), group=g)

    full = "pyarrow_tiny_pages_bad_rows"
    rows = make_rows(40, 8)
    for at, reason, value in [
        (0, "embedding_null", None),
        (9, "embedding_dimension", [1.0] * 7),
        (10, "embedding_dimension", [1.0] * 9),
        (11, "embedding_dimension", []),
        (12, "embedding_null", None),
        (25, "embedding_nan", [float("nan")] * 8),
        (39, "embedding_null_element", [1.0] * 7 + [None]),
    ]:
        rows[at].bad(reason, "embedding", embedding=value)
    add(full, WRITER, "bad rows in tiny v1 pages", 8, rows, writes(lambda: table(rows), **tiny), group=g)

    g = "empty"
    nothing = table(make_rows(1)).slice(0, 0)
    add("pyarrow_no_rows", WRITER, "no rows, no row groups", 8, [], lambda path: pq.ParquetWriter(path, nothing.schema).close(), group=g)
    for name, sizes in [("empty_row_groups", [0, 5, 0, 0, 9, 0]), ("empty_row_group", [0]), ("only_empty_row_groups", [0, 0])]:
        full = f"pyarrow_{name}"
        rows = make_rows(sum(sizes))

        def write(path, rows=rows, sizes=sizes, full=full):
            whole, at = table(rows or make_rows(1)), 0
            with pq.ParquetWriter(path, whole.schema) as out:
                for size in sizes:
                    out.write_table(whole.slice(at, size))
                    at += size

        add(full, WRITER, f"row groups of {', '.join(map(str, sizes))} rows", 8, rows, write, group=g)

    full = "pyarrow_big_page"
    rows = make_rows(4, 4)
    rows[2].repeat("x", 32 << 20)
    add(
        full,
        WRITER,
        "one text of 32 MiB: 1 kB of file, one page of 32 MiB",
        4,
        rows,
        writes(lambda: table(rows), compression="zstd", write_statistics=False, use_dictionary=False),
        group="pages",
        note="for tests of `--memory`; the expected text is given as `content_repeat`: [unit, count]",
    )


def register():
    pages()
