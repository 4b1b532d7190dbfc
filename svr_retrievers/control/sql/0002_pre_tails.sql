-- Tails: where the fresh rows of an indexed partition wait to join its index. Additive.
-- `tail` says whether readers must look there; `tail_rows` how many rows wait.
alter table partitions
  add column tail boolean not null default false,
  add column tail_rows bigint not null default 0;
