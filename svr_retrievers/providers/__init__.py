"""Asks a model behind an API or in this process: retries, limits, deadlines and errors, the same for all."""
