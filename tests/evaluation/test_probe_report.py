"""Win rates and margins with their intervals, the table and the chart."""

import pytest

from tempo.core.records import Skipped
from tempo.evaluation.probe_report import (
    Comparison,
    ProbeReport,
    probe_table,
    report_comparisons,
    write_chart,
)


def comparison(video, margin, *, kind="reverse", level=2, num_tokens=10):
    return Comparison(
        video=str(video), kind=kind, level=level, num_tokens=num_tokens, clean=-20.0, perturbed=-20.0 - margin
    )


def report_of(num_videos, seed=0):
    """Every video wins at r = 16, half of them at r = 2, and `frozen` changes nothing."""
    rows = []
    for video in range(num_videos):
        rows.append(comparison(video, 5.0, level=16))
        rows.append(comparison(video, 1.0 if video % 2 else -1.0, level=2))
        rows.append(comparison(video, 0.0, kind="frozen", level=0))
    return report_comparisons(rows, seed=seed)


def test_win_rate_and_margin_by_kind_and_level():
    report = report_of(20)
    reverse = report.by_kind["reverse"]
    assert list(reverse.by_level) == ["16", "2"]
    easy, hard = reverse.by_level.values()
    assert (easy.win_rate, easy.margin_per_token) == (1.0, 0.5)
    assert (hard.win_rate, hard.margin_per_token) == (0.5, 0.0)
    assert (reverse.win_rate, reverse.num_comparisons, reverse.num_videos) == (0.75, 40, 20)
    frozen = report.by_kind["frozen"]
    assert (frozen.win_rate, frozen.margin_per_token, frozen.by_level) == (0.5, 0.0, {})
    assert list(report.by_level) == ["16", "2"]
    assert report.num_comparisons == 60


def test_intervals_contain_the_mean_and_a_certain_win_stays_uncertain():
    easy, hard = report_of(20).by_kind["reverse"].by_level.values()
    low, high = hard.win_rate_interval
    assert 0.2 < low < 0.5 < high < 0.8
    # Wilson's interval of 20 of 20.
    assert easy.win_rate_interval == pytest.approx((0.8389, 1.0), abs=1e-3)
    low, high = hard.margin_per_token_interval
    assert low < hard.margin_per_token < high


def test_a_report_is_reproducible_and_survives_json():
    report = report_of(12, seed=3)
    assert report == report_of(12, seed=3)
    left_out = Skipped(id="a.mp4", stage="probe", reason="too few frames", detail="1")
    report = report.model_copy(update={"left_out": (left_out,), "descriptions": {"v": "A ring."}})
    assert ProbeReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(("name", "begins"), [("c.png", b"\x89PNG"), ("c.svg", b"<?xml")])
def test_a_chart_is_drawn_and_equal_figures_give_equal_bytes(tmp_path, name, begins):
    # With three videos nothing has an interval, which must not stop the chart.
    for report in (report_of(12), report_of(3)):
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_chart(report, tmp_path / folder / name, title="$x")
        data = (tmp_path / "one" / name).read_bytes()
        assert data.startswith(begins)
        assert data == (tmp_path / "two" / name).read_bytes()


def test_the_table_has_a_row_for_each_kind_and_level():
    table = probe_table(report_of(12))
    rows = ["reverse", "reverse, r = 16", "reverse, r = 2", "frozen", "all"]
    assert list(table.columns[0].cells) == rows
    assert list(table.columns[2].cells) == ["75.0", "100.0", "50.0", "50.0", "66.7"]
    # Too few videos for an interval.
    assert set(probe_table(report_of(3)).columns[3].cells) == {"-"}
