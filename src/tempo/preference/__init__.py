"""Preference data: captions, perturbations, responses, pairs."""
