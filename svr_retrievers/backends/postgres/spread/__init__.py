"""Collections on several PostgreSQL servers, by postgres_fdw."""
