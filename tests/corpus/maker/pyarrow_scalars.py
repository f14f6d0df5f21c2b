"""Times and other scalars, written by pyarrow."""

import decimal
import uuid

import numpy as np
import pyarrow as pa

from .cases import add
from .from_pyarrow import WRITER, table, writes
from .rows import date_text, make_rows, timestamptz_text

MICROS = [
    0,
    1,
    -1,
    1_714_567_890_123_456,
    -2_208_988_800_000_000,
    951_782_400_000_000,
    253_402_300_799_999_999,
    -62_135_596_800_000_000,
    4_102_444_800_000_000,
    1_000_000,
]


def times():
    g = "times"

    def timed(name, what, kind, unit, values=None, options=None, writer_table=None, rejects=(), **kw):
        """unit: nanoseconds per tick."""
        full = f"pyarrow_{name}"
        values = values or [v * 1000 // unit for v in MICROS if -(2**63) <= v * 1000 // unit < 2**63]
        rows = make_rows(len(values), 4)
        for i, (row, value) in enumerate(zip(rows, values)):
            if i in rejects:
                row.bad("out_of_range", "created_at")
            else:
                nanos = value * unit
                row.want["created_at"] = timestamptz_text(nanos // 1000)
                if nanos % 1000:
                    row.want["created_at_rounded"] = timestamptz_text((nanos + 500) // 1000)
        add(
            full,
            WRITER,
            what,
            4,
            rows,
            writes(lambda: table(rows, created_at=pa.array(values, pa.int64()).cast(kind)), **(options or {})),
            group=g,
            **kw,
        )

    timed("timestamp_ms_utc", "created_at: milliseconds, UTC", pa.timestamp("ms", "UTC"), 1_000_000)
    timed("timestamp_us_zone", "created_at: microseconds, Europe/Berlin (the instant is in UTC)", pa.timestamp("us", "Europe/Berlin"), 1000)
    timed("timestamp_us_naive", "created_at: microseconds without a zone (read as UTC)", pa.timestamp("us"), 1000)
    near = [v for v in MICROS if abs(v) < 9_000_000_000_000_000]
    timed("timestamp_ns_utc", "created_at: nanoseconds, UTC", pa.timestamp("ns", "UTC"), 1, [v * 1000 for v in near])
    timed(
        "timestamp_ns_below_us",
        "created_at: nanoseconds that are not whole microseconds",
        pa.timestamp("ns", "UTC"),
        1,
        [1, 400, 600, 999, -1, -400, -600, 1_714_567_890_123_456_789],
        note="`created_at` is rounded down, `created_at_rounded` to the nearest as PostgreSQL does with text; either may be chosen",
    )
    timed("timestamp_s", "created_at: seconds (stored as milliseconds)", pa.timestamp("s", "UTC"), 1_000_000_000)
    timed("timestamp_int96", "created_at: INT96", pa.timestamp("ns"), 1, [v * 1000 for v in near], options={"use_deprecated_int96_timestamps": True})
    timed(
        "timestamp_int96_no_arrow_schema",
        "created_at: INT96, without the Arrow schema",
        pa.timestamp("ns"),
        1,
        [v * 1000 for v in near],
        options={"use_deprecated_int96_timestamps": True, "store_schema": False},
    )
    for name, what, schema in [
        ("timestamp_int96_far", "the Arrow schema says microseconds", True),
        ("timestamp_int96_far_no_arrow_schema", "no Arrow schema", False),
    ]:
        timed(
            name,
            f"created_at: INT96 of the years 1 to 9999, beyond 64-bit nanoseconds; {what}",
            pa.timestamp("us"),
            1000,
            options={"use_deprecated_int96_timestamps": True, "store_schema": schema},
            note="rejecting such rows as out_of_range would do too; loading another time would not",
        )
    # 294276-12-31 23:59:59.999999 is PostgreSQL's last timestamp, 4714-11-24 BC its first.
    last, first = 9_224_318_015_999_999, -210_866_803_200_000
    timed(
        "timestamp_ms_range",
        "created_at: milliseconds at and beyond PostgreSQL's range",
        pa.timestamp("ms", "UTC"),
        1_000_000,
        [0, last, last + 1, first, first - 1, 2**63 - 1, -(2**63), 2**53],
        rejects=(2, 4, 5, 6),
    )

    full = "pyarrow_timestamp_nulls"
    rows = make_rows(6, 4)
    for i, row in enumerate(rows):
        row.want["created_at"] = timestamptz_text(MICROS[i])
    values = MICROS[:6]
    rows[2].bad("null", "created_at")
    values[2] = None
    add(full, WRITER, "created_at with a null", 4, rows, writes(lambda: table(rows, created_at=pa.array(values, pa.timestamp("us", "UTC")))), group=g)

    full = "pyarrow_date32"
    days = [0, -1, 19844, -719162, 2932896, 11016]
    rows_d = make_rows(len(days), 4)
    for row, day in zip(rows_d, days):
        row.want["created_at"] = timestamptz_text(day * 86_400_000_000)
    add(
        full,
        WRITER,
        "created_at: dates (midnight UTC)",
        4,
        rows_d,
        writes(lambda: table(rows_d, created_at=pa.array(days, pa.int32()).cast(pa.date32()))),
        group=g,
    )

    full = "pyarrow_timestamp_text"
    stamps = [
        ("2024-05-01 12:34:56.789123+00", "2024-05-01 12:34:56.789123+00"),
        ("2024-05-01T12:34:56Z", "2024-05-01 12:34:56+00"),
        ("2024-05-01T12:34:56+02:00", "2024-05-01 10:34:56+00"),
        ("2024-05-01", "2024-05-01 00:00:00+00"),
    ]
    rows_t = make_rows(len(stamps) + 3, 4)
    for row, (text, want) in zip(rows_t, stamps):
        row.put(created_at=text).want["created_at"] = want
    for row, text in zip(rows_t[len(stamps) :], ["yesterday at noon or so", "2024-02-30 00:00:00Z", ""]):
        row.bad("bad_value", "created_at", created_at=text)
    add(
        full,
        WRITER,
        "created_at: ISO texts",
        4,
        rows_t,
        writes(lambda: table(rows_t, created_at=pa.array([r.get("created_at") for r in rows_t], pa.string()))),
        group=g,
    )


def scalars():
    g = "scalars"
    D = decimal.Decimal

    full = "pyarrow_decimals"
    rows = make_rows(8, 4)
    a = ["0.00", "12.34", "-12.34", "99999999.99", "-0.01", None, "1.50", "7.00"]
    b = ["0", "1", "-1", "1234567890123456789012345678901234567890.0123456789", "-0.0000000001", None, "0.1", "100"]
    quantum = D(1).scaleb(-10)
    with decimal.localcontext(prec=60):
        b = [None if v is None else D(v).quantize(quantum) for v in b]
        for row, x, y in zip(rows, a, b):
            row.extra = {"price": x, "small": x, "huge": None if y is None else f"{y:f}"}
    add(
        full,
        WRITER,
        "decimals as fixed bytes: decimal128(10,2), decimal64(12,2), decimal256(50,10)",
        4,
        rows,
        writes(
            lambda: table(
                rows,
                price=pa.array([v and D(v) for v in a], pa.decimal128(10, 2)),
                small=pa.array([v and D(v) for v in a], pa.decimal64(12, 2)),
                huge=pa.array(b, pa.decimal256(50, 10)),
            )
        ),
        group=g,
        extra_columns=["price numeric(10,2)", "small numeric", "huge numeric"],
    )

    full = "pyarrow_decimals_as_integers"
    rows2 = make_rows(8, 4)
    c = ["0.00", "12.34", "-12.34", "9999999.99", "-0.01", None, "1.50", "7.00"]
    over = [None] * 8
    for row, x in zip(rows2, c):
        row.extra = {"price": x, "small": x, "tight": "1.25"}
    over = ["1.2500", "1.2500", "1.2500", "1.2500", "1000.0000", "1.2500", "999.9999", "1.2500"]
    rows2[4].bad("bad_value", "tight")
    rows2[6].bad("bad_value", "tight")  # rounds to 1000.00, which numeric(5,2) has no room for
    add(
        full,
        WRITER,
        "decimals as int32 and int64 (store_decimal_as_integer); `tight` overflows its typmod",
        4,
        rows2,
        writes(
            lambda: table(
                rows2,
                price=pa.array([v and D(v) for v in c], pa.decimal128(9, 2)),
                small=pa.array([v and D(v) for v in c], pa.decimal128(18, 2)),
                tight=pa.array([D(v) for v in over], pa.decimal128(12, 4)),
            ),
            store_decimal_as_integer=True,
        ),
        group=g,
        extra_columns=["price numeric", "small numeric", "tight numeric(5,2)"],
    )

    full = "pyarrow_uuid"
    rows3 = make_rows(8, 4)
    uuids = [None if i == 5 else uuid.UUID(int=(i * 0x0123456789ABCDEF0123456789ABCDEF) % (1 << 128)) for i in range(8)]
    as_text = [u and [str(u), str(u).upper(), u.hex, f"{{{u}}}"][i % 4] for i, u in enumerate(uuids)]
    for row, u in zip(rows3, uuids):
        row.extra = {"uid": u and str(u), "uid_text": u and str(u), "uid_raw": u and str(u)}
    as_text[7] = "not-a-uuid"
    rows3[7].bad("bad_value", "uid_text")
    add(
        full,
        WRITER,
        "uuid with the logical type, as text, as plain 16 bytes",
        4,
        rows3,
        writes(
            lambda: table(
                rows3,
                uid=pa.array([u and u.bytes for u in uuids], pa.uuid()),
                uid_text=pa.array(as_text, pa.string()),
                uid_raw=pa.array([u and u.bytes for u in uuids], pa.binary(16)),
            )
        ),
        group=g,
        extra_columns=["uid uuid", "uid_text uuid", "uid_raw uuid"],
    )

    full = "pyarrow_floats_and_bools"
    rows4 = make_rows(9, 4)
    values = [0.5, -1.25, 0.0, float("nan"), float("inf"), float("-inf"), None, 2048.0, 0.1]
    shown = ["0.5", "-1.25", "0", "NaN", "Infinity", "-Infinity", None, "2048", "0.1"]
    half = [np.float16(v) if v is not None else None for v in values]
    for i, (row, text) in enumerate(zip(rows4, shown)):
        row.extra = {"half": "0.099975586" if i == 8 else text, "single": text, "wide": text, "flag": None if i == 6 else str(i % 2 == 0).lower()}
    add(
        full,
        WRITER,
        "float16, float32, float64 scalars (NaN and infinities are fine here), bool",
        4,
        rows4,
        writes(
            lambda: table(
                rows4,
                half=pa.array(half, pa.float16()),
                single=pa.array(values, pa.float32()),
                wide=pa.array(values, pa.float64()),
                flag=pa.array([None if i == 6 else i % 2 == 0 for i in range(9)], pa.bool_()),
            )
        ),
        group=g,
        extra_columns=["half real", "single real", "wide double precision", "flag boolean"],
    )

    full = "pyarrow_dates_bytes_arrays"
    rows5 = make_rows(8, 4)
    days = [0, -1, 19844, None, -719162, 2932896, 11016, 1]
    blobs = [b"", b"\0\xff", b"abc", None, b"\\x00", b"'", b"\n", bytes(range(8))]
    tags = [["a", "b"], [], None, [None, "null"], ["x,y", 'q"uote', "back\\slash"], [""], ["漢", " "], ["{}"]]
    tags_text = ["{a,b}", "{}", None, '{NULL,"null"}', '{"x,y","q\\"uote","back\\\\slash"}', '{""}', '{漢," "}', '{"{}"}']
    nums = [[1, 2], [], None, [None, -(2**63)], [2**63 - 1], [0], [5], [6]]
    nums_text = ["{1,2}", "{}", None, "{NULL,-9223372036854775808}", "{9223372036854775807}", "{0}", "{5}", "{6}"]
    labels = ["short", "", "exactly 10", "eleven char", None, "漢字漢字漢字漢字漢字", "漢字漢字漢字漢字漢字漢", "ok"]
    for row, day, blob, tag, num, label in zip(rows5, days, blobs, tags_text, nums_text, labels):
        row.extra = {
            "day": None if day is None else date_text(day),
            "blob": None if blob is None else "\\x" + blob.hex(),
            "tags": tag,
            "nums": num,
            "label": label,
        }
        if label and len(label) > 10:
            row.bad("bad_value", "label")
    add(
        full,
        WRITER,
        "date, bytea, text[], int8[], varchar(10) (characters count, not bytes)",
        4,
        rows5,
        writes(
            lambda: table(
                rows5,
                day=pa.array(days, pa.int32()).cast(pa.date32()),
                blob=pa.array(blobs, pa.binary()),
                tags=pa.array(tags, pa.list_(pa.string())),
                nums=pa.array(nums, pa.list_(pa.int64())),
                label=pa.array(labels, pa.string()),
            )
        ),
        group=g,
        extra_columns=["day date", "blob bytea", "tags text[]", "nums int8[]", "label varchar(10)"],
    )


def register():
    times()
    scalars()
