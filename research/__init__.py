"""The study and the training of the embedded models; not part of the wheel."""
