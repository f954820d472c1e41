"""`tempo view`: who is served and what, which rows a filter finds, and that decisions are stored."""

import json
import os
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest
from sample_material import clips_of, grey_jpegs, pair_of, video_row
from starlette.testclient import TestClient
from tiny_film import film

from tempo.core.files import write_lines
from tempo.core.records import (
    Captions,
    Clips,
    Perturbation,
    Perturbations,
    Review,
    Skipped,
)
from tempo.core.store import RunStore
from tempo.preference.pairs import HELD_OUT, review_of
from tempo.report.view import PAGE_SIZE, RunView
from tempo.report.view_server import make_app
from tempo.video.frames import FrameStore

TOKEN, HERE = "a token", "http://127.0.0.1:8123"


def pair(name, kind="reverse", level=4, *, video="aa", order=(1, 0), **changes):
    known = {"id": f"{video}/{name}", "chosen": "First <a>, then b.", "rejected": "First b, then <a>."}
    return pair_of(video, kind, level, order, num_clips=2, **known | changes)


PAIRS = [
    pair("drop-02", "drop", 2, order=(1,), chosen="a b c d.", rejected="c d."),
    pair("reverse-04", rejected="Another word."),
    pair("reverse-16", level=16),
]

#: `bb/replace-02` shows the first clip of `aa` in place of its second one.
REPLACED = Perturbation(
    kind="replace",
    level=2,
    order=(0,),
    num_clips=2,
    kept_share=0.5,
    kendall_distance=0,
    replaced=((1, "aa", 0),),
)


@pytest.fixture
def directory(tmp_path):
    """A run with a film of one second in two clips, and a file that no browser plays, which was skipped."""
    store, frames = RunStore(tmp_path / "run"), FrameStore(tmp_path / "run" / "frames")
    films = {"aa": tmp_path / "film.mp4", "bb": tmp_path / "odd.mpg"}
    film(films["aa"])
    films["bb"].write_bytes(b"no video")
    store.append("videos", [video_row(name, path) for name, path in films.items()])
    clips = clips_of((0, 0.5), (0.5, 1), name="aa")
    store.append("clips", [clips.model_copy(update={"path": str(films["aa"])})])
    store.append("captions", [Captions(id="aa", captions=("A.", "B."))])
    store.append("skipped", [Skipped(id="bb", stage="clips", reason="too few shots", detail="1")])
    for name in films:
        frames.write(name, grey_jpegs(range(0, 240, 60)), seconds=[0.125, 0.375, 0.625, 0.875], fps=4.0)
    store.append("pairs", PAIRS)
    store.append(HELD_OUT, [pair("other-00", "other", 0, video="bb", order=())])
    (store.directory / "audit_pairs.json").write_text(
        json.dumps({"aa/drop-02": {"words": 2.0, "length": 9.0}})
    )
    write_lines(store.directory / "train/01-dpo/margins.jsonl", ['{"aa/drop-02": 9}', '{"aa/drop-02": -0.5}'])
    (store.directory / "config.toml").write_text("")
    store.finish("pairs", "mark")
    return store.directory


@pytest.fixture
def client(directory):
    """A browser that has opened the address with the token."""
    client = TestClient(make_app(RunView(directory), TOKEN), base_url=HERE)
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    return client


@pytest.mark.parametrize(
    "path", ["/", "/view.js", "/list", "/item?id=aa", "/video?id=aa", "/frame?id=aa&number=0"]
)
def test_only_requests_with_the_token_to_this_machine_are_answered(directory, path):
    client = TestClient(make_app(RunView(directory), TOKEN), base_url=HERE)
    assert client.get(path).status_code == 403
    assert client.get(path, params={"token": "ä"}).status_code == 403
    opened = client.get("/", params={"token": TOKEN})
    assert {"HttpOnly", "SameSite=strict"} <= {*opened.headers["set-cookie"].split("; ")}
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    # As after DNS rebinding, when the browser takes another name for this machine.
    assert client.get(path, headers={"host": "elsewhere.example"}).status_code == 400


@pytest.mark.parametrize(
    "name", ["../config.toml", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "cc", "{run}/pairs.jsonl"]
)
def test_only_videos_of_the_run_are_sent(client, directory, name):
    name = name.format(run=directory)
    for path in ("/video", "/frame", "/item"):
        assert client.get(path, params={"id": name, "number": "0"}).status_code == 404
    assert client.get(f"/{name}").status_code == 404
    assert client.get("/frame", params={"id": "aa", "number": "-1"}).status_code == 404


def test_a_part_of_a_video_can_be_asked_for(client, directory):
    content = (directory.parent / "film.mp4").read_bytes()
    part = client.get("/video?id=aa", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
    assert part.headers["content-type"] == "video/mp4"
    assert client.get("/video?id=aa", headers={"range": "bytes=999999-"}).status_code == 416
    (directory.parent / "film.mp4").unlink()
    assert client.get("/video?id=aa").status_code == 404


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["aa/drop-02", "aa/reverse-04", "aa/reverse-16", "bb/other-00"]),
        ({"kind": "drop"}, ["aa/drop-02"]),
        ({"level": "4"}, ["aa/reverse-04"]),
        ({"search": "WORD another"}, ["aa/reverse-04"]),
        ({"part": "held out"}, ["bb/other-00"]),
        ({"kind": "video"}, ["aa", "bb"]),
        ({"kind": "video", "search": "too few"}, ["bb"]),
        ({"min-length": "1.5"}, ["aa/drop-02", "aa/reverse-04"]),
        ({"min-length": "1.5", "max-words": "3"}, ["aa/drop-02"]),
        ({"max-margin": "0"}, ["aa/drop-02"]),
        ({"sort": "-level"}, ["aa/reverse-16", "aa/reverse-04", "aa/drop-02", "bb/other-00"]),
        ({"sort": "-words", "max-length": "1.9"}, ["aa/reverse-16", "bb/other-00"]),
        ({"decision": "reject"}, ["aa/reverse-16"]),
        ({"decision": "none", "kind": "reverse"}, ["aa/reverse-04"]),
    ],
)  # fmt: skip
def test_filters_and_order(client, query, expected):
    client.post("/review", json={"id": "aa/reverse-16", "decision": "reject"})
    found = client.get("/list", params=query).json()
    assert [row["id"] for row in found["rows"]] == expected
    assert found["total"] == len(expected)


def test_an_item_has_marked_texts_clips_and_the_perturbed_order(client):
    shown = client.get("/item?id=aa/reverse-16").json()
    assert shown["clips"] == [[[0.0, 0.5], "A."], [[0.5, 1.0], "B."]]
    assert (shown["order"], shown["frame_seconds"]) == ([1, 0], [0.125, 0.375, 0.625, 0.875])
    assert "<mark>" in shown["chosen"]
    assert "&lt;a&gt;" in shown["chosen"]
    # An imported pair: no clips and no order.
    imported = client.get("/item?id=bb/other-00").json()
    assert (imported["clips"], imported["order"], len(imported["frame_seconds"])) == ([], [], 4)


def test_clips_of_another_video_are_shown_where_they_replace_others(directory):
    store = RunStore(directory)
    store.append(HELD_OUT, [pair("replace-02", "replace", 2, video="bb", order=(0,))])
    store.append("perturbations", [Perturbations(id="bb", num_clips=2, perturbations=(REPLACED,))])
    foreign = {"name": 1, "video": "film.mp4", "caption": "A.", "frame": {"id": "aa", "number": 0}}
    assert RunView(directory).detail("bb/replace-02")["shown"] == [0, foreign]


def test_a_segment_is_shown_in_the_time_of_its_file(directory):
    store = RunStore(directory)
    (row,) = store.read("clips", Clips)
    store.append("clips", [row.model_copy(update={"id": "aa-1", "start_seconds": 30.0})])
    shown = RunView(directory).detail("aa-1")
    assert (shown["start"], shown["name"]) == (30.0, "film.mp4, from 30 s")
    assert [span for span, _ in shown["clips"]] == [(30.0, 30.5), (30.5, 31.0)]


def test_decisions_are_appended_and_the_last_one_counts(client, directory):
    for decision in ("reject", "keep"):
        assert client.post("/review", json={"id": "aa/reverse-04", "decision": decision}).status_code == 200
        assert client.get("/item?id=aa/reverse-04").json()["decision"] == decision
    assert RunStore(directory).read("reviews", Review) == [
        review_of(PAIRS[1], "reject"),
        review_of(PAIRS[1], "keep"),
    ]
    # A form of another page cannot have the type of JSON.
    form = client.post("/review", content='{"id": "aa/drop-02", "decision": "reject"}')
    wrong = client.post("/review", json={"id": "aa/drop-02", "decision": "no"})
    video = client.post("/review", json={"id": "aa", "decision": "keep"})
    assert (form.status_code, wrong.status_code, video.status_code) == (415, 400, 400)
    assert len(RunStore(directory).read("reviews", Review)) == 2


def test_ten_thousand_pairs_come_page_by_page(directory):
    RunStore(directory).append(
        "pairs", [pair(f"shuffle-{i:05}", rejected=f"Number {i}. " * 60) for i in range(10_000)]
    )
    client = TestClient(make_app(RunView(directory), TOKEN), base_url=HERE)
    started = time.process_time()
    client.get("/", params={"token": TOKEN})
    rows = client.get("/list").json()["rows"]
    client.get("/item", params={"id": rows[0]["id"]})
    assert time.process_time() - started < 0.5
    # The next page of undecided pairs leaves nothing out after decisions on this one.
    client.post("/review", json={"id": rows[-1]["id"], "decision": "keep"})
    more = client.get("/list", params={"decision": "none", "after": rows[-1]["id"]}).json()["rows"]
    ids = [row["id"] for row in rows + more]
    assert (len(ids), ids) == (2 * PAGE_SIZE, sorted({*ids}))


def test_runs_without_pairs_and_a_missing_package_are_named(tempo, directory, monkeypatch, tmp_path):
    assert "not a run directory" in tempo("view", tmp_path)[2]
    (directory / "done" / "pairs.json").unlink()
    code, _, message = tempo("view", directory)
    assert code == 2
    assert "has no pairs yet" in message
    assert "--until pairs" in message
    monkeypatch.setitem(sys.modules, "tempo.report.view_server", None)
    assert "pip install starlette uvicorn" in tempo("view", directory)[2]


@pytest.fixture
def served(directory):
    """The process and the address of `tempo view`."""
    command = [sys.executable, "-m", "tempo", "view", str(directory)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_the_command_listens_on_this_machine_and_ends_with_ctrl_c(served, directory):
    process, address = served
    assert address.startswith("http://127.0.0.1:")
    assert urlopen(address).status == 200
    RunStore(directory).append("reviews", [review_of(PAIRS[0], "keep")])
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert f"--out {directory} --redo" in out


@pytest.mark.browser
def test_a_person_filters_plays_and_decides_in_a_browser(served, directory, browser):
    page, faults = browser.new_page(), []
    page.on("pageerror", lambda fault: faults.append(fault))

    def until(condition):
        # Not wait_for_function, which the page's security policy forbids.
        end = time.monotonic() + 20
        while not page.evaluate(f"!isBusy && {condition}"):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    page.goto(served[1])
    page.wait_for_selector("#rows li:nth-child(4)")
    assert "token" not in page.url
    page.select_option("[name=kind]", "reverse")
    until("rows.length === 2 && item.id === 'aa/reverse-04'")
    until("video.readyState >= 2")
    page.click("#clips li:nth-child(2) button")
    assert page.evaluate("video.currentTime") == 0.5
    page.keyboard.press("p")
    until("route.length === 1 && video.currentTime < 0.5 && !video.paused")
    until("!route.length && video.paused")
    page.keyboard.press("r")
    until("item.id === 'aa/reverse-16'")
    page.keyboard.press("k")
    until("rows[1].button.dataset.decision === 'keep'")
    page.keyboard.press("ArrowLeft")
    until("item.id === 'aa/reverse-04'")
    # A file that the browser cannot play.
    page.select_option("[name=kind]", "other")
    page.wait_for_selector("#frame:not([hidden])")
    page.keyboard.press(" ")
    until("player.currentTime === 0.875 && $('frame').src.endsWith('number=3')")
    assert faults == []
    assert RunStore(directory).read("reviews", Review) == [
        review_of(PAIRS[1], "reject"),
        review_of(PAIRS[2], "keep"),
    ]
