"""Public benchmarks, one module each; `data`, `questions`, `tasks` and `results` are shared."""
