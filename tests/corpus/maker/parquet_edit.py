"""Read and change the thrift structures of a Parquet file: footer, page headers, offset indexes.

Only as much of thrift's compact protocol as Parquet uses. A struct keeps the byte offset of each field's value, so that
damages can be described by position.
"""

import struct

BOOL_TRUE, BOOL_FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)


class Struct:
    """Fields by id: `s[3]` is a value, `s.types[3]` its wire type, `s.spans[3]` its (offset, length) in the file."""

    def __init__(self):
        self.values, self.types, self.spans = {}, {}, {}

    def __getitem__(self, field):
        return self.values[field]

    def __setitem__(self, field, value):
        if field not in self.types:
            raise KeyError(f"field {field} is new: use set() with a type")
        self.values[field] = value

    def __contains__(self, field):
        return field in self.values

    def get(self, field, default=None):
        return self.values.get(field, default)

    def set(self, field, wire_type, value):
        self.values[field], self.types[field] = value, wire_type

    def remove(self, field):
        self.values.pop(field, None)
        self.types.pop(field, None)


class List:
    def __init__(self, wire_type, items):
        self.wire_type, self.items = wire_type, items


class Reader:
    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def varint(self):
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def zigzag(self):
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def value(self, wire_type):
        if wire_type in (BOOL_TRUE, BOOL_FALSE):
            return wire_type == BOOL_TRUE
        if wire_type == BYTE:
            self.at += 1
            return self.data[self.at - 1]
        if wire_type in (I16, I32, I64):
            return self.zigzag()
        if wire_type == DOUBLE:
            self.at += 8
            return struct.unpack("<d", self.data[self.at - 8 : self.at])[0]
        if wire_type == BINARY:
            length = self.varint()
            self.at += length
            return bytes(self.data[self.at - length : self.at])
        if wire_type in (LIST, SET):
            head = self.data[self.at]
            self.at += 1
            count = head >> 4 if head >> 4 != 15 else self.varint()
            kind = head & 15
            if kind in (BOOL_TRUE, BOOL_FALSE):
                self.at += count
                return List(kind, [b == BOOL_TRUE for b in self.data[self.at - count : self.at]])
            return List(kind, [self.value(kind) for _ in range(count)])
        if wire_type == STRUCT:
            return self.struct()
        raise ValueError(f"wire type {wire_type}")

    def struct(self):
        out, field = Struct(), 0
        while True:
            head = self.data[self.at]
            self.at += 1
            if head == 0:
                return out
            field = field + (head >> 4) if head >> 4 else self.zigzag()
            start = self.at
            out.set(field, head & 15, self.value(head & 15))
            out.spans[field] = (start, self.at - start)


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def zigzag(value):
    return varint((value << 1) ^ (value >> 63) if value < 0 else value << 1)


def encode(wire_type, value):
    if wire_type == BYTE:
        return bytes([value])
    if wire_type in (I16, I32, I64):
        return zigzag(value)
    if wire_type == DOUBLE:
        return struct.pack("<d", value)
    if wire_type == BINARY:
        return varint(len(value)) + value
    if wire_type in (LIST, SET):
        kind, items = value.wire_type, value.items
        head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xF0 | kind]) + varint(len(items))
        if kind in (BOOL_TRUE, BOOL_FALSE):
            return head + bytes(BOOL_TRUE if item else BOOL_FALSE for item in items)
        return head + b"".join(encode(kind, item) for item in items)
    if wire_type == STRUCT:
        return encode_struct(value)
    raise ValueError(f"wire type {wire_type}")


def encode_struct(value):
    out, last = bytearray(), 0
    for field in sorted(value.values):
        kind, item = value.types[field], value.values[field]
        if kind in (BOOL_TRUE, BOOL_FALSE):
            kind = BOOL_TRUE if item else BOOL_FALSE
        step = field - last
        out += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + zigzag(field)
        if kind not in (BOOL_TRUE, BOOL_FALSE):
            out += encode(kind, item)
        last = field
    return bytes(out + b"\0")


def read_levels(data, width, count):
    """Repetition or definition levels: runs and bit-packed groups."""
    reader, out = Reader(data), []
    while len(out) < count:
        head = reader.varint()
        if head & 1:
            packed = int.from_bytes(data[reader.at : reader.at + (head >> 1) * width], "little")
            reader.at += (head >> 1) * width
            out += [packed >> (i * width) & ((1 << width) - 1) for i in range((head >> 1) * 8)]
        else:
            out += [data[reader.at]] * (head >> 1)
            reader.at += 1
    return out[:count]


def write_levels(levels):
    """Runs alone, behind their length."""
    out, at = b"", 0
    while at < len(levels):
        end = at
        while end < len(levels) and levels[end] == levels[at]:
            end += 1
        out += varint((end - at) << 1) + bytes([levels[at]])
        at = end
    return len(out).to_bytes(4, "little") + out


def data_page_v1(count, body):
    """An uncompressed PLAIN page with its header."""
    inner, header = Struct(), Struct()
    for field, value in ((1, count), (2, 0), (3, 3), (4, 3)):
        inner.set(field, I32, value)
    for field, value in ((1, 0), (2, len(body)), (3, len(body))):
        header.set(field, I32, value)
    header.set(5, STRUCT, inner)
    return encode_struct(header) + body


class File:
    """A Parquet file: `body` (everything before the footer) and `footer` (FileMetaData as a Struct)."""

    def __init__(self, data):
        assert data[:4] == b"PAR1" and data[-4:] == b"PAR1"
        self.data = data
        length = int.from_bytes(data[-8:-4], "little")
        self.footer_at = len(data) - 8 - length
        self.body = data[: self.footer_at]
        self.footer = Reader(data, self.footer_at).struct()

    def bytes(self):
        footer = encode_struct(self.footer)
        return self.body + footer + len(footer).to_bytes(4, "little") + b"PAR1"

    @property
    def schema(self):
        return self.footer[2].items

    @property
    def row_groups(self):
        return self.footer[4].items

    def chunk(self, path, group=0):
        """The column chunk whose path, joined with dots, is `path` or starts with `path.`"""
        for chunk in self.row_groups[group][1].items:
            name = b".".join(chunk[3][3].items).decode()
            if name == path or name.startswith(path + "."):
                return chunk
        raise KeyError(path)

    def pages(self, chunk):
        """(offset, header length, PageHeader) of each page of a column chunk."""
        meta = chunk[3]
        at = min(x for x in (meta[9], meta.get(11)) if x)
        end = at + meta[7]
        while at < end:
            reader = Reader(self.data, at)
            header = reader.struct()
            yield at, reader.at - at, header
            at = reader.at + header[3]

    def rewrite_page_header(self, chunk, index, change):
        """Change one page header; what lies behind it moves, and the footer's offsets with it.

        For files without page index and bloom filter. `compressed_page_size` keeps describing the page's real bytes
        unless `change` says otherwise.
        """
        at, length, header = list(self.pages(chunk))[index]
        change(header)
        new = encode_struct(header)
        moved = len(new) - length
        self.body = self.body[:at] + new + self.body[at + length :]
        for group in self.row_groups:
            for other in group[1].items:
                meta = other[3]
                assert 4 not in other and 6 not in other and 14 not in meta, "has indexes"
                for field in (9, 11):
                    if field in meta and meta[field] > at:
                        meta[field] += moved
                if 2 in other and other[2] > at:
                    other[2] += moved
            if 5 in group and group[5] > at:
                group[5] += moved
            if any(other is chunk for other in group[1].items):
                for field in (2, 6):
                    if field in group:
                        group[field] += moved
        chunk[3][6] += moved
        chunk[3][7] += moved

    def cut_pages(self, chunk, sizes, max_definition, width=4):
        """Write a list column's PLAIN, uncompressed v1 pages anew, of as many levels as `sizes` says, again and again.

        Pages may then start in the middle of a row, as format version 1 allows, or be empty. The chunk moves to the
        end of the body.
        """
        repetitions, definitions, values = [], [], b""
        bits = max_definition.bit_length()
        for at, length, header in self.pages(chunk):
            page = self.data[at + length : at + length + header[3]]
            count, streams = header[5][1], []
            for level_bits in (1, bits):
                size = int.from_bytes(page[:4], "little")
                streams.append(read_levels(page[4 : 4 + size], level_bits, count))
                page = page[4 + size :]
            repetitions += streams[0]
            definitions += streams[1]
            values += page
        pages, at, step = b"", 0, 0
        while at < len(repetitions):
            end = at + sizes[step % len(sizes)]
            present = sum(level == max_definition for level in definitions[at:end]) * width
            body = write_levels(repetitions[at:end]) + write_levels(definitions[at:end]) + values[:present]
            pages += data_page_v1(len(repetitions[at:end]), body)
            values, at, step = values[present:], end, step + 1
        meta = chunk[3]
        meta[9], meta[6], meta[7] = len(self.body), len(pages), len(pages)
        meta.remove(13)  # the counts of pages
        self.body += pages
