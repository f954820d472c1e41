"""`tempo probe`: its files, its messages."""

import json

import pytest

from tempo.cli.probe import read_texts
from tempo.model.loading import read_config
from tempo.synthetic.drawing import render_story
from tempo.synthetic.world import make_story


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for index in range(2):
        render_story(make_story(91, index, num_shots=(4, 4)), folder / f"{index}.mp4")
    return folder


def test_figures_chart_and_descriptions_are_written_and_can_be_scored_again(tempo, films, tmp_path):
    common = ("--set", "frames.max_pixels=4096", "--describe-with", "Describe this clip in detail.")
    code, out, err = tempo(
        *("probe", "embedded", films, *common, "--json", tmp_path / "a.json", "--chart", tmp_path / "a.svg"),
    )
    assert (code, err) == (0, "")
    own = json.loads((tmp_path / "a.json").read_text())
    assert own["prompt"] == "Describe this clip in detail."
    assert (own["text"], own["frames"]["max_pixels"]) == ("own", 4096)
    assert {"win rate, reverse", "margin, reverse, r = 4"} <= {row["name"] for row in own["figures"]}
    assert "reverse" in out
    assert (tmp_path / "a.svg").exists()
    code, _, err = tempo(
        *("probe", "embedded", films, *common, "--json", tmp_path / "b.json"),
        *("--text", tmp_path / "a.json"),
    )
    assert (code, err) == (0, "")
    given = json.loads((tmp_path / "b.json").read_text())
    assert given["text"] == str(tmp_path / "a.json")
    assert given["comparisons"] == own["comparisons"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{folder}/no-model", "films"), "no-model' does not exist"),
        (("embedded", "no-videos"), "no-videos' does not exist"),
        (("embedded", "films", "--chart", "x.pdf"), "the file name must end with .png or .svg"),
        (("embedded", "films", "--json", "nowhere/x.json"), "nowhere/x.json cannot be written"),
        (("embedded", "films", "--set", "frames.fps=-1"), "frames.fps"),
        (("embedded", "films", "--set", "model.device=gpu"), "model.device"),
        (("embedded", "films", "--set", "clips.min_clips=2"), "--set clips: only [model]"),
        (("embedded", "films", "--text", "absent.jsonl"), "--text absent.jsonl has no descriptions"),
    ],
)
def test_bad_options_are_one_message_before_any_model_is_loaded(
    tempo, films, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.setattr("tempo.model.loading.load_model", lambda **_: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    code, _, err = tempo("probe", *(word.format(folder=tmp_path) for word in arguments))
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "a"}', "'descriptions'"),
        ('{"descriptions": {"a": " "}}', "String should match pattern"),
        ('{"descriptions": ["a"]}', "valid dictionary"),
        ("First, a dog.", "Expecting value"),
    ],
)
def test_a_file_without_descriptions_is_refused(tmp_path, lines, message):
    path = tmp_path / "texts.json"
    path.write_text(lines)
    with pytest.raises(ValueError, match=message):
        read_texts(path)


@pytest.mark.parametrize(
    ("model", "options", "expected", "warning"),
    [
        ("embedded", (), (128 * 128, None), ""),
        ("embedded", ("--set", "frames.fps=50"), (128 * 128, None), "warning: frames.fps is 50"),
        ("org/model", (), (200_704, 9_000_000), ""),
        ("org/model", ("--set", "frames.max_pixels=1000"), (1000, 9_000_000), ""),
    ],
)
def test_models_of_the_hub_get_larger_frames(tempo, films, monkeypatch, model, options, expected, warning):
    taken = []

    def keep(model, videos, *, frames, **_):
        taken.append((frames.max_pixels, frames.max_total_pixels))
        raise ValueError("enough")

    checkpoint = read_config("embedded")
    monkeypatch.setattr("tempo.model.loading.load_model", lambda **_: None)
    monkeypatch.setattr("tempo.model.loading.read_config", lambda *_, **__: checkpoint)
    monkeypatch.setattr("tempo.evaluation.probe.probe", keep)
    code, out, _ = tempo("probe", model, films, *options)
    assert (code, taken) == (2, [expected])
    assert ("warning" in out, warning in out) == (bool(warning), True)
