"""`tempo status`: counts, reasons, last metrics."""

from __future__ import annotations

import json

import pytest

from tempo.core.files import write_json
from tempo.core.records import Captions, Skipped
from tempo.core.store import SKIPPED, RunStore
from tempo.evaluation.figures import Item, make_figure
from tempo.pipeline.stages import NAMES


@pytest.fixture
def store(tmp_path):
    """A run that has been started."""
    (tmp_path / "config.toml").write_text("")
    return RunStore(tmp_path)


@pytest.fixture
def shown(tempo, store, monkeypatch):
    """A function that returns what `tempo status` prints."""

    def run():
        monkeypatch.setenv("COLUMNS", "200")
        code, out, err = tempo("status", store.directory)
        assert (code, err) == (0, "")
        return out

    return run


def row(text, *names):
    """The cells of the table row that begins with these names."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("│")][1:-1]
        if tuple(cells[: len(names)]) == names:
            return cells
    raise AssertionError(f"no row {names} in\n{text}")


def skipped(name, stage="captions", reason="no caption", detail="", is_only=False):
    return Skipped(id=name, stage=stage, reason=reason, detail=detail, is_only_reason=is_only)


def metrics(directory, *lines):
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("".join(lines))


def test_fresh_run_shows_no_stage_as_started(shown):
    text = shown()
    for name in NAMES:
        assert row(text, name) == [name, "-", "", ""]
    assert "skipped, by reason" not in text


def test_stage_is_started_until_it_is_finished_and_incomplete_rows_are_not_counted(shown, store):
    store.begin("captions", "f")
    store.append("captions", [Captions(id=name, captions=("a",)) for name in "ab"])
    with store.path("captions").open("a") as file:
        file.write('{"id": "tor')
    assert row(shown(), "captions") == ["captions", "started", "2", ""]
    store.finish("captions", "f")
    assert row(shown(), "captions") == ["captions", "done", "2", ""]


def test_skipped_records_are_counted_by_stage_and_by_reason_with_an_example(shown, store):
    store.append(
        SKIPPED,
        [
            skipped("a", detail="clip 3 of 4"),
            skipped("b", detail="clip 1 of 9"),
            skipped("c", reason="process died", detail="while at this record"),
            skipped("d", stage="clips", reason="too few shots", detail="3 shots"),
            skipped("e", stage="clips", reason="too few shots", detail="[red]2[/red] shots", is_only=True),
        ],
    )
    text = shown()
    assert row(text, "captions", "-")[3] == "3"
    assert row(text, "clips", "-")[3] == "2"
    assert row(text, "captions", "no caption")[2] == "2"
    assert row(text, "captions", "process died")[2:] == ["1", "", "c: while at this record"]
    assert row(text, "clips", "too few shots")[2:] == ["2", "1", "e: [red]2[/red] shots"], "no markup"
    assert text.index("too few shots") < text.index("no caption"), "in the order of the stages"


def test_phases_of_the_method_and_the_baselines_show_their_last_metrics(shown, tmp_path):
    first = {"step": 1, "loss": 9.0}
    last = {"step": 12.0, "loss": 0.51234, "rewards/accuracies": 0.75, "rewards/margins": 0.1, "more": 3}
    metrics(
        tmp_path / "train" / "01-dpo-16", *(json.dumps(one) + "\n" for one in (first, last)), '{"step": 2'
    )
    metrics(tmp_path / "baselines" / "plain" / "01-sft", json.dumps(first) + "\n")
    assert shown().splitlines()[-2:] == [
        "baselines/plain/01-sft: step 1 loss 9.000",
        "train/01-dpo-16: step 12 loss 0.512 rewards/accuracies 0.750 rewards/margins 0.100",
    ]


def test_accuracies_are_shown_after_the_evaluation(shown, store):
    figure = make_figure("videos", "speed", {"base": [Item("a", "v", 1.0)]}, seed=0)
    evaluation = {"figures": [figure.model_dump()], "notes": ["no benchmark"]}
    write_json(store.directory / "evaluation.json", evaluation)
    text = shown()
    assert "speed 100.0" in " ".join(text.split())
    assert "evaluation: no benchmark" in text


def test_an_evaluation_of_another_version_is_named(tempo, store):
    write_json(store.directory / "evaluation.json", {"models": {}})
    code, _, err = tempo("status", store.directory)
    assert code == 2
    assert "evaluation.json is not a valid evaluation: figures: Field required. Another version" in err
