"""Pairs of any known format are read; as a run's own, those that cannot be trained on are skipped."""

from __future__ import annotations

import json
import re

import pytest
from pairs_material import assistant, make_run, make_videos, user
from rich.console import Console
from sample_material import context_of, pair_of, write_rows
from tiny_film import film

from tempo.core.records import Pair, Skipped
from tempo.core.store import SKIPPED, RunStore
from tempo.pipeline.runner import run_stages
from tempo.pipeline.stages import NAMES
from tempo.preference.exporting import FORMATS, export_pairs
from tempo.preference.importing import import_pairs, load_pairs, pair_of_row
from tempo.preference.pairs import Selection
from tempo.video.find import video_id
from tempo.video.frames import FrameStore

MADE_ELSEWHERE = {
    "ms-swift": {
        "messages": [user("What?\n<video>"), assistant("yes")],
        "rejected_response": "no",
        "videos": "v.mp4",
    },
    "llama-factory": {
        "conversations": [{"from": "human", "value": "<video>\nWhat?"}],
        "chosen": {"from": "gpt", "value": "yes"},
        "rejected": {"from": "gpt", "value": "no"},
        "videos": ["v.mp4"],
    },
    "trl, standard": {"prompt": "What?", "chosen": "yes", "rejected": "no", "video": "v.mp4"},
    "trl, implicit prompt": {
        "chosen": [user("What?"), assistant("yes")],
        "rejected": [user("What?"), assistant("no")],
        "video": "v.mp4",
    },
    "trl, messages of parts": {
        "prompt": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "yes"}]}],
        "rejected": [assistant("no")],
        "videos": ["v.mp4"],
        "kind": "a column of somebody else",
    },
}


@pytest.mark.parametrize("name", MADE_ELSEWHERE)
def test_rows_made_elsewhere_have_the_kind_other_unless_they_state_it(name):
    pair = pair_of_row(MADE_ELSEWHERE[name])
    assert (pair.video, pair.prompt, pair.chosen, pair.rejected) == ("v.mp4", "What?", "yes", "no")
    assert (pair.kind, pair.level, pair.order) == ("other", 0, ())
    pair = pair_of_row({**MADE_ELSEWHERE[name], "tempo": {"kind": "shuffle", "level": 4}})
    assert (pair.kind, pair.level) == ("shuffle", 4)


PLAIN = MADE_ELSEWHERE["trl, standard"]
SWIFT = MADE_ELSEWHERE["ms-swift"]
SYSTEM = {"role": "system", "content": "Be brief."}
PART = {"type": "text", "text": "yes"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # Foreign columns with the names of tempo's, and rows that fit only in part.
        ({**PLAIN, "id": 3, "kind": "x", "level": "hard", "frames": 8, "tempo": "fast"}, {"kind": "other"}),
        ({**PLAIN, "video_id": "v_abc", "level": 4, "kind": "drop"}, {"video_id": "v_abc", "level": 0}),
        ({**pair_of("v").model_dump(), "level": "hard"}, {"kind": "other", "level": 0, "video_id": "v"}),
        # Null columns, and columns that another one replaces.
        ({**PLAIN, "messages": None, "tempo": None, "videos": None, "system": None}, {"video": "v.mp4"}),
        ({**SWIFT, "chosen": None, "rejected": None, "conversations": []}, {"chosen": "yes"}),
        ({**PLAIN, "videos": []}, {"video": "v.mp4"}),
        # Numbers and lists of parts.
        ({**PLAIN, "chosen": 3, "rejected": 2.5}, {"chosen": "3", "rejected": "2.5"}),
        ({**PLAIN, "chosen": {"role": "assistant", "content": 3}}, {"chosen": "3"}),
        ({**PLAIN, "chosen": [{"type": "video"}, PART, {**PART, "text": "!"}]}, {"chosen": "yes!"}),
        # ms-swift's whole conversation for the rejected answer.
        (
            {"messages": SWIFT["messages"], "rejected_messages": [SWIFT["messages"][0], assistant("no")]},
            {"prompt": "What?", "chosen": "yes", "rejected": "no"},
        ),
        # The prompt of a data set with whole conversations, and another name of its column.
        ({**MADE_ELSEWHERE["trl, implicit prompt"], "prompt": "What?"}, {"prompt": "What?"}),
        ({"question": "What?", "chosen": "yes", "rejected": "no"}, {"prompt": "What?"}),
        # Qwen writes the video into a message.
        (
            {**PLAIN, "video": None, "prompt": [user([{"type": "video", "video": "file:///a.mp4"}, PART])]},
            {"video": "file:///a.mp4", "prompt": "yes"},
        ),
        # System prompts.
        ({**SWIFT, "messages": [SYSTEM, *SWIFT["messages"]]}, {"system": "Be brief.", "prompt": "What?"}),
        ({**PLAIN, "prompt": [SYSTEM, user("What?")]}, {"system": "Be brief.", "prompt": "What?"}),
        ({**PLAIN, "chosen": [SYSTEM, user("Who?"), assistant("yes")]}, {"system": "Be brief."}),
        ({**PLAIN, "system": "Be brief."}, {"system": "Be brief."}),
        # Only the placeholder of the video is no word.
        ({**PLAIN, "prompt": "<image>\nIs <video> a tag?"}, {"prompt": "Is <video> a tag?"}),
        ({**PLAIN, "prompt": "What? <video>\n"}, {"prompt": "What?"}),
        ({**PLAIN, "chosen": "<video> is a tag."}, {"chosen": "<video> is a tag."}),
        (pair_of("v", prompt="<video> is what?").model_dump(), {"prompt": "<video> is what?"}),
    ],
)
def test_a_row_as_others_write_it_is_a_pair(row, expected):
    assert {name: getattr(pair_of_row(row), name) for name in expected} == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "q", "answer": "a"}, "not a known format"),
        ({"prompt": "What?", "chosen": "yes"}, "rejected should be text or a list of messages, got 'None'"),
        (
            {"prompt": "What?", "chosen": True, "rejected": "no"},
            "chosen should be text or a list of messages",
        ),
        ({"prompt": "What?", "chosen": ["a", "b"], "rejected": "no"}, "chosen should be text or a list"),
        ({"messages": [user("q")], "rejected_response": "no"}, "messages of ['user']"),
        ({**PLAIN, "rejected": [user("q")]}, "rejected should end with an answer, got ['user']"),
        ({"conversations": [user(None)], "chosen": "yes", "rejected": "no"}, "conversations should be text"),
        ({**PLAIN, "prompt": [user("q"), SYSTEM]}, "messages of ['user', 'system', 'assistant']"),
        ({**PLAIN, "system": ["a", "b"]}, "system should be text"),
        ({**PLAIN, "video": ["a.mp4", "b.mp4"]}, "one video file, got ['a.mp4', 'b.mp4']"),
        ({**PLAIN, "tempo": {"kind": "backwards"}}, "kind: Input should be"),
    ],
)
def test_a_row_that_is_not_a_pair_is_refused_in_words(row, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        pair_of_row(row)


def row(video, chosen="First a dog, then a cat.", rejected="First a cat, then a dog.", **more):
    return {"prompt": "What?", "chosen": chosen, "rejected": rejected, "videos": [str(video)], **more}


def test_pairs_are_loaded_from_a_run_and_from_files_without_videos(tmp_path):
    pairs = make_run(tmp_path / "run")
    assert load_pairs(tmp_path / "run") == load_pairs(tmp_path / "run" / "pairs.jsonl") == pairs
    file = write_rows(
        tmp_path / "a.jsonl", {"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": "c"}
    )
    first, second = load_pairs(str(file))
    assert first.video_id == second.video_id
    assert first.id != second.id
    file = write_rows(file, {"chosen": "a", "rejected": "b"}, {"chosen": "a"})
    with pytest.raises(ValueError, match=r"a\.jsonl line 2: rejected should be"):
        load_pairs(file)
    with pytest.warns(UserWarning, match=r"a\.jsonl line 2: rejected should be .* are skipped"):
        assert len(load_pairs(file, max_bad_share=0.5)) == 1


@pytest.fixture
def library(tmp_path):
    """A run with videos and frames, but no pairs: its directory, and the ids and paths of its videos."""
    directory = tmp_path / "run"
    return directory, *make_videos(RunStore(directory), tmp_path / "films")


def imported(directory, path, max_bad_share=0.05, **pairs):
    sections = {"pairs": {"import_from": str(path), **pairs}, "run": {"max_bad_share": max_bad_share}}
    return import_pairs(context_of(directory, **sections, evaluation={"held_out_share": 0}))


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_exported_comes_back_the_same(tmp_path, name):
    pairs = make_run(tmp_path / "run")
    export_pairs(tmp_path / "run", name, tmp_path / "out")
    (file,) = (tmp_path / "out").glob("pairs.*")
    assert imported(tmp_path / "run", file) == Selection(pairs, [], [])
    # Another run may have the same videos in another place.
    make_videos(RunStore(tmp_path / "there" / "run"), tmp_path / "there" / "films")
    others = imported(tmp_path / "there" / "run", file).pairs
    assert [pair.id for pair in others] == [pair.id for pair in pairs]
    assert all(str(tmp_path / "there" / "films") in pair.video for pair in others)


def test_ids_depend_on_all_texts_and_not_on_the_order_of_the_rows(library, tmp_path):
    directory, (first, second), (one, two) = library
    rows = [row(one), row(two), row(one, chosen="Another description.")]
    rows += [row(one, prompt="Who?"), row(one, system="Be brief.")]
    pairs = imported(directory, write_rows(tmp_path / "a.jsonl", *rows)).pairs
    assert imported(directory, write_rows(tmp_path / "b.jsonl", *reversed(rows))).pairs == pairs
    assert len({pair.id for pair in pairs}) == 5
    assert {(pair.video_id, pair.video) for pair in pairs} == {(first, str(one)), (second, str(two))}


def test_rows_that_cannot_be_trained_on_are_skipped_with_their_reason(library, tmp_path):
    directory, (_, second), (one, two) = library
    FrameStore(directory / "frames").path(second).unlink()
    broken = str(tmp_path / "films" / "broken.mp4")
    RunStore(directory).append(SKIPPED, [Skipped(id=broken, stage="videos", reason="cannot be decoded")])
    good = row(one)
    bad = [row(one, chosen="A.", rejected="A."), row(one, rejected=" \n"), row(two), row(broken), good]
    mirrored = {**row(one), "tempo": {"kind": "reverse", "level": 2, "order": [1, 0], "frames": [2, 1, 0]}}
    part = {**row(one), "tempo": {"kind": "reverse", "level": 2, "order": [1, 0], "span": [3.0, 9.5]}}
    made = imported(directory, write_rows(tmp_path / "a.jsonl", good, *bad, mirrored, part))
    assert [pair.chosen for pair in made.pairs] == [good["chosen"]]
    reasons = ("same text", "empty text", "its video was skipped", "its video was skipped", "duplicate")
    more = ("about a perturbed video", "about a segment of a video")
    assert [(row.stage, row.id, row.reason) for row in made.skipped] == [
        ("pairs", f"a.jsonl line {number}", reason) for number, reason in enumerate((*reasons, *more), 2)
    ]


def test_the_filter_does_not_apply_and_the_selection_does(library, tmp_path):
    directory, _, (path, _) = library
    file = write_rows(tmp_path / "a.jsonl", row(path, rejected="many words " * 40))
    assert len(imported(directory, file).pairs) == 1
    assert imported(directory, file, length="fair").pairs == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "What?"', "line 2: not valid JSON"),
        ("3", "line 2: a row is an object"),
        ('{"prompt": "q", "chosen": "a"}', "line 2: rejected should be"),
        (json.dumps(row("films/no such.mp4")), "films/no such.mp4"),
        (json.dumps(row("films")), "line 2: "),
        ('{"prompt": "q", "chosen": "a", "rejected": "b"}', "no video"),
    ],
)
def test_a_line_that_is_not_a_pair_of_the_run_is_named(library, tmp_path, line, words):
    directory, _, (path, _) = library
    file = tmp_path / "a.jsonl"
    file.write_text(f"{json.dumps(row(path))}\n{line}\n{json.dumps(row(path))}\n")
    with pytest.raises(ValueError, match=re.escape(f"pairs.import_from: {file} line 2")) as caught:
        imported(directory, file)
    assert words in str(caught.value)
    with pytest.warns(UserWarning, match="line 2"):
        made = imported(directory, file, max_bad_share=0.4)
    assert len(made.pairs) == 1
    assert [(row.id, row.reason) for row in made.skipped] == [
        ("a.jsonl line 2", "bad row"), ("a.jsonl line 3", "duplicate")
    ]  # fmt: skip


def test_a_run_goes_from_videos_to_imported_pairs_without_a_model(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    names = ("a.mp4", "b.mp4")
    for name, grey in zip(names, (60, 150), strict=True):
        # Without a cut: no video would pass the stage `clips`.
        film(folder / name, grey)
    store = RunStore(tmp_path / "run")

    def run(file, **options):
        sections = {"videos": {"paths": [str(folder)]}, "pairs": {"import_from": str(file)}}
        sections |= {"run": {"num_workers": 1}, "evaluation": {"held_out_share": 0}}
        context = context_of(store.directory, **sections, model={"path": "no/model"})
        run_stages(context, Console(quiet=True), until="pairs", **options)
        return store.read("pairs", Pair)

    with pytest.raises(ValueError, match=r"pairs\.import_from: .*none.jsonl does not exist"):
        run(tmp_path / "none.jsonl")
    assert not store.directory.exists()
    pairs = run(write_rows(tmp_path / "one.jsonl", *(row(f"films/{name}") for name in names)))
    assert {pair.video_id for pair in pairs} == {video_id(folder / name) for name in names}
    assert [name for name in NAMES if store.is_done(name)] == ["videos", "shots", "pairs"]
    other = write_rows(tmp_path / "two.jsonl", row("films/b.mp4"))
    with pytest.raises(ValueError, match=r"pairs\.import_from"):
        run(other)
    assert len(run(other, redo=True)) == 1
