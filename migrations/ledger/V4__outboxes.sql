-- Loads that write on the workers of a Citus cluster: what they commit there is taken in before it is read.

-- Colocation groups in whose tables on the workers a load's rows may lie (shard_blocks_N, shard_fences_N).
alter table vecload_ledger.loads add column outboxes integer[] not null default '{}';
