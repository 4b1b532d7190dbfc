-- What is known of the values that filters ask for, from which the way of a filtered search is chosen. Additive.
alter table collections add column field_statistics jsonb;
