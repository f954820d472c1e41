"""Questions of every supported format are matched to the videos of a run; invalid rows are named early."""

import json

import numpy as np
import pytest
from rich.console import Console
from sample_material import context_of, pair_of, write_rows

from tempo.config.running import RunConfig
from tempo.core.records import Instruction
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.pipeline import runner
from tempo.training.instructions import Question, match_questions, read_questions, usable_questions
from tempo.video.find import video_id
from tempo.video.frames import FrameStore, encode_jpeg

SFT = {"name": "sft", "objective": "sft", "learning_rate": 1e-4}


def plain(video, question="q", answer="a"):
    return {"video": video, "question": question, "answer": answer}


def talk(*turns, names=("from", "value"), roles=("human", "gpt")):
    return [{names[0]: roles[i % 2], names[1]: text} for i, text in enumerate(turns)]


def messages(*turns):
    return talk(*turns, names=("role", "content"), roles=("user", "assistant"))


def questions(path, **options):
    return read_questions(path, find=lambda video, video_id: video_id or video, **options)


FORMS = {
    "tempo": Instruction(id="1", video="v.mp4", question="What?", answer="That.").model_dump(),
    "llava": {"id": 7, "conversations": talk("<image>\nWhat?", "That."), "video": "v.mp4"},
    "llama-factory": {"conversations": talk("<video>What?", "That."), "videos": ["v.mp4"]},
    "ms-swift": {"messages": messages("<video>\nWhat?", "That."), "videos": ["v.mp4"]},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_row_of_any_format_is_a_question_about_a_video(tmp_path, form):
    # The turns of a conversation are separate questions.
    row = {"video_id": "77", "conversations": talk("<image>\nWhat?", "A ring.", "And then?", "It falls.")}
    expected = [Question("v.mp4", "What?", "That.")]
    others = [Question("77", "What?", "A ring."), Question("77", "And then?", "It falls.")]
    file = write_rows(tmp_path / "a.jsonl", FORMS[form], row)
    assert questions(file).rows == {"line 1": expected, "line 2": others}
    (tmp_path / "a.json").write_text(json.dumps([FORMS[form]], indent=1))
    assert questions(tmp_path / "a.json").rows == {"row 1": expected}


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({**plain("v.mp4", 4, 2.5), "level": "hard", "id": 3}, {"question": "4", "answer": "2.5"}),
        ({**plain("v.mp4"), "conversations": None, "videos": None, "messages": []}, {"video_id": "v.mp4"}),
        ({"conversations": None, "messages": messages("<video>x", "y"), "video": "v.mp4"}, {"answer": "y"}),
        ({"messages": messages("q", [{"type": "text", "text": "a"}])}, {"answer": "a"}),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "video", "video": "file:///v.mp4"}]},
                    *messages("", "a")[1:],
                ]
            },
            {"video_id": "file:///v.mp4", "question": ""},
        ),
        (
            {"messages": messages("<image> Is <image> here?", "<video>")},
            {"question": "Is <image> here?", "answer": "<video>"},
        ),
        ({"messages": [SYSTEM, *messages("q", "a")]}, {"system": "Be brief.", "question": "q"}),
        ({"conversations": talk("q", "a"), "system": "Be brief."}, {"system": "Be brief."}),
        ({**plain("v.mp4"), "system": "Be brief."}, {"system": "Be brief."}),
    ],
)
def test_a_row_as_others_write_it_is_a_question(tmp_path, row, expected):
    ((asked,),) = questions(write_rows(tmp_path / "a.jsonl", row)).rows.values()
    assert {name: getattr(asked, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"video": "v.mp4"}, "needs question and answer, conversations, or messages; it has ['video']"),
        (plain("v.mp4", answer=None), "needs question and answer"),
        (plain("v.mp4", answer={"a": 1}), "answer should be text"),
        ({"conversations": talk("q", "a", "q")}, "assistant, got ['user', 'assistant', 'user']"),
        ({"messages": [*messages("q", "a"), SYSTEM]}, "assistant, got ['user', 'assistant', 'system']"),
        ({**plain(""), "videos": ["a.mp4", "b.mp4"]}, "one video file, got ['a.mp4', 'b.mp4']"),
    ],
)
def test_an_invalid_row_is_named_and_set_aside_up_to_a_share(tmp_path, row, words):
    file = write_rows(tmp_path / "a.jsonl", plain("v.mp4"), row)
    with pytest.raises(ValueError, match=r"^training\.instructions: .*a\.jsonl line 2: ") as caught:
        read_questions(file)
    assert words in str(caught.value)
    with pytest.warns(UserWarning, match=r"a\.jsonl line 2: .* are skipped"):
        assert len(read_questions(file, max_bad_share=0.5).rows) == 1


def context(tmp_path, films, *rows, seed=0, **training):
    training |= {"instructions": str(write_rows(tmp_path / "rows.jsonl", *rows)), "phases": [SFT]}
    sections = {"run": {"num_workers": 1, "seed": seed}, "videos": {"paths": [str(films)]}}
    return context_of(tmp_path / "run", **sections, training=training)


def settle(context, *, with_frames=()):
    """Runs the stage `videos`, and stores frames of the named ones."""
    runner.run_stages(context, Console(quiet=True), until="videos")
    for path in with_frames:
        jpeg = encode_jpeg(np.zeros((8, 8, 3), np.uint8), 90)
        FrameStore(context.directory / "frames").write(video_id(path), [jpeg], seconds=[0.5], fps=1.0)


def test_questions_about_skipped_videos_are_left_out_and_counted(tmp_path, films):
    names = ("films/a.mp4", "copy of a.mp4", "broken.mp4", "b.mp4", "b.mp4")
    run = context(tmp_path, films, *(plain(name, f"q{i}") for i, name in enumerate(names)))
    settle(run, with_frames=[films / "a.mp4"])
    usable, num_left_out = usable_questions(run)
    first = video_id(films / "a.mp4")
    assert [question[:3] for question in usable] == [(first, "q0", "a"), (first, "q1", "a")]
    assert num_left_out == 3
    write_rows(tmp_path / "rows.jsonl", plain("broken.mp4"))
    with pytest.raises(ValueError, match="no question is about a video that the run trains on"):
        usable_questions(run)


def test_questions_about_held_out_videos_are_not_trained_on(tmp_path, films):
    run = context(tmp_path, films, plain("a.mp4"), plain("b.mp4", "q1"), plain("b.mp4", "q2"))
    settle(run, with_frames=[films / "a.mp4", films / "b.mp4"])
    RunStore(run.directory).append("held_out_pairs", [pair_of(video_id(films / "b.mp4"))])
    usable, num_left_out = usable_questions(run)
    assert [question.question for question in usable] == ["q"]
    assert num_left_out == 2


def test_bad_rows_and_empty_answers_are_not_trained_on_and_named(tmp_path, films):
    rows = [
        plain("a.mp4"),
        {"videos": ["a.mp4"], "messages": messages("q1", " \n", "q2", "a")},
        plain("c.mp4"),
    ]
    made = context(tmp_path, films, *rows * 7)
    made = Context(made.config.model_copy(update={"run": RunConfig(max_bad_share=0.34)}), made.directory)
    with pytest.warns(UserWarning, match=r"line 3: c\.mp4 is not among .* 7 of 21 rows are bad"):
        settle(made, with_frames=[films / "a.mp4"])
    matched, skipped = match_questions(made)
    assert [asked.question for asked in matched] == ["q", "q2"] * 7
    assert {(row.id, row.reason) for row in skipped} >= {
        ("rows.jsonl line 2", "empty answer"), ("rows.jsonl line 3", "bad row")
    }  # fmt: skip
    assert len(skipped) == 14


def test_max_instructions_are_drawn_by_the_seed(tmp_path, films):
    def drawn(seed):
        made = context(tmp_path, films, *rows, seed=seed, max_instructions=5)
        return [asked.question for asked in usable_questions(made)[0]]

    # Questions that are left out do not count.
    rows = [plain("broken.mp4")] * 9 + [plain("a.mp4", f"q{i:02d}") for i in range(40)]
    settle(context(tmp_path, films, *rows), with_frames=[films / "a.mp4"])
    first = drawn(0)
    assert len(set(first)) == 5
    assert first == drawn(0) == sorted(first)
    assert first != drawn(1)


def test_a_video_that_the_run_does_not_have_is_named_once_its_videos_are_known(tmp_path, films):
    run = context(tmp_path, films, plain("a.mp4"), plain("c.mp4"))
    with pytest.raises(ValueError, match=r"rows\.jsonl line 2: c\.mp4 is not among"):
        settle(run)
    assert not RunStore(run.directory).is_done("videos")
    write_rows(tmp_path / "rows.jsonl", plain("a.mp4"))
    settle(run)
    assert RunStore(run.directory).is_done("videos")
