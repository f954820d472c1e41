"""The model: loading, shared-prefix scoring, generation."""
