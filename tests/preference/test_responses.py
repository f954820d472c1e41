"""Responses: the same question about the video as filmed and perturbed, in each input form."""

from __future__ import annotations

import numpy as np
import pytest
from pairs_material import greys, perturbation
from sample_material import clips_of, context_of, grey_jpegs, short_model

from tempo.core.records import Captions, Perturbations, Skipped
from tempo.core.store import RunStore
from tempo.model.answers import Answer
from tempo.preference.prompts import DESCRIBE, describe_prompt, fusion
from tempo.preference.responses import (
    Footage,
    captions_shown,
    frame_requests,
    frames_by_clip,
    key_frames_by_clip,
    make_worker,
)
from tempo.video.frames import FrameStore

CAPTIONS = ("One.", "Two.", "Three.")
THREE = ((0.0, 2.0), (2.0, 5.0), (5.0, 8.0))

#: The second clip lies between two frames.
BETWEEN = ((0, 2.6), (2.6, 3.4), (3.4, 8))

MADE = (perturbation("drop", 2, (1,), 3), perturbation("reverse", 4, (2, 1, 0), 3))
PERTURBED, OTHER = (Perturbations(id=name, num_clips=3, perturbations=MADE) for name in "vw")


@pytest.fixture
def store(tmp_path):
    """Frames of grey level 10 * i at i + 0.5 seconds, key frames of grey level 100 + 10 * i."""
    frames, key_frames = grey_jpegs(range(0, 80, 10)), grey_jpegs(range(100, 160, 10))
    made = FrameStore(tmp_path / "frames")
    for name in "vw":
        made.write(name, frames, seconds=[i + 0.5 for i in range(8)], fps=1.0, key_frames=key_frames)
    return made


def test_each_video_has_one_training_prompt_by_the_seed():
    first, again, other = ([describe_prompt(f"v{i}", seed=seed) for i in range(50)] for seed in (0, 0, 1))
    assert first == again != other
    assert set(first) == set(DESCRIBE)
    assert {describe_prompt(f"v{i}", ["a", "b"], seed=0) for i in range(50)} == {"a", "b"}


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (THREE, [0, 0, 1, 1, 1, 2, 2, 2]),
        # A frame at the time of a cut shows the clip that begins there.
        (((0, 2.5), (2.5, 5), (5, 8)), [0, 0, 1, 1, 1, 2, 2, 2]),
        # Shots that belong to no clip count to the clip before them, or to the first.
        (((1.2, 2), (4, 5), (5, 6)), [0, 0, 0, 0, 1, 2, 2, 2]),
        (BETWEEN, [0, 0, 0, 2, 2, 2, 2, 2]),
    ],
)
def test_frames_belong_to_clips_by_time(store, bounds, expected):
    assert frames_by_clip(clips_of(*bounds), store).clip_T.tolist() == expected


def test_frames_are_arranged_by_clip_at_the_rate_of_the_original(store):
    frames, key_frames = frames_by_clip(clips_of(*THREE), store), key_frames_by_clip(clips_of(*THREE), store)
    assert (frames.fps, key_frames.fps) == (1.0, round(6 / 8, 3))
    for read, order, expected in (
        (frames, (2, 0, 1), [50, 60, 70, 0, 10, 20, 30, 40]),
        (frames, (1,), [20, 30, 40]),
        (frames, (0, 1, 2), [0, 10, 20, 30, 40, 50, 60, 70]),
        (key_frames, (2, 0), [140, 150, 100, 110]),
        (key_frames, (0, 1, 2), [100, 110, 120, 130, 140, 150]),
    ):
        request = frame_requests(read, prompt="p")(order, (), 7)
        assert (greys(request), request.fps) == (expected, read.fps)
        assert (request.prompt, request.seed) == ("p", 7)


def test_a_perturbation_that_shows_the_original_or_nothing_is_not_asked():
    """Clip 1 has no frame."""
    footage = Footage(np.zeros((4, 1, 1, 1), np.uint8), np.array([0, 0, 2, 2]), 3, fps=1.0)
    make = frame_requests(footage, prompt="p")
    assert all(make(order, (), 0) for order in ((0, 1, 2), (0, 1), (2, 1, 0)))
    assert not any(make(order, (), 0) for order in ((1, 0, 2), (0, 2), (1,)))
    # Neither is one that replaces only a clip without frames.
    assert not make((0, 2), ((1, "other", 0),), 0)


def test_a_replaced_clip_has_as_many_captions_and_frames_as_before():
    captions = {name: Captions(id=name, captions=[f"{name}{i}" for i in range(3)]) for name in "vw"}
    replaced = ((0, "w", 1), (2, "w", 2))
    assert captions_shown(captions, "v", (1,), replaced) == ["w1", "v1", "w2"]
    assert captions_shown(captions, "v", (2, 0, 1), ()) == ["v2", "v0", "v1"]
    own = Footage(np.zeros((6, 8, 4, 3), np.uint8), np.array([0, 0, 0, 1, 1, 2]), 3, 2.0, (0.1, 0.2))
    levels = np.arange(100, 106, dtype=np.uint8)[:, None, None, None]
    # The second clip has two frames, the third has none: the last frame stands for it.
    other = Footage(np.broadcast_to(levels, (6, 2, 2, 3)), np.array([0, 0, 0, 0, 1, 1]), 3, 1.0)
    request = frame_requests(own, prompt="p", read_other=lambda name: other)((1,), replaced, 7)
    assert greys(request) == [104, 104, 105, 0, 0, 105]
    assert request.frames.shape == own.frames.shape
    assert (request.fps, request.seconds, request.seed) == (2.0, (0.1, 0.2), 7)
    assert not own.frames.any()


@pytest.fixture
def work(store):
    """Calls the worker with a model that gives these answers, or the number of frames of each request.

    Returns the results and the requests, one list per call of the model.
    """
    directory = store.directory.parent
    RunStore(directory).append("captions", [Captions(id="v", captions=CAPTIONS)])

    def run(batch, answers=None, *, form="captions", bounds=THREE, **sections):
        if not RunStore(directory).path("clips").exists():
            RunStore(directory).append("clips", [clips_of(*bounds, name=name) for name in "vw"])
        context = context_of(directory, responses={"input_form": form}, **sections)
        draws = []

        def generate(requests, **_):
            draws.append(requests)
            texts = answers or [f"{len(request.frames)} frames" for request in requests]
            return [text if isinstance(text, Answer) else Answer(text, True) for text in texts]

        return make_worker(context, generate)(batch), draws

    return run


def test_the_original_comes_first_and_each_perturbation_numbers_its_captions_anew(work):
    """A caption's former number would show the model the true order."""
    (result,), (requests,) = work([PERTURBED], ("original", "dropped", "reversed"))
    shown = (["One.", "Two.", "Three."], ["Two."], ["Three.", "Two.", "One."])
    assert [request.prompt for request in requests] == [fusion(captions) for captions in shown]
    assert (result.chosen, result.unanswered) == ("original", ())
    assert [(row.perturbation, row.text) for row in result.rejected] == [
        (MADE[0], "dropped"),
        (MADE[1], "reversed"),
    ]


def test_every_answer_has_its_own_seed_independently_of_the_others(work):
    """Also levels with the same order, which the rule `paper` makes."""
    one = MADE[1]
    twice = PERTURBED.model_copy(update={"perturbations": (one, one.model_copy(update={"level": 8}))})
    first, second = (work([row], "abc")[1][0] for row in (PERTURBED, twice))
    assert len({request.seed for request in (*first, *second)}) == 4
    assert [second[0].seed, second[1].seed] == [first[0].seed, first[2].seed]
    assert second[1].prompt == second[2].prompt


@pytest.mark.parametrize(
    ("answers", "reason", "detail"),
    [
        (("...", "dropped", "reversed"), "no chosen answer", "empty"),
        ((Answer("cle", False), "dropped", "reversed"), "no chosen answer", "cut off at"),
        (
            ("original", "", Answer("rev", False)),
            "no rejected answer",
            "drop-02 empty; reverse-04 cut off at responses.max_new_tokens",
        ),
        (("original", Answer("", False, failure="HTTP 500"), "reversed"), "endpoint", "HTTP 500"),
    ],
)
def test_a_video_without_a_usable_pair_of_answers_is_skipped_with_the_reason(work, answers, reason, detail):
    (result,), _ = work([PERTURBED], answers)
    assert (result.stage, result.reason) == ("responses", reason)
    assert detail in result.detail


@pytest.mark.parametrize(
    ("answers", "options", "reason"),
    [
        (("original", "", "reversed"), {}, "empty"),
        (("original", "reversed"), {"form": "video", "bounds": BETWEEN}, "not asked: no frames are left"),
    ],
)
def test_a_perturbation_without_an_answer_is_left_out_with_its_reason(work, answers, options, reason):
    (result,), (requests,) = work([PERTURBED], answers, **options)
    assert len(requests) == len(answers)
    assert [(row.perturbation.kind, row.text) for row in result.rejected] == [("reverse", "reversed")]
    (row,) = result.unanswered
    assert (row.kind, row.level) == ("drop", 2)
    assert row.reason.startswith(reason)


@pytest.mark.parametrize(("num_positions", "is_skipped"), [(40, True), (240, False)])
def test_a_video_whose_captions_the_model_cannot_read_at_once_is_skipped(
    work, tmp_path, num_positions, is_skipped
):
    model = {"path": short_model(tmp_path, num_positions)}
    (result,), _ = work([PERTURBED], ("original", "dropped", "reversed"), model=model)
    assert isinstance(result, Skipped) is is_skipped
    if is_skipped:
        assert result.reason == "prompt too long"
        assert f"max_position_embeddings is {num_positions}; lower captions.max_new_tokens" in result.detail


def test_the_form_clips_shows_the_key_frames(work):
    _, (requests,) = work([PERTURBED], form="clips")
    assert [greys(request)[0] for request in requests] == [100, 120, 140]


@pytest.mark.parametrize(("concurrency", "sizes"), [(None, [3, 3, 3]), (4, [6, 3]), (9, [9])])
def test_frames_are_in_memory_for_as_few_videos_as_keep_a_server_busy(work, concurrency, sizes):
    endpoint = {"endpoint": {"url": "http://x/v1", "model": "m", "concurrency": concurrency}}
    results, draws = work([PERTURBED, OTHER, PERTURBED], form="video", **(endpoint if concurrency else {}))
    assert [len(requests) for requests in draws] == sizes
    assert {row.prompt for row in draws[0][:3]} == {describe_prompt("v", seed=0)}
    assert [(row.id, row.chosen) for row in results] == [(name, "8 frames") for name in "vwv"]


def test_a_video_that_cannot_be_read_is_skipped_and_the_others_are_asked(store, work):
    store.path("w").write_bytes(store.path("w").read_bytes()[:300])
    (skipped, row), draws = work([OTHER, PERTURBED], form="video")
    assert (skipped.id, skipped.stage, skipped.reason) == ("w", "responses", "cannot be processed")
    assert (row.id, [len(requests) for requests in draws]) == ("v", [0, 3])
