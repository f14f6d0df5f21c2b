-- Only where the Citus extension is there; a table that is distributed already stays as it is.
do $$
declare
    target regclass := format('%I.%I', current_setting('vecload.schema'), current_setting('vecload.table'));
begin
    if not exists (select from pg_dist_partition where logicalrelid = target) then
        perform create_distributed_table(target, 'channel_id', shard_count => current_setting('vecload.shards')::int);
    end if;
end
$$;
