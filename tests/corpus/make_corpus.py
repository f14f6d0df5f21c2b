"""Make the Parquet corpus: files by several writers, what a user should find in the table, and damaged files.

    python make_corpus.py            writes beside this script
    python make_corpus.py --check    makes everything again elsewhere and compares bytes

README.md says which versions made the committed files; others give the same values, but other bytes.
"""

import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

from maker import from_duckdb, from_edits, from_fastparquet, from_polars, from_pyarrow, parquet_edit  # noqa: E402
from maker import pyarrow_columns, pyarrow_pages, pyarrow_rejects, pyarrow_scalars  # noqa: E402
from maker.cases import CASES  # noqa: E402
from maker.damaged import DAMAGES  # noqa: E402

WRITERS = [from_pyarrow, pyarrow_rejects, pyarrow_pages, pyarrow_scalars, pyarrow_columns, from_polars, from_duckdb, from_fastparquet, from_edits]

# The file whose offsets README.md lists.
MAPPED = "pyarrow_fixed_size_list_snappy.parquet"
START, END = "<!-- made by make_corpus.py: {} -->", "<!-- end: {} -->"


def size_of(path):
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def record(case, expected):
    """The manifest's entry: what a test needs to load the file."""
    rejects = Counter(row.reject["reject"] for row in case.rows if row.reject)
    out = {
        "source": case.source,
        "expected": expected,
        "writer": case.writer,
        "group": case.group,
        "what": case.what,
        "dim": case.dim,
        "rows": len(case.rows),
        "rejects": dict(sorted(rejects.items())),
    }
    if case.mapping:
        out["map"] = case.mapping
    if case.fixed:
        out["set"] = case.fixed
    if case.extra_columns:
        out["extra_columns"] = case.extra_columns
    if case.refused:
        out["refused"] = case.refused
    if case.note:
        out["note"] = case.note
    return out


def write_expected(out):
    """One file of expected rows for each distinct content; the names, by case."""
    by_text, names = {}, {}
    for case in CASES:
        if case.refused:
            continue
        text = "".join(json.dumps(row.expected(at), ensure_ascii=False, separators=(",", ":")) + "\n" for at, row in enumerate(case.rows))
        if text not in by_text:
            by_text[text] = f"{case.name}.expected.jsonl"
            (out / by_text[text]).write_text(text, encoding="utf-8", newline="\n")
        names[case.name] = by_text[text]
    return names


def page_map(path):
    """A table of the places in a file that are worth damaging."""
    file = parquet_edit.File(path.read_bytes())
    lines = ["| where | at | bytes | is |", "|---|---|---|---|", "| magic | 0 | 4 | `PAR1` |"]

    def span(struct, field):
        at, length = struct.spans[field]
        return f"{at} | {length} | {struct[field]}"

    for chunk in file.row_groups[0][1].items:
        name = b".".join(chunk[3][3].items).decode()
        for at, length, header in file.pages(chunk):
            kind = {0: "data page", 2: "dictionary page", 3: "data page v2"}[header[1]]
            inner = header[{0: 5, 2: 7, 3: 8}[header[1]]]
            lines.append(f"| `{name}`, {kind}: header | {at} | {length} | |")
            if not name.startswith(("embedding", "content")):
                continue
            lines.append(f"| … uncompressed_page_size | {span(header, 2)} |")
            lines.append(f"| … compressed_page_size | {span(header, 3)} |")
            lines.append(f"| … num_values | {span(inner, 1)} |")
            lines.append(f"| … compressed data | {at + length} | {header[3]} | |")
    footer = file.footer
    lines.append(f"| footer | {file.footer_at} | {len(file.data) - 8 - file.footer_at} | |")
    lines.append(f"| … num_rows | {span(footer, 3)} |")
    group = file.row_groups[0]
    lines.append(f"| … row group 0: num_rows | {span(group, 3)} |")
    meta = file.chunk("embedding")[3]
    for field, what in [
        (4, "codec"),
        (5, "num_values"),
        (6, "total_uncompressed_size"),
        (7, "total_compressed_size"),
        (9, "data_page_offset"),
        (11, "dictionary_page_offset"),
    ]:
        lines.append(f"| … embedding: {what} | {span(meta, field)} |")
    end = len(file.data)
    lines.append(f"| footer's length, little-endian | {end - 8} | 4 | {end - 8 - file.footer_at} |")
    lines.append(f"| magic | {end - 4} | 4 | `PAR1` |")
    return "\n".join(lines)


def file_table(out):
    lines = ["| file | writer | what | dim | rows | rejects | bytes |", "|---|---|---|---|---|---|---|"]
    group = None
    for case in CASES:
        if case.group != group:
            group = case.group
            lines.append(f"| **{group}** | | | | | | |")
        what = case.what + (f". *{case.note}*" if case.note else "") + (f". **Refused: {case.refused}**" if case.refused else "")
        rejects = sum(row.reject is not None for row in case.rows)
        what = what.replace("|", "\\|").replace("<", "&lt;")
        lines.append(
            f"| `{case.source}{'/' if case.directory else ''}` | {case.writer} | {what} | {case.dim} | {len(case.rows)} | {rejects or ''} | {size_of(out / case.source)} |"
        )
    return "\n".join(lines)


def fill(readme, part, text):
    start, end = START.format(part), END.format(part)
    whole = readme.read_text(encoding="utf-8")
    head, rest = whole.split(start)
    _, tail = rest.split(end)
    readme.write_text(f"{head}{start}\n\n{text}\n\n{end}{tail}", encoding="utf-8")


def clear(out):
    for path in out.iterdir():
        if path.name in ("make_corpus.py", "maker", "README.md", "damaged"):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (out / "damaged").iterdir():
        if path.name != "README.md":
            path.unlink()


def make(out):
    clear(out)
    for case in CASES:
        case.write(out / case.source)
    expected = write_expected(out)
    with (out / "manifest.json").open("w", encoding="utf-8", newline="\n") as manifest:
        entries = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in (record(case, expected.get(case.name)) for case in CASES))
        manifest.write(f"[\n{entries}\n]\n")
    for name, _, data in DAMAGES:
        (out / "damaged" / name).write_bytes(data())
    with (out / "damaged" / "manifest.json").open("w", encoding="utf-8", newline="\n") as manifest:
        entries = ",\n".join("  " + json.dumps({"source": name, "cause": cause}, ensure_ascii=False) for name, cause, _ in DAMAGES)
        manifest.write(f"[\n{entries}\n]\n")
    fill(out / "README.md", "files", file_table(out))
    fill(out / "README.md", "offsets", page_map(out / MAPPED))
    lines = ["| file | cause | bytes |", "|---|---|---|"]
    lines += [f"| `{name}` | {cause} | {size_of(out / 'damaged' / name)} |" for name, cause, _ in DAMAGES]
    fill(out / "damaged" / "README.md", "files", "\n".join(lines))


def contents(base):
    made = (path for path in base.rglob("*") if path.is_file() and "maker" not in path.parts and path.name != "make_corpus.py")
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in made}


def differences(one, two):
    left, right = contents(one), contents(two)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def main():
    for module in WRITERS:
        module.register()
    CASES.sort(key=lambda case: GROUPS.index(case.group))
    if sys.argv[1:] != ["--check"]:
        make(HERE)
        biggest = max((size_of(HERE / case.source), case.source) for case in CASES)
        print(
            f"{len(CASES)} sources, {len(DAMAGES)} damaged files, {size_of(HERE)} bytes with everything; biggest source: {biggest[1]}, {biggest[0]}"
        )
        return
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / "corpus"
        shutil.copytree(HERE, other, ignore=shutil.ignore_patterns("*.parquet", "*.jsonl", "maker", "__pycache__", "make_corpus.py"))
        (other / "damaged").mkdir(exist_ok=True)
        make(other)
        found = differences(HERE, other)
        print("\n".join(found) or "the same")
        sys.exit(1 if found else 0)


GROUPS = [
    "embedding",
    "list shape",
    "text",
    "integers",
    "metadata",
    "rejects",
    "times",
    "scalars",
    "columns",
    "codec",
    "encoding",
    "pages",
    "empty",
    "directory",
]

if __name__ == "__main__":
    main()
