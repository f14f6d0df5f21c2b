-- Rows of blocks that fit a page are not compressed: most are merged when their load ends, and compressing them took
-- longer than all else that is done to take them in from the workers of a cluster.
alter table vecload_ledger.blocks set (toast_tuple_target = 8160);
