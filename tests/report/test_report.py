"""The page: one file that agrees with the rows of the run."""

import json
import re

import numpy as np
import pytest

from tempo.config import parse_config
from tempo.core.files import write_json
from tempo.core.records import Captions, Clip, Clips, Pair, Shot, Shots, Skipped
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.evaluation.figures import Item, make_figure
from tempo.report import report
from tempo.report.report import report_data, write_report
from tempo.video.frames import FrameStore, encode_jpeg

SPANS = [{"start_seconds": 2.0 * i, "end_seconds": 2.0 * i + 2} for i in range(4)]


def clips(video):
    rows = tuple(Clip(group=i, first_shot=i, num_shots=1, key_frames=(1, 2), **SPANS[i]) for i in range(4))
    return Clips(id=video, path=f"/videos/{video}.mp4", duration_seconds=8.0, clips=rows)


def shots(video):
    shared = {"grey_range": 99, "descriptor": (1.0,), "candidates": (1,), "sharpness": (1.0,)}
    rows = tuple(Shot(start_frame=0, end_frame=9, **shared, **span) for span in SPANS)
    return Shots(id=video, path=f"/videos/{video}.mp4", num_frames=9, duration_seconds=8.0, shots=rows)


def pair(video, kind="reverse", level=4, order=(3, 2, 1, 0)):
    return Pair(
        id=f"{video}/{kind}-{level:02d}",
        video_id=video,
        video=f"/videos/{video}.mp4",
        prompt="Describe.",
        chosen="One. <Two>.",
        rejected="Two. One.",
        kind=kind,
        level=level,
        order=order,
        num_clips=4,
    )


CONFIG = parse_config({"videos": {"paths": ["x"]}})


@pytest.fixture
def context(tmp_path):
    """A run of two videos, pairs in another order than the videos, and one skipped record."""
    directory = tmp_path / "run"
    store = RunStore(directory)
    store.append("clips", [clips("aa"), clips("bb")])
    store.append("shots", [shots("aa"), shots("bb")])
    store.append("captions", [Captions(id="bb", captions=("b0", "b1", "b2", "b3"))])
    store.append("pairs", [pair("bb"), pair("aa", "drop", 2, (0, 2))])
    store.append("skipped", [Skipped(id="cc", stage="clips", reason="too few clips", detail="2")])
    frames = FrameStore(directory / "frames")
    for number, video in enumerate(("aa", "bb")):
        jpegs = [encode_jpeg(np.full((8, 8, 3), 100 * number + 10 * i, np.uint8), 95) for i in range(8)]
        frames.write(video, jpegs, seconds=range(8), fps=1.0, key_frames=jpegs)
    return Context(CONFIG, directory)


def test_the_page_is_one_file_that_loads_nothing(context):
    page = write_report(context).read_text()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert write_report(context).read_text() == page


def test_a_run_without_rows_has_a_page(tmp_path):
    page = write_report(Context(CONFIG, tmp_path)).read_text()
    for note in ("Not evaluated", "There are no pairs", "Not audited", "Nothing trained"):
        assert f"{note} yet." in page


def test_strips_are_those_of_their_own_video_and_follow_the_perturbation(context):
    """The viewer released with the paper joins pairs and videos by position."""
    data, frames = report_data(context), FrameStore(context.directory / "frames")
    videos = {video["id"]: video["clips"] for video in data["videos"]}
    shown = {pair["kind"]: pair for pair in data["pairs"]}
    for kind, video, captions in (("reverse", "bb", ["b0", "b1", "b2", "b3"]), ("drop", "aa", [""] * 4)):
        sources = [*map(report.image_source, frames.read_key_frames(video))]
        assert shown[kind]["clean"][0]["image"] == sources[0]
        assert [image for clip in videos[video] for image in clip["images"]] == sources
        assert [clip["caption"] for clip in videos[video]] == captions
    assert [cell["number"] for cell in shown["reverse"]["perturbed"]] == [3, 2, 1, 0]
    assert [cell["number"] for cell in shown["drop"]["perturbed"]] == [0, 2]
    assert [cell["is_kept"] for cell in shown["drop"]["clean"]] == [True, False, True, False]


def test_imported_pairs_are_shown_without_strips(tmp_path):
    RunStore(tmp_path).append("pairs", [pair("aa", "other", 0, ()).model_copy(update={"num_clips": 0})])
    (shown,) = report_data(Context(CONFIG, tmp_path))["pairs"]
    assert (shown["clean"], shown["perturbed"]) == ([], [])
    assert "One." in write_report(Context(CONFIG, tmp_path)).read_text()


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ((3, 2, 1, 0), "4 of 4 clips kept, order of 100% of clip pairs inverted"),
        ((0, 2), "2 of 4 clips kept"),
        # The rule `paper` has shuffles that change nothing.
        ((0, 1, 2, 3), "order unchanged"),
        ((), ""),
    ],
)
def test_the_distance_from_the_original_order_is_described(order, words):
    assert report.describe_order(pair("a", order=order)).startswith(words)
    assert bool(words) == bool(report.describe_order(pair("a", order=order)))


def test_texts_names_and_reasons_are_escaped(context):
    """They may contain file names, which anybody can choose."""
    row = Skipped(stage="clips", id="<script>x</script>.mp4", reason="a<b", detail='"&"')
    RunStore(context.directory).append("skipped", [row])
    assert [row["reason"] for row in report_data(context)["skipped"]] == ["a<b", "too few clips"]
    page = write_report(context).read_text()
    assert "&lt;script&gt;x&lt;/script&gt;.mp4: &#34;&amp;&#34;" in page
    assert "a&lt;b" in page
    assert "&lt;Two&gt;." in page
    assert not re.search("<script>|<Two>", page)
    assert report.mark_differences("a & b c", "a & c") == "a &amp; <mark>b </mark>c"


CELL = {"accuracy": 0.712, "interval": [0.68, 0.74], "num_pairs": 300, "num_videos": 40}


def audit_of(**baselines):
    return {"num_pairs": 300, "num_audited": 300, "baselines": baselines, "verdict": "Length alone is enough"}


def test_the_audit_is_on_the_page_and_in_the_terminal(context):
    kinds = {"drop": {**CELL, "accuracy": 1.0}, "reverse": {**CELL, "num_pairs": 9}}
    longer = {**CELL, "by_kind": kinds, "by_level": {"16": CELL}}
    # The model was not asked about reversed pairs.
    model = {**longer, "by_kind": {"drop": CELL}}
    audit = audit_of(longer_text=longer, model=model)
    write_json(context.directory / "audit.json", audit)
    shown = report_data(context)["audit"]
    assert shown["rows"] == [
        ["", "pairs", "longer text", "model"],
        ["all pairs", "300", "71.2", "71.2"],
        ["95 % interval", "", "68.0 - 74.0", "68.0 - 74.0"],
        ["drop", "300", "100.0", "71.2"],
        ["reverse", "9", "71.2", "-"],
        ["r = 16", "300", "71.2", "71.2"],
    ]
    page = write_report(context).read_text()
    assert "Length alone is enough" in page
    assert "<td>68.0 - 74.0</td>" in page
    assert list(report.audit_table(audit).columns[3].cells) == ["71.2", "68.0 - 74.0", "71.2", "-", "71.2"]
    # Too few pairs for a baseline.
    write_json(context.directory / "audit.json", audit_of())
    assert report_data(context)["audit"]["rows"] == []
    assert "Length alone is enough" in write_report(context).read_text()
    assert report.audit_table(audit_of()) == "audit: 300 of 300 pairs"


def test_accuracies_are_those_of_the_evaluation(context):
    items = [Item(str(number), f"v{number}", float(number > 2)) for number in range(8)]
    figure = make_figure("videos", "event order", {"base": items}, seed=0)
    evaluation = {"figures": [figure.model_dump()], "notes": ["no benchmark"]}
    write_json(context.directory / "evaluation.json", evaluation)
    rows = report_data(context)["evaluation"]["tables"]["videos"]
    assert rows[0] == ["", "videos", "base"]
    assert rows[1][:2] == ["event order", "8"]
    page = write_report(context).read_text()
    assert "<td>62.5\n[" in page
    assert "no benchmark</p>" in page


def test_curves_show_every_phase(context):
    for name in ("01-dpo-4", "02-sft"):
        path = context.directory / "train" / name / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        rows = [{"step": step, "loss": 1 / step, "rewards/accuracies": 0.5} for step in (1, 2)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert re.search("^<svg.*01-dpo-4.*02-sft", report_data(context)["curves"], re.DOTALL)


def test_shown_pairs_are_of_different_kinds_levels_and_videos():
    pairs = [pair(v, k, level) for v in "ab" for k in ("drop", "reverse") for level in (2, 4)]
    shown = [(p.kind, p.level, p.video_id) for p in report.choose_pairs(pairs, 2)]
    assert shown == [("drop", 2, "a"), ("reverse", 2, "b")]
