"""The stages in order, and what makes one stale."""
