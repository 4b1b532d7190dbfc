"""The durable facts beside the vectors: collections, partition maps, generations."""
