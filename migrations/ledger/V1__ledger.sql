-- The ledger: what was loaded, from which rows of which source, by which load. Blocks commit in the same
-- transaction as the rows they describe (docs/ledger.md).

-- One row per load: a command and its resumptions.
create table vecload_ledger.loads (
    load_id bigint generated always as identity primary key,
    name text,
    target oid not null,
    target_name text not null,
    state text not null,
    -- The fence: a block is committed only while the run that made it holds this token.
    token bigint not null,
    runs integer not null default 1,
    host text not null,
    process_id integer not null,
    version text not null,
    started_at timestamptz not null default clock_timestamp(),
    run_started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    -- What becomes of secondary indexes, and definitions of those dropped until the rows are in.
    index_plan text not null,
    dropped_indexes text[] not null default '{}',
    report jsonb
);

-- One row per source in a target; the same content twice in one command has two occurrences.
create table vecload_ledger.sources (
    source_id bigint generated always as identity primary key,
    target oid not null,
    fingerprint text not null,
    occurrence integer not null,
    kind text not null,
    name text not null,
    size_bytes bigint not null,
    modified_nanos bigint not null,
    full_hash text,
    recipe jsonb not null,
    state text not null check (state in ('open', 'complete')),
    units integer not null,
    rows bigint not null,
    load_id bigint not null references vecload_ledger.loads,
    unique (target, fingerprint, occurrence)
);
create index on vecload_ledger.sources (load_id);

-- One row per committed block; element i of the arrays is slice i: all accepted rows of that unit in that
-- row range (inclusive) whose channel hash lies in that hash range (inclusive) are committed.
create table vecload_ledger.blocks (
    load_id bigint not null,
    run integer not null,
    block integer not null,
    target oid not null,
    relfilenode oid not null,
    rows bigint not null,
    source_ids bigint[] not null,
    units integer[] not null,
    first_rows bigint[] not null,
    last_rows bigint[] not null,
    hash_lows integer[] not null,
    hash_highs integer[] not null,
    slice_rows bigint[] not null,
    id_firsts bigint[] not null,
    id_lasts bigint[] not null,
    checksum bigint not null,
    committed_at timestamptz not null default clock_timestamp(),
    primary key (load_id, run, block)
);
create index on vecload_ledger.blocks using gin (source_ids);

-- Rejected rows, and the row ranges whose rejected rows are all recorded.
create table vecload_ledger.rejects (
    source_id bigint not null references vecload_ledger.sources on delete cascade,
    unit integer not null,
    row bigint not null,
    line bigint,
    load_id bigint not null,
    column_name text not null,
    class text not null,
    reason text not null,
    excerpt text not null,
    rejected_at timestamptz not null default clock_timestamp(),
    primary key (source_id, unit, row)
);
create index on vecload_ledger.rejects (load_id);

create table vecload_ledger.reject_slices (
    source_id bigint not null references vecload_ledger.sources on delete cascade,
    unit integer not null,
    first_row bigint not null,
    last_row bigint not null,
    rejects bigint not null,
    load_id bigint not null,
    primary key (source_id, unit, first_row, last_row)
);
