"""The embedded world, in which the truth is known, its benchmark, and the model that was trained on it."""
