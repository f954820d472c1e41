"""The study: the method beside its baselines and variants, over seeds."""
