"""Trains the two embedded models from random weights, and writes checkpoints with model cards."""
