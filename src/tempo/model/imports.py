"""What models need, which takes seconds to import: preloaded once for all processes with a model."""

from tempo.model.loading import repair_torchvision

repair_torchvision()

import peft  # noqa: E402, F401
import transformers.processing_utils  # noqa: E402, F401

import tempo.model.generate  # noqa: E402, F401
