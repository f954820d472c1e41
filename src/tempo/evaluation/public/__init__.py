"""Public benchmarks, one module each; `data`, `questions` and `tasks` are shared."""
