"""Where vectors live. One protocol, one conformance suite, one sub-package per engine."""
