-- Collections and their partition maps. Additive: runs before the code that needs it.
create table collections (
  id bigint generated always as identity primary key,
  name text collate "C" not null unique,
  config jsonb not null,
  generation bigint not null default 1,
  calibration jsonb,
  created_at timestamptz not null default now()
);

create table partitions (
  id integer generated always as identity primary key,
  collection bigint not null references collections (id) on delete cascade,
  parent integer references partitions (id) on delete cascade,
  kind text not null,
  value text not null,
  label text not null,
  path text not null,
  state text not null default 'active',
  leaf boolean not null,
  indexed boolean not null default false,
  row_count bigint not null default 0,
  rows_at_refresh bigint not null default 0,
  centroids bytea,
  spread bytea
);

create index partitions_collection on partitions (collection);
create index partitions_parent on partitions (parent);
