"""What a run directory holds, in words: counts, reasons, last figures."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from sample_material import samples_of

from tempo.cli.main import console as cli_console
from tempo.cli.status import print_status, training_lines
from tempo.core.files import write_json
from tempo.core.records import Captions, Outcome, Skipped, Video
from tempo.core.store import SKIPPED, RunStore
from tempo.evaluation.benchmark import score_outcomes
from tempo.pipeline.stages import NAMES


@pytest.fixture
def store(tmp_path):
    """A run that has been begun."""
    (tmp_path / "config.toml").write_text("")
    return RunStore(tmp_path)


def shown(directory, width=120):
    """What `tempo status` prints, on the console of the command line."""
    console = cli_console()
    console.file, console.width = io.StringIO(), width
    print_status(directory, console)
    return console.file.getvalue()


def row(text, *names):
    """The cells of the table row that begins with these names."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("│")][1:-1]
        if tuple(cells[: len(names)]) == names:
            return cells
    raise AssertionError(f"no row {names} in\n{text}")


def captions(*ids):
    return [Captions(id=name, captions=("a",)) for name in ids]


def drop(name, stage="captions", reason="no caption", detail=""):
    return Skipped(id=name, stage=stage, reason=reason, detail=detail)


def metrics(directory, *lines):
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("".join(lines))


def test_fresh_run_shows_every_stage_as_not_begun(store):
    text = shown(store.directory)
    for name in NAMES:
        assert row(text, name) == [name, "-", "", ""]
    assert "dropped, by reason" not in text


def test_stage_is_begun_until_its_marker_is_there(store):
    store.begin("captions", "f")
    store.append("captions", captions("a", "b"))
    assert row(shown(store.directory), "captions") == ["captions", "begun", "2", ""]
    store.finish("captions", "f")
    assert row(shown(store.directory), "captions") == ["captions", "done", "2", ""]


def test_a_dropped_video_is_called_by_the_name_of_its_file(store):
    facts = {"duration_seconds": 1.0, "width": 8, "height": 8, "fps": 1.0, "codec": "h264"}
    store.append("videos", [Video(id="7f", path="films/my cat.mp4", **facts)])
    of_file = drop("films/a.mp4", stage="videos", reason="duplicate", detail="of b")
    of_video = drop("7f", stage="clips", reason="too few shots", detail="1 usable shot")
    of_pair = drop("7f/drop-16", stage="pairs", reason="chosen in rejected")
    store.append(SKIPPED, [of_file, of_video, of_pair])
    text = shown(store.directory)
    for words in (" a.mp4: of b", "my cat.mp4: 1 usable shot", "my cat.mp4/drop-16: "):
        assert words in text


def test_torn_row_is_not_counted(store):
    store.append("captions", captions("a", "b"))
    with store.path("captions").open("a") as file:
        file.write('{"id": "tor')
    assert row(shown(store.directory), "captions")[2] == "2"


def test_drops_are_counted_by_stage_and_by_reason_with_an_example(store):
    store.append(
        SKIPPED,
        [
            drop("a", detail="clip 3 of 4"),
            drop("b", detail="clip 1 of 9"),
            drop("c", reason="process died", detail="while at this record"),
            drop("d", stage="clips", reason="too few shots", detail="2 shots"),
        ],
    )
    text = shown(store.directory)
    assert row(text, "captions", "-")[3] == "3"
    assert row(text, "clips", "-")[3] == "1"
    assert row(text, "captions", "no caption")[2] == "2"
    assert row(text, "captions", "process died")[2:] == ["1", "c: while at this record"]
    assert row(text, "clips", "too few shots")[2:] == ["1", "d: 2 shots"]
    assert text.index("too few shots") < text.index("no caption"), "in the order of the stages"


@pytest.mark.parametrize(
    "detail", ["[mov,mp4 @ 0x1] moov atom not found", "[/films/a.mp4] cannot be opened", "[red]alert[/red]"]
)
def test_brackets_in_a_reason_are_shown_as_they_are(store, detail):
    """Messages of FFmpeg and names of files have brackets; they are no markup."""
    store.append(SKIPPED, [drop("a", detail=detail)])
    assert f"a: {detail}" in shown(store.directory)


def test_brackets_in_the_name_of_a_run_are_shown_as_they_are(tmp_path):
    directory = tmp_path / "[bold] run[/x]"
    directory.mkdir(parents=True)
    (directory / "config.toml").write_text("")
    assert "[bold] run[/x]" in shown(directory, width=200)


def test_phases_of_the_method_and_the_baselines_show_their_last_figures(tmp_path):
    first = {"step": 1, "loss": 9.0}
    last = {"step": 12, "loss": 0.51234, "rewards/accuracies": 0.75, "rewards/margins": 0.1, "more": 3}
    metrics(tmp_path / "train" / "01-dpo-16", *(json.dumps(one) + "\n" for one in (first, last)))
    metrics(tmp_path / "baselines" / "plain" / "01-sft", json.dumps(first) + "\n")
    assert training_lines(tmp_path) == [
        "baselines/plain/01-sft: step 1 loss 9.000",
        "train/01-dpo-16: step 12 loss 0.512 rewards/accuracies 0.750 rewards/margins 0.100",
    ]


def test_torn_line_of_figures_is_passed_over(tmp_path):
    metrics(tmp_path / "train" / "01-a", '{"step": 1, "loss": 2.0}\n', '{"step": 2, "lo')
    metrics(tmp_path / "train" / "02-b", '{"step": 1')
    assert training_lines(tmp_path) == ["train/01-a: step 1 loss 2.000"]


def test_run_without_training_has_no_lines(tmp_path):
    assert training_lines(tmp_path) == []


def test_accuracies_are_shown_once_they_are_there(store):
    outcome = Outcome(id="a", aspect="speed", format="yes_no", answer=0, log_likelihoods=(0.0, -1.0))
    report = score_outcomes([outcome], samples_of([outcome])).model_dump()
    write_json(store.directory / "evaluation.json", {"models": {"base": report}})
    assert row(shown(store.directory, width=200), "speed") == ["speed", "100.0"]


def test_status_changes_nothing(store):
    store.append("captions", captions("a"))
    store.append(SKIPPED, [drop("b")])
    before = {p.name: p.read_bytes() for p in store.directory.iterdir()}
    shown(store.directory)
    assert {p.name: p.read_bytes() for p in store.directory.iterdir()} == before


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_run_is_refused_by_name(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=name):
        print_status(tmp_path / name, Console(file=io.StringIO()))
