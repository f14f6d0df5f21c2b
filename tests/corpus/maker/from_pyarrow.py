"""Files written by pyarrow: the helpers, and how embeddings, texts, integers and metadata can be stored."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .cases import add
from .rows import f32_of_text, json_text, make_rows

WRITER = f"pyarrow {pa.__version__}"
F32 = pa.list_(pa.float32())


def ints(rows, key, kind=pa.int64()):
    return pa.array([row.get(key) for row in rows], kind)


def texts(rows, kind=pa.string()):
    return pa.array([row.get("content") for row in rows], kind)


def vectors(rows, kind=F32):
    values = [row.get("embedding") for row in rows]
    if pa.types.is_float16(kind.value_type):
        return pa.array([None if v is None else [None if x is None else np.float16(x) for x in v] for v in values], kind)
    return pa.array([None if v is None else [None if x is None else float(x) for x in v] for v in values], kind)


def json_of(row):
    if "metadata" in row.source:
        return row.source["metadata"]
    return json_text(row.want["metadata"])


def metadata(rows, kind=pa.string()):
    return pa.array([json_of(row) for row in rows], kind)


def columns(rows, **replaced):
    out = {}
    if "id" in rows[0].want:
        out["id"] = ints(rows, "id")
    out |= {
        "channel_id": lambda: ints(rows, "channel_id"),
        "user_id": lambda: ints(rows, "user_id"),
        "content": lambda: texts(rows),
        "embedding": lambda: vectors(rows),
        "metadata": lambda: metadata(rows),
    } | replaced
    return {key: value() if callable(value) else value for key, value in out.items()}


def table(rows, **replaced):
    return pa.table(columns(rows, **replaced))


def writes(build, **options):
    """The table is built at once: `build` sees its function's variables as they are now."""
    built = build()
    return lambda path: pq.write_table(built, path, **options)


def simple(name, what, group, *, rows=None, n=20, dim=8, dtype=np.float32, replaced=None, options=None, **kw):
    """A file of make_rows with some columns built otherwise. `replaced` maps a column to a function of the rows."""
    name = f"pyarrow_{name}"
    rows = rows or make_rows(n, dim, dtype=dtype)
    replaced = replaced or {}
    return add(
        name,
        WRITER,
        what,
        dim,
        rows,
        writes(lambda: table(rows, **{key: make(rows) for key, make in replaced.items()}), **(options or {})),
        group=group,
        **kw,
    )


# --- how an embedding can be stored ----------------------------------------------------------------------------------


def raw_bytes(rows):
    return [None if row.get("embedding") is None else np.asarray(row.get("embedding")).astype("<f4").tobytes() for row in rows]


def embedding_forms():
    g = "embedding"
    for name, what, kind, dtype in [
        ("fixed_size_list_snappy", "FixedSizeList<f32>, defaults", pa.list_(pa.float32(), 8), np.float32),
        ("list_f32", "List<f32>", F32, np.float32),
        ("large_list_f32", "LargeList<f32>", pa.large_list(pa.float32()), np.float32),
        ("list_view_f32", "ListView<f32> in the Arrow schema", pa.list_view(pa.float32()), np.float32),
        ("large_list_view_f32", "LargeListView<f32> in the Arrow schema", pa.large_list_view(pa.float32()), np.float32),
        ("list_f16", "List<f16>", pa.list_(pa.float16()), np.float16),
        ("fixed_size_list_f16", "FixedSizeList<f16>", pa.list_(pa.float16(), 8), np.float16),
        ("list_f64", "List<f64>, each value rounded once to f32", pa.list_(pa.float64()), np.float64),
        ("fixed_size_list_f64", "FixedSizeList<f64>", pa.list_(pa.float64(), 8), np.float64),
    ]:
        simple(name, what, g, dtype=dtype, replaced={"embedding": lambda rows, kind=kind: vectors(rows, kind)})
    simple("list_f32_no_arrow_schema", "List<f32>, without the Arrow schema in the footer", g, options={"store_schema": False})
    simple("binary_f32le", "raw little-endian f32 in Binary", g, dim=6, replaced={"embedding": lambda rows: pa.array(raw_bytes(rows), pa.binary())})
    simple(
        "large_binary_f32le",
        "raw little-endian f32 in LargeBinary",
        g,
        dim=6,
        replaced={"embedding": lambda rows: pa.array(raw_bytes(rows), pa.large_binary())},
    )
    simple(
        "fixed_size_binary_f32le",
        "raw little-endian f32 in FixedSizeBinary(24)",
        g,
        dim=6,
        replaced={"embedding": lambda rows: pa.array(raw_bytes(rows), pa.binary(24))},
    )
    simple("dim_1", "vectors of one dimension", g, dim=1)
    simple(
        "dim_16", "vectors of 16 dimensions, FixedSizeList", g, dim=16, replaced={"embedding": lambda rows: vectors(rows, pa.list_(pa.float32(), 16))}
    )

    name = "pyarrow_list_of_ints"
    rows = make_rows(20, 4)
    for i, row in enumerate(rows):
        values = [i, -i, 127, 0]
        row.want["embedding"] = np.array(values, np.float32)
        row.put(embedding=values)
    add(
        name,
        WRITER,
        "List<int8>: quantised vectors",
        4,
        rows,
        writes(lambda: table(rows, embedding=pa.array([r.get("embedding") for r in rows], pa.list_(pa.int8())))),
        group=g,
        note="may also be refused as a whole; if it is loaded, these are the values",
    )

    embedding_text()
    extremes()


def embedding_text():
    name = "pyarrow_text_embedding"
    rows = make_rows(24, 4)
    for row in rows:
        row.put(embedding="[" + ",".join(repr(float(x)) for x in row.want["embedding"]) + "]")
    good = [
        "[1, 2, 3, 4]",
        "  [1,2 , 3,4]  ",
        "[1e3,-2.5E-3,+4,.5]",
        "[1.00000005960464477539062500001,0.1,16777217,3.4028235e38]",  # the first one rounds twice over f64
        "[1e-60,-1e-60,1e-45,-0]",
    ]
    for row, text in zip(rows[8:], good):
        row.put(embedding=text)
        row.want["embedding"] = np.array([f32_of_text(part.strip()) for part in text.strip()[1:-1].split(",")], np.float32)
    bad = [
        ("embedding_dimension", "[1,2,3]"),
        ("embedding_dimension", "[]"),
        ("embedding_nan", "[1,NaN,3,4]"),
        ("embedding_infinite", "[1,Infinity,3,4]"),
        ("embedding_infinite", "[1,-inf,3,4]"),
        ("embedding_out_of_range", "[1,1e39,3,4]"),
        ("bad_value", "[1,2,3,4"),
        ("bad_value", "1,2,3,4"),
        ("bad_value", "[1,,3,4]"),
        ("bad_value", "[1,2,3,4]x"),
        ("bad_value", ""),
    ]
    for row, (reason, text) in zip(rows[13:], bad):
        row.bad(reason, "embedding", embedding=text)
    add(
        name,
        WRITER,
        "embeddings as `[…]` text, good and bad",
        4,
        rows,
        writes(lambda: table(rows, embedding=pa.array([r.get("embedding") for r in rows], pa.string()))),
        group="embedding",
        note="row 11's first value rounds to another float4 when read over a double",
    )


def extremes():
    top = float(np.finfo(np.float32).max)
    name = "pyarrow_f64_range"
    rows = make_rows(20, 4, dtype=np.float64)
    values = [
        (None, [top, -top, 1.0, 0.0]),
        (None, [3.40282351e38, 1.0, 1.0, 1.0]),  # over the largest float4, but nearest to it
        (None, [1e-60, -1e-60, 1e-46, 5e-324]),  # to zeros with their sign
        (None, [1 + 2**-24, 1 + 3 * 2**-24, 1 + 2**-24 + 2**-50, 16777217.0]),  # ties to even
        ("embedding_out_of_range", [1.0, 3.402823669209385e38, 1.0, 1.0]),
        ("embedding_out_of_range", [1.0, 1e39, 1.0, 1.0]),
        ("embedding_out_of_range", [1.0, -1.7e308, 1.0, 1.0]),
        ("embedding_nan", [1.0, float("nan"), 1.0, 1.0]),
        ("embedding_infinite", [1.0, float("inf"), 1.0, 1.0]),
        ("embedding_infinite", [float("-inf"), 1.0, 1.0, 1.0]),
    ]
    for row, (reason, vector) in zip(rows[5:], values):
        if reason:
            row.bad(reason, "embedding", embedding=vector)
        else:
            row.put(embedding=vector).want["embedding"] = np.array(vector).astype(np.float32)
    add(
        name,
        WRITER,
        "f64 at and beyond the ends of f32",
        4,
        rows,
        writes(lambda: table(rows, embedding=vectors(rows, pa.list_(pa.float64())))),
        group="embedding",
    )

    name = "pyarrow_f32_range"
    rows = make_rows(12, 4)
    for row, vector in zip(rows[4:], [[top, -top, top, 1.0], [1e-45, -1e-45, 1.1754944e-38, 0.0], [0.0] * 4, [-0.0] * 4]):
        row.want["embedding"] = np.array(vector, np.float32)
        row.put(embedding=row.want["embedding"])
    add(
        name,
        WRITER,
        "f32: largest, smallest, subnormal, zero vectors (accepted, warned about)",
        4,
        rows,
        writes(lambda: table(rows)),
        group="embedding",
    )


# --- lists: nullability and names ------------------------------------------------------------------------------------


def list_nullability():
    g = "list shape"
    for name, what, element_null, list_null in [
        ("list_required_element_optional", "required list, optional element", True, False),
        ("list_required_element_required", "required list, required element", False, False),
        ("list_optional_element_required", "optional list, required element", False, True),
    ]:
        for form, size in [("list", -1), ("fixed", 8)]:
            kind = pa.list_(pa.field("element", pa.float32(), nullable=element_null), size)
            full = f"pyarrow_{name}_{form}"
            rows = make_rows(20, 8)
            if list_null:
                rows[5].bad("embedding_null", "embedding", embedding=None)

            def build(rows=rows, kind=kind, list_null=list_null):
                schema = pa.schema(
                    [
                        pa.field("channel_id", pa.int64(), nullable=False),
                        pa.field("user_id", pa.int64(), nullable=False),
                        pa.field("content", pa.string(), nullable=False),
                        pa.field("embedding", kind, nullable=list_null),
                        pa.field("metadata", pa.string(), nullable=False),
                    ]
                )
                cols = columns(rows, embedding=vectors(rows, kind))
                return pa.Table.from_arrays(list(cols.values()), schema=schema)

            add(full, WRITER, f"{what}, {'FixedSizeList' if size > 0 else 'List'}; other columns required", 8, rows, writes(build), group=g)
    simple("list_item_name", "element named `item` (use_compliant_nested_type=False)", g, options={"use_compliant_nested_type": False})
    # The 2-level and other old list shapes are in from_edits.py.


# --- texts and integers ----------------------------------------------------------------------------------------------


def text_types():
    g = "text"
    for name, what, kind in [
        ("large_utf8", "LargeUtf8 content and metadata", pa.large_string()),
        ("utf8_view", "Utf8View content and metadata", pa.string_view()),
        ("content_binary", "content and metadata as Binary without a text annotation", pa.binary()),
        ("content_binary_view", "content and metadata as BinaryView", pa.binary_view()),
        ("dictionary_i32", "content and metadata as Dictionary<int32, Utf8>", pa.dictionary(pa.int32(), pa.string())),
        ("dictionary_i8_large", "content and metadata as Dictionary<int8, LargeUtf8>", pa.dictionary(pa.int8(), pa.large_string())),
    ]:

        def make(rows, key, kind=kind):
            values = [row.get("content") if key == "content" else json_of(row) for row in rows]
            if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
                return pa.array([v.encode() for v in values], kind)
            if pa.types.is_dictionary(kind):
                return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
            return pa.array(values, kind)

        simple(
            name,
            what,
            g,
            dim=4,
            replaced={"content": lambda rows, make=make: make(rows, "content"), "metadata": lambda rows, make=make: make(rows, "metadata")},
        )

    name = "pyarrow_long_text"
    rows = make_rows(6, 4)
    rows[2].repeat("ß漢🦀", 20_000)
    rows[4].repeat("end of line\n", 10_000)
    add(name, WRITER, "contents of 180 and 120 kB in pages that compress well", 4, rows, writes(lambda: table(rows), compression="zstd"), group=g)


def integer_types():
    g = "integers"
    limits = {}
    for kind in [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]:
        info = np.iinfo(kind.to_pandas_dtype())
        limits[kind] = (int(info.min), int(info.max))
    top = (1 << 63) - 1
    for first, second in [
        (pa.int8(), pa.uint8()),
        (pa.int16(), pa.uint16()),
        (pa.int32(), pa.uint32()),
        (pa.int64(), pa.uint64()),
        (pa.uint64(), pa.int64()),
    ]:
        name = f"pyarrow_ints_{first}_{second}"
        rows = make_rows(14, 4)
        for i, row in enumerate(rows):
            for key, kind in (("channel_id", first), ("user_id", second)):
                low, high = limits[kind]
                value = [low, high, 0, 1, high - 1][i] if i < 5 else row.want[key] % min(high, 1 << 40)
                row.want[key] = value
            if i == 5 and pa.uint64() in (first, second):
                row.want["channel_id" if first == pa.uint64() else "user_id"] = top
            for key in ("channel_id", "user_id"):
                if row.want[key] > top:
                    row.bad("out_of_range", key)
        add(
            name,
            WRITER,
            f"channel_id {first}, user_id {second}, at their limits",
            4,
            rows,
            writes(
                lambda rows=rows, first=first, second=second: table(
                    rows, channel_id=ints(rows, "channel_id", first), user_id=ints(rows, "user_id", second)
                )
            ),
            group=g,
        )

    name = "pyarrow_ints_narrow_target"
    rows = make_rows(16, 4)
    small = [0, 1, -32768, 32767, 32768, -32769, None]
    medium = [0, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**40, None]
    for i, row in enumerate(rows):
        row.put(small=5, medium=6)
    for row, value in zip(rows[1:], small):
        row.put(small=value)
    for row, value in zip(rows[8:], medium):
        row.put(medium=value)
    for row in rows:
        for key, low in (("small", -(2**15)), ("medium", -(2**31))):
            value = row.source[key]
            if value is not None and not low <= value < -low:
                row.bad("out_of_range", key)
            row.extra[key] = None if value is None else str(value)
    add(
        name,
        WRITER,
        "int64 into smallint and integer columns",
        4,
        rows,
        writes(lambda: table(rows, small=ints(rows, "small"), medium=ints(rows, "medium"))),
        group=g,
        extra_columns=["small smallint", "medium integer"],
    )

    name = "pyarrow_float_ids"
    rows = make_rows(12, 4)
    values = [float(row.want["user_id"]) for row in rows]
    rows[3].bad("bad_value", "user_id")
    values[3] = 3.5
    rows[5].bad("out_of_range", "user_id")
    values[5] = 1e19
    rows[7].bad("null", "user_id")
    values[7] = None
    add(
        name,
        WRITER,
        "user_id as double, as pandas makes of integers with a null",
        4,
        rows,
        writes(lambda: table(rows, user_id=pa.array(values, pa.float64()))),
        group=g,
        note="may also be refused as a whole; if it is loaded, whole numbers become integers",
    )


# --- metadata --------------------------------------------------------------------------------------------------------


def metadata_forms():
    g = "metadata"
    simple("json_type", "metadata with the logical type JSON", g, dim=4, replaced={"metadata": lambda rows: metadata(rows, pa.json_())})

    def typed(name, what, kind, value, **kw):
        full = f"pyarrow_metadata_{name}"
        rows = make_rows(20, 4)
        sources = []
        for i, row in enumerate(rows):
            source, want = value(i)
            sources.append(source)
            if source is None:
                row.bad("null", "metadata")
            row.want["metadata"] = want
        add(full, WRITER, what, 4, rows, writes(lambda: table(rows, metadata=pa.array(sources, kind))), group=g, **kw)

    def flat(i):
        if i == 6:
            return None, None
        value = {"lang": None if i % 5 == 0 else '漢"\\\n'[: i % 4 + 1], "n": 9007199254740993 + i, "score": i / 4, "ok": i % 2 == 0}
        return value, value

    typed(
        "struct",
        "struct of text, int64 beyond 2^53, double, bool; null fields become JSON nulls",
        pa.struct([("lang", pa.string()), ("n", pa.int64()), ("score", pa.float64()), ("ok", pa.bool_())]),
        flat,
    )

    def nested(i):
        value = {
            "source": {"url": f"https://example.org/{i}", "depth": i},
            "tags": [f"t{k}" for k in range(i % 4)],
            "parts": [{"k": "a", "v": i}, {"k": "b", "v": None}][: i % 3],
        }
        return value, value

    typed(
        "nested",
        "struct in struct, list in struct, list of structs",
        pa.struct(
            [
                ("source", pa.struct([("url", pa.string()), ("depth", pa.int32())])),
                ("tags", pa.list_(pa.string())),
                ("parts", pa.list_(pa.struct([("k", pa.string()), ("v", pa.int64())]))),
            ]
        ),
        nested,
    )

    def map_int(i):
        value = {f"k{k}": None if k == 3 else i * k for k in range(i % 6)}
        return list(value.items()), value

    typed("map_int", "map<text, int64>, empty ones and null values among them", pa.map_(pa.string(), pa.int64()), map_int)

    def map_text(i):
        value = {"a key": f"v{i}", "ключ": '\u0001"', "": "empty key"}
        pairs = list(value.items())
        if i == 4:
            pairs = [("a key", "first")] + pairs
        return pairs, value

    typed("map_text", "map<text, text>; row 4 has a key twice (the last one counts, as in jsonb)", pa.map_(pa.string(), pa.string()), map_text)
    typed("list", "list<text>", pa.list_(pa.string()), lambda i: ([["a", None, "ü"], [], ["\\"]][i % 3],) * 2)


def register():
    embedding_forms()
    list_nullability()
    text_types()
    integer_types()
    metadata_forms()
