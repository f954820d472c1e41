"""The times that a model reads are those of the stored frames, in prompts and in positions."""

import re

import av
import numpy as np
import pytest
from families import make_lm, make_processor

from tempo.config import FramesConfig
from tempo.model.chat import Prefix, VideoLM
from tempo.model.loading import frame_rate_warning
from tempo.video.decode import Frame
from tempo.video.frames import Sampler

#: The rate of frames, and how many a video of twelve seconds has at most.
RATES = [(0.5, 600), (1.0, 600), (2.0, 600), (3.3, 600), (4.0, 10), (1.0, 8)]


def sampled(fps, max_frames):
    """The frames of a video of twelve seconds."""
    sampler = Sampler(FramesConfig(fps=fps, max_frames=max_frames))
    image = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    for number in range(48):
        decoded = av.VideoFrame.from_ndarray(image, format="rgb24")
        sampler.add(Frame(number, number / 4, (number + 1) / 4, (24, 16), decoded))
    return sampler.finish()


def prefix_of(sampled, **changes):
    known = {"frames": sampled.images, "fps": sampled.fps, "seconds": sampled.seconds}
    return Prefix(**known | {"prompt": "?"} | changes)


@pytest.mark.parametrize(("fps", "max_frames"), RATES)
@pytest.mark.parametrize("family", ["qwen3_vl", "video_llama_3"])
def test_the_seconds_in_a_prompt_are_those_of_the_stored_frames(family, fps, max_frames):
    lm, frames = VideoLM(None, make_processor(family, bytes_=True)), sampled(fps, max_frames)
    text = lm.tokenizer.decode(lm.group(prefix_of(frames), ["x"]).inputs["input_ids"][0])
    shown = [float(found) for found in re.findall(r"(\d+\.\d) ?s", text)]
    expected = frames.seconds.tolist()
    if family == "qwen3_vl":  # two frames to a time step, the last one twice if their number is odd
        expected = [np.mean((expected[i : i + 2] * 2)[:2]) for i in range(0, len(expected), 2)]
    assert shown == pytest.approx(expected, abs=0.051)
    assert len(shown) > 2


@pytest.mark.parametrize(("fps", "max_frames"), RATES)
def test_the_positions_of_qwen2_5_vl_are_those_of_the_stored_frames(fps, max_frames):
    lm, frames = make_lm("qwen2_5_vl"), sampled(fps, max_frames)
    inputs = {n: t for n, t in lm.group(prefix_of(frames), ["x"]).inputs.items() if not n.startswith("pixel")}
    times = lm.model.model.get_rope_index(**inputs)[0][0, 0][inputs["mm_token_type_ids"][0] == 2]
    steps = np.unique(times - times.min())
    first = frames.seconds[::2] - frames.seconds[0]
    assert len(steps) == len(first)
    # Positions are whole numbers, two a second. With a cut rate, frames lie up to half an interval beside.
    assert np.abs(steps / 2 - first).max() < 0.5 + (0.5 / fps if len(frames.jpegs) == max_frames else 0)


@pytest.mark.parametrize(("fps", "share"), [(3.9, 0), (4.0, 0), (5.0, 0.2), (8.0, 0.5)])
def test_the_rate_from_which_on_time_steps_share_positions_is_known(fps, share):
    lm, frames = make_lm("qwen2_5_vl"), np.zeros((202, 16, 24, 3), np.uint8)
    inputs = lm.group(Prefix(frames, "?", fps=fps), ["x"]).inputs
    inputs = {name: tensor for name, tensor in inputs.items() if not name.startswith("pixel")}
    times = lm.model.model.get_rope_index(**inputs)[0][0, 0][inputs["mm_token_type_ids"][0] == 2]
    assert 1 - len(np.unique(times)) / 101 == pytest.approx(share, abs=0.02)
    warning = frame_rate_warning(lm.model.config, fps)
    assert (f" 4 frames per second: {share:.0%} of" in warning) == bool(warning) == bool(share)


def test_families_that_write_times_or_count_frames_need_no_warning():
    assert frame_rate_warning(make_lm("qwen3_vl").model.config, 30.0) == ""
    assert frame_rate_warning(make_lm("llava_onevision").model.config, 30.0) == ""


def test_times_default_to_the_middle_of_each_interval_and_do_not_give_an_order_away():
    lm, frames = VideoLM(None, make_processor("qwen3_vl", bytes_=True)), sampled(1.0, 600)

    def tokens(**changes):
        return lm.group(prefix_of(frames, **changes), ["x"]).inputs["input_ids"].tolist()

    assert tokens() == tokens(seconds=()) == tokens(frames=frames.images[::-1])
    # A part of the video has the times of as many frames from its beginning.
    assert tokens(frames=frames.images[4:]) == tokens(frames=frames.images[:8])


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "llava_onevision"])
def test_a_video_of_one_frame_is_accepted(family):
    """Qwen3-VL's processor fails for fewer frames than a time step has."""
    lm, frames = VideoLM(None, make_processor(family, bytes_=True)), sampled(1.0, 600)
    group = lm.group(prefix_of(frames, frames=frames.images[:1]), ["x"])
    assert "pixel_values_videos" in group.inputs
    if family == "qwen3_vl":
        assert f"<{frames.seconds[0]:.1f} s" in lm.tokenizer.decode(group.inputs["input_ids"][0])
