-- Sources that are known only as they are read: text, cut into units by a scan, and standard input.

-- Units that were read; the hash shows on a resumption that the source is still the same. A source of text has
-- its number of units and rows only at its end.
create table vecload_ledger.units (
    source_id bigint not null references vecload_ledger.sources on delete cascade,
    unit integer not null,
    first_record bigint not null,
    first_byte bigint not null,
    first_line bigint not null,
    rows bigint not null,
    hash text not null,
    primary key (source_id, unit)
);
alter table vecload_ledger.sources alter column units drop not null, alter column rows drop not null;

-- Where a rejected record begins, besides its line: record from 1, byte from 0.
alter table vecload_ledger.rejects add column record bigint, add column byte bigint;
