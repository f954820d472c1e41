"""The probe: which videos it takes, what it shows and scores."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_film import film

from tempo.config import FramesConfig
from tempo.evaluation import probe as module
from tempo.evaluation.probe import (
    NUM_SEGMENTS,
    Comparison,
    ProbeReport,
    compare,
    perturbed_views,
    probe,
    probe_figures,
    probe_table,
    read_video,
    write_chart,
)
from tempo.model.answers import Answer
from tempo.preference.responses import Footage
from tempo.video.find import video_id

TEXT = "A red square appears, then a blue ring moves."


def grey(*levels, size=64):
    """Frames uint8 [T, H, W, 3], one of each grey level."""
    return np.stack([np.full((size, size, 3), level, np.uint8) for level in levels])


def numbered(count):
    """Frames that each have their own grey level, in order."""
    return grey(*range(10, 10 + 4 * count, 4))


def footage(frames):
    return Footage(frames, np.arange(len(frames)), len(frames), 1.0)


def score_by(monkeypatch, score):
    """Makes `score(grey levels [T])` the log-likelihood of two tokens each."""
    monkeypatch.setattr(
        module,
        "log_probs",
        lambda model, prefix, texts, reduction: [
            torch.full((2,), score(prefix.frames[:, 0, 0, 0].astype(float)), dtype=torch.float64)
        ],
    )


def compared(model, frames):
    """Comparisons by kind."""
    found = {}
    for row in compare(model, footage(frames), TEXT, video="v", prompt="Describe the video.", seed=0):
        found.setdefault(row.kind, []).append(row)
    return found


# What is shown


def test_views_are_the_frames_rearranged_and_never_the_clean_video():
    frames = numbered(8)
    views = list(perturbed_views(footage(frames), prompt="p", seed=0))
    shown = {(kind, level): request.frames[:, 0, 0, 0].tolist() for kind, level, request in views}
    levels = frames[:, 0, 0, 0].tolist()
    assert shown["reverse", 8] == levels[::-1]
    assert shown["reverse", 2] == levels[4:] + levels[:4]
    assert shown["frozen", 0] == [levels[4]] * 8
    assert sorted(shown["shuffle", 4]) == levels
    assert len(shown["drop", 4]) == 2
    assert {kind for kind, _ in shown} == {"reverse", "shuffle", "drop", "frozen"}
    assert levels not in shown.values()


def test_a_clip_without_a_frame_makes_no_view_that_looks_clean():
    gap = Footage(numbered(4), np.array([1, 1, 1, 1]), 2, 1.0)
    assert [kind for kind, *_ in perturbed_views(gap, prompt="p", seed=0)] == ["frozen"]


# What is scored


def test_a_model_that_prefers_rising_frames_wins_against_every_change_of_order(monkeypatch):
    score_by(monkeypatch, lambda levels: -1.0 - float((np.diff(levels) > 0).sum()))
    assert {row.win for row in compared(None, numbered(8))["reverse"]} == {0.0}
    score_by(monkeypatch, lambda levels: -1.0 - float((np.diff(levels) <= 0).sum()))
    rows = compared(None, numbered(8))
    for kind in ("reverse", "shuffle", "frozen"):
        assert {row.win for row in rows[kind]} == {1.0}
        assert all(row.margin > 0 for row in rows[kind])
    assert {(row.win, row.margin) for row in rows["drop"]} == {(0.5, 0.0)}
    reverse = next(row for row in rows["reverse"] if row.level == 8)
    assert reverse.margin == pytest.approx(7.0)
    assert reverse.num_tokens == 2


def test_identical_frames_give_a_margin_of_exactly_zero(lm):
    rows = compared(lm, grey(*[90] * 6))
    for kind in ("reverse", "shuffle", "frozen"):
        assert {(row.margin, row.win) for row in rows[kind]} == {(0.0, 0.5)}


# Which videos


@pytest.fixture
def films(tmp_path):
    """A folder with two films, one of a single frame, and a file that is not a video."""
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "a.mp4", rate=1)
    film(folder / "b.mp4", 90, rate=1)
    film(folder / "short.mp4", count=1)
    (folder / "torn.mp4").write_bytes(b"no video at all")
    return folder


def probed(videos, monkeypatch, **options):
    """The report on the videos, with the same text for all, and why videos were left out by file name."""
    score_by(monkeypatch, lambda levels: -1.0)
    texts = {video_id(path): TEXT for path in videos.iterdir()}
    report = probe(None, videos, texts=texts, **options)
    return report, {Path(row.id).name: row.reason for row in report.left_out}


def test_a_video_that_cannot_be_probed_is_left_out_with_its_reason(films, monkeypatch):
    calls = []
    report, reasons = probed(films, monkeypatch, progress=lambda *call: calls.append(call))
    assert reasons == {"short.mp4": "too few frames", "torn.mp4": "cannot be opened"}
    assert set(report.descriptions) == {row.video for row in report.comparisons}
    assert set(report.descriptions) == {video_id(films / name) for name in ("a.mp4", "b.mp4")}
    assert calls == [(4, 4)]


def test_the_draw_of_videos_depends_on_the_seed_and_not_on_the_place_of_the_folder(tmp_path, monkeypatch):
    for folder, number in itertools.product(("one", "other"), range(5)):
        (tmp_path / folder).mkdir(exist_ok=True)
        film(tmp_path / folder / f"{number}.mp4", 30 + 10 * number, rate=1)
    one, other, third = (
        set(probed(tmp_path / folder, monkeypatch, num_videos=2, seed=seed)[0].descriptions)
        for folder, seed in (("one", 1), ("other", 1), ("one", 2))
    )
    assert len(one) == 2
    assert one == other != third


def test_videos_without_a_given_text_are_left_out_and_none_at_all_is_an_error(films):
    with pytest.raises(ValueError, match=r"no video can be probed: .*a\.mp4: no description: no text is"):
        probe(None, films, texts={"other": TEXT})


def test_a_long_video_has_as_many_segments_as_the_easiest_level(tmp_path):
    film(tmp_path / "long.mp4", count=10, rate=1)
    _, long = read_video(str(tmp_path / "long.mp4"), FramesConfig(fps=4, max_pixels=256))
    assert long.frames.shape == (40, 16, 16, 3)
    assert long.num_clips == NUM_SEGMENTS
    assert set(np.bincount(long.clip_T)) == {2, 3}
    assert (np.diff(long.clip_T) >= 0).all()


@pytest.mark.parametrize("answer", [Answer("A ring", False), Answer("", True)], ids=["cut", "empty"])
def test_an_empty_or_cut_description_is_not_scored(films, monkeypatch, answer):
    score_by(monkeypatch, lambda levels: -1.0)
    monkeypatch.setattr(module, "generate", lambda *_, **__: [Answer("A ring turns.", True), answer])
    report = probe(None, films)
    assert list(report.descriptions.values()) == ["A ring turns."]
    assert [row.reason for row in report.left_out if row.id.endswith("b.mp4")] == ["no description"]


# The report


def report_of(num_videos, seed=0):
    """Every video wins at r = 16, half of them at r = 2, and `frozen` changes nothing."""
    rows = [
        Comparison(video=str(i), num_tokens=10, clean=-20.0, kind=kind, level=level, perturbed=-20.0 - margin)
        for i in range(num_videos)
        for kind, level, margin in (
            ("reverse", 16, 5.0),
            ("reverse", 2, 2.0 * (i % 2) - 1),
            ("frozen", 0, 0.0),
        )
    ]
    return ProbeReport(figures=probe_figures(rows, seed=seed), comparisons=tuple(rows))


def test_win_rates_and_margins_by_kind_and_level_with_intervals():
    report = report_of(20)
    figures = {row.name: row for row in report.figures}
    found = {name: (row.num_items, row.values["model"].value) for name, row in figures.items()}
    assert len(found) == 14
    assert found["win rate, all"] == (60, pytest.approx(2 / 3, abs=1e-4))
    for part, num_items, win_rate, margin in (
        ("reverse", 40, 0.75, 0.25),
        ("reverse, r = 16", 20, 1.0, 0.5),
        ("all, r = 2", 20, 0.5, 0.0),
        ("frozen", 20, 0.5, 0.0),
    ):
        assert found[f"win rate, {part}"] == (num_items, win_rate)
        assert found[f"margin, {part}"] == (num_items, margin)
    # Wilson's interval of 20 of 20.
    assert figures["win rate, reverse, r = 16"].values["model"].interval == pytest.approx(
        (0.8389, 1), abs=1e-3
    )
    low, high = figures["margin, reverse, r = 2"].values["model"].interval
    assert low < 0 < high
    assert report == report_of(20)
    assert ProbeReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("name", ["c.png", "c.svg"])
def test_a_chart_is_drawn_and_equal_figures_give_equal_bytes(tmp_path, name):
    # With three videos nothing has an interval, which must not stop the chart.
    for count in (12, 3):
        for number in range(2):
            write_chart(report_of(count), tmp_path / f"{count}-{number}-{name}", title="$x")
        first, second = ((tmp_path / f"{count}-{number}-{name}").read_bytes() for number in range(2))
        assert first.startswith((b"\x89PNG", b"<?xml"))
        assert first == second


def test_the_table_has_a_row_for_each_kind_and_level():
    table = probe_table(report_of(12))
    levels = ["", ", r = 16", ", r = 2"]
    rows = [*(f"reverse{level}" for level in levels), "frozen", *(f"all{level}" for level in levels)]
    assert list(table.columns[0].cells) == rows
    assert [cell.split(" [")[0] for cell in table.columns[2].cells][:4] == ["75.0", "100.0", "50.0", "50.0"]
