"""Responses: the same question about the video as filmed and as perturbed."""

import pytest
from safetensors import SafetensorError

from tempo.config import parse_config
from tempo.core.records import Captions, Perturbation, Perturbations, Skipped, Unanswered
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.answers import Answer
from tempo.preference import responses
from tempo.preference.inputs import ask_captions
from tempo.preference.prompts import fusion
from tempo.preference.responses import requests_of

CAPTIONS = ("One.", "Two.", "Three.")


def perturbation(kind, level, order):
    return Perturbation(
        kind=kind, level=level, order=order, num_clips=3, kept_share=1.0, kendall_distance=0.0
    )


PERTURBED = Perturbations(
    id="v", num_clips=3, perturbations=(perturbation("drop", 2, (1,)), perturbation("reverse", 4, (2, 1, 0)))
)


def requests(video):
    return requests_of(video, ask_captions(CAPTIONS), seed=0)


def test_the_clean_request_comes_first_and_each_perturbation_lists_its_clips():
    assert [request.prompt for request in requests(PERTURBED)] == [
        fusion(["One.", "Two.", "Three."]),
        fusion(["Two."]),
        fusion(["Three.", "Two.", "One."]),
    ]


def test_every_answer_has_its_own_seed_whatever_else_is_asked():
    alone = PERTURBED.model_copy(update={"perturbations": PERTURBED.perturbations[1:]})
    whole = [request.seed for request in requests(PERTURBED)]
    part = [request.seed for request in requests(alone)]
    assert len(set(whole)) == 3
    assert part == [whole[0], whole[2]]


def test_levels_with_the_same_order_are_asked_each_with_its_own_seed():
    """The rule `paper` makes them, and the released data has an answer for each."""
    twice = PERTURBED.model_copy(
        update={"perturbations": tuple(perturbation("reverse", level, (2, 1, 0)) for level in (16, 8))}
    )
    _, first, second = requests(twice)
    assert first.prompt == second.prompt
    assert first.seed != second.seed


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Calls the responses worker with a model that gives the listed answers to one video."""
    RunStore(tmp_path).append("captions", [Captions(id="v", captions=CAPTIONS)])
    config = parse_config({"videos": {"paths": ["x"]}})

    def run(*answers):
        monkeypatch.setattr(responses, "answer_source", lambda context: lambda asked, **_: list(answers))
        return responses.make_worker(Context(config, tmp_path))([PERTURBED])[0]

    return run


def test_answers_are_joined_to_what_was_asked(work):
    result = work(Answer("clean", True), Answer("dropped", True), Answer("reversed", True))
    assert result.chosen == "clean"
    assert [(r.perturbation.kind, r.text) for r in result.rejected] == [
        ("drop", "dropped"),
        ("reverse", "reversed"),
    ]
    assert result.unanswered == ()


@pytest.mark.parametrize(
    ("answer", "detail"),
    [(Answer("", True), "empty"), (Answer("...", True), "empty"), (Answer("cle", False), "cut")],
)
def test_a_video_without_a_whole_chosen_answer_is_dropped(work, answer, detail):
    result = work(answer, Answer("dropped", True), Answer("reversed", True))
    assert isinstance(result, Skipped)
    assert result.reason == "no chosen answer"
    assert detail in result.detail


def test_an_empty_or_cut_rejected_answer_is_left_out_with_its_reason(work):
    result = work(Answer("clean", True), Answer("", True), Answer("reversed", True))
    assert [r.text for r in result.rejected] == ["reversed"]
    assert result.unanswered == (Unanswered(kind="drop", level=2, reason="empty"),)


def test_a_video_without_any_rejected_answer_is_dropped_with_every_reason(work):
    result = work(Answer("clean", True), Answer("", True), Answer("rev", False))
    assert isinstance(result, Skipped)
    assert result.reason == "no rejected answer"
    assert result.detail == "drop-02 empty; reverse-04 cut at responses.max_new_tokens"


def test_a_video_that_a_server_failed_on_is_dropped(work):
    result = work(Answer("clean", True), Answer("", False, failure="HTTP 500"), Answer("reversed", True))
    assert (result.reason, "HTTP 500" in result.detail) == ("endpoint", True)


def looking(tmp_path, monkeypatch, asks, **sections):
    """The rounds of a worker whose videos are asked about with `asks`, by video id."""
    rounds = []

    def fake_generate(asked, **_):
        rounds.append(len(asked))
        return [Answer(str(request), True) for request in asked]

    monkeypatch.setattr(responses, "answer_source", lambda context: fake_generate)
    monkeypatch.setattr(responses, "input_reader", lambda context: asks.__getitem__)
    config = parse_config({"videos": {"paths": ["x"]}, "responses": {"input_form": "video"}, **sections})
    return responses.make_worker(Context(config, tmp_path)), rounds


def test_what_shows_nothing_new_is_not_asked_and_shifts_no_answer(tmp_path, monkeypatch):
    shown = {(0, 1, 2): "clean", (2, 1, 0): "reversed"}
    work, rounds = looking(tmp_path, monkeypatch, {"v": lambda order, seed: shown.get(tuple(order))})
    (result,) = work([PERTURBED])
    assert rounds == [2]
    assert (result.chosen, result.rejected[0].text) == ("clean", "reversed")
    assert [(row.kind, row.reason.split(":")[0]) for row in result.unanswered] == [("drop", "not asked")]


def test_frames_are_held_for_one_video_at_a_time(tmp_path, monkeypatch):
    other = PERTURBED.model_copy(update={"id": "w"})
    asks = {name: lambda order, seed, name=name: f"{name} {tuple(order)}" for name in "vw"}
    work, rounds = looking(tmp_path, monkeypatch, asks)
    results = work([PERTURBED, other])
    assert rounds == [3, 3]
    assert [(row.id, row.chosen) for row in results] == [("v", "v (0, 1, 2)"), ("w", "w (0, 1, 2)")]


def test_a_server_is_asked_about_as_many_videos_as_keep_it_busy(tmp_path, monkeypatch):
    asks = dict.fromkeys("abcde", lambda order, seed: str(order))
    endpoint = {"url": "http://127.0.0.1:9/v1", "model": "m", "concurrency": 4}
    work, rounds = looking(tmp_path, monkeypatch, asks, endpoint=endpoint)
    results = work([PERTURBED.model_copy(update={"id": name}) for name in asks])
    assert rounds == [6, 6, 3]
    assert [row.id for row in results] == list(asks)


def test_a_video_that_cannot_be_shown_is_dropped_and_the_others_are_asked(tmp_path, monkeypatch):
    def fail(order, seed):
        raise SafetensorError("incomplete metadata, file not fully covered")

    other = PERTURBED.model_copy(update={"id": "w"})
    work, rounds = looking(tmp_path, monkeypatch, {"v": lambda order, seed: str(order), "w": fail})
    drop, row = work([other, PERTURBED])
    assert (drop.id, drop.stage, drop.reason) == ("w", "responses", "cannot be processed")
    assert (row.id, rounds) == ("v", [0, 3])
