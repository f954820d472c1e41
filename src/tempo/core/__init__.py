"""Records, files of a run, seeds, statistics and progress, for all packages."""
