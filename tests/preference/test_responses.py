"""Responses: the same fusion of the captions as filmed and as perturbed."""

import pytest

from tempo.config import parse_config
from tempo.model.generation import Answer
from tempo.preference import responses
from tempo.preference.prompts import fusion
from tempo.preference.responses import fusion_requests
from tempo.records import Captions, Drop, Perturbation, Perturbations
from tempo.stage import Context
from tempo.store import RunStore

CAPTIONS = Captions(id="v", captions=("One.", "Two.", "Three."))


def perturbation(kind, level, order):
    return Perturbation(
        kind=kind, level=level, order=order, num_clips=3, kept_share=1.0, kendall_distance=0.0
    )


PERTURBED = Perturbations(
    id="v", num_clips=3, perturbations=(perturbation("drop", 2, (1,)), perturbation("reverse", 4, (2, 1, 0)))
)


def test_the_clean_request_comes_first_and_each_perturbation_lists_its_clips():
    requests = fusion_requests(PERTURBED, CAPTIONS, seed=0)
    assert [request.prompt for request in requests] == [
        fusion(["One.", "Two.", "Three."]),
        fusion(["Two."]),
        fusion(["Three.", "Two.", "One."]),
    ]


def test_every_answer_has_its_own_seed_whatever_else_is_asked():
    alone = PERTURBED.model_copy(update={"perturbations": PERTURBED.perturbations[1:]})
    whole = [request.seed for request in fusion_requests(PERTURBED, CAPTIONS, seed=0)]
    part = [request.seed for request in fusion_requests(alone, CAPTIONS, seed=0)]
    assert len(set(whole)) == 3
    assert part == [whole[0], whole[2]]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Calls the responses worker with a model that gives the listed answers."""
    RunStore(tmp_path).append("captions", [CAPTIONS])
    monkeypatch.setattr(responses, "load_video_lm", lambda config: None)

    def run(*answers):
        monkeypatch.setattr(responses, "generate", lambda lm, requests, **settings: list(answers))
        return responses.make_worker(Context(parse_config({"videos": {"paths": ["x"]}}), tmp_path))(
            [PERTURBED]
        )[0]

    return run


def test_answers_are_joined_to_what_was_asked(work):
    result = work(Answer("clean", True), Answer("dropped", True), Answer("reversed", True))
    assert result.chosen == "clean"
    assert [(r.perturbation.kind, r.text) for r in result.rejected] == [
        ("drop", "dropped"),
        ("reverse", "reversed"),
    ]


@pytest.mark.parametrize(("answer", "detail"), [(Answer("", True), "empty"), (Answer("cle", False), "cut")])
def test_a_video_without_a_whole_chosen_answer_is_dropped(work, answer, detail):
    result = work(answer, Answer("dropped", True), Answer("reversed", True))
    assert isinstance(result, Drop)
    assert result.reason == "no chosen answer"
    assert detail in result.detail


def test_an_empty_or_cut_rejected_answer_is_left_out(work):
    result = work(Answer("clean", True), Answer("", True), Answer("rev", False))
    assert result.rejected == ()
