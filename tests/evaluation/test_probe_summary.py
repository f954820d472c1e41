"""Win rates and margins with their intervals, the chart, and the command."""

import json

import pytest

from tempo.config import FramesConfig
from tempo.evaluation import probe_command
from tempo.evaluation.probe import Comparison
from tempo.evaluation.probe_chart import write_chart
from tempo.evaluation.probe_command import ProbeRequest
from tempo.evaluation.probe_summary import MIN_VIDEOS, probe_table, summarize
from tempo.synthetic.drawing import render_story
from tempo.synthetic.world import make_story


def comparison(video, margin, *, kind="reverse", level=2, num_tokens=10):
    return Comparison(
        video=str(video), kind=kind, level=level, num_tokens=num_tokens, clean=-20.0, perturbed=-20.0 - margin
    )


def rows_of(num_videos):
    """Every video wins at r = 16, half of them at r = 2, and `frozen` changes nothing."""
    made = []
    for video in range(num_videos):
        made.append(comparison(video, 5.0, level=16))
        made.append(comparison(video, 1.0 if video % 2 else -1.0, level=2))
        made.append(comparison(video, 0.0, kind="frozen", level=0))
    return made


def test_win_rate_and_margin_by_kind_and_level():
    summary = summarize(rows_of(20), seed=0)
    reverse = summary["by_kind"]["reverse"]
    assert list(reverse["by_level"]) == ["16", "2"]
    easy, hard = reverse["by_level"].values()
    assert (easy["win_rate"], easy["margin"], easy["margin_per_token"]) == (1.0, 5.0, 0.5)
    assert (hard["win_rate"], hard["margin"]) == (0.5, 0.0)
    assert (reverse["win_rate"], reverse["num_comparisons"], reverse["num_videos"]) == (0.75, 40, 20)
    frozen = summary["by_kind"]["frozen"]
    assert (frozen["win_rate"], frozen["margin"], frozen["by_level"]) == (0.5, 0.0, {})
    assert list(summary["by_level"]) == ["16", "2"]
    assert summary["num_comparisons"] == 60


def test_intervals_hold_the_mean_and_a_certain_win_keeps_its_doubt():
    easy, hard = summarize(rows_of(20), seed=0)["by_kind"]["reverse"]["by_level"].values()
    low, high = hard["win_rate_interval"]
    assert 0.2 < low < 0.5 < high < 0.8
    assert easy["win_rate_interval"][0] == pytest.approx(0.8389, abs=1e-3)
    assert easy["win_rate_interval"][1] == 1.0


def test_few_videos_get_no_interval():
    cell = summarize(rows_of(MIN_VIDEOS - 1), seed=0)["by_kind"]["reverse"]
    assert cell["win_rate_interval"] is None
    assert cell["margin_per_token_interval"] is None
    assert cell["win_rate"] == 0.75


@pytest.mark.parametrize(("name", "begins"), [("c.png", b"\x89PNG"), ("c.svg", b"<?xml")])
def test_a_chart_is_drawn_and_equal_figures_give_equal_bytes(tmp_path, name, begins):
    # Three videos: nothing has an interval, which must not stop the chart.
    for summary in (summarize(rows_of(12), seed=0), summarize(rows_of(3), seed=0)):
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_chart(summary, tmp_path / folder / name, title="x")
        data = (tmp_path / "one" / name).read_bytes()
        assert data.startswith(begins)
        assert data == (tmp_path / "two" / name).read_bytes()


def test_the_table_has_a_row_for_each_kind_and_level():
    table = probe_table(summarize(rows_of(12), seed=0))
    assert list(table.columns[0].cells) == ["reverse", "  r = 16", "  r = 2", "frozen", "all"]
    assert list(table.columns[2].cells) == ["75.0", "100.0", "50.0", "50.0", "66.7"]


# The command


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for index in range(2):
        render_story(make_story(91, index, num_shots=(4, 4)), folder / f"{index}.mp4")
    return folder


def test_figures_chart_and_words_are_written_and_the_words_can_be_given_again(tempo, films, tmp_path):
    small = ("--set", "frames.max_pixels=4096", "--num-videos", "2")
    code, out, err = tempo(
        *("probe", "embedded", films, *small, "--json", tmp_path / "a.json", "--chart", tmp_path / "a.svg"),
        *("--save-text", tmp_path / "texts.jsonl", "--describe-with", "Describe this clip in detail."),
    )
    assert (code, err) == (0, "")
    own = json.loads((tmp_path / "a.json").read_text())
    assert own["prompt"] == "Describe this clip in detail."
    assert own["frames"]["max_pixels"] == 4096
    assert {"win_rate", "win_rate_interval", "margin", "margin_per_token"} <= own["by_kind"]["reverse"].keys()
    assert own["by_kind"]["reverse"]["by_level"]
    assert "reverse" in out
    assert (tmp_path / "a.svg").exists()
    code, _, err = tempo(
        *("probe", "embedded", films, *small, "--json", tmp_path / "b.json"),
        *("--text", tmp_path / "texts.jsonl", "--describe-with", "Describe this clip in detail."),
    )
    assert (code, err) == (0, "")
    given = json.loads((tmp_path / "b.json").read_text())
    assert given["text"] == str(tmp_path / "texts.jsonl")
    assert given["comparisons"] == own["comparisons"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--chart", "x.pdf"), "the name must end with .png or .svg"),
        (("--json", "nowhere/x.json"), "nowhere/x.json cannot be written"),
        (("--set", "frames.fps=-1"), "frames.fps"),
        (("--set", "model.device=gpu"), "model.device"),
        (("--set", "model.path=x"), "--set model.path would do nothing"),
        (("--set", "clips.min_clips=2"), "--set clips would do nothing"),
        (("--text", "absent.jsonl"), "--text absent.jsonl cannot be read"),
        (("--text", "t.jsonl", "--save-text", "u.jsonl"), "--save-text u.jsonl would do nothing with --text"),
        (("--text", "t.jsonl", "--max-new-tokens", "7"), "--max-new-tokens 7 would do nothing with --text"),
    ],
)
def test_bad_options_are_one_message_before_any_model_is_loaded(
    tempo, films, tmp_path, monkeypatch, options, message
):
    monkeypatch.setattr(probe_command, "load_video_lm", lambda *_: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    code, _, err = tempo("probe", "embedded", films, *options)
    assert code == 2
    assert message in err


def test_a_model_or_a_folder_that_is_not_there_is_named(tempo, films, tmp_path):
    code, _, err = tempo("probe", tmp_path / "no-model", films)
    assert code == 2
    assert "no-model' does not exist" in err
    code, _, err = tempo("probe", "embedded", tmp_path / "no-videos")
    assert code == 2
    assert "no-videos' does not exist" in err


@pytest.mark.parametrize(
    ("model", "asked", "taken"),
    [
        ("embedded", {}, (128 * 128, None)),
        ("org/model", {}, (200_704, 9_000_000)),
        ("org/model", {"max_frames": 8}, (200_704, None)),
        ("org/model", {"max_pixels": 1000}, (1000, None)),
    ],
)
def test_pictures_are_as_large_as_a_new_configuration_has_them(tmp_path, model, asked, taken):
    frames = probe_command._frames(ProbeRequest(model, tmp_path), asked)
    config = FramesConfig.model_validate(frames)
    assert (config.max_pixels, config.max_total_pixels) == taken


def test_a_run_has_its_own_pictures(tmp_path):
    (tmp_path / "config.toml").write_text("")
    assert probe_command._frames(ProbeRequest("org/model", tmp_path), {}) == {}
