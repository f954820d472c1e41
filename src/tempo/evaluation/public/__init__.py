"""Public benchmarks, one module each; `data`, `footage`, `questions`, `tasks` and `results` are shared."""
