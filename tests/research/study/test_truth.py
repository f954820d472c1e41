"""Pairs of the true scripts: right by construction, and videos whose clips are not their events set aside."""

import pytest

from research.study.truth import tell_captions, tell_responses
from tempo.config import Config
from tempo.core.files import write_lines
from tempo.core.records import Captions, Clip, Clips, Perturbation, Perturbations, Responses, Skipped
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.pipeline.fingerprints import fingerprints
from tempo.synthetic import language
from tempo.synthetic.world import make_story


@pytest.fixture
def run(tmp_path):
    """A run up to clips: one video whose clips are its events, one that lost a clip."""
    stories = [make_story(0, i, num_shots=(4, 4)) for i in range(2)]
    folder = tmp_path / "synthetic" / "videos"
    folder.mkdir(parents=True)
    write_lines(folder / "scripts.jsonl", (story.model_dump_json() for story in stories))
    clip = Clip(group=0, first_shot=0, num_shots=1, start_seconds=0, end_seconds=1, key_frames=())
    clips = [
        Clips(id=name, path=str(folder / f"{story.id}.mp4"), duration_seconds=4, clips=(clip,) * count)
        for name, story, count in zip("ab", stories, (4, 3), strict=True)
    ]
    RunStore(tmp_path).append("clips", clips)
    return Context(Config.model_validate({"synthetic": {}}), tmp_path), stories


def test_captions_are_those_of_the_events(run):
    context, stories = run
    tell_captions(context)
    store = RunStore(context.directory)
    told = {row.id: row.captions for row in store.read("captions", Captions)}
    assert told == {"a": tuple(language.caption(event) for event in stories[0].events)}
    (drop,) = store.read("skipped", Skipped)
    assert (drop.stage, drop.id, drop.detail) == ("captions", "b", "3 clips, 4 events")
    assert store.is_done("captions")
    assert store.fingerprint("captions") == fingerprints(context.config)["captions"]


def test_responses_tell_the_captions_in_every_order(run):
    context, _ = run
    tell_captions(context)
    store = RunStore(context.directory)
    made = Perturbation(
        kind="reverse", level=16, order=(3, 2, 1, 0), num_clips=4, kept_share=1, kendall_distance=1
    )
    store.append("perturbations", [Perturbations(id="a", num_clips=4, perturbations=(made,))])
    tell_responses(context)
    (row,) = store.read("responses", Responses)
    captions = store.read("captions", Captions)[0].captions
    assert row.chosen == language.fuse(captions)
    assert [answer.text for answer in row.rejected] == [language.fuse(captions[::-1])]
