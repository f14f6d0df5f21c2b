-- Compaction: blocks of a finished run are merged into fewer rows; and blocks of a source are found by a range.

alter table vecload_ledger.blocks
    -- In a merged row: the blocks of its load and run that it stands for, until they are deleted.
    add column replaces integer[],
    -- From the lowest to the highest of source_ids: what is to be looked at for a source.
    add column source_range int8range;
update vecload_ledger.blocks set source_range =
    (select int8range(min(source_id), max(source_id), '[]') from unnest(source_ids) as s(source_id));
alter table vecload_ledger.blocks alter column source_range set not null;
-- An entry for each source of a block cost more than the rest of a block of many small files.
drop index vecload_ledger.blocks_source_ids_idx;
create index on vecload_ledger.blocks using gist (source_range);
create index on vecload_ledger.blocks (load_id, run) where replaces is not null;

-- What every reader reads: a block is left out while a merged row stands for it. So the union is right before,
-- between and after the two transactions of a compaction.
create view vecload_ledger.current_blocks as
    select b.* from vecload_ledger.blocks b
    where not exists (
        select from vecload_ledger.blocks merged
        where merged.load_id = b.load_id and merged.run = b.run and merged.replaces is not null
            and b.block = any (merged.replaces));

-- Files that changed while they were unfinished are looked for by their names.
create index on vecload_ledger.sources (target, name) where state = 'open';
