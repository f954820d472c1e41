"""A row of any format says the same pair, whoever wrote it; what is no pair is refused in words."""

from __future__ import annotations

import json

import pytest
from pairs_material import ODD_TEXT, pair_of

from tempo.preference.formats import (
    Origin,
    llama_factory_row,
    ms_swift_row,
    origin_of,
    read_row,
    trl_row,
)

PAIR = pair_of("0123", "/films/a.mp4", "reverse", 2, (2, 3, 0, 1), rejected=ODD_TEXT)

ROWS = {
    "ms-swift": ms_swift_row(PAIR, "/films/a.mp4"),
    "llama-factory": llama_factory_row(PAIR, "/films/a.mp4"),
    "trl": trl_row(PAIR, ["1.jpg", "2.jpg"]),
    "parquet": PAIR.model_dump(mode="json"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_written_row_reads_as_the_same_pair(name):
    draft = read_row(json.loads(json.dumps(ROWS[name])))
    assert (draft.prompt, draft.chosen, draft.rejected) == (PAIR.prompt, PAIR.chosen, PAIR.rejected)
    assert draft.origin == Origin.model_validate(origin_of(PAIR))
    assert draft.video == ("" if name == "trl" else "/films/a.mp4")


MADE_ELSEWHERE = {
    "ms-swift": {
        "messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "yes"}],
        "rejected_response": "no",
        "videos": ["v.mp4"],
    },
    "ms-swift, tag last, one path": {
        "messages": [{"role": "user", "content": "What?\n<video>"}, {"role": "assistant", "content": "yes"}],
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
    "trl, messages of parts": {
        "prompt": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "yes"}]}],
        "rejected": [{"role": "assistant", "content": "no"}],
        "videos": ["v.mp4"],
        "id": 17,
        "kind": "a column of somebody else",
    },
}


@pytest.mark.parametrize("name", MADE_ELSEWHERE)
def test_rows_made_elsewhere_are_pairs_of_no_known_kind(name):
    draft = read_row(MADE_ELSEWHERE[name])
    assert (draft.video, draft.prompt, draft.chosen, draft.rejected) == ("v.mp4", "What?", "yes", "no")
    assert draft.origin == Origin(id="", video_id="", kind="other", level=0, order=(), num_clips=0)


def test_a_row_made_elsewhere_may_say_its_kind_and_level():
    row = {**MADE_ELSEWHERE["trl, standard"], "tempo": {"kind": "shuffle", "level": 4}}
    assert (read_row(row).origin.kind, read_row(row).origin.level) == ("shuffle", 4)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


PLAIN = {"prompt": "What?", "chosen": "yes", "rejected": "no", "video": "v.mp4"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([1, 2], "not a row of named values"),
        ({}, "none of the known formats"),
        ({"question": "q", "answer": "a"}, "it has question, answer"),
        ({"prompt": "What?", "chosen": "yes"}, "rejected is missing"),
        ({"prompt": "What?", "chosen": 3, "rejected": "no"}, "chosen should be a list of messages"),
        ({"messages": [user("q"), assistant("a")]}, "rejected_response is missing"),
        ({"messages": [user("q")], "rejected_response": "no"}, "one message each, got ['user']"),
        ({"messages": [user("q"), assistant("a"), user("r"), assistant("b")]}, "one message each"),
        ({"messages": [{"role": "system", "content": "s"}, user("q"), assistant("a")]}, "['system', 'user'"),
        ({"conversations": [user(None)], "chosen": "yes", "rejected": "no"}, "a message without text"),
        ({**PLAIN, "prompt": "<video><video>What?"}, "holds <video> beside the one video"),
        ({**PLAIN, "prompt": "<image>What?"}, "holds <image> beside"),
        ({**PLAIN, "video": ["a.mp4", "b.mp4"]}, "one video file, got ['a.mp4', 'b.mp4']"),
        ({**PLAIN, "video": 5}, "one video file, got 5"),
        ({**PLAIN, "tempo": {"kind": "backwards"}}, "kind: Input should be"),
        ({**PLAIN, "tempo": {"level": -1}}, "level: "),
        ({**PLAIN, "tempo": "drop"}, "tempo should be a table"),
    ],
)
def test_what_is_no_pair_is_refused_in_words(row, words):
    with pytest.raises(ValueError, match=r".") as caught:
        read_row(row)
    assert words in str(caught.value)


@pytest.mark.parametrize("write", [ms_swift_row, llama_factory_row])
@pytest.mark.parametrize("text", ["prompt", "chosen", "rejected"])
def test_a_tag_in_the_words_of_a_pair_is_refused_where_it_would_mean_a_video(write, text):
    with pytest.raises(ValueError, match=r"0123/drop-16.*<video>.*trl or parquet"):
        write(pair_of("0123", "a.mp4", **{text: "a <video> in words"}), "a.mp4")
    assert trl_row(pair_of("0123", "a.mp4", **{text: "a <video> in words"}), [])
