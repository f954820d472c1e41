"""The imports of models, which take seconds: made once, in the process from which others are forked."""

import contextlib

from tempo.model.loading import repair_torchvision

# The main process reports the error.
with contextlib.suppress(ValueError):
    repair_torchvision()

import peft  # noqa: F401
import transformers.processing_utils  # noqa: F401

import tempo.model.generate  # noqa: F401
