"""The imports of models, which take seconds: made once, in the process from which others are forked."""

from tempo.model.loading import repair_torchvision

repair_torchvision()

import peft  # noqa: E402, F401
import transformers.processing_utils  # noqa: E402, F401

import tempo.model.generate  # noqa: E402, F401
