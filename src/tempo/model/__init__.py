"""The model: loading, log-probabilities over a shared prefix, generated answers."""
