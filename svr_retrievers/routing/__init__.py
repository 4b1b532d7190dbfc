"""Which partitions a document belongs to and which a query must look into. Pure functions on frozen values."""
