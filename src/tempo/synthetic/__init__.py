"""The embedded default: a world with known truth, its benchmark, and the model that was trained on it."""
