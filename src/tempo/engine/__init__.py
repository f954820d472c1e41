"""Where a stage runs: this process, a pool of processes, or Ray."""
