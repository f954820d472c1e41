import numpy as np
import pytest
from video_material import context, moving, place, video_of

from tempo.core.records import Clips
from tempo.model.loading import repair_torchvision
from tempo.video import clips, shots
from tempo.video.features import load_embedder
from tempo.video.frames import FrameStore, encode_jpeg

repair_torchvision()

from transformers import BertConfig, BertModel, SiglipConfig, SiglipImageProcessor, SiglipModel  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A SigLIP of a few thousand random weights."""
    import torch

    folder = tmp_path_factory.mktemp("siglip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**sizes, "vocab_size": 32, "projection_size": 16},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def test_one_row_for_each_picture_whatever_the_batch(checkpoint, monkeypatch):
    embed = load_embedder(checkpoint)
    jpegs = [encode_jpeg(place(seed), 95) for seed in (0, 1, 0, 2, 3)]
    features = embed(jpegs)
    assert features.shape == (5, 16)
    assert np.allclose(features[0], features[2], atol=1e-6)
    assert not np.allclose(features[0], features[1], atol=1e-3)
    monkeypatch.setattr("tempo.video.features.BATCH", 2)
    assert np.allclose(embed(jpegs), features, atol=1e-5)


def test_the_features_are_computed_where_the_model_is(checkpoint, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("tempo.engine.ranks.pick_device", lambda name: asked.append(name) or "cpu")
    clips.make_worker(context(tmp_path, clips={"features": checkpoint}, model={"device": "cuda:1"}))
    assert asked == ["cuda:1"]


def test_shots_are_grouped_by_the_features_of_their_middles(checkpoint, render, tmp_path, monkeypatch):
    path = render([picture for seed in range(4) for picture in moving(seed, 30)])
    settings = context(tmp_path, clips={"features": checkpoint, "similarity": 1.0})
    row = shots.make_worker(settings)([video_of(path, tmp_path)])[0]
    seen = []

    def same(embed):
        return lambda jpegs: seen.append(len(jpegs)) or np.eye(4)[[0, 1, 2, 2]] + 0 * embed(jpegs)[:, :1]

    monkeypatch.setattr(clips, "load_embedder", lambda *named: same(load_embedder(*named)))
    worker = clips.make_worker(context(tmp_path, clips={"features": checkpoint, "min_clips": 3}))
    result = worker([row])[0]
    assert seen == [4]
    assert isinstance(result, Clips)
    assert [clip.num_shots for clip in result.clips] == [1, 1, 2]
    assert len(FrameStore(tmp_path / "frames").read_key_frames(result.id)) == 6


def test_a_checkpoint_that_is_none_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"clips\.features .*nowhere.* cannot be loaded"):
        load_embedder(str(tmp_path / "nowhere"))


def test_a_model_without_image_features_is_refused_by_name(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(**sizes, vocab_size=8)).save_pretrained(tmp_path)
    SiglipImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertModel; give a SigLIP or CLIP checkpoint"):
        load_embedder(str(tmp_path))
