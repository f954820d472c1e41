"""Public benchmarks, one module per benchmark; `data`, `questions` and `evaluating` are what they share."""
