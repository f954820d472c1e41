"""The page: one file, true to the rows it shows."""

import json
import re

import numpy as np
import pytest

from tempo.config import parse_config
from tempo.core.records import Captions, Clip, Clips, Pair, Shot, Shots, Skipped
from tempo.core.store import RunStore, write_json
from tempo.engine.types import Context
from tempo.report.report import (
    _difficulty,
    _marked,
    choose_pairs,
    picture_source,
    report_data,
    write_report,
)
from tempo.video.frames import FrameStore, encode_jpeg


def clips(video, count=4):
    rows = [
        Clip(
            group=i,
            first_shot=i,
            num_shots=1,
            start_seconds=2.0 * i,
            end_seconds=2.0 * i + 2,
            key_frames=(24 * i + 8, 24 * i + 16),
        )
        for i in range(count)
    ]
    return Clips(id=video, path=f"/videos/{video}.mp4", duration_seconds=2.0 * count, clips=tuple(rows))


def shots(video, count=4):
    rows = [
        Shot(
            start_frame=24 * i,
            end_frame=24 * i + 24,
            start_seconds=2.0 * i,
            end_seconds=2.0 * i + 2,
            grey_range=99,
            descriptor=(1.0,),
            candidates=(24 * i,),
            sharpness=(1.0,),
        )
        for i in range(count)
    ]
    return Shots(
        id=video,
        path=f"/videos/{video}.mp4",
        num_frames=96,
        duration_seconds=8.0,
        shots=tuple(rows),
    )


def pair(video, kind="reverse", level=4, order=(3, 2, 1, 0), *, chosen="One. <Two>.", rejected="Two. One."):
    return Pair(
        id=f"{video}/{kind}-{level:02d}",
        video_id=video,
        video=f"/videos/{video}.mp4",
        prompt="Describe.",
        chosen=chosen,
        rejected=rejected,
        kind=kind,
        level=level,
        order=order,
        num_clips=4,
    )


@pytest.fixture
def context(tmp_path):
    """A run of two videos, pairs in another order than the videos, and one drop."""
    directory = tmp_path / "run"
    store = RunStore(directory)
    store.append("clips", [clips("aa"), clips("bb")])
    store.append("shots", [shots("aa"), shots("bb")])
    store.append("captions", [Captions(id="bb", captions=("b0", "b1", "b2", "b3"))])
    store.append("pairs", [pair("bb"), pair("aa", "drop", 2, (0, 2))])
    store.append(
        "skipped", [Skipped(id="cc", stage="clips", reason="too few clips", detail="2, min_clips is 4")]
    )
    frames = FrameStore(directory / "frames")
    for number, video in enumerate(("aa", "bb")):
        jpegs = [encode_jpeg(np.full((8, 8, 3), 100 * number + 10 * i, np.uint8), 95) for i in range(8)]
        frames.write(video, jpegs, seconds=range(8), fps=1.0, key_frames=jpegs)
    return Context(parse_config({"videos": {"paths": ["x"]}}), directory)


def test_the_page_is_one_file_that_loads_nothing(context):
    page = write_report(context).read_text()
    assert page.startswith("<!doctype html>")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:") for source in sources)


def test_a_run_that_has_barely_begun_has_a_page_too(tmp_path):
    context = Context(parse_config({"videos": {"paths": ["x"]}}), tmp_path)
    page = write_report(context).read_text()
    assert "Not evaluated yet." in page
    assert "No pair yet." in page


def test_pairs_are_joined_to_their_own_video(context):
    """Fault of the released viewer: it joined by position."""
    frames = FrameStore(context.directory / "frames")
    own = {video: picture_source(frames.read_key_frames(video)[0]) for video in ("aa", "bb")}
    for shown in report_data(context)["pairs"]:
        assert shown["as_filmed"][0]["picture"] == own[shown["id"].split("/")[0]]


def test_imported_pairs_are_shown_without_strips(tmp_path):
    """A run that imports its pairs has no clips."""
    made_elsewhere = pair("aa", "other", 0, ()).model_copy(update={"num_clips": 0})
    RunStore(tmp_path).append("pairs", [made_elsewhere])
    context = Context(parse_config({"videos": {"paths": ["x"]}, "pairs": {"import_from": "y"}}), tmp_path)
    (shown,) = report_data(context)["pairs"]
    assert (shown["as_filmed"], shown["as_shown"]) == ([], [])
    assert "One." in write_report(context).read_text()


def test_the_second_strip_follows_the_perturbation(context):
    shown = {p["kind"]: p for p in report_data(context)["pairs"]}
    assert [cell["number"] for cell in shown["reverse"]["as_shown"]] == [3, 2, 1, 0]
    assert [cell["number"] for cell in shown["drop"]["as_shown"]] == [0, 2]
    assert [cell["kept"] for cell in shown["drop"]["as_filmed"]] == [True, False, True, False]


def test_the_difficulty_of_a_perturbation_is_told(context):
    shown = {p["kind"]: p["difficulty"] for p in report_data(context)["pairs"]}
    assert shown["reverse"] == "4 of 4 clips kept, 100% of their pairs turned round"
    assert shown["drop"] == "2 of 4 clips kept"


def test_a_perturbation_that_changes_nothing_is_named():
    """The rule `paper` has such shuffles."""
    unchanged = pair("a", "shuffle", 2).model_copy(update={"order": (0, 1, 2, 3)})
    assert "changes nothing" in _difficulty(unchanged)


def test_captions_stand_under_their_clips(context):
    videos = {video["id"]: video for video in report_data(context)["videos"]}
    assert [clip["caption"] for clip in videos["bb"]["clips"]] == ["b0", "b1", "b2", "b3"]
    assert [clip["caption"] for clip in videos["aa"]["clips"]] == [""] * 4


def test_drops_are_counted_by_reason(context):
    (row,) = report_data(context)["drops"]
    assert (row["stage"], row["reason"], row["count"]) == ("clips", "too few clips", 1)


def test_names_and_reasons_are_escaped(context):
    """Both may come from a file's name, which anybody can choose."""
    row = Skipped(stage="clips", id="<script>x</script>.mp4", reason="a<b", detail='"&"')
    RunStore(context.directory).append("skipped", [row])
    page = write_report(context).read_text()
    assert "&lt;script&gt;x&lt;/script&gt;.mp4: &#34;&amp;&#34;" in page
    assert "a&lt;b" in page
    assert "<script>" not in page


def test_texts_are_escaped_and_differences_marked(context):
    page = write_report(context).read_text()
    assert "&lt;Two&gt;." in page
    assert "<Two>" not in page
    assert _marked("a b c", "a c") == "a <mark>b </mark>c"
    assert _marked("a & b", "a & b") == "a &amp; b"


def test_the_audit_stands_on_the_page_with_its_verdict(context):
    assert "Not audited yet." in write_report(context).read_text()
    cells = {"accuracy": 0.712, "interval": [0.68, 0.74], "num_pairs": 300, "num_videos": 40}
    unknown = {"accuracy": None, "interval": None, "num_pairs": 9, "num_videos": 3}
    judge = {**cells, "by_kind": {"drop": {**cells, "accuracy": 1.0}}, "by_level": {"16": unknown}}
    audit = {"num_pairs": 300, "num_audited": 300, "num_videos": 40, "telling_words": {}}
    write_json(
        context.directory / "audit.json",
        {**audit, "baselines": {"longer_text": judge, "words": judge}, "verdict": "Length alone tells 71 %"},
    )
    shown = report_data(context)["audit"]
    assert shown["headings"] == ["", "pairs", "longer text", "words"]
    assert shown["rows"] == [
        ["all pairs", "300", "71.2", "71.2"],
        ["95 % interval", "", "68.0 - 74.0", "68.0 - 74.0"],
        ["drop", "300", "100.0", "100.0"],
        ["r = 16", "9", "-", "-"],
    ]
    page = write_report(context).read_text()
    assert "Length alone tells 71 %" in page
    assert "68.0 - 74.0" in page


def test_a_judge_that_saw_only_some_of_the_kinds_has_a_dash_for_the_others(context):
    cells = {"accuracy": 0.5, "interval": [0.4, 0.6], "num_pairs": 300, "num_videos": 40}
    judges = {
        "longer_text": {**cells, "by_kind": {"drop": cells, "reverse": cells}, "by_level": {}},
        "model": {**cells, "by_kind": {"drop": cells}, "by_level": {}},
    }
    audit = {"num_pairs": 9, "num_audited": 9, "num_videos": 40, "baselines": judges, "verdict": "v"}
    write_json(context.directory / "audit.json", audit)
    assert report_data(context)["audit"]["rows"][-1] == ["reverse", "300", "50.0", "-"]


def test_an_audit_of_too_few_pairs_shows_its_verdict_and_no_table(context):
    audit = {
        "num_pairs": 9,
        "num_audited": 9,
        "num_videos": 3,
        "baselines": {},
        "verdict": "Too few for a verdict",
    }
    write_json(context.directory / "audit.json", audit)
    page = write_report(context).read_text()
    assert "Too few for a verdict" in page
    assert "longer text" not in page


def test_accuracies_are_those_of_the_evaluation(context):
    score = {"accuracy": 0.625, "num_samples": 8, "interval": [0.3, 0.86]}
    summary = {
        **score,
        "static": score,
        **dict.fromkeys(("text_score", "video_score", "group_score"), score),
        "by_aspect": {"event_order": score},
        "by_format": {},
    }
    write_json(context.directory / "evaluation.json", {"benchmark": "b", "models": {"base": summary}})
    page = write_report(context).read_text()
    assert "62.5" in page
    assert "event order" in page


def test_curves_show_every_phase(context):
    for name in ("01-dpo-4", "02-sft"):
        path = context.directory / "train" / name / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        rows = [
            {"step": s, "loss": 1.0 / s, "rewards/accuracies": 0.5, "rewards/margins": 0.1} for s in (1, 2)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = report_data(context)["curves"]
    assert curves.startswith("<svg")
    assert "01-dpo-4" in curves
    assert "02-sft" in curves


def test_the_same_run_gives_the_same_page(context):
    assert write_report(context).read_bytes() == write_report(context).read_bytes()


def test_shown_pairs_take_turns_over_kinds_and_levels():
    pairs = [pair(v, k, level) for v in "ab" for k in ("drop", "reverse") for level in (2, 4)]
    chosen = choose_pairs(pairs, 3)
    assert [(p.kind, p.level) for p in chosen] == [("drop", 2), ("reverse", 2), ("drop", 4)]
    assert [p.video_id for p in chosen[:2]] == ["a", "b"]
