"""Trains rows of phases with several seeds, and tests the claims of the paper in the embedded world."""
