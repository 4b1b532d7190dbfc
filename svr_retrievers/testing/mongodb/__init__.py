"""MongoDB for tests without an account: a real server from a Python package, and Atlas' search in front of it."""
