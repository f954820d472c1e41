"""Visual features on disk: the same numbers, and the tower at rest."""

import pytest
import torch
from families import FAMILIES, make_group, make_model

from tempo.model.features import FeatureStore, pixels_key, tower_key
from tempo.model.prefix import encode_videos, log_probs

QWEN = "qwen2_5_vl"


@pytest.mark.parametrize("family", FAMILIES)
def test_features_from_disk_give_the_same_log_probabilities(family, tmp_path):
    model = make_model(family)
    groups = [make_group(family, num_steps=2 + seed, lengths=[3, 2], seed=seed) for seed in (0, 1)]
    with torch.no_grad():
        expected = [torch.cat(logps) for logps in log_probs(model, groups)]
        for _ in range(2):
            features = FeatureStore(tmp_path, model).encode(model, groups)
            found = [torch.cat(logps) for logps in log_probs(model, groups, video_features=features)]
            assert torch.allclose(torch.cat(found), torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_the_second_time_nothing_is_encoded(tmp_path, monkeypatch):
    from tempo.model import features

    model, group = make_model(QWEN), make_group(QWEN, num_steps=2, lengths=[3])
    FeatureStore(tmp_path, model).encode(model, [group])
    monkeypatch.setattr(features, "encode_videos", lambda *_: pytest.fail("the tower was asked again"))
    assert FeatureStore(tmp_path, model).encode(model, [group, group]) is not None


def test_another_tower_or_other_pixels_are_not_mistaken():
    model, group = make_model(QWEN), make_group(QWEN, num_steps=2, lengths=[3])
    key = tower_key(model)
    with torch.no_grad():
        next(model.model.language_model.parameters()).add_(1)
        assert tower_key(model) == key
        next(model.model.visual.parameters()).add_(1)
    assert tower_key(model) != key
    changed = {name: tensor.clone() for name, tensor in group.inputs.items()}
    changed["pixel_values_videos"][0, 0] += 1
    assert pixels_key(type(group)(changed, group.continuations)) != pixels_key(group)
    assert encode_videos(model, [group]) is not None
