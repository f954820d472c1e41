"""The embedded default: a world with known truth, its benchmark, and the model that lives in it."""
