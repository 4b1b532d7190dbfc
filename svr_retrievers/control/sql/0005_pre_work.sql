-- Background work: leases with fencing tokens, operations with their history, the outbox. Additive.
-- A lease's row stays for ever, since it counts the tokens. (name, token) is unique only so that a claim, which
-- changes the token, waits for `for key share`, and a renewal does not.
create table leases (
  name text collate "C" primary key,
  holder text not null,
  token bigint not null,
  ttl_seconds double precision not null,
  expires_at timestamptz not null,
  unique (name, token)
);

-- json, not jsonb: what was written comes back as it was, also 1e308 and 1.0.
create table operations (
  number bigint generated always as identity primary key,
  kind text not null,
  collection text collate "C" not null,
  cause text collate "C" not null,
  state text not null,
  step text not null,
  details json not null,
  version bigint not null default 1,
  token bigint,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp()
);

create unique index operations_open on operations (collection, cause) where state in ('pending', 'running', 'paused');
create index operations_collection on operations (collection, number);
create index operations_state on operations (state, number);

create table operation_history (
  like operations,
  primary key (number, version)
);

-- `inserted` is the order of insertion; `position` is given once the event is committed, see docs/control-plane.md.
create table outbox (
  id text collate "C" primary key,
  inserted bigint generated always as identity,
  position bigint unique,
  subject text not null,
  type text not null,
  data json not null,
  at timestamptz not null default clock_timestamp()
);

create index outbox_waiting on outbox (inserted) where position is null;

create table outbox_state (
  one boolean primary key default true check (one),
  given bigint not null default 0,
  pruned bigint not null default 0
);

insert into outbox_state default values;

create table outbox_consumers (
  name text collate "C" primary key,
  position bigint not null,
  updated_at timestamptz not null default clock_timestamp()
);
