"""How the two embedded models are made, from random weights to a checkpoint with a model card."""
