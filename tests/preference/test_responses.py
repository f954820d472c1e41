"""Responses: the same question about the video as filmed and perturbed, in each input form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tempo.config import parse_config
from tempo.core.records import (
    Captions,
    Clip,
    Clips,
    Pair,
    Perturbation,
    Perturbations,
    Responses,
    Skipped,
    Unanswered,
)
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.answers import Answer
from tempo.pipeline.runner import run_stages
from tempo.preference.prompts import DESCRIBE, describe_prompt, fusion
from tempo.preference.responses import (
    Footage,
    arrange,
    caption_requests,
    frame_requests,
    frames_by_clip,
    input_reader,
    key_frames_by_clip,
    make_worker,
    requests_of,
)
from tempo.video.frames import FrameStore, encode_jpeg

many = settings(max_examples=80, deadline=None, derandomize=True, database=None)

CAPTIONS = ("One.", "Two.", "Three.")
THREE = ((0.0, 2.0), (2.0, 5.0), (5.0, 8.0))


def perturbation(kind, level, order):
    return Perturbation(
        kind=kind, level=level, order=order, num_clips=3, kept_share=1.0, kendall_distance=0.0
    )


PERTURBED = Perturbations(
    id="v", num_clips=3, perturbations=(perturbation("drop", 2, (1,)), perturbation("reverse", 4, (2, 1, 0)))
)


def video(*bounds, name="v"):
    """A video whose clips lie between these seconds."""
    clips = [
        Clip(group=i, first_shot=i, num_shots=1, start_seconds=a, end_seconds=b, key_frames=(0, 1))
        for i, (a, b) in enumerate(bounds)
    ]
    return Clips(id=name, path=f"{name}.mp4", duration_seconds=bounds[-1][1], clips=tuple(clips))


@pytest.fixture
def store(tmp_path):
    """Frames of grey level 10 * i at i + 0.5 seconds, key frames of grey level 100 + 10 * i."""
    frames = [encode_jpeg(np.full((8, 8, 3), 10 * i, np.uint8), 100) for i in range(8)]
    key_frames = [encode_jpeg(np.full((8, 8, 3), 100 + 10 * i, np.uint8), 100) for i in range(6)]
    made = FrameStore(tmp_path / "frames")
    for name in "vw":
        made.write(name, frames, seconds=[i + 0.5 for i in range(8)], fps=1.0, key_frames=key_frames)
    return made


def greys(request):
    return [int(np.median(frame)) for frame in request.frames]


@pytest.mark.parametrize("count", [1, 2, 12])
def test_fusion_numbers_the_captions_from_one_in_the_given_order(count):
    captions = [f"caption {chr(97 + i)}" for i in range(count)]
    lines = fusion(captions).splitlines()
    assert lines[1:-1] == [f"{i + 1}. caption {chr(97 + i)}" for i in range(count)]
    assert lines[-1] == "Write them as one chronological paragraph."


def test_each_video_keeps_its_training_prompt_and_all_are_used():
    prompts = [describe_prompt(f"v{i}", seed=0) for i in range(50)]
    assert prompts == [describe_prompt(f"v{i}", seed=0) for i in range(50)]
    assert set(prompts) == set(DESCRIBE)
    assert prompts != [describe_prompt(f"v{i}", seed=1) for i in range(50)]


def requests(row):
    return requests_of(row, caption_requests(CAPTIONS), seed=0)


def test_the_original_comes_first_and_each_perturbation_numbers_its_captions_anew():
    """A caption's former number would tell the model the true order."""
    assert [request.prompt for request in requests(PERTURBED)] == [
        fusion(["One.", "Two.", "Three."]),
        fusion(["Two."]),
        fusion(["Three.", "Two.", "One."]),
    ]


def test_every_answer_has_its_own_seed_whatever_else_is_asked():
    """Also levels with the same order, which the rule `paper` makes."""
    one = PERTURBED.perturbations[1]
    twice = (one, one.model_copy(update={"level": 8}))
    first = requests(PERTURBED)
    second = requests(PERTURBED.model_copy(update={"perturbations": twice}))
    assert len({request.seed for request in (*first, *second)}) == 4
    assert [second[0].seed, second[1].seed] == [first[0].seed, first[2].seed]
    assert second[1].prompt == second[2].prompt


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (THREE, [0, 0, 1, 1, 1, 2, 2, 2]),
        # A frame at the time of a cut shows the clip that begins there.
        (((0, 2.5), (2.5, 5), (5, 8)), [0, 0, 1, 1, 1, 2, 2, 2]),
        (((0, 2.51), (2.51, 5), (5, 8)), [0, 0, 0, 1, 1, 2, 2, 2]),
        # Unusable shots belong to the clip before them, or to the first.
        (((1.2, 2), (4, 5), (5, 6)), [0, 0, 0, 0, 1, 2, 2, 2]),
        # A clip between two frames has none.
        (((0, 2.6), (2.6, 3.4), (3.4, 8)), [0, 0, 0, 2, 2, 2, 2, 2]),
    ],
)
def test_frames_belong_to_clips_by_time(store, bounds, expected):
    assert frames_by_clip(video(*bounds), store).clip_T.tolist() == expected


def test_frames_are_arranged_by_clip_at_the_rate_of_the_original(store):
    frames, key_frames = frames_by_clip(video(*THREE), store), key_frames_by_clip(video(*THREE), store)
    assert (frames.fps, key_frames.fps) == (1.0, round(6 / 8, 3))
    for read, order, expected in (
        (frames, (2, 0, 1), [50, 60, 70, 0, 10, 20, 30, 40]),
        (frames, (1,), [20, 30, 40]),
        (frames, (0, 1, 2), [0, 10, 20, 30, 40, 50, 60, 70]),
        (key_frames, (2, 0), [140, 150, 100, 110]),
        (key_frames, (0, 1, 2), [100, 110, 120, 130, 140, 150]),
    ):
        request = frame_requests(read, prompt="p")(order, 7)
        assert (greys(request), request.fps) == (expected, read.fps)
        assert (request.prompt, request.seed) == ("p", 7)


@given(st.data())
@many
def test_arranging_permutes_the_frames_of_the_clips(data):
    num_clips = data.draw(st.integers(1, 12))
    clip_T = np.sort(data.draw(st.lists(st.integers(0, num_clips - 1), min_size=1, max_size=40)))
    order = data.draw(st.permutations(range(num_clips)))
    kept = order[: data.draw(st.integers(1, num_clips))]
    shown = arrange(clip_T, kept)
    assert sorted(shown.tolist()) == [t for t, clip in enumerate(clip_T) if clip in kept]
    assert [clip for clip, _ in itertools.groupby(clip_T[shown])] == [c for c in kept if c in clip_T]
    assert arrange(clip_T, range(num_clips)).tolist() == list(range(len(clip_T)))


@pytest.mark.parametrize(
    ("order", "is_asked"),
    [
        ((0, 1, 2), True),
        ((1, 0, 2), False),  # Clip 1 has no frame, so these are the original frames.
        ((0, 2), False),
        ((1,), False),  # No frame at all.
        ((0, 1), True),
        ((2, 1, 0), True),
    ],
)
def test_an_order_that_shows_the_original_or_nothing_is_not_asked(order, is_asked):
    frames = np.arange(4, dtype=np.uint8).reshape(-1, 1, 1, 1)
    make = frame_requests(Footage(frames, np.array([0, 0, 2, 2]), 3, fps=1.0), prompt="p")
    assert (make(order, 0) is not None) == is_asked


@pytest.mark.parametrize(
    ("form", "num_frames", "needs"),
    [("captions", None, "captions"), ("clips", 6, "clips"), ("video", 8, "clips")],
)
def test_each_input_form_reads_only_its_own_rows(store, form, num_frames, needs):
    directory = store.directory.parent
    rows = {"captions": Captions(id="v", captions=("a", "b", "c")), "clips": video(*THREE)}
    RunStore(directory).append(needs, [rows[needs]])
    config = parse_config({"videos": {"paths": ["x"]}, "responses": {"input_form": form}})
    request = input_reader(Context(config, directory))("v")(range(3), 0)
    if form == "captions":
        assert (request.prompt, request.frames) == (fusion(["a", "b", "c"]), None)
    else:
        assert (request.prompt, len(request.frames)) == (describe_prompt("v", seed=0), num_frames)


@pytest.fixture
def work(tmp_path):
    """Calls the worker with a model that gives these answers about one video."""
    RunStore(tmp_path).append("captions", [Captions(id="v", captions=CAPTIONS)])
    context = Context(parse_config({"videos": {"paths": ["x"]}}), tmp_path)

    def run(*answers):
        given = [answer if isinstance(answer, Answer) else Answer(answer, True) for answer in answers]
        return make_worker(context, lambda requests, **_: given)([PERTURBED])[0]

    return run


def test_answers_are_joined_to_their_perturbations(work):
    result = work("original", "dropped", "reversed")
    assert (result.chosen, result.unanswered) == ("original", ())
    assert [(r.perturbation.kind, r.text) for r in result.rejected] == [
        ("drop", "dropped"),
        ("reverse", "reversed"),
    ]


@pytest.mark.parametrize(
    ("answers", "reason", "detail"),
    [
        (("", "dropped", "reversed"), "no chosen answer", "empty"),
        (("...", "dropped", "reversed"), "no chosen answer", "empty"),
        ((Answer("cle", False), "dropped", "reversed"), "no chosen answer", "cut at"),
        (
            ("original", "", Answer("rev", False)),
            "no rejected answer",
            "drop-02 empty; reverse-04 cut at responses.max_new_tokens",
        ),
        (("original", Answer("", False, failure="HTTP 500"), "reversed"), "endpoint", "HTTP 500"),
    ],
)
def test_a_video_without_a_usable_pair_of_answers_is_skipped_with_the_reason(work, answers, reason, detail):
    result = work(*answers)
    assert isinstance(result, Skipped)
    assert result.reason == reason
    assert detail in result.detail


def test_an_unusable_rejected_answer_is_left_out_with_its_reason(work):
    result = work("original", "", "reversed")
    assert [r.text for r in result.rejected] == ["reversed"]
    assert result.unanswered == (Unanswered(kind="drop", level=2, reason="empty"),)


def looking(store, bounds=THREE, **sections):
    """A worker that shows whole videos, and the list of how many requests come at a time."""
    directory = store.directory.parent
    RunStore(directory).append("clips", [video(*bounds, name=name) for name in "vw"])
    config = parse_config({"videos": {"paths": ["x"]}, "responses": {"input_form": "video"}, **sections})
    sizes = []

    def generate(asked, **_):
        sizes.append(len(asked))
        return [Answer(f"{len(request.frames)} frames", True) for request in asked]

    return make_worker(Context(config, directory), generate), sizes


OTHER = PERTURBED.model_copy(update={"id": "w"})


def test_what_is_not_asked_shifts_no_answer(store):
    """Clip 1 lies between two frames: dropping the others shows nothing."""
    work, sizes = looking(store, ((0, 2.6), (2.6, 3.4), (3.4, 8)))
    (result,) = work([PERTURBED])
    assert sizes == [2]
    assert [row.perturbation.kind for row in result.rejected] == ["reverse"]
    assert [(row.kind, row.reason.split(":")[0]) for row in result.unanswered] == [("drop", "not asked")]


@pytest.mark.parametrize(("concurrency", "sizes"), [(None, [3, 3, 3]), (4, [6, 3]), (9, [9])])
def test_frames_are_in_memory_for_as_few_videos_as_keep_a_server_busy(store, concurrency, sizes):
    endpoint = {"endpoint": {"url": "http://x/v1", "model": "m", "concurrency": concurrency}}
    work, found = looking(store, **(endpoint if concurrency else {}))
    results = work([PERTURBED, OTHER, PERTURBED])
    assert found == sizes
    assert [(row.id, row.chosen) for row in results] == [(name, "8 frames") for name in "vwv"]


def test_a_video_that_cannot_be_shown_is_skipped_and_the_others_are_asked(store):
    store.path("w").write_bytes(store.path("w").read_bytes()[:300])
    work, sizes = looking(store)
    skipped, row = work([OTHER, PERTURBED])
    assert (skipped.id, skipped.stage, skipped.reason) == ("w", "responses", "cannot be processed")
    assert (row.id, sizes) == ("v", [0, 3])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the embedded world up to its clips, and a function that continues it."""
    directory = tmp_path_factory.mktemp("out") / "run"
    world = {"num_videos": 2, "num_held_out": 1, "min_shots": 4, "max_shots": 4, "plain_share": 0}
    small = {"synthetic": world, "frames": {"max_pixels": 4096}, "run": {"num_workers": 1}}

    def continue_run(form, until, **options):
        sections = {"responses": {"input_form": form, "max_new_tokens": 96}, "perturbations": {"levels": [2]}}
        run_stages(
            Context(parse_config(small | sections), directory), Console(quiet=True), until=until, **options
        )
        return RunStore(directory)

    continue_run("captions", "clips")
    return continue_run


@pytest.mark.parametrize("form", ["clips", "video"])
def test_without_captions_every_perturbation_becomes_a_pair_or_has_a_reason(run, form):
    store = run(form, "pairs", redo=True)
    assert not store.path("captions").exists()
    perturbed = {row.id: row.perturbations for row in store.read("perturbations", Perturbations)}
    answered = {row.id for row in store.read("responses", Responses)}
    skipped = store.read("skipped", Skipped)
    assert answered
    assert perturbed.keys() == answered | {row.id for row in skipped if row.stage == "responses"}
    made = {row.id for row in store.read("pairs", Pair)}
    left_out = {row.id for row in skipped if row.stage == "pairs"}
    asked = {f"{name}/{p.kind}-{p.level:02d}" for name in answered for p in perturbed[name]}
    assert asked == made | left_out
    assert not made & left_out


def test_rows_of_two_input_forms_are_never_mixed(run):
    run("clips", "perturbations", redo=True)
    with pytest.raises(ValueError, match=r"responses\.input_form"):
        run("captions", "perturbations")
