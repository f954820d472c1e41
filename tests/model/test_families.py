"""What the other tests of the families take for granted, and that every family answers."""

import numpy as np
import pytest
from families import FAMILIES, make_frames, make_group, make_lm

from tempo.config import SamplingConfig
from tempo.model.answers import Request
from tempo.model.generation import generate


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_a_family_do_not_depend_on_their_batch(family):
    lm = make_lm(family)
    generator = np.random.default_rng(0)
    videos = [make_frames(family, count, generator) for count in (3, 3, 4)]
    asked = [Request("3 4 5", seed=index, frames=frames) for index, frames in enumerate(videos)]
    asked.append(Request("6 7", seed=9))
    alone, together = (
        generate(lm, asked, sampling=SamplingConfig(batch_size=size), max_new_tokens=4) for size in (1, 4)
    )
    assert alone == together
    assert len({answer.text for answer in alone}) == len(asked)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pixels_of_a_group_reach_the_model(family):
    """A group of another video has other inputs, and a longer one more tokens."""
    one, other, longer = (
        make_group(family, num_steps=n, lengths=[2], seed=seed) for n, seed in ((3, 1), (3, 2), (5, 1))
    )
    assert one.lengths[0] < longer.lengths[0]
    (pixels,) = [name for name in one.inputs if name.startswith("pixel_values")]
    assert not one.inputs[pixels].equal(other.inputs[pixels])
