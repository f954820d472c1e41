"""Evaluation on a benchmark of temporal questions."""
