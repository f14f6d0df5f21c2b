//! The help texts, word for word: what is promised there is what the other tests hold vecload to.

use super::program::vecload;

fn help(words: &[&str]) -> String {
    let text = vecload(words).run().exits(0).stdout;
    text.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

#[test]
fn the_commands_are_listed() {
    insta::assert_snapshot!(help(&["--help"]), @r#"
    Bulk-load embeddings into PostgreSQL + pgvector, every row exactly once

    Usage: vecload [OPTIONS] <COMMAND>

    Commands:
      load      Load Parquet, CSV, JSON Lines or synthetic rows into the target table
      generate  Write synthetic rows to a file, and queries with their exact neighbours
      migrate   Create the target table, its indexes and the ledger; safe to run again
      tune      Set the database up for vector searches and index builds, and prove it on each node
      seed      Load 20 sample chunks
      search    Find the nearest rows by cosine distance
      verify    Check server, cluster, table, indexes, query plans, and the rows against the ledger
      loads     Show what was loaded; take a load back
      cluster   Show and change the nodes of a Citus cluster
      db        Run vecload's own PostgreSQL server
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Global options:
          --db <URL>
              Database to connect to; else DATABASE_URL, the PG* variables, pipeline.toml, the embedded
              server

          --table <TABLE>
              Target table, [SCHEMA.]NAME (default: chunks)

          --config <FILE>
              Configuration file (default: ./pipeline.toml, if it is there)

          --json
              Print one JSON object on stdout at the end; everything else goes to stderr

      -q, --quiet
              Print errors and warnings only

      -v, --verbose...
              Print more of what happens; twice for details

          --progress <MODE>
              How progress is shown: bars on a terminal, plain lines for logs

              Possible values:
              - auto:  Bars on a terminal, else lines
              - plain: A line now and then
              - none:  None

              [default: auto]

          --pg-bindir <DIR>
              Directory of PostgreSQL's programs for the embedded server
    "#);
}

#[test]
fn the_options_of_load_are_listed() {
    insta::assert_snapshot!(help(&["load", "--help"]), @r#"
    Load Parquet, CSV, JSON Lines or synthetic rows into the target table

    Usage: vecload load [OPTIONS] [SOURCE]...

    Arguments:
      [SOURCE]...
              Files, directories or globs; - is standard input

    Options:
          --synthetic <ROWS>
              Load this many rows that are made instead of sources, such as 10M

          --format <FORMAT>
              Format of the sources (default: by name and content)

              Possible values:
              - parquet: Parquet
              - csv:     Comma-separated values and their kin, also compressed with gzip or zstd
              - jsonl:   JSON Lines: an object in each line, also compressed

          --delimiter <CHAR>
              Delimiter of CSV: a character, or tab (default: guessed of , ; tab |)

          --null <TEXT>
              Text that stands for null in CSV (default: the empty field, except in text columns)

          --no-header
              The CSV has no header; --map names columns by position, from 1

          --map <TARGET=COLUMN>
              Fill a target column from a source column of another name

          --set <TARGET=VALUE>
              Fill a target column with one value for all rows

          --name <NAME>
              A name for the load, shown by `vecload loads`; standard input is known again by it

          --again
              Load sources once more that are loaded already

          --create
              Create the table if it is missing, with the source's dimension

          --limit <N>
              Load only the first N rows; without it, a later run goes on from there

          --lanes <N>
              Threads that read and encode (default: one per core)

          --writers <N>
              Connections that write (default: one per core, from 2 to 8; on Citus at least 2 per
              worker, or 4 in all through the coordinator)

          --memory <SIZE>
              Memory for all buffers (default: 512MiB)

          --max-rejects <N|P%|all>
              Rejected rows to put up with (default: 0)

          --index <POLICY>
              What becomes of secondary indexes (default: auto)

              Possible values:
              - auto:  Deferred where the table is new or empty, kept where it has rows
              - defer: Dropped before the rows, built after them
              - keep:  Left as they are; the server maintains them row by row
              - none:  None is built; those there are stay

          --retry-for <TIME>
              How long to try again when server or connection fail, counted from the last progress; 0s:
              not at all (default: 5m)

          --route <ROUTE>
              How rows get into a distributed table (Citus): straight into the shards on the workers, or
              through the coordinator (default: auto, into the shards where that is safe)

              Possible values:
              - auto:        Into the shards where that can be done safely, else through the coordinator
              - coordinator: Through the coordinator
              - shards:      Into the shards, or not at all

      -h, --help
              Print help (see a summary with '-h')

    Synthetic rows:
          --dim <N>
              Dimension of the embeddings (default: 1536)

          --channels <N>
              Number of channels (default: 1000)

          --skew <S>
              Exponent of Zipf's law, by which rows are spread over channels; 0: evenly (default: 1.1)

          --clusters <N>
              Clusters that the embeddings are drawn from (default: 256)

          --seed <N>
              Seed of all random numbers (default: 42)

    Global options:
          --db <URL>
              Database to connect to; else DATABASE_URL, the PG* variables, pipeline.toml, the embedded
              server

          --table <TABLE>
              Target table, [SCHEMA.]NAME (default: chunks)

          --config <FILE>
              Configuration file (default: ./pipeline.toml, if it is there)

          --json
              Print one JSON object on stdout at the end; everything else goes to stderr

      -q, --quiet
              Print errors and warnings only

      -v, --verbose...
              Print more of what happens; twice for details

          --progress <MODE>
              How progress is shown: bars on a terminal, plain lines for logs

              Possible values:
              - auto:  Bars on a terminal, else lines
              - plain: A line now and then
              - none:  None

              [default: auto]

          --pg-bindir <DIR>
              Directory of PostgreSQL's programs for the embedded server
    "#);
}
