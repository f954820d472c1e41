"""tempo teaches Video LLMs the order of time."""

__version__ = "0.1.0"
