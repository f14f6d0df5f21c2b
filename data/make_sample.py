"""Cut data/debian-packages.parquet out of the larger set of package embeddings.

    python make_sample.py SOURCE.parquet [OUT.parquet]

The same source and the same pyarrow give the same bytes: nothing here is random. Rows keep the order of the source.
"""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1000
ROW_GROUP = 250
DIM = 384

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


def main() -> None:
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
