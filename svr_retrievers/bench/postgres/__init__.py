"""What the benchmark does with PostgreSQL directly: its server, the raw floors and the one big table."""
