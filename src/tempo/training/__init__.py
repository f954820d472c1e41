"""Training: an ordered list of phases over shared prefixes."""
