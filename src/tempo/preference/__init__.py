"""Preference data: captions, perturbations, responses, pairs; audit, export and import of pairs."""
