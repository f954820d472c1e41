"""Records, files of a run, seeds, progress: what every package uses."""
