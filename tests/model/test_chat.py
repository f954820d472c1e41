"""From frames and text to tokens, and the public log-probabilities."""

import numpy as np
import pytest
import torch
from families import FAMILIES, make_frames, make_lm

from tempo import Continuation, Prefix, load_model, log_probs
from tempo.model.prefix import packed_log_probs
from tempo.model.support import duplicated_log_probs

FRAMES = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
START_OF_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def lm():
    return load_model("embedded")


def test_a_prefix_is_video_and_prompt_and_answers_end_their_turn(lm):
    group = lm.group(Prefix(FRAMES, "Describe."), ["One.", "Two words."])
    text = lm.tokenizer.decode(group.inputs["input_ids"][0])
    assert text.startswith("<|im_start|>user\n<|vision_start|><|video_pad|>")
    assert text.endswith(f"<|vision_end|>Describe.{START_OF_ANSWER}")
    answers = [lm.tokenizer.decode(c.token_ids) for c in group.continuations]
    assert answers == ["One.<|im_end|>", "Two words.<|im_end|>"]
    assert [c.num_context for c in group.continuations] == [0, 0]


def test_questions_share_the_video_and_are_not_scored(lm):
    group = lm.group(Prefix(FRAMES, ""), [Continuation("So.", "Why?"), Continuation("Here.", "Where?")])
    assert lm.tokenizer.decode(group.inputs["input_ids"][0]).endswith("<|vision_end|>")
    first = group.continuations[0]
    assert lm.tokenizer.decode(first.token_ids[: first.num_context]) == f"Why?{START_OF_ANSWER}"
    assert lm.tokenizer.decode(first.token_ids[first.num_context :]) == "So.<|im_end|>"


def test_prompt_and_question_give_the_same_sequence(lm):
    """A question that is trained over a shared video has the tokens that it has in generation."""
    sequences = [
        [*group.inputs["input_ids"][0].tolist(), *group.continuations[0].token_ids]
        for group in (
            lm.group(Prefix(FRAMES, "Why is it so?"), ["So."]),
            lm.group(Prefix(FRAMES, ""), [Continuation("So.", "Why is it so?")]),
        )
    ]
    assert sequences[0] == sequences[1]


def test_questions_and_plain_answers_do_not_mix(lm):
    with pytest.raises(ValueError, match="Only some continuations"):
        lm.group(Prefix(FRAMES, ""), ["One.", Continuation("So.", "Why?")])


def test_the_rate_of_the_frames_reaches_the_positions(lm):
    seconds = [
        lm.group(Prefix(FRAMES, "?", fps=fps), ["x"]).inputs["second_per_grid_ts"] for fps in (1.0, 4.0)
    ]
    assert [float(s[0]) for s in seconds] == [2.0, 0.5]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_forms_are_exact_in_every_family(family):
    lm = make_lm(family)
    frames = make_frames(family, 5, np.random.default_rng(0))
    groups = [
        lm.group(Prefix(frames, "3 4 5", fps=2.0), ["6 7", "8 9 10 11", "12"]),
        lm.group(Prefix(frames, "", fps=2.0), [Continuation("15", "13 14"), Continuation("17 18", "16")]),
    ]
    with torch.no_grad():
        packed, duplicated = packed_log_probs(lm.model, groups), duplicated_log_probs(lm.model, groups)
    for ours, theirs in zip(packed, duplicated, strict=True):
        assert torch.allclose(torch.cat(ours), torch.cat(theirs), atol=1e-5)


@pytest.mark.parametrize(
    ("reduction", "reduce"), [("sum", torch.sum), ("mean", torch.mean), ("none", lambda logp: logp)]
)
def test_log_probs_are_those_of_full_sequences(lm, reduction, reduce):
    prefix, texts = Prefix(FRAMES, "Describe the video in order."), ["A ring turns.", "No."]
    with torch.no_grad():
        found = log_probs(lm, prefix, texts, reduction=reduction)
        (expected,) = duplicated_log_probs(lm.model, [lm.group(prefix, texts)])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.allclose(ours, reduce(theirs), rtol=1e-4, atol=1e-4)
