"""Shapes no writer at hand makes: files of pyarrow whose footer's schema is rewritten. The data pages stay as they are."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from . import from_pyarrow as arrow
from . import parquet_edit as edit
from .cases import add
from .rows import make_rows

WRITER = f"{arrow.WRITER}, footer edited"
REQUIRED, OPTIONAL, REPEATED = 0, 1, 2
TYPE, REPETITION, NAME, CHILDREN, CONVERTED, LOGICAL = 1, 3, 4, 5, 6, 10
CONVERTED_LIST = 3


def pyarrow_bytes(table, **options):
    out = io.BytesIO()
    pq.write_table(table, out, store_schema=False, **options)
    return out.getvalue()


def embedding_kind(list_null, element_null):
    return pa.field("embedding", pa.list_(pa.field("element", pa.float32(), nullable=element_null)), nullable=list_null)


def build(rows, list_null, element_null, **options):
    cols = arrow.columns(rows)
    cols["embedding"] = arrow.vectors(rows, embedding_kind(list_null, element_null).type)
    table = pa.table(cols)
    at = table.schema.get_field_index("embedding")
    table = table.cast(table.schema.set(at, embedding_kind(list_null, element_null)))
    return edit.File(pyarrow_bytes(table, **options))


def elements(file):
    """Positions of the list's three schema elements: the group, the repeated one, the element."""
    at = next(i for i, e in enumerate(file.schema) if e[NAME] == b"embedding")
    return at, file.schema[at : at + 3]


def rename_path(file, path):
    for group in file.row_groups:
        for chunk in group[1].items:
            if chunk[3][3].items[0] == b"embedding":
                chunk[3][3].items[:] = [part.encode() for part in path]


def two_level(file, name="array"):
    at, (group, repeated, element) = elements(file)
    element[NAME], element[REPETITION] = name.encode(), REPEATED
    del file.schema[at + 1]
    rename_path(file, ["embedding", name])


def bare_repeated(file):
    at, (group, repeated, element) = elements(file)
    element[NAME], element[REPETITION] = b"embedding", REPEATED
    del file.schema[at : at + 2]
    rename_path(file, ["embedding"])


def renamed(outer, inner):
    def change(file):
        _, (group, repeated, element) = elements(file)
        repeated[NAME], element[NAME] = outer.encode(), inner.encode()
        rename_path(file, ["embedding", outer, inner])

    return change


def annotation(converted, logical):
    def change(file):
        group = elements(file)[1][0]
        if not converted:
            group.remove(CONVERTED)
        if not logical:
            group.remove(LOGICAL)

    return change


def texts_converted_only(file):
    for element in file.schema:
        if element.get(CONVERTED) == 0:
            element.remove(LOGICAL)


def texts_logical_only(file):
    for element in file.schema:
        if element.get(CONVERTED) == 0:
            element.remove(CONVERTED)


def no_optional_fields(file):
    """What old and small writers leave out: statistics, encoding stats, sizes per group, created_by, column orders."""
    for field in (5, 6, 7):
        file.footer.remove(field)
    for group in file.row_groups:
        for field in (4, 5, 6, 7):
            group.remove(field)
        for chunk in group[1].items:
            chunk.remove(4), chunk.remove(5), chunk.remove(6), chunk.remove(7)
            for field in (8, 10, 12, 13, 14, 15, 16):
                chunk[3].remove(field)


def dictionary_offset_missing(file):
    """Old writers: a dictionary page is there, dictionary_page_offset is not, data_page_offset points at it."""
    for group in file.row_groups:
        for chunk in group[1].items:
            meta = chunk[3]
            if meta.get(11):
                meta[9] = meta[11]
                meta.remove(11)


def file_offset_set(file):
    """file_offset of a chunk: deprecated, written as 0 by new writers, as the chunk's start by old ones."""
    for group in file.row_groups:
        for chunk in group[1].items:
            chunk[2] = 4


def rows_over_pages(name, what, sizes, bad, note=""):
    rows = make_rows(30, 8)
    for at, reason, value in bad:
        rows[at].bad(reason, "embedding", embedding=value)

    def write(path):
        file = build(rows, True, True, use_dictionary=False, compression="none")
        file.cut_pages(file.chunk("embedding"), sizes, max_definition=3)
        path.write_bytes(file.bytes())

    add(f"edited_{name}", f"{arrow.WRITER}, pages cut anew", what, 8, rows, write, group="pages", note=note)


def register():
    bad = [
        (0, "embedding_null", None),
        (9, "embedding_dimension", [1.0] * 7),
        (10, "embedding_dimension", [1.0] * 9),
        (11, "embedding_dimension", []),
        (12, "embedding_null", None),
        (20, "embedding_dimension", [1.0] * 40),
        (29, "embedding_null_element", [1.0] * 7 + [None]),
    ]
    rows_over_pages("rows_over_pages", "v1 pages that start in the middle of rows", [11, 5, 1, 30], [])
    rows_over_pages("rows_over_pages_bad", "the same, with bad rows", [11, 5, 1, 30], bad)
    rows_over_pages("page_for_each_value", "a v1 page for each value", [1], [])
    rows_over_pages(
        "empty_pages",
        "v1 pages without values between the others",
        [8, 0, 16, 0, 0, 24],
        [],
        note="pyarrow itself stops at the first empty page; may be refused, but no row may vanish",
    )

    g = "list shape"
    for name, what, list_null, element_null, change, options in [
        ("list_two_level_array", "2-level list: optional group (LIST) { repeated float array }", True, False, two_level, {}),
        (
            "list_two_level_element",
            "2-level list: optional group (LIST) { repeated float element }",
            True,
            False,
            lambda f: two_level(f, "element"),
            {},
        ),
        ("list_two_level_v2", "the same, data page v2, zstd", True, False, two_level, {"data_page_version": "2.0", "compression": "zstd"}),
        (
            "list_two_level_tiny_pages",
            "2-level list, tiny pages",
            True,
            False,
            two_level,
            {"data_page_size": 64, "write_batch_size": 5, "use_dictionary": False},
        ),
        ("list_two_level_required", "2-level list: required group (LIST) { repeated float array }", False, False, two_level, {}),
        ("list_bare_repeated", "no list at all: repeated float embedding", False, False, bare_repeated, {}),
        ("list_hive_names", "3-level list as Hive names it: bag, array_element", True, True, renamed("bag", "array_element"), {}),
        ("list_odd_names", "3-level list with other names: elements, value", True, True, renamed("elements", "value"), {}),
        ("list_converted_only", "List by converted type alone", True, True, annotation(True, False), {}),
        ("list_logical_only", "List by logical type alone", True, True, annotation(False, True), {}),
    ]:
        full = f"edited_{name}"
        rows = make_rows(20, 8)
        if list_null:
            rows[6].bad("embedding_null", "embedding", embedding=None)
        rows[7].bad("embedding_dimension", "embedding", embedding=[])
        rows[8].bad("embedding_dimension", "embedding", embedding=[1.0] * 7)

        def write(path, rows=rows, list_null=list_null, element_null=element_null, change=change, options=options):
            file = build(rows, list_null, element_null, **options)
            change(file)
            path.write_bytes(file.bytes())

        add(full, WRITER, what, 8, rows, write, group=g)

    g = "columns"
    for name, what, change in [
        ("texts_converted_only", "UTF8 by converted type alone", texts_converted_only),
        ("texts_logical_only", "String by logical type alone", texts_logical_only),
        ("sparse_footer", "a footer without anything optional", no_optional_fields),
        ("dictionary_offset_missing", "dictionary pages without dictionary_page_offset", dictionary_offset_missing),
        ("file_offset_set", "column chunks with the deprecated file_offset set", file_offset_set),
    ]:
        full = f"edited_{name}"
        rows2 = make_rows(16, 4)

        def write2(path, rows=rows2, change=change):
            file = build(rows, True, True)
            change(file)
            path.write_bytes(file.bytes())

        add(full, WRITER, what, 4, rows2, write2, group=g)
