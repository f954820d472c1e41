"""Vision features on disk: the same log-probabilities, and no second pass of the tower."""

import pytest
import torch
from families import FAMILIES, make_group, make_model

from tempo.model.features import FeatureStore
from tempo.model.prefix import Group, packed_log_probs

QWEN = "qwen2_5_vl"


@pytest.mark.parametrize("family", FAMILIES)
def test_features_from_disk_give_the_same_log_probabilities(family, tmp_path):
    model = make_model(family)
    groups = [make_group(family, num_steps=2 + seed, lengths=[3, 2], seed=seed) for seed in (0, 1)]
    with torch.no_grad():
        expected = [torch.cat(logps) for logps in packed_log_probs(model, groups)]
        for _ in range(2):
            features = FeatureStore(tmp_path, model).encode(model, groups)
            found = [torch.cat(logps) for logps in packed_log_probs(model, groups, video_features=features)]
            assert torch.allclose(torch.cat(found), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_a_video_is_encoded_once(tmp_path):
    model, group = make_model(QWEN), make_group(QWEN, num_steps=2, lengths=[3])
    passes = []
    model.model.visual.register_forward_hook(lambda *_: passes.append(1))
    for _ in range(3):
        assert FeatureStore(tmp_path, model).encode(model, [group, group]) is not None
    assert len(passes) == 1


def test_another_tower_or_other_pixels_have_another_file(tmp_path):
    model, group = make_model(QWEN), make_group(QWEN, num_steps=2, lengths=[3])

    def num_files(group):
        FeatureStore(tmp_path, model).encode(model, [group])
        return len([*tmp_path.rglob("*.safetensors")])

    assert num_files(group) == 1
    with torch.no_grad():
        next(model.model.language_model.parameters()).add_(1)
        assert num_files(group) == 1
        next(model.model.visual.parameters()).add_(1)
    assert num_files(group) == 2
    changed = {name: tensor.clone() for name, tensor in group.inputs.items()}
    changed["pixel_values_videos"][0, 0] += 1
    assert num_files(Group(changed, group.continuations)) == 3
