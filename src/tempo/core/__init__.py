"""Shared by all packages: records, files of a run, seeds, statistics and progress."""
