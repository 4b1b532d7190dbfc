"""Doing a route: fan-out, exact merge, diversity."""
