-- Further servers, and which partition lies on which. Additive. Where a server is and how to log in stands in
-- PostgreSQL's own catalog (pg_foreign_server, pg_user_mapping), never here.
create table servers (
  id integer generated always as identity primary key,
  name text collate "C" not null unique,
  remote_schema text not null
);

alter table partitions add column server text;
