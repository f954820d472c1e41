"""From pairs and questions to examples and packed rows, and that what is too long is named early."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from sample_material import pair_of, short_model, video_row, write_rows
from training_material import phase, write_frames

from tempo.config import parse_config
from tempo.core.records import Clips
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.model.prefix import ContinuationTokens, Group
from tempo.pipeline.runner import run_stages
from tempo.pipeline.stages import NAMES, fingerprints
from tempo.pipeline.steps import check_trainable
from tempo.training.examples import (
    Example,
    dpo_examples,
    fit_examples,
    pack_rows,
    sft_examples,
)
from tempo.training.instructions import Question
from tempo.video.frames import FrameStore, encode_jpeg


def pair(video, kind, level, **changes):
    return pair_of(
        video, kind, level, **{"chosen": f"all of {video}", "rejected": f"{kind} {level}"} | changes
    )


PAIRS = [pair(v, k, level) for v in ("b", "a") for k in ("drop", "reverse") for level in (4, 2)]


@pytest.mark.parametrize(
    ("grouping", "ids", "num_rejected"),
    [
        ("video", ["a/drop-02", "b/drop-02"], 4),
        ("level", ["a/drop-02", "a/drop-04", "b/drop-02", "b/drop-04"], 2),
        ("pair", [f"{v}/{k}-0{level}" for v in "ab" for level in (2, 4) for k in ("drop", "reverse")], 1),
    ],
)
def test_grouping_decides_which_pairs_of_a_video_share_its_prefix(grouping, ids, num_rejected):
    examples = dpo_examples(PAIRS, phase(grouping=grouping))
    assert [example.id for example in examples] == ids
    assert {len(example.answers) - 1 for example in examples} == {num_rejected}
    found = [
        (example.video_id, example.prompt, example.answers[0], rejected, *label)
        for example in examples
        for rejected, label in zip(example.answers[1:], example.labels, strict=True)
    ]
    expected = [(p.video_id, p.prompt, p.chosen, p.rejected, p.kind, p.level) for p in PAIRS]
    assert sorted(found) == sorted(expected)
    assert dpo_examples(PAIRS[::-1], phase(grouping=grouping)) == examples


@pytest.mark.parametrize("change", [{"chosen": "another"}, {"prompt": "Tell."}, {"system": "Be brief."}])
@pytest.mark.parametrize("grouping", ["video", "level"])
def test_a_pair_with_another_chosen_answer_or_prompt_is_another_example(change, grouping):
    other = pair("a", "shuffle", 4, **change)
    examples = dpo_examples([*PAIRS, other], phase(grouping=grouping, levels=[4]))
    (own,) = [example for example in examples if "shuffle 4" in example.answers]
    assert (own.prompt, own.answers) == (other.prompt, (other.chosen, "shuffle 4"))
    assert own.system == other.system
    assert len({example.id for example in examples}) == len(examples) == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"levels": [4]}, [("a/drop-04", 2), ("b/drop-04", 2)]),
        ({"levels": [2], "kinds": ["reverse"]}, [("a/reverse-02", 1), ("b/reverse-02", 1)]),
        ({"kinds": ["shuffle"]}, []),
    ],
)
def test_a_phase_selects_levels_and_kinds(changes, expected):
    examples = dpo_examples(PAIRS, phase(**changes))
    assert [(example.id, len(example.answers) - 1) for example in examples] == expected


def test_questions_share_an_example_by_video_or_have_their_own():
    q1, q2, q3 = ("q1", "a1"), ("q2", "a2"), ("q3", "a3")
    asked = [Question("two", *q1), Question("one", *q2), Question("two", *q3)]
    together, apart = (sft_examples(asked, phase(objective="sft", grouping=g)) for g in ("video", "pair"))
    assert [(e.id, e.questions) for e in together] == [("one/sft-1", (q2,)), ("two/sft-1", (q1, q3))]
    assert [(e.video_id, e.questions) for e in apart] == [("one", (q2,)), ("two", (q1,)), ("two", (q3,))]
    asked.append(Question("two", *q2, system="Be brief."))
    *_, first, other = sft_examples(asked, phase(objective="sft", grouping="video"))
    assert [first.questions, other.questions, first.system] == [(q1, q3), (q2,), ""]
    assert (other.id, other.system) == ("two/sft-2", "Be brief.")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([4, 4, 4], [2, 1]), ([9, 4, 4], [1, 2]), ([9, 9], [1, 1]), ([2, 2, 2], [3]), ([], [])],
)
def test_rows_are_filled_in_order_and_never_overflow(sizes, expected):
    prefixes = [{"input_ids": torch.zeros(1, size - 1, dtype=torch.long)} for size in sizes]
    groups = [Group(prefix, (ContinuationTokens((1,)),)) for prefix in prefixes]
    batch = [(Example(str(number), "v"), group) for number, group in enumerate(groups)]
    rows = pack_rows(batch, max_tokens=10)
    assert [len(row) for row in rows] == expected
    assert [loaded for row in rows for loaded in row] == batch


@pytest.mark.parametrize(
    "example",
    [
        Example("v0/1", "v0", "Describe.", ("A ring.", *["No." * i for i in (1, 2, 9)]), (("drop", 2),) * 3),
        Example("v0/1", "v0", questions=(("What?", "A."), ("Is it?" * 9, "Yes."), ("Is it?", "No."))),
    ],
    ids=["pairs", "questions"],
)
def test_a_row_that_is_too_long_is_divided_and_a_part_that_is_too_long_is_named(lm, tmp_path, example):
    frames, known = write_frames(tmp_path, [1]), {}
    size = sum(example.load(lm, frames).lengths)
    assert fit_examples([example], lm, frames, max_tokens=size, video_lengths=known) == [example]
    parts = fit_examples([example], lm, frames, max_tokens=size - 1, video_lengths=known)
    assert len(parts) == 2 == len({part.id for part in parts})
    assert all(sum(part.load(lm, frames).lengths) < size for part in parts)
    assert {part.answers[:1] for part in parts} == {example.answers[:1]}
    for name, first in (("answers", 1), ("labels", 0), ("questions", 0)):
        assert sum((getattr(part, name)[first:] for part in parts), ()) == getattr(example, name)[first:]
    shutil.rmtree(frames.directory)
    with pytest.raises(
        ValueError, match=r"^v0/1.*: its packed row has \d+ tokens, but training.max_tokens is 9"
    ):
        fit_examples(parts, lm, frames, max_tokens=9, video_lengths=known)


def test_a_row_may_be_longer_than_the_model_but_not_one_answer(lm, tmp_path):
    frames, answers = write_frames(tmp_path, [1]), ("A ring.", "No." * 20, "No." * 30)
    example = Example("v0/0", "v0", "Describe.", answers)
    prefix, *sizes = example.load(lm, frames).lengths
    limits, limit = {"max_tokens": 9999, "video_lengths": {}}, prefix + max(sizes)
    fit_examples([example], lm, frames, limit=limit, **limits)
    with pytest.raises(
        ValueError, match=rf"v0/0: prompt and answer have {limit} tokens, .* Shorten its texts"
    ):
        fit_examples([example], lm, frames, limit=limit - 1, **limits)


@pytest.mark.parametrize(
    "example",
    [
        Example("v0/1", "v0", "Describe.", ("A ring.", "No.")),
        Example("v0/1", "v0", questions=(("What?", "A."),)),
    ],
)
def test_a_system_prompt_is_in_the_shared_prefix(lm, tmp_path, example):
    frames = write_frames(tmp_path, [1])
    plain, briefed = (replace(example, system=text).load(lm, frames) for text in ("", "Be very brief."))
    assert briefed.continuations == plain.continuations
    text = lm.tokenizer.decode(briefed.inputs["input_ids"][0])
    assert "Be very brief." in text
    assert "Be very brief." not in lm.tokenizer.decode(plain.inputs["input_ids"][0])


def test_a_mirrored_pair_is_an_example_over_the_frames_that_it_shows(lm, tmp_path):
    store = write_frames(tmp_path, [4])
    one = pair("v0", "reverse", 4)
    mirrored_pair = pair("v0", "reverse", 4, id=f"{one.id}/mirror", frames=(2, 3, 0, 1))
    plain, mirrored = dpo_examples([one, mirrored_pair], phase())
    assert (plain.frames, mirrored.frames) == ((), (2, 3, 0, 1))
    shown, whole = (e.load(lm, store).inputs["pixel_values_videos"] for e in (mirrored, plain))
    half = len(whole) // 2
    assert torch.equal(shown, torch.cat([whole[half:], whole[:half]]))
    assert not torch.equal(shown, whole)


PHASE = {"name": "p", "objective": "dpo", "learning_rate": 1e-3}


def context_with(directory, training, declared_seconds=40.0, **sections):
    """A run with a long and a large video that is ready for captions; its longest video has no clips."""
    config = parse_config({"videos": {"paths": [str(directory)]}, "training": training, **sections})
    store, marks = RunStore(directory / "run"), fingerprints(config)
    store.append("videos", [video_row("large", duration_seconds=4.0, width=256, height=256)])
    for name, seconds in (("long", declared_seconds), ("longest", 400.0)):
        store.append("videos", [video_row(name, duration_seconds=seconds)])
    for name, num_frames, side in (("large", 4, 256), ("long", 40, 64)):
        clips = Clips(id=name, path=f"{name}.mp4", duration_seconds=float(num_frames), clips=())
        store.append("clips", [clips])
        frames = [encode_jpeg(np.zeros((side, side, 3), np.uint8), 95)] * num_frames
        FrameStore(store.directory / "frames").write(name, frames, seconds=list(range(num_frames)), fps=1.0)
    for name in NAMES[1 : NAMES.index("captions")]:
        store.finish(name, marks[name])
    return Context(config, store.directory)


@pytest.mark.parametrize("declared_seconds", [40.0, 0.0])
def test_a_video_that_is_too_long_without_answers_is_named_before_captions(tmp_path, declared_seconds):
    context = context_with(tmp_path, {"phases": [PHASE], "max_tokens": 64}, declared_seconds)
    words = r"long\.mp4: .* tokens, but training\.max_tokens is 64.*max_total_pixels"
    with pytest.raises(ValueError, match=words):
        run_stages(context, Console(quiet=True), only="captions")


SFT = PHASE | {"objective": "sft"}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"training": {"phases": [PHASE]}},
            r"long\.mp4: .* 82 from frames and 9 from text.* Lower frames\.fps",
        ),
        ({"responses": {"input_form": "video"}}, r"long\.mp4: .* at most 64 .* Lower frames\.fps"),
        (
            {"training": {"phases": [SFT], "instructions": "in.jsonl"}},
            r"in\.jsonl line 2: .* Shorten its texts",
        ),
    ],
    ids=["frames", "frames of responses", "words"],
)
def test_what_the_model_has_no_positions_for_is_named_before_captions(tmp_path, monkeypatch, sections, words):
    monkeypatch.chdir(tmp_path)
    for name in ("large", "long"):
        (tmp_path / f"{name}.mp4").touch()
    row = {"video": "large.mp4", "question": "What?", "answer": "A ring."}
    rows = [row, row | {"question": "What is it that goes? " * 60}]
    write_rows(tmp_path / "in.jsonl", *rows)
    model = {"path": short_model(tmp_path, 64)}
    context = context_with(tmp_path, sections.pop("training", {}), model=model, **sections)
    with pytest.raises(ValueError, match=words):
        check_trainable(context)


@pytest.mark.parametrize("training", [{"phases": [PHASE]}, {"max_tokens": 64}])
def test_a_video_that_fits_or_is_not_trained_on_is_accepted(tmp_path, training):
    check_trainable(context_with(tmp_path, training))
