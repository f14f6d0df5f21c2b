"""Cut data/debian-packages.parquet out of the larger set of package embeddings, and write its beginning as text.

    python make_sample.py SOURCE.parquet [OUT.parquet]
    python make_sample.py --text

The second writes the first 100 rows of data/debian-packages.parquet as debian-packages.csv.gz and
debian-packages.jsonl.zst. The same source and the same pyarrow give the same bytes: nothing here is random. Rows keep the order of the source.
"""

import csv
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1000
ROW_GROUP = 250
DIM = 384
TEXT_ROWS = 100

# Sections taken whole, so that a package keeps its neighbours.
SECTIONS = {
    "comm",
    "database",
    "editors",
    "electronics",
    "fonts",
    "games",
    "graphics",
    "hamradio",
    "httpd",
    "mail",
    "shells",
    "sound",
    "vcs",
    "video",
    "web",
}

# Packages of other sections that belong to the database neighbourhood.
WORDS = ("sqlite", "postgres", "posgresql", "pgsql", "pgbackrest", "pgactivity", "mysql", "mariadb")


def choose(contents: list[str], sections: list[str]) -> list[int]:
    """Positions of the rows to keep: the chosen neighbourhoods, then every n-th other row as background."""
    near = [
        i for i, (content, section) in enumerate(zip(contents, sections)) if section in SECTIONS or any(word in content.lower() for word in WORDS)
    ]
    taken = set(near)
    others = [i for i in range(len(contents)) if i not in taken]
    missing = ROWS - len(near)
    if not 0 <= missing <= len(others):
        raise SystemExit(f"{len(near)} rows chosen by neighbourhood, {len(others)} others: can't make {ROWS}")
    background = [others[k * len(others) // missing] for k in range(missing)]
    return sorted(near + background)


def write_text() -> None:
    """The first rows as CSV, whose embeddings are texts, and as JSON Lines, whose embeddings and metadata are not."""
    here = Path(__file__).parent
    rows = pq.read_table(here / "debian-packages.parquet").slice(0, TEXT_ROWS).to_pylist()
    names = list(rows[0])

    def embedding(row: dict) -> str:
        # pyarrow writes the shortest digits that give the same float again.
        return "[" + ",".join(pa.array(row["embedding"], pa.float32()).cast(pa.string()).to_pylist()) + "]"

    with pa.CompressedOutputStream(str(here / "debian-packages.csv.gz"), "gzip") as out:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow([embedding(row) if name == "embedding" else row[name] for name in names])
        out.write(text.getvalue().encode())
    with pa.CompressedOutputStream(str(here / "debian-packages.jsonl.zst"), "zstd") as out:
        for row in rows:
            scalars = {name: row[name] for name in names if name not in ("embedding", "metadata")}
            line = json.dumps(scalars, ensure_ascii=False)[:-1]
            out.write(f'{line}, "metadata": {row["metadata"]}, "embedding": {embedding(row)}}}\n'.encode())


def main() -> None:
    if sys.argv[1:] == ["--text"]:
        return write_text()
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    out = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent / "debian-packages.parquet"

    table = pq.read_table(sys.argv[1])
    sections = [json.loads(text)["section"] for text in table["metadata"].to_pylist()]
    table = table.take(choose(table["content"].to_pylist(), sections))

    table = pa.table(
        {
            "channel_id": table["channel_id"].cast(pa.int64()),
            "user_id": table["user_id"].cast(pa.int64()),
            "content": table["content"].cast(pa.string()),
            "embedding": table["embedding"].cast(pa.list_(pa.float32())),
            "metadata": table["metadata"].cast(pa.string()),
        }
    )
    lengths = set(table["embedding"].combine_chunks().value_lengths().to_pylist())
    if lengths != {DIM} or any(column.null_count for column in table.columns):
        raise SystemExit(f"the source is not what it was: lengths {lengths}, or nulls")

    pq.write_table(
        table, out, compression="zstd", compression_level=9, row_group_size=ROW_GROUP, use_dictionary=["channel_id", "user_id"], write_page_index=True
    )
    print(f"{out.name}: {table.num_rows} rows, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
