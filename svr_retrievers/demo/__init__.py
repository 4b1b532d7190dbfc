"""The demonstration: real text, one shared index against routed partitions, measured on this machine."""
