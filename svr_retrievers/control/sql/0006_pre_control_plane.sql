-- Where the control plane is, if not here: its id for this database. Additive. Who does not know it changes no map.
create table control_plane (
  one boolean primary key default true check (one),
  id text not null
);
