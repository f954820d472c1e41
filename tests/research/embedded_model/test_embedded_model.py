"""The embedded model is an ordinary checkpoint, and it knows what its card says: things, not their order."""

import json

import pytest

from research.embedded_model import card
from tempo.model.loading import embedded_path, load_model

#: What the issue asks of the base, before any preference training.
ORDER_AT_MOST = 0.6
REST_AT_LEAST = 0.9


def test_it_is_an_ordinary_directory_of_safetensors():
    path = embedded_path()
    names = {file.name for file in path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "scores.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    assert sum(file.stat().st_size for file in path.iterdir()) <= 10e6
    assert json.loads((path / "config.json").read_text())["model_type"] == "qwen2_5_vl"


def test_it_has_the_size_that_its_card_says():
    lm = load_model("embedded")
    count = sum(parameter.numel() for parameter in lm.model.parameters())
    assert 3e6 <= count <= 8e6
    assert f"{count / 1e6:.1f} M parameters" in (embedded_path() / "README.md").read_text()


@pytest.fixture(scope="module")
def recorded():
    return json.loads((embedded_path() / "scores.json").read_text())


def test_the_card_shows_the_recorded_scores(recorded):
    text = (embedded_path() / "README.md").read_text()
    for score in recorded["by_aspect"].values():
        assert f"{100 * score['accuracy']:.1f}" in text


def test_it_knows_what_happens_in_a_story(recorded):
    for aspect in ("action", "direction", "speed", "attribute_change", "static"):
        assert recorded["by_aspect"][aspect]["accuracy"] >= REST_AT_LEAST, aspect


@pytest.mark.parametrize("aspect", ["event_order", "conflicting"])
def test_it_does_not_know_the_order(recorded, aspect):
    assert recorded["by_aspect"][aspect]["accuracy"] <= ORDER_AT_MOST


def test_it_captions_clips(recorded):
    assert recorded["first_captions"] >= 0.9
    assert recorded["differential_captions"] >= 0.9


def test_it_fuses_captions(recorded):
    assert recorded["fused_clauses"] >= REST_AT_LEAST


def test_the_recorded_scores_can_be_measured_again(recorded):
    """A small sample of other stories agrees with the card, within what such a sample can tell."""
    lm = load_model("embedded")
    scores = card.measure(lm, num_stories=16, seed=card.CARD_SEED + 1)
    assert scores["first_captions"] == pytest.approx(recorded["first_captions"], abs=0.25)
    for aspect in ("action", "direction", "event_order"):
        ours, theirs = (table["by_aspect"][aspect]["accuracy"] for table in (scores, recorded))
        assert ours == pytest.approx(theirs, abs=0.25), aspect


def test_blank_frames_leave_it_at_chance():
    """Nothing can be answered without the video: where the pictures are grey, the benchmark is a guess."""
    import numpy as np

    from tempo.evaluation.benchmark import score_outcomes
    from tempo.evaluation.evaluate import ask
    from tempo.synthetic import benchmark
    from tempo.synthetic.world import make_story

    lm = load_model("embedded")
    asked, outcomes, chances = [], [], []
    for number in range(40):
        story = make_story(card.CARD_SEED + 2, number, num_shots=(4, 9))
        samples = benchmark.story_samples(story, seed=3, number=number)
        samples += benchmark.conflicting_samples(story)
        blank = np.full_like(card.story_view(story), 127)
        asked += samples
        outcomes += ask(lm, samples, blank, fps=1.0)
        chances += [1 / len(sample.options) for sample in samples]
    chance = sum(chances) / len(chances)
    right = [outcome.is_right for outcome in outcomes]
    assert abs(sum(right) / len(right) - chance) < 0.07, (score_outcomes(outcomes, asked).by_aspect, chance)
