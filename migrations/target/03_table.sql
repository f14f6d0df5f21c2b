-- A unique key of a table that Citus distributes includes the distribution column.
do $$
begin
    execute format($ddl$
        create table if not exists %1$I.%2$I (
            id bigint not null default nextval(%3$L),
            channel_id bigint not null,
            user_id bigint not null,
            content text not null,
            embedding %4$s not null,
            metadata jsonb not null default '{}',
            created_at timestamptz not null default now(),
            primary key (id, channel_id)
        )$ddl$,
        current_setting('vecload.schema'),
        current_setting('vecload.table'),
        format('%I.%I', current_setting('vecload.schema'), current_setting('vecload.table') || '_id_seq'),
        current_setting('vecload.embedding_type'));
end
$$;
