"""Rows of phases over seeds: which claims of the paper hold in the embedded world."""
