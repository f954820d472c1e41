"""The shared prefix is exact: its log-probabilities equal those of the duplicated form, in every family."""

import torch
from families import VOCABULARY, make_group, make_model, text_group

from tempo.model.prefix import ContinuationTokens, Group, encode_videos, packed_log_probs
from tempo.model.support import duplicated_log_probs

QWEN = "qwen2_5_vl"


def largest_difference(ours, theirs):
    rows = zip(ours, theirs, strict=True)
    pairs = [pair for one, other in rows for pair in zip(one, other, strict=True)]
    return max(float((a - b).abs().max()) for a, b in pairs)


def assert_exact(model, groups):
    with torch.no_grad():
        packed = packed_log_probs(model, groups)
        assert largest_difference(packed, duplicated_log_probs(model, groups)) < 1e-5
    return packed


def test_a_row_of_text_alone_needs_no_video():
    model, group = make_model(QWEN), text_group(lengths=[4, 6])
    assert encode_videos(model, [group]) is None
    assert_exact(model, [group])


def test_context_is_read_but_not_scored():
    model, group = make_model(QWEN), make_group(QWEN, num_steps=4, lengths=[7, 9], context=3)
    (scores,) = assert_exact(model, [group])
    assert [len(logp) for logp in scores] == [4, 6]
    other = tuple(ContinuationTokens((5, 6, 7, *c.token_ids[3:]), 3) for c in group.continuations)
    with torch.no_grad():
        changed = packed_log_probs(model, [Group(group.inputs, other)])
    assert largest_difference([scores], changed) > 1e-3


def test_tokens_that_a_family_removes_from_a_video_are_removed_from_the_row():
    group = make_group("video_llama_3", num_steps=6, lengths=[5, 3])
    kept = group.inputs["video_compression_mask"]
    # Six tokens of the first frame, and the three that moved of each later one.
    assert int(kept.sum()) == 6 + 5 * 3 < len(kept)
    model = make_model("video_llama_3")
    right = assert_exact(model, [group])
    flipped = Group({**group.inputs, "video_compression_mask": kept.flip(0)}, group.continuations)
    with torch.no_grad():
        assert largest_difference(packed_log_probs(model, [flipped]), right) > 1e-3


# The head, which runs on the scored tokens in chunks of `HEAD_CHUNK` = 512

SCORED = [700, 500]


def long_group():
    return make_group(QWEN, num_steps=2, lengths=SCORED)


def saved_over_vocabulary(compute):
    """Rows of the tensors over the vocabulary that autograd keeps while `compute` runs."""
    rows = []

    def note(tensor):
        if tensor.ndim and tensor.shape[-1] == VOCABULARY:
            rows.append(tensor.numel() // VOCABULARY)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    return rows


def head_calls(model, compute):
    """Number of tokens in each call of the head while `compute` runs."""
    sizes = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: sizes.append(output.shape[-2])
    )
    compute()
    hook.remove()
    return sizes


def test_no_logits_are_kept_for_the_backward():
    model, group = make_model(QWEN), long_group()
    # The duplicated form does keep them, so this test looks at the right tensors.
    assert max(saved_over_vocabulary(lambda: duplicated_log_probs(model, [group]))) >= max(SCORED)
    assert saved_over_vocabulary(lambda: packed_log_probs(model, [group])) == []


def test_logits_are_computed_in_chunks_and_again_in_the_backward():
    model, group = make_model(QWEN), long_group()
    logps = []
    assert head_calls(model, lambda: logps.extend(packed_log_probs(model, [group])[0])) == [512, 512, 176]
    assert sorted(head_calls(model, lambda: torch.cat(logps).sum().backward())) == [176, 512, 512]
    with torch.no_grad():
        assert head_calls(model, lambda: packed_log_probs(model, [group])) == [512, 512, 176]
