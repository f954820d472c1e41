"""The page: one file that agrees with the rows of the run."""

import re

import pytest
from sample_material import clips_of, context_of, grey_jpegs, pair_of, write_rows

from tempo.core.files import write_json
from tempo.core.records import Captions, Perturbations, Shot, Shots, Skipped
from tempo.core.store import RunStore
from tempo.evaluation.figures import Item, make_figure
from tempo.evaluation.held_out import Description
from tempo.preference.perturbations import perturb
from tempo.report import report
from tempo.report.pictures import film
from tempo.report.report import report_data, write_report
from tempo.video.frames import FrameStore

SPANS = ((0, 2), (2, 4), (4, 6), (6, 8))


def shots(video):
    shared = {"grey_range": 99, "descriptor": (1.0,), "candidates": (1,), "sharpness": (1.0,)}
    rows = tuple(
        Shot(start_frame=0, end_frame=9, start_seconds=start, end_seconds=end, **shared)
        for start, end in SPANS
    )
    return Shots(id=video, path=f"/videos/{video}.mp4", num_frames=9, duration_seconds=8.0, shots=rows)


def pair(video, kind="reverse", level=4, order=(3, 2, 1, 0)):
    return pair_of(video, kind, level, order, chosen="One. <Two>.", rejected="Two. One.")


@pytest.fixture
def context(tmp_path):
    """A run of two videos, pairs in another order than the videos, and one skipped record."""
    directory = tmp_path / "run"
    store = RunStore(directory)
    store.append("clips", [clips_of(*SPANS, name=name) for name in ("aa", "bb")])
    store.append("shots", [shots("aa"), shots("bb")])
    store.append("captions", [Captions(id="bb", captions=("b0", "b1", "b2", "b3"))])
    store.append("pairs", [pair("bb"), pair("aa", "drop", 2, (0, 2)), pair("bb", "replace", 8, (0,))])
    replaced = perturb(4, "replace", 8).model_copy(
        update={"order": (0,), "replaced": ((1, "aa", 3), (2, "aa", 1), (3, "aa", 2))}
    )
    store.append("perturbations", [Perturbations(id="bb", num_clips=4, perturbations=(replaced,))])
    store.append("skipped", [Skipped(id="cc", stage="clips", reason="too few clips", detail="2")])
    frames = FrameStore(directory / "frames")
    for number, video in enumerate(("aa", "bb")):
        jpegs = grey_jpegs(100 * number + 10 * i for i in range(8))
        frames.write(video, jpegs, seconds=range(8), fps=1.0, key_frames=jpegs)
    return context_of(directory)


def describe(context, video, **texts):
    """Adds what the models say about a held-out video."""
    shared = {"video_id": video, "is_whole": True}
    rows = [Description(id=model, model=model, text=text, **shared) for model, text in texts.items()]
    RunStore(context.directory).append("evaluation/descriptions", rows)


def test_the_page_is_one_file_that_loads_nothing(context):
    page = write_report(context).read_text()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert any(source.startswith("data:image/webp") for source in sources)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert write_report(context).read_text() == page


def test_a_run_without_rows_has_a_page(tmp_path):
    page = write_report(context_of(tmp_path)).read_text()
    for note in ("has no figure", "described a held-out video", "no pairs", "audited", "trained"):
        assert re.search(f"{note}.*\\.</", page), note


def test_strips_are_those_of_their_own_video_and_follow_the_perturbation(context):
    """The viewer released with the paper joins pairs and videos by position."""
    data, frames = report_data(context), FrameStore(context.directory / "frames")
    videos = {video["name"]: video["clips"] for video in data["videos"]}
    shown = {pair.kind: cells for pair, cells, _ in data["pairs"]}
    for kind, video, captions in (("reverse", "bb", ["b0", "b1", "b2", "b3"]), ("drop", "aa", [""] * 4)):
        keys, images = frames.read_key_frames(video), frames.read(video).images
        # Of each clip the first key frame, then the stored frames.
        films = [film([keys[2 * i], *images[2 * i : 2 * i + 2]]) for i in range(4)]
        assert [cell["film"] for cell in shown[kind]] == films
        assert [cell["film"] for cell in videos[f"{video}.mp4"]] == films
        assert [cell["caption"] for cell in videos[f"{video}.mp4"]] == captions
    drop, reverse, replace = write_report(context).read_text().split('id="training"')[0].split("<h3>")[-3:]
    for pair, kept, order in (
        (drop, ["", "dropped", "", "dropped"], "13"),
        (reverse, [""] * 4, "4321"),
        (replace, ["", "replaced", "replaced", "replaced"], "1423"),
    ):
        chosen, rejected = pair.split("rejected")[0], pair.split("rejected", 1)[1]
        assert re.findall('<li class="(.*?)">', chosen) == kept
        assert "".join(re.findall('alt="clip (.)"', rejected)) == order
    assert re.findall("</b> <span .*?>(.*?)<", replace)[4:] == ["0–2 s", *["of aa.mp4"] * 3]


def test_imported_pairs_are_shown_without_strips(tmp_path):
    RunStore(tmp_path).append("pairs", [pair("aa", "other", 0, ()).model_copy(update={"num_clips": 0})])
    assert "One." in write_report(context_of(tmp_path)).read_text()


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
    assert [row[1] for row in report_data(context)["skipped"]] == ["a<b", "too few clips"]
    describe(context, "bb", base="<i>A.</i>", tempo="<script>")
    page = write_report(context).read_text()
    assert "&lt;script&gt;x&lt;/script&gt;.mp4: &#34;&amp;&#34;" in page
    assert "a&lt;b" in page
    assert "&lt;Two&gt;." in page
    assert not re.search("<script|<Two>|<i>", page)
    assert report.mark_differences("a & b c", "a & c") == "a &amp; <mark>b </mark>c"


ITEMS = [Item(str(number), f"v{number}", float(number > 2)) for number in range(8)]
FIGURE = make_figure("videos", "temporal questions", {"base": ITEMS, "tempo": ITEMS}, seed=0)

CELL = {"accuracy": 0.712, "interval": [0.68, 0.74], "num_pairs": 300, "num_videos": 40}


def audit_of(**baselines):
    return {"num_pairs": 300, "num_audited": 300, "baselines": baselines, "verdict": "Length alone is enough"}


def test_the_audit_is_on_the_page_and_in_the_terminal(context):
    kinds = {"drop": {**CELL, "accuracy": 1.0}, "reverse": {**CELL, "num_pairs": 9}}
    length = {**CELL, "by_kind": kinds, "by_level": {"16": CELL}}
    # The model was not asked about reversed pairs.
    model = {**length, "by_kind": {"drop": CELL}}
    audit = audit_of(length=length, model=model)
    write_json(context.directory / "audit.json", audit)
    shown = report_data(context)["audit"]
    assert shown["rows"] == [
        ["", "pairs", "length", "model"],
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


def test_figures_are_those_of_the_evaluation(context):
    write_json(context.directory / "evaluation.json", {"figures": [FIGURE.model_dump()], "notes": ["a note"]})
    page = write_report(context).read_text()
    assert "answers a question about time correctly in 62\u00a0% of cases" in page
    assert "<td>62.5\n[" in page
    assert "<p>a note</p>" in page


def test_sentences_of_held_out_videos_are_marked(context):
    describe(context, "bb", base="A b3. A b0. A b1. No idea.", tempo="A b0. A b2.")
    page = re.sub(r"<[^>]*>", " ", write_report(context).read_text())
    words = " ".join(page.split())
    assert "base 2 of 4 sentences in order, 3 of 4 clips mentioned ✗ clip 4 A b3. ✓ clip 1 A b0." in words
    assert "? no clip No idea." in words
    assert "tempo 2 of 2 sentences in order, 2 of 4 clips mentioned ✓ clip 1" in words


def test_curves_show_every_phase(context):
    for name in ("01-dpo-4", "02-sft"):
        path = context.directory / "train" / name / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        key = {"rewards/accuracies": 0.5} if "dpo" in name else {}
        rows = [{"step": step, "loss": 1 / step, **key} for step in (1, 2)]
        write_rows(path, *rows)
    assert re.search("^<svg.*01-dpo-4.*02-sft", report_data(context)["curves"], re.DOTALL)
    page = write_report(context).read_text()
    assert "02-sft</th><td>2</td><td>1.000 → 0.500</td><td>-</td>" in page


def test_a_large_page_gets_fewer_frames(context, monkeypatch):
    sizes = []
    for limit in (10**9, 10**4, 1):
        monkeypatch.setattr(report, "MAX_BYTES", limit)
        sizes.append(write_report(context).stat().st_size)
    assert sizes[0] > sizes[1] == sizes[2]


@pytest.mark.browser
def test_the_page_in_a_browser(context, browser):
    write_json(context.directory / "evaluation.json", {"figures": [FIGURE.model_dump()]})
    describe(context, "bb", base="A b3. A b0.", tempo="A b0. A b2. " + "long" * 200)
    path = write_report(context)
    assert path.stat().st_size < report.MAX_BYTES
    for motion in ("no-preference", "reduce"):
        page, faults = browser.new_page(reduced_motion=motion), []
        page.on("console", lambda message, faults=faults: faults.append(message.text))
        page.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
        page.on("request", lambda request, faults=faults: faults.append(request.url))
        page.goto(path.as_uri())
        for width in (400, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width
        images = page.get_by_role("img")
        assert images.count() > 20
        assert all(name for name in images.evaluate_all("all => all.map(i => i.alt ?? i.ariaLabel)"))
        page.locator(".strip").first.focus()
        moving = page.evaluate("document.getAnimations().length")
        assert (moving > 0) == (motion == "no-preference")
        assert [url for url in faults if not url.startswith("data:")] == [path.as_uri()]


def test_shown_pairs_are_of_different_kinds_levels_and_videos():
    pairs = [pair(v, k, level) for v in "ab" for k in ("drop", "reverse") for level in (2, 4)]
    shown = [(p.kind, p.level, p.video_id) for p in report.choose_pairs(pairs, 2)]
    assert shown == [("drop", 2, "a"), ("reverse", 2, "b")]
