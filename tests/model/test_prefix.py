"""The shared prefix is exact: log-probabilities equal the plain form, in every family."""

import numpy as np
import pytest
import torch
from families import FAMILIES, make_frames, make_group, make_lm, make_model, text_group

from tempo.model import prefix
from tempo.model.duplicated import duplicated_log_probs
from tempo.model.prefix import Group, encode_videos, log_probs

#: Time steps of the video: fewer than its grid is wide, and many more (the position trap shows only there).
SHORT, LONG = 2, 33


def largest_difference(ours, theirs):
    rows = zip(ours, theirs, strict=True)
    pairs = [pair for one, other in rows for pair in zip(one, other, strict=True)]
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_steps", [SHORT, LONG])
def test_log_probs_equal_the_plain_form(family, num_steps):
    model = make_model(family)
    group = make_group(family, num_steps=num_steps, lengths=[9, 4, 13, 1])
    with torch.no_grad():
        assert largest_difference(log_probs(model, [group]), duplicated_log_probs(model, [group])) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_several_videos_of_different_length_share_a_row(family):
    model = make_model(family)
    groups = [make_group(family, num_steps=n, lengths=[5, 3], seed=n) for n in (3, 17, 8)]
    groups.insert(1, text_group(lengths=[6]))
    with torch.no_grad():
        assert largest_difference(log_probs(model, groups), duplicated_log_probs(model, groups)) < 1e-5


def test_a_text_only_row_needs_no_video():
    model = make_model("qwen2_5_vl")
    group = text_group(lengths=[4, 6])
    assert encode_videos(model, [group]) is None
    with torch.no_grad():
        assert largest_difference(log_probs(model, [group]), duplicated_log_probs(model, [group])) < 1e-5


def test_context_is_read_but_not_scored():
    model = make_model("qwen2_5_vl")
    group = make_group("qwen2_5_vl", num_steps=4, lengths=[7, 9], context=3)
    with torch.no_grad():
        scores = log_probs(model, [group])
        assert [len(logp) for logp in scores[0]] == [4, 6]
        assert largest_difference(scores, duplicated_log_probs(model, [group])) < 1e-5


def test_a_continuation_does_not_see_another():
    model = make_model("qwen2_5_vl")
    group = make_group("qwen2_5_vl", num_steps=4, lengths=[7, 9])
    alone = Group(group.inputs, group.continuations[1:])
    with torch.no_grad():
        assert torch.allclose(log_probs(model, [group])[0][1], log_probs(model, [alone])[0][0], atol=1e-5)


def test_positions_of_a_long_video_are_the_familys_own(monkeypatch):
    """The trap: counting on from the largest position of the prompt is wrong, and this test would notice."""
    model = make_model("qwen2_5_vl")
    group = make_group("qwen2_5_vl", num_steps=LONG, lengths=[9])
    original = prefix._pack_positions

    def counted_on(core, group):
        positions = original(core, group).clone()
        num_prompt = group.lengths[0]
        start = positions[..., :num_prompt].max() + 1
        positions[..., num_prompt:] = start + torch.arange(positions.shape[-1] - num_prompt)
        return positions

    with torch.no_grad():
        right = log_probs(model, [group])
        monkeypatch.setattr(prefix, "_pack_positions", counted_on)
        assert largest_difference(log_probs(model, [group]), right) > 1e-3


def test_what_a_family_leaves_out_of_a_video_is_left_out_of_the_row():
    group = make_group("video_llama_3", num_steps=6, lengths=[5, 3])
    kept = group.inputs["video_compression_mask"]
    # Six tokens of the first picture, and of each later one the three that moved.
    assert int(kept.sum()) == 6 + 5 * 3 < len(kept)
    model = make_model("video_llama_3")
    with torch.no_grad():
        right = log_probs(model, [group])
        assert largest_difference(right, duplicated_log_probs(model, [group])) < 1e-5
        others = {**group.inputs, "video_compression_mask": kept.flip(0)}
        assert largest_difference(log_probs(model, [Group(others, group.continuations)]), right) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_and_words_become_a_row_that_is_exact(family):
    """Both ways from frames and words to a group, with the family's own processor and chat template."""
    lm = make_lm(family)
    frames = make_frames(family, 5, np.random.default_rng(0))
    groups = [
        lm.answer_group(frames, "3 4 5", ["6 7", "8 9 10 11", "12"], fps=2.0),
        lm.question_group(frames, [("13 14", "15"), ("16", "17 18 19")], fps=2.0),
    ]
    with torch.no_grad():
        assert largest_difference(log_probs(lm.model, groups), duplicated_log_probs(lm.model, groups)) < 1e-5
