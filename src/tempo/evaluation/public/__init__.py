"""Public benchmarks: `benchmarks` has one function for each; `data`, `questions` and `tasks` are shared."""
