-- The sequence stands alone: one that a table owns can't be handed to the table that replaces it.
do $$
begin
    execute format('create sequence if not exists %I.%I as bigint',
        current_setting('vecload.schema'), current_setting('vecload.table') || '_id_seq');
end
$$;
