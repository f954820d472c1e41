"""Limits in a checkpoint's configuration, checked before any work: positions and frame rates."""

from __future__ import annotations

import math
import sys
from typing import Any


def max_positions(config: Any) -> int:
    """The largest number of tokens, prompt and answer together, that a model supports."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def frame_rate_warning(config: Any, fps: float) -> str:
    """A warning if several time steps of a video share a position at this rate; empty otherwise.

    Qwen2.5-VL rounds times to 1 / `tokens_per_second` (`get_rope_index`); a time step spans several frames.
    """
    vision = getattr(config, "vision_config", None)
    limit = getattr(vision, "temporal_patch_size", 1) * (
        getattr(vision, "tokens_per_second", None) or math.inf
    )
    if fps <= limit:
        return ""
    return (
        f"warning: frames.fps is {fps:g}, but {config.model_type} has separate positions for at most "
        f"{limit:g} frames per second: {1 - limit / fps:.0%} of the time steps share the position of the "
        f"previous one. Set frames.fps to {limit:g} or less"
    )


def check_positions(
    name: str, *, num_video: int, num_text: int, limit: int, rate: str = "frames.fps, frames.max_frames"
) -> None:
    """Raises ValueError for `name` if its video and text together have more than `limit` tokens.

    `rate` are the options that set the number of frames.
    """
    if num_video + num_text > limit:
        keys = f"{rate}, frames.max_pixels or frames.max_total_pixels"
        advice = f"Lower {keys}" if num_text < min(limit, num_video) else "Shorten its texts, or leave it out"
        raise ValueError(
            f"{name}: prompt and answer have {num_video + num_text} tokens, {num_video} from frames and "
            f"{num_text} from text. The model supports at most {limit} (its max_position_embeddings). "
            f"{advice}"
        )
