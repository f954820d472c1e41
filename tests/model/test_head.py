"""The head on answer tokens only: in chunks, with and without gradients, and never a [S, V] tensor."""

import pytest
import torch
from families import VOCABULARY, make_group, make_model
from torch import nn

from tempo.model import prefix
from tempo.model.prefix import _head_log_probs, log_probs

CHUNK = 3
SCORED = 10


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(prefix, "HEAD_CHUNK", CHUNK)


class CountingHead(nn.Linear):
    """A head that notes how many tokens each of its calls makes logits of."""

    def __init__(self):
        super().__init__(8, VOCABULARY, bias=False)
        self.rows = []

    def forward(self, hidden):
        self.rows.append(len(hidden))
        return super().forward(hidden)


def head_and_tokens(seed=0):
    torch.manual_seed(seed)
    hidden = torch.randn(SCORED, 8, requires_grad=True)
    return CountingHead(), hidden, torch.randint(VOCABULARY, (SCORED,))


def whole_log_probs(head, hidden, target):
    return head(hidden).log_softmax(dim=-1).gather(1, target[:, None])[:, 0]


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


def test_values_and_gradients_are_those_of_the_whole():
    results = []
    for score in (_head_log_probs, whole_log_probs):
        head, hidden, target = head_and_tokens()
        logp = score(head, hidden, target)
        (logp * torch.arange(SCORED)).sum().backward()
        results.append((logp.detach(), hidden.grad, head.weight.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_nothing_over_the_vocabulary_is_kept_for_the_way_back():
    head, hidden, target = head_and_tokens()
    # What is looked for is there where the head runs as a whole.
    assert max(saved_over_vocabulary(lambda: whole_log_probs(head, hidden, target))) == SCORED
    assert saved_over_vocabulary(lambda: _head_log_probs(head, hidden, target)) == []


def test_the_way_back_makes_logits_in_chunks_too():
    head, hidden, target = head_and_tokens()
    loss = _head_log_probs(head, hidden, target).sum()
    assert head.rows == [3, 3, 3, 1]
    loss.backward()
    assert sorted(head.rows[4:]) == [1, 3, 3, 3]


def test_without_gradients_the_head_runs_once():
    head, hidden, target = head_and_tokens()
    with torch.no_grad():
        assert torch.allclose(_head_log_probs(head, hidden, target), whole_log_probs(head, hidden, target))
    assert head.rows == [3, 3, 3, 1, SCORED]


def test_a_frozen_head_hands_gradients_on():
    """As under LoRA: the head's own weight takes none."""
    head, hidden, target = head_and_tokens()
    head.requires_grad_(False)
    _head_log_probs(head, hidden, target).sum().backward()
    ours, hidden.grad = hidden.grad, None
    whole_log_probs(head, hidden, target).sum().backward()
    assert torch.allclose(ours, hidden.grad, rtol=1e-5, atol=1e-6)
    assert head.weight.grad is None


def test_a_whole_model_keeps_no_logits():
    model = make_model("qwen2_5_vl")
    group = make_group("qwen2_5_vl", num_steps=4, lengths=[7, 9])
    assert saved_over_vocabulary(lambda: log_probs(model, [group])) == []
