"""Files that are not what they say, each with the cause a reader should name."""

import io
import struct
import zipfile

import pyarrow.parquet as pq

from . import from_pyarrow as arrow
from . import parquet_edit as edit
from .rows import make_rows

GIANT = 2_000_000_000

DAMAGES = []


def damage(name, cause):
    def keep(make):
        DAMAGES.append((name, cause, make))
        return make

    return keep


def good(n=20, dim=8, **options):
    out = io.BytesIO()
    pq.write_table(arrow.table(make_rows(n, dim)), out, store_schema=False, **options)
    return out.getvalue()


def edited(change, **options):
    file = edit.File(good(**options))
    change(file)
    return file.bytes()


@damage("empty.parquet", "an empty file (0 bytes): no magic at its start")
def empty():
    return b""


@damage("magic_only.parquet", "too short for a footer: 4 bytes")
def magic_only():
    return b"PAR1"


@damage("truncated.parquet", "cut off: the last 4 bytes are not PAR1, the first ones are")
def truncated():
    data = good()
    return data[: len(data) * 2 // 3]


@damage(
    "truncated_in_pages.parquet",
    "footer whole, but bytes are missing from the middle of the pages: chunks overlap the footer or lie beyond the file's end",
)
def truncated_in_pages():
    data = good()
    return data[:400] + data[1100:]


@damage("wrong_magic.parquet", "not Parquet: the last 4 bytes are XAR1")
def wrong_magic():
    return good()[:-4] + b"XAR1"


@damage("pare_magic.parquet", "encrypted footer (magic PARE), which can't be read")
def pare_magic():
    data = good()
    return b"PARE" + data[4:-4] + b"PARE"


@damage("footer_length_huge.parquet", "the footer's length field says 2 GiB (2147483647) in a file of 3 kB")
def footer_length_huge():
    return good()[:-8] + struct.pack("<I", (1 << 31) - 1) + b"PAR1"


@damage("footer_length_negative.parquet", "the footer's length field says 4294967295 (-1 as a signed number)")
def footer_length_negative():
    return good()[:-8] + struct.pack("<I", (1 << 32) - 1) + b"PAR1"


@damage("footer_length_zero.parquet", "the footer's length field says 0")
def footer_length_zero():
    return good()[:-8] + struct.pack("<I", 0) + b"PAR1"


@damage("footer_length_past_start.parquet", "the footer's length field says one byte more than the file has before it")
def footer_length_past_start():
    data = good()
    return data[:-8] + struct.pack("<I", len(data) - 7) + b"PAR1"


@damage("footer_garbage.parquet", "the footer is not thrift: every byte is inverted")
def footer_garbage():
    file = edit.File(good())
    footer = file.data[file.footer_at : -8]
    return file.body + bytes(byte ^ 0xFF for byte in footer) + file.data[-8:]


@damage("footer_zeroes.parquet", "the footer is all zero bytes: no schema, no row count")
def footer_zeroes():
    file = edit.File(good())
    return file.body + bytes(len(file.data) - 8 - file.footer_at) + file.data[-8:]


@damage(
    "footer_list_huge.parquet", "the footer's list of row groups claims 2,000,000,000 entries: nothing may be allocated for it before they are seen"
)
def footer_list_huge():
    file = edit.File(good())
    start, _ = file.footer.spans[4]
    data = file.data
    assert data[start] == 0x1C  # one struct
    footer = data[file.footer_at : start] + b"\xfc" + edit.varint(GIANT) + data[start + 1 : -8]
    return file.body + footer + struct.pack("<I", len(footer)) + b"PAR1"


@damage("schema_children_huge.parquet", "the schema's root claims 2,000,000,000 children")
def schema_children_huge():
    return edited(lambda file: file.schema[0].__setitem__(5, GIANT))


@damage("schema_children_negative.parquet", "the embedding's group claims -1 children")
def schema_children_negative():
    def change(file):
        next(e for e in file.schema if e[4] == b"embedding")[5] = -1

    return edited(change)


@damage("schema_nested_deep.parquet", "the schema nests 6,000 groups: a reader that recurses runs out of stack")
def schema_nested_deep():
    def change(file):
        first = file.schema[1]
        groups = []
        for _ in range(6_000):
            group = edit.Struct()
            group.set(3, edit.I32, 1)
            group.set(4, edit.BINARY, b"g")
            group.set(5, edit.I32, 1)
            groups.append(group)
        file.schema[1:2] = groups + [first]

    return edited(change)


def page_lie(column, index, field, value, **options):
    def change(file):
        file.rewrite_page_header(file.chunk(column), index, lambda header: header.__setitem__(field, value))

    return edited(change, **options)


@damage(
    "page_size_lie.parquet", "embedding: a data page's header claims 2,000,000,000 uncompressed bytes; its column chunk has under 1 kB by the footer"
)
def page_size_lie():
    return page_lie("embedding", 0, 2, GIANT, use_dictionary=False)


@damage(
    "page_size_lie_content.parquet",
    "content: a data page's header claims 2,000,000,000 uncompressed bytes; its column chunk has under 1 kB by the footer",
)
def page_size_lie_content():
    return page_lie("content", 0, 2, GIANT, use_dictionary=False)


@damage("page_size_lie_v2.parquet", "content: as page_size_lie_content, in a data page v2 with zstd")
def page_size_lie_v2():
    return page_lie("content", 0, 2, GIANT, use_dictionary=False, data_page_version="2.0", compression="zstd")


@damage("page_levels_lie_v2.parquet", "embedding: a data page v2 claims 2,000,000,000 bytes of repetition levels")
def page_levels_lie_v2():
    def change(file):
        file.rewrite_page_header(file.chunk("embedding"), 0, lambda header: header[8].__setitem__(6, GIANT))

    return edited(change, use_dictionary=False, data_page_version="2.0")


@damage("page_rows_lie_v2.parquet", "embedding: a data page v2 claims 19 rows, its levels and the footer 20")
def page_rows_lie_v2():
    def change(file):
        file.rewrite_page_header(file.chunk("embedding"), 0, lambda header: header[8].__setitem__(3, 19))

    return edited(change, use_dictionary=False, data_page_version="2.0")


@damage("page_size_lie_uncompressed.parquet", "embedding: as page_size_lie, without a codec: uncompressed and compressed size differ")
def page_size_lie_uncompressed():
    return page_lie("embedding", 0, 2, GIANT, use_dictionary=False, compression="none")


@damage("page_size_lie_small.parquet", "embedding: a data page's header claims 16 uncompressed bytes, its snappy data say 672")
def page_size_lie_small():
    return page_lie("embedding", 0, 2, 16, use_dictionary=False)


@damage("page_size_lie_dictionary.parquet", "content: the dictionary page's header claims 2,000,000,000 uncompressed bytes")
def page_size_lie_dictionary():
    return page_lie("content", 0, 2, GIANT)


@damage(
    "page_size_lie_footer_agrees.parquet",
    "embedding: page header and footer both claim 2,000,000,000 uncompressed bytes: refused by --memory, or found out when 672 come out",
)
def page_size_lie_footer_agrees():
    def change(file):
        chunk = file.chunk("embedding")
        file.rewrite_page_header(chunk, 0, lambda header: header.__setitem__(2, GIANT))
        file.row_groups[0][2] += GIANT - chunk[3][6]
        chunk[3][6] = GIANT

    return edited(change, use_dictionary=False)


@damage("page_size_negative.parquet", "embedding: a data page's header claims -1 uncompressed bytes")
def page_size_negative():
    return page_lie("embedding", 0, 2, -1, use_dictionary=False)


@damage(
    "page_compressed_size_lie.parquet", "embedding: a data page's header claims 2,000,000,000 compressed bytes, past its chunk and the file's end"
)
def page_compressed_size_lie():
    return page_lie("embedding", 0, 3, GIANT, use_dictionary=False)


@damage("page_values_lie.parquet", "embedding: a data page's header claims 2,000,000,000 values; it holds 160")
def page_values_lie():
    def change(file):
        file.rewrite_page_header(file.chunk("embedding"), 0, lambda header: header[5].__setitem__(1, GIANT))

    return edited(change, use_dictionary=False)


@damage("page_values_short.parquet", "embedding: a data page's header claims 80 values, the footer 160: 10 rows would vanish")
def page_values_short():
    def change(file):
        file.rewrite_page_header(file.chunk("embedding"), 0, lambda header: header[5].__setitem__(1, 80))

    return edited(change, use_dictionary=False)


@damage("dictionary_values_lie.parquet", "content: the dictionary page claims 2,000,000,000 entries")
def dictionary_values_lie():
    def change(file):
        file.rewrite_page_header(file.chunk("content"), 0, lambda header: header[7].__setitem__(1, GIANT))

    return edited(change)


@damage("dictionary_index_beyond.parquet", "embedding: the dictionary page claims 100 entries fewer than the indexes in the data pages use")
def dictionary_index_beyond():
    def change(file):
        file.rewrite_page_header(file.chunk("embedding"), 0, lambda header: header[7].__setitem__(1, header[7][1] - 100))

    return edited(change, compression="none")


@damage("row_count_lie.parquet", "footer and row group claim 1,000,000 rows; the columns hold 20")
def row_count_lie():
    def change(file):
        file.footer[3] = 1_000_000
        file.row_groups[0][3] = 1_000_000

    return edited(change)


@damage("row_count_short.parquet", "footer and row group claim 15 rows; the columns hold 20: 5 rows would vanish")
def row_count_short():
    def change(file):
        file.footer[3] = 15
        file.row_groups[0][3] = 15

    return edited(change)


@damage("row_count_negative.parquet", "footer and row group claim -1 rows")
def row_count_negative():
    def change(file):
        file.footer[3] = -1
        file.row_groups[0][3] = -1

    return edited(change)


@damage("row_counts_disagree.parquet", "the footer claims 21 rows, its row groups 20")
def row_counts_disagree():
    return edited(lambda file: file.footer.__setitem__(3, 21))


@damage("columns_uneven.parquet", "content has 20 values, the embedding (of another file, spliced in) 19 rows")
def columns_uneven():
    file, short = edit.File(good()), edit.File(good(19))
    chunk, other = file.chunk("embedding"), short.chunk("embedding")
    meta, start = other[3], min(x for x in (other[3][9], other[3].get(11)) if x)
    moved = len(file.body) - start
    file.body += short.body[start : start + meta[7]]
    for field in (9, 11):
        if field in meta:
            meta[field] += moved
    chunk[3] = meta
    return file.bytes()


@damage("column_chunk_offset_beyond_file.parquet", "embedding: the column chunk starts at byte 1,000,000,000 of a file of 3 kB")
def column_chunk_offset_beyond_file():
    def change(file):
        file.chunk("embedding")[3][9] = 1_000_000_000

    return edited(change, use_dictionary=False)


@damage("column_chunk_offset_negative.parquet", "embedding: the column chunk starts at byte -4")
def column_chunk_offset_negative():
    def change(file):
        file.chunk("embedding")[3][9] = -4

    return edited(change, use_dictionary=False)


@damage("column_chunk_size_beyond_file.parquet", "embedding: the column chunk has 1,000,000,000,000 bytes by the footer")
def column_chunk_size_beyond_file():
    def change(file):
        file.chunk("embedding")[3][7] = 10**12

    return edited(change, use_dictionary=False)


@damage("column_chunk_in_footer.parquet", "embedding: the column chunk starts inside the footer")
def column_chunk_in_footer():
    def change(file):
        file.chunk("embedding")[3][9] = len(file.body) + 40

    return edited(change, use_dictionary=False)


@damage("column_chunks_swapped.parquet", "embedding and metadata point at each other's pages")
def column_chunks_swapped():
    def change(file):
        one, two = file.chunk("embedding")[3], file.chunk("metadata")[3]
        for field in (7, 9):
            one[field], two[field] = two[field], one[field]

    return edited(change, use_dictionary=False)


@damage("codec_wrong.parquet", "embedding: the footer says zstd, the pages are snappy")
def codec_wrong():
    def change(file):
        file.chunk("embedding")[3][4] = 6

    return edited(change)


@damage("codec_unknown.parquet", "embedding: codec number 99")
def codec_unknown():
    def change(file):
        file.chunk("embedding")[3][4] = 99

    return edited(change)


@damage("codec_lzo.parquet", "embedding: codec LZO, which is not supported")
def codec_lzo():
    def change(file):
        file.chunk("embedding")[3][4] = 3

    return edited(change)


@damage("page_data_flipped.parquet", "embedding: a bit of the page's zstd frame is flipped: it no longer decodes (nor fits the page's CRC-32)")
def page_data_flipped():
    file = edit.File(good(use_dictionary=False, compression="zstd", write_page_checksum=True))
    at, length, header = list(file.pages(file.chunk("embedding")))[0]
    data = bytearray(file.data)
    data[at + length + 1] ^= 0x40
    return bytes(data)


@damage("page_crc_wrong.parquet", "embedding: one bit of one value is flipped in an uncompressed page: only the page's CRC-32 tells")
def page_crc_wrong():
    file = edit.File(good(use_dictionary=False, compression="none", write_page_checksum=True))
    at, length, header = list(file.pages(file.chunk("embedding")))[0]
    data = bytearray(file.data)
    data[at + length + header[3] - 3] ^= 0x01
    return bytes(data)


@damage("offset_index_lie.parquet", "embedding: the offset index says that the second page starts at row 1 and at the first page's offset")
def offset_index_lie():
    file = edit.File(good(n=60, use_dictionary=False, compression="none", write_page_index=True, data_page_size=256, write_batch_size=8))
    chunk = file.chunk("embedding")
    index = edit.Reader(file.data, chunk[4]).struct()
    locations = index[1].items
    locations[1][1], locations[1][3] = locations[0][1], 1
    new = edit.encode_struct(index)
    chunk[4], chunk[5] = len(file.body), len(new)
    file.body += new
    return file.bytes()


@damage("offset_index_beyond_file.parquet", "embedding: the offset index lies at byte 1,000,000,000")
def offset_index_beyond_file():
    def change(file):
        file.chunk("embedding")[4] = 1_000_000_000

    return edited(change, write_page_index=True)


@damage("csv_renamed.parquet", "a CSV file with the wrong name: no magic at either end")
def csv_renamed():
    lines = ["channel_id,user_id,content,embedding,metadata"] + [f'{i},{i * 11},"text {i}","[{i},0.5,-1,2]","{{""n"": {i}}}"' for i in range(12)]
    return ("\n".join(lines) + "\n").encode()


@damage("zip.parquet", "a zip archive with the wrong name (a Parquet file is inside)")
def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("data.parquet", (1980, 1, 1, 0, 0, 0)), good())
    return out.getvalue()


@damage("gzip.parquet", "a whole Parquet file compressed with gzip: no magic at either end")
def gzipped():
    import gzip

    return gzip.compress(good(), mtime=0)


@damage("html.parquet", "an HTML page, as a failed download leaves it: no magic at either end")
def html():
    return b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head><body>Forbidden</body></html>\n"


@damage("trailing_newline.parquet", "a whole Parquet file with a line feed behind it: the last 4 bytes are not PAR1")
def trailing_newline():
    return good() + b"\n"


@damage("arrow_ipc.parquet", "an Arrow IPC file with the wrong name (magic ARROW1)")
def arrow_ipc():
    import pyarrow as pa

    out = io.BytesIO()
    table = arrow.table(make_rows(4, 4))
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()
