"""The study and the making of the embedded models; not part of the wheel."""
