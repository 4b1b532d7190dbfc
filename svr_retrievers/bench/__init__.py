"""The benchmark: one run, systems side by side, ratios against stated goals. `svr bench` runs it."""
