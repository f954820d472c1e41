"""From pairs and instructions to lessons and packed rows."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from tempo.config import ModelConfig, PhaseConfig
from tempo.core.records import Pair
from tempo.model.loading import load_video_lm
from tempo.model.prefix import Continuation, Group
from tempo.training.groups import Lesson, check_lengths, dpo_lessons, pack_rows, sft_lessons
from tempo.training.instructions import Asked
from tempo.video.frames import FrameStore, encode_jpeg


def pair(video, kind, level, **changes):
    row = {
        "id": f"{video}/{kind}-{level:02d}",
        "video_id": video,
        "video": f"{video}.mp4",
        "prompt": "Describe.",
        "chosen": f"all of {video}",
        "rejected": f"{kind} {level}",
        "kind": kind,
        "level": level,
        "order": (1, 0),
        "num_clips": 2,
    }
    return Pair(**row | changes)


PAIRS = [pair(v, k, level) for v in ("b", "a") for k in ("drop", "reverse") for level in (4, 2)]


def phase(**changes):
    return TypeAdapter(PhaseConfig).validate_python(
        {"name": "p", "objective": "dpo", "learning_rate": 1e-3} | changes
    )


def test_one_lesson_per_video_and_level_with_the_chosen_answer_first():
    lessons = dpo_lessons(PAIRS, phase())
    assert [lesson.id for lesson in lessons] == ["a/2", "a/4", "b/2", "b/4"]
    assert lessons[1].answers == ("all of a", "drop 4", "reverse 4")
    assert lessons[1].labels == (("drop", 4), ("reverse", 4))


@pytest.mark.parametrize(
    ("grouping", "ids", "num_rejected"),
    [
        ("video", ["a", "b"], 4),
        ("level", ["a/2", "a/4", "b/2", "b/4"], 2),
        ("pair", [f"{v}/{k}-0{level}" for v in "ab" for level in (2, 4) for k in ("drop", "reverse")], 1),
    ],
)
def test_grouping_says_which_pairs_of_a_video_share_its_prefix(grouping, ids, num_rejected):
    lessons = dpo_lessons(PAIRS, phase(grouping=grouping))
    assert [lesson.id for lesson in lessons] == ids
    assert {len(lesson.answers) - 1 for lesson in lessons} == {num_rejected}
    told = [
        (lesson.video_id, lesson.prompt, lesson.answers[0], rejected, *label)
        for lesson in lessons
        for rejected, label in zip(lesson.answers[1:], lesson.labels, strict=True)
    ]
    assert sorted(told) == sorted(
        (p.video_id, p.prompt, p.chosen, p.rejected, p.kind, p.level) for p in PAIRS
    )


@pytest.mark.parametrize("grouping", ["video", "level", "pair"])
def test_the_order_of_the_file_changes_nothing(grouping):
    settings = phase(grouping=grouping)
    assert dpo_lessons(PAIRS[::-1], settings) == dpo_lessons(PAIRS, settings)


@pytest.mark.parametrize("change", [{"chosen": "another account"}, {"prompt": "Tell."}])
@pytest.mark.parametrize("grouping", ["video", "level"])
def test_pairs_with_another_chosen_answer_or_prompt_have_a_lesson_of_their_own(change, grouping):
    other = pair("a", "shuffle", 4, **change)
    lessons = dpo_lessons([*PAIRS, other], phase(grouping=grouping, levels=[4]))
    (own,) = [lesson for lesson in lessons if "shuffle 4" in lesson.answers]
    assert (own.prompt, own.answers) == (other.prompt, (other.chosen, "shuffle 4"))
    assert len({lesson.id for lesson in lessons}) == len(lessons) == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"levels": [4]}, [("a/4", 2), ("b/4", 2)]),
        ({"kinds": ["drop"]}, [("a/2", 1), ("a/4", 1), ("b/2", 1), ("b/4", 1)]),
        ({"levels": [2], "kinds": ["reverse"]}, [("a/2", 1), ("b/2", 1)]),
        ({"kinds": ["shuffle"]}, []),
    ],
)
def test_a_phase_chooses_levels_and_kinds(changes, expected):
    lessons = dpo_lessons(PAIRS, phase(**changes))
    assert [(lesson.id, len(lesson.answers) - 1) for lesson in lessons] == expected


def group(length):
    return Group({"input_ids": torch.zeros(1, length, dtype=torch.long)}, (Continuation((1,)),))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([4, 4, 4], [2, 1]), ([9, 4, 4], [1, 2]), ([9, 9], [1, 1]), ([2, 2, 2], [3]), ([], [])],
)
def test_rows_are_filled_in_order_and_never_overflow(sizes, expected):
    rows = pack_rows([group(size - 1) for size in sizes], max_tokens=10)
    assert [len(row) for row in rows] == expected
    assert all(sum(sum(g.lengths) for g in row) <= 10 for row in rows)


@pytest.fixture
def stored(tmp_path):
    frames = FrameStore(tmp_path / "frames")
    jpeg = encode_jpeg(np.zeros((8, 8, 3), np.uint8), 90)
    for video in ("one", "two"):
        frames.write(video, [jpeg], seconds=[0.5], fps=1.0)
    return frames


class CountingStore(FrameStore):
    """A frame store that knows what was read."""

    def __init__(self, directory):
        super().__init__(directory)
        self.read_ids = []

    def read(self, video_id):
        self.read_ids.append(video_id)
        return super().read(video_id)


@pytest.fixture(scope="module")
def lm():
    return load_video_lm(ModelConfig())


def test_a_row_is_as_long_as_it_was_measured_and_its_video_is_read_once(lm, stored):
    told = [Lesson(f"one/{i}", "one", "Describe.", ("A ring.", "No." * i)) for i in (1, 2, 9)]
    asked = [
        Lesson(f"two/{i}", "two", questions=(("What?" * i, "A ring."), ("Is it?", "Yes."))) for i in (1, 5)
    ]
    for lessons, longest in ((told, "one/9"), (asked, "two/5")):
        frames = CountingStore(stored.directory)
        size = max(sum(lesson.group(lm, stored).lengths) for lesson in lessons)
        check_lengths(lessons, lm, frames, max_tokens=size)
        with pytest.raises(ValueError, match=rf"^{longest}: its packed row has {size} tokens"):
            check_lengths(lessons, lm, frames, max_tokens=size - 1)
        assert frames.read_ids == [longest[:3]] * 2


def test_phases_of_a_run_share_what_was_measured(lm, stored):
    frames, known = CountingStore(stored.directory), {}
    lessons = [Lesson(f"{v}/2", v, "Describe.", ("A ring.", "No.")) for v in ("one", "two")]
    for _ in range(2):
        check_lengths(lessons, lm, frames, max_tokens=9999, prefix_lengths=known)
    assert frames.read_ids == ["one", "two"]
    assert known.keys() == {("one", "Describe."), ("two", "Describe.")}
    check_lengths(
        [Lesson("one/x", "one", "Tell.", ("A.", "B."))], lm, frames, max_tokens=9999, prefix_lengths=known
    )
    assert frames.read_ids == ["one", "two", "one"]


def test_a_row_of_several_pairs_or_questions_that_does_not_fit_may_be_split(lm, stored):
    pairs = [pair("one", kind, 4) for kind in ("drop", "reverse")]
    with pytest.raises(ValueError, match="raise it, set grouping = 'pair' in the phase, or lower"):
        check_lengths(dpo_lessons(pairs, phase()), lm, stored, max_tokens=5)
    with pytest.raises(ValueError, match=r"raise it, or lower"):
        check_lengths(dpo_lessons(pairs, phase(grouping="pair")), lm, stored, max_tokens=5)
    asked = [Asked("one", "What?", "A ring."), Asked("one", "Is it?", "Yes.")]
    for grouping, advice in (("video", "raise it, set grouping = 'pair'"), ("pair", "raise it, or lower")):
        with pytest.raises(ValueError, match=advice):
            check_lengths(
                sft_lessons(asked, phase(objective="sft", grouping=grouping)), lm, stored, max_tokens=5
            )


def test_no_lesson_is_never_too_long(lm, stored):
    known = {}
    check_lengths([], lm, stored, max_tokens=1, prefix_lengths=known)
    assert known == {}


ASKED = [Asked("two", "q1", "a1"), Asked("one", "q2", "a2"), Asked("two", "q3", "a3")]


def test_the_questions_of_a_video_share_a_lesson():
    lessons = sft_lessons(ASKED, phase(objective="sft"))
    assert [(lesson.id, lesson.video_id, lesson.questions) for lesson in lessons] == [
        ("one/sft", "one", (("q2", "a2"),)),
        ("two/sft", "two", (("q1", "a1"), ("q3", "a3"))),
    ]


def test_each_question_may_be_a_lesson_of_its_own():
    lessons = sft_lessons(ASKED, phase(objective="sft", grouping="pair"))
    assert [(lesson.id, lesson.video_id, lesson.questions) for lesson in lessons] == [
        ("one/sft-1", "one", (("q2", "a2"),)),
        ("two/sft-1", "two", (("q1", "a1"),)),
        ("two/sft-2", "two", (("q3", "a3"),)),
    ]


def test_a_mirrored_pair_is_a_lesson_of_its_own_over_the_frames_it_shows(tmp_path):
    store = FrameStore(tmp_path)
    pictures = [np.full((64, 64, 3), 40 * i, np.uint8) for i in range(4)]
    store.write("a", [encode_jpeg(p, 95) for p in pictures], seconds=[0, 1, 2, 3], fps=1.0)
    one = pair("a", "reverse", 4)
    image = pair("a", "reverse", 4, id=f"{one.id}/mirror", frames=(2, 3, 0, 1))
    plain, mirrored = dpo_lessons([one, image], phase())
    assert (plain.frames, mirrored.frames) == ((), (2, 3, 0, 1))
    lm = load_video_lm(ModelConfig())
    shown = mirrored.group(lm, store).inputs["pixel_values_videos"]
    whole = plain.group(lm, store).inputs["pixel_values_videos"]
    half = len(whole) // 2
    assert torch.equal(shown, torch.cat([whole[half:], whole[:half]]))
    assert not torch.equal(shown, whole)
