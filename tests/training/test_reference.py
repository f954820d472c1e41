"""Reference log-probabilities that survive a restart."""

import pytest
import torch

from tempo.model.prefix import ContinuationTokens, Group
from tempo.training.reference import ReferenceStore, group_key


def group(pixel=0.5, answers=((5, 6), (7,)), context=0):
    inputs = {"input_ids": torch.tensor([[1, 2]]), "pixel_values_videos": torch.tensor([[pixel]])}
    return Group(inputs, tuple(ContinuationTokens(answer, context) for answer in answers))


LOGPS = [torch.tensor([-0.1, -1 / 3]), torch.tensor([-2.5])]


def test_what_was_kept_comes_back_to_the_bit(tmp_path):
    ReferenceStore(tmp_path, key="m").add(group(), LOGPS)
    found = ReferenceStore(tmp_path, key="m").get(group())
    assert all(torch.equal(one, other) for one, other in zip(found, LOGPS, strict=True))


@pytest.mark.parametrize(
    "other",
    [group(pixel=0.25), group(answers=((5, 6), (8,))), group(answers=((5,), (7,))), group(context=1)],
)
def test_another_video_or_answer_is_not_known(tmp_path, other):
    store = ReferenceStore(tmp_path, key="m")
    store.add(group(), LOGPS)
    assert store.get(other) is None
    assert group_key(other) != group_key(group())


def test_another_model_knows_nothing(tmp_path):
    ReferenceStore(tmp_path, key="m").add(group(), LOGPS)
    assert ReferenceStore(tmp_path, key="n").get(group()) is None


def test_processes_write_apart_and_read_together(tmp_path):
    ReferenceStore(tmp_path, key="m", rank=0).add(group(), LOGPS)
    ReferenceStore(tmp_path, key="m", rank=1).add(group(pixel=0.25), LOGPS)
    together = ReferenceStore(tmp_path, key="m")
    assert together.get(group()) is not None
    assert together.get(group(pixel=0.25)) is not None


def test_half_a_line_is_computed_again(tmp_path):
    store = ReferenceStore(tmp_path, key="m")
    store.add(group(), LOGPS)
    path = next(tmp_path.iterdir())
    path.write_text(path.read_text() + '\n["abc", [[-0.')
    again = ReferenceStore(tmp_path, key="m")
    assert again.get(group()) is not None
    again.add(group(pixel=0.25), LOGPS)
    assert ReferenceStore(tmp_path, key="m").get(group(pixel=0.25)) is not None
