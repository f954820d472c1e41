"""Preference data: captions, perturbations, responses, pairs, their audit, export and import."""
