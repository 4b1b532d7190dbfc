"""For tests of code that uses this package, and of backends that serve it; the suites need pytest."""
