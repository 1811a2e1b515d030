"""Hypothesis for the unit tests: the same examples on every run, nothing kept on disk, no stop-watch."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, max_examples=100, derandomize=True, database=None)
settings.load_profile("unit")
