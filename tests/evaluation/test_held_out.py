"""The evaluation on held-out videos: what is asked, the figures, resuming, and what is left out."""

import json

import pytest
import torch
from sample_material import clips_of, context_of, pair_of

from research.embedded_model.card import story_frames
from tempo.core.records import Captions, Outcome
from tempo.core.store import RunStore
from tempo.evaluation import held_out
from tempo.evaluation.figures import make_figures
from tempo.evaluation.held_out import Description, HeldOutResult
from tempo.evaluation.probe import Comparison
from tempo.evaluation.run import run_evaluation
from tempo.model.chat import Prefix, log_probs
from tempo.preference.pairs import HELD_OUT
from tempo.synthetic.world import make_story
from tempo.video.frames import FrameStore, encode_jpeg

STORY = make_story(5, 0, num_shots=(4, 4))


def pair(name, kind="reverse", level=4, order=(3, 2, 1, 0), **texts):
    known = {"prompt": "Describe.", "chosen": "It turns left.", "rejected": "It turns right."}
    return pair_of(name, kind, level, order, **known | texts)


def held_out_run(directory, *, names=("aa", "bb"), clips=True, share=0.1, pairs=()):
    """A run of one story under several names, all held out; it has trained nothing."""
    store, frames = RunStore(directory), FrameStore(directory / "frames")
    jpegs = [encode_jpeg(frame, 95) for frame in story_frames(STORY)]
    for name in names:
        frames.write(name, jpegs, seconds=[i + 0.5 for i in range(8)], fps=1.0)
        if clips:
            store.append("clips", [clips_of((0, 2), (2, 4), (4, 6), (6, 8), name=name)])
    store.append(HELD_OUT, pairs or [pair(name) for name in names])
    sections = {"evaluation": {"held_out_share": share}, "responses": {"max_new_tokens": 32}}
    return context_of(directory, run={"num_workers": 1}, **sections)


def test_outcomes_are_likelihoods_of_pairs_and_own_words_with_both_videos(lm, tmp_path):
    told = ["It turns. It stops.", "It stops. It turns."]
    first = pair("aa", level=16, chosen=told[0], rejected=told[1])
    context = held_out_run(tmp_path, pairs=[first, pair("aa"), pair("aa", "drop", order=(0, 1)), pair("bb")])
    (video, _) = held_out.read_held_out(context)
    found = {row.id: row for row in held_out.answer(context, lambda: lm, [video])[0].outcomes}
    assert set(found) == {
        *("aa/reverse-04", "aa/reverse-16", "aa/drop-04"),
        *("aa/reverse-16/own-words/0", "aa/reverse-16/own-words/1"),
    }
    stored = FrameStore(tmp_path / "frames").read("aa")
    backward = [6, 7, 4, 5, 2, 3, 0, 1]
    for name, frames, texts, right in (
        ("aa/reverse-04", stored.images, ["It turns left.", "It turns right."], 0),
        ("aa/reverse-16/own-words/0", stored.images, told, 0),
        ("aa/reverse-16/own-words/1", stored.images[backward], told, 1),
    ):
        prefix = Prefix(frames, "Describe.", fps=1.0, seconds=stored.seconds.tolist())
        with torch.no_grad():
            expected = [float(logp) for logp in log_probs(lm, prefix, texts)]
        assert found[name].log_likelihoods == pytest.approx(expected, abs=2e-3)
        assert found[name].answer == right


def test_a_run_with_imported_pairs_has_no_order_from_own_words(lm, tmp_path):
    context = held_out_run(tmp_path, clips=False)
    (video, _) = videos = held_out.read_held_out(context)
    (result,) = held_out.answer(context, lambda: lm, [video])
    assert [row.id for row in result.outcomes] == ["aa/reverse-04"]
    assert {row.kind for row in result.comparisons} == {"reverse", "shuffle", "drop", "frozen"}
    assert "the rows `own words` are left out" in " ".join(held_out.notes(context, videos))


def test_descriptions_are_compared_with_the_captions_of_the_clips(tmp_path):
    context, captions = (
        held_out_run(tmp_path),
        ("A ring turns red.", "A bus stops.", "It snows.", "Night falls."),
    )
    RunStore(tmp_path).append("captions", [Captions(id="aa", captions=captions)])
    texts = {"aa": "Night falls. A bus stops. A ring turns red.", "bb": "It has no captions."}
    told = [
        Description(id=i, model="base", video_id=i, text=text, is_whole=True) for i, text in texts.items()
    ]
    items = held_out.description_items(context, told)
    values = {name: [round(item.value, 3) for item in rows] for name, rows in items.items()}
    assert values == {
        "descriptions, recall": [0.75],
        "descriptions, precision": [1],
        "descriptions, order": [0],
    }


def result(video, margin, first, second):
    """The probe's margin of a video, and the likelihoods of two texts with it and with its reverse."""
    known = {"video": video, "level": 4, "num_tokens": 2, "clean": 0.0}
    comparisons = tuple(Comparison(kind=kind, perturbed=-margin, **known) for kind in ("reverse", "frozen"))
    file = video.split("-")[0]
    shared = {"video": file, "aspect": "own words", "format": "reverse", "group": f"{video}/x"}
    outcomes = [
        Outcome(id=f"{video}/x/{i}", answer=i, log_likelihoods=row, **shared)
        for i, row in enumerate((first, second))
    ]
    pairs = Outcome(
        id=f"{video}/p", video=file, aspect="pairs", format="drop", answer=0, log_likelihoods=first
    )
    return HeldOutResult(id=video, comparisons=comparisons, outcomes=(*outcomes, pairs))


def test_the_figures_compare_the_models_and_count_units_of_a_film_as_one_video():
    names = ("f-1", "f-2", "g")
    models = {
        # The first text is likelier with both videos.
        "base": [result(name, -1.0, (-1.0, -2.0), (-1.0, -2.0)) for name in names],
        "tempo": [result(name, 3.0, (-1.0, -2.0), (-2.0, -1.0)) for name in names],
    }
    items = {model: held_out.result_items(rows) for model, rows in models.items()}
    figures = {row.name: row for row in make_figures("held-out videos", items, seed=0)}
    values = {name: tuple(value.value for value in row.values.values()) for name, row in figures.items()}
    assert values == {
        "probe, real video likelier than reordered": (0, 1),
        "probe, margin over reordered": (-0.5, 1.5),
        "probe, real video likelier than cut or frozen": (0, 1),
        "probe, margin over cut or frozen": (-0.5, 1.5),
        "pairs, chosen text likelier": (1, 1),
        "own words, text score": (0, 1),
        "own words, video score": (0, 1),
        "own words, group score": (0, 1),
    }
    assert {(row.num_videos, row.num_items) for row in figures.values()} == {(2, 3)}
    assert figures["own words, text score"].differences["base"].value == 1
    assert figures["probe, margin over reordered"].unit == "nats per token"


def test_pairs_whose_length_gives_the_chosen_text_away_are_not_counted(tmp_path):
    longer = [pair("aa", "drop", level, chosen="w " * 20, rejected="v " * 10) for level in (2, 4, 8)]
    shorter = pair("bb", "shuffle", chosen="v " * 10, rejected="w " * 20)
    context = held_out_run(tmp_path, pairs=[*longer, shorter])
    videos = held_out.read_held_out(context)
    assert [len(video.pairs) for video in videos] == [1, 1]
    assert [video.text for video in videos] == [longer[0].chosen, shorter.chosen]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": 0}, ["evaluation.held_out_share is 0"]),
        ({"names": ()}, ["at least two videos must have pairs"]),
        ({}, ["too few held-out videos for intervals: 2, but 5 are needed"]),
        ({"names": ("f-1", "f-2", "f-3", "f-4", "f-5")}, ["too few held-out videos for intervals: 1"]),
        ({"names": tuple("abcde")}, []),
        (
            {"pairs": [pair("aa", chosen="w " * 30)]},
            ["for intervals: 1", "no held-out pairs balance each other"],
        ),
    ],
)
def test_what_cannot_be_measured_is_said(tmp_path, options, words):
    context = held_out_run(tmp_path, **options)
    notes = held_out.notes(context, held_out.read_held_out(context))
    assert len(notes) == len(words)
    for note, word in zip(notes, words, strict=True):
        assert word in note


def test_a_run_without_a_benchmark_ends_with_figures_and_asks_nothing_twice(tmp_path):
    context, calls = held_out_run(tmp_path), []
    run_evaluation(context, lambda *call: calls.append(call))
    assert calls == [("base on held-out videos", 1, 2), ("base on held-out videos", 2, 2)]
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert {row["source"] for row in evaluation["figures"]} == {"held-out videos"}
    assert evaluation["figures"][0]["values"].keys() == {"base"}
    assert "no benchmark" in evaluation["notes"][-1]
    files = [tmp_path / "evaluation" / name for name in ("held_out/base.jsonl", "descriptions.jsonl")]
    described = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert [(row["model"], row["video_id"]) for row in described] == [("base", "aa"), ("base", "bb")]
    assert described[0]["text"] == described[1]["text"] != ""
    before = [file.read_bytes() for file in files]
    run_evaluation(context, lambda *call: None)
    assert [file.read_bytes() for file in files] == before
