"""Rows, what a PostgreSQL user should see of them, and helpers for both."""

import ctypes
import json
import zlib

import numpy as np

TEXTS = [
    "plain words",
    "Ünïcödé, 漢字, 🦀, e\u0301, \u202eright to left",
    "tab\there, line\nfeed, carriage\r\nreturn, bell\a",
    "quotes ' \" and `; backslashes \\ \\N \\. \\x41",
    "commas, semicolons; pipes | braces { [ ( $1 %s",
    "  spaces around  ",
    "\ufeffa byte order mark, \u2028 a line separator, \x7f delete, \x01 control",
    "NULL",
]

_strtof = ctypes.CDLL(None).strtof
_strtof.restype = ctypes.c_float
_strtof.argtypes = [ctypes.c_char_p, ctypes.c_void_p]


def f32_of_text(text):
    """The float4 nearest to a decimal text, rounded once (going over a double can round twice)."""
    return np.float32(_strtof(text.encode(), None))


def bits(values):
    """Hex of the vector's little-endian float4 bytes."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype("<f4").tobytes().hex()


class Row:
    """One row: the values a user should find in the table, and where they differ, what goes into the file."""

    def __init__(self, **want):
        self.want = want
        self.source = {}
        self.reject = None
        self.extra = {}

    def get(self, key):
        return self.source[key] if key in self.source else self.want[key]

    def put(self, **source):
        """Write these values into the file instead of the wanted ones."""
        self.source.update(source)
        return self

    def bad(self, reason, column, **source):
        """The row must be rejected for this reason; `source` is what makes it so."""
        self.reject = {"reject": reason, "column": column}
        return self.put(**source)

    def repeat(self, unit, count):
        """A long content, kept short in the expectations."""
        self.want["content"], self.want["content_repeat"] = unit * count, [unit, count]

    def expected(self, position):
        out = {"row": position}
        if "id" in self.want:
            out["id"] = self.want["id"]
        if self.reject:
            return out | self.reject
        for key in ("channel_id", "user_id", "content", "content_repeat"):
            if key in self.want:
                out[key] = self.want[key]
        if "content_repeat" in out:
            out.pop("content")
        out["embedding_bits"] = bits(self.want["embedding"])
        for key in ("metadata", "metadata_text", "created_at", "created_at_rounded"):
            if key in self.want:
                out[key] = self.want[key]
        if "metadata_text" in out:
            out.pop("metadata", None)
        if self.extra:
            out["extra"] = self.extra
        return out


def make_rows(n=20, dim=8, ids=False, dtype=np.float32):
    """n good rows, the same for the same arguments. dtype: the precision of the file; the wanted vector is always f32."""
    random = np.random.default_rng(zlib.crc32(f"{dim} {np.dtype(dtype).name}".encode()))
    rows = []
    for i in range(n):
        vector = random.standard_normal(dim).astype(dtype)
        if i == 1:
            small = {np.float16: 6e-8, np.float32: 1e-45, np.float64: 1e-45}[dtype]
            special = np.array([-0.0, small, 0.1, 1 / 3], dtype=dtype)
            vector[: min(4, dim)] = special[: min(4, dim)]
        content = f"{i:02} {TEXTS[i]}" if i < len(TEXTS) else f"{i:02} " + "lorem ipsum dolor "[: int(random.integers(1, 18))]
        if i == len(TEXTS):
            content = ""
        row = Row(
            channel_id=int(random.integers(1, 6)),
            user_id=int(random.integers(1, 1 << 40)),
            content=content,
            embedding=vector.astype(np.float32),
            metadata={"n": i, "lang": ["de", "en", "漢"][i % 3], "ok": i % 2 == 0},
        )
        row.put(embedding=vector)
        if ids:
            row.want["id"] = 1000 + 7 * i
        rows.append(row)
    return rows


def json_text(value):
    return json.dumps(value, ensure_ascii=False)


def civil(days):
    """Year, month, day of a day number (1970-01-01 is 0), in the proleptic Gregorian calendar."""
    z = days + 719468
    era, doe = divmod(z, 146097)
    yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    mp = (5 * doy + 2) // 153
    month = mp + 3 if mp < 10 else mp - 9
    return yoe + era * 400 + (month <= 2), month, doy - (153 * mp + 2) // 5 + 1


def date_text(days):
    """A date as `::text` gives it with DateStyle ISO."""
    year, month, day = civil(days)
    return f"{year if year > 0 else 1 - year:04}-{month:02}-{day:02}" + ("" if year > 0 else " BC")


def timestamptz_text(micros):
    """A timestamptz as `::text` gives it with DateStyle ISO and TimeZone UTC."""
    days, rest = divmod(micros, 86_400_000_000)
    seconds, fraction = divmod(rest, 1_000_000)
    date, _, bc = date_text(days).partition(" ")
    text = f"{date} {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    if fraction:
        text += f".{fraction:06}".rstrip("0")
    return text + "+00" + (" BC" if bc else "")
