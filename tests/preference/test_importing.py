"""Pairs made elsewhere become the run's: those exported come back, those that teach nothing are set aside."""

from __future__ import annotations

import json

import pytest
from pairs_material import make_run, make_videos
from rich.console import Console
from tiny_film import film

from tempo.config import parse_config
from tempo.core.records import Pair, Skipped
from tempo.core.store import SKIPPED, RunStore
from tempo.engine.types import Context
from tempo.pipeline import stages as pipeline
from tempo.preference.export import WRITERS, export_pairs
from tempo.preference.importing import import_pairs
from tempo.video.find import video_id
from tempo.video.frames import FrameStore


@pytest.fixture
def library(tmp_path):
    """A run that has videos and frames and no pairs: its directory, and the ids and paths of its videos."""
    directory = tmp_path / "run"
    return directory, *make_videos(RunStore(directory), tmp_path / "films")


def imported(directory, path, **pairs):
    config = parse_config({"videos": {"paths": ["films"]}, "pairs": {"import_from": str(path), **pairs}})
    return import_pairs(Context(config, directory))


def row(video, chosen="First a dog, then a cat.", rejected="First a cat, then a dog.", **more):
    return {"prompt": "What?", "chosen": chosen, "rejected": rejected, "videos": [str(video)], **more}


def write(path, *rows):
    path.write_text("".join(json.dumps(line) + "\n" for line in rows))
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_exported_comes_back_the_same(tmp_path, name):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    pairs = make_run(tmp_path / "run")
    export_pairs(tmp_path / "run", name, tmp_path / "out")
    file = tmp_path / "out" / ("pairs.parquet" if name == "parquet" else "pairs.jsonl")
    made = imported(tmp_path / "run", file)
    assert (made.pairs, made.held_out, made.drops) == (pairs, [], [])


def test_pairs_of_another_run_follow_the_content_of_their_videos(tmp_path):
    """The other run has the same files in another place: ids stay, paths are its own."""
    pairs = make_run(tmp_path / "run")
    export_pairs(tmp_path / "run", "ms-swift", tmp_path / "out")
    make_videos(RunStore(tmp_path / "there" / "run"), tmp_path / "there" / "films")
    made = imported(tmp_path / "there" / "run", tmp_path / "out" / "pairs.jsonl").pairs
    assert [pair.id for pair in made] == [pair.id for pair in pairs]
    assert {str(tmp_path / "there" / "films") in pair.video for pair in made} == {True}


def test_the_pairs_file_of_a_run_is_a_format_too(tmp_path):
    pairs = make_run(tmp_path / "run")
    assert imported(tmp_path / "run", tmp_path / "run" / "pairs.jsonl").pairs == pairs


def test_a_json_array_is_read_like_lines(library, tmp_path):
    directory, _, (path, _) = library
    rows = [row(path), row(path, chosen="Something else entirely.")]
    (tmp_path / "theirs.json").write_text(json.dumps(rows, indent=1))
    lines = write(tmp_path / "theirs.jsonl", *rows)
    assert imported(directory, tmp_path / "theirs.json").pairs == imported(directory, lines).pairs
    assert len(imported(directory, lines).pairs) == 2


def test_ids_of_pairs_made_elsewhere_depend_on_their_words_alone(library, tmp_path):
    directory, (first, second), (one, two) = library
    rows = [row(one), row(two), row(one, chosen="Another account.")]
    forth = imported(directory, write(tmp_path / "forth.jsonl", *rows)).pairs
    back = imported(directory, write(tmp_path / "back.jsonl", *reversed(rows))).pairs
    assert forth == back
    assert len({pair.id for pair in forth}) == 3
    assert {(pair.video_id, pair.video) for pair in forth} == {(first, str(one)), (second, str(two))}
    assert {(pair.kind, pair.level, pair.order) for pair in forth} == {("other", 0, ())}


def test_a_video_is_found_by_a_path_beside_the_file_by_a_link_and_by_its_content(library, tmp_path):
    directory, (first, _), (one, _) = library
    (tmp_path / "link.mp4").symlink_to(one)
    (tmp_path / "copy.mp4").write_bytes(one.read_bytes())
    for number, video in enumerate((f"films/{one.name}", "link.mp4", "copy.mp4")):
        (pair,) = imported(directory, write(tmp_path / f"{number}.jsonl", row(video))).pairs
        assert (pair.video_id, pair.video) == (first, str(one))


def test_rows_that_cannot_be_trained_on_are_set_aside_with_their_reason(library, tmp_path):
    directory, (_, second), (one, two) = library
    FrameStore(directory / "frames").path(second).unlink()
    broken = tmp_path / "films" / "broken.mp4"
    broken.write_bytes(b"no video")
    RunStore(directory).append(
        SKIPPED, [Skipped(id=str(broken), stage="videos", reason="cannot be decoded", detail="")]
    )
    good = row(one)
    same, empty = row(one, chosen="A.", rejected="A."), row(one, rejected=" \n")
    made = imported(directory, write(tmp_path / "a.jsonl", good, same, empty, row(two), row(broken), good))
    assert [pair.chosen for pair in made.pairs] == [good["chosen"]]
    assert [(drop.id, drop.reason) for drop in made.drops] == [
        ("a.jsonl line 2", "same text"),
        ("a.jsonl line 3", "empty text"),
        ("a.jsonl line 4", "its video was set aside"),
        ("a.jsonl line 5", "its video was set aside"),
        ("a.jsonl line 6", "duplicate"),
    ]
    assert {drop.stage for drop in made.drops} == {"pairs"}


def test_a_mirrored_pair_is_not_taken_for_one_of_the_video_as_filmed(library, tmp_path):
    directory, _, (one, _) = library
    mirrored = row(one) | {"tempo": {"kind": "reverse", "level": 2, "order": [1, 0], "frames": [2, 1, 0]}}
    made = imported(directory, write(tmp_path / "a.jsonl", mirrored))
    assert made.pairs == []
    assert [drop.reason for drop in made.drops] == ["about a perturbed video"]


def test_the_filter_of_lengths_is_the_makers_and_selection_is_the_runs(library, tmp_path):
    directory, _, (path, _) = library
    rows = [row(path, rejected=f"{'many words ' * 40}{number}") for number in range(5)]
    file = write(tmp_path / "a.jsonl", *rows)
    assert len(imported(directory, file).pairs) == 5
    made = imported(directory, file, max_per_video=2)
    assert (len(made.pairs), len(made.drops)) == (2, 3)


def refusal(directory, path):
    with pytest.raises(ValueError, match=r"pairs\.import_from") as caught:
        imported(directory, path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "What?"', "line 2 is no JSON"),
        ("", "line 2 is no JSON"),
        ("3", "line 2: not a row"),
        ('{"prompt": "q", "chosen": "a"}', "line 2: rejected is missing"),
        (json.dumps(row("films/no such.mp4")), "line 2: asks about films/no such.mp4, which is not among"),
        (json.dumps(row("films")), "line 2: asks about films, which is not among"),
        ('{"prompt": "q", "chosen": "a", "rejected": "b"}', "line 2: asks about no video"),
        (
            '{"prompt": "q", "chosen": "a", "rejected": "b", "tempo": {"video_id": "77"}}',
            "line 2: asks about 77; the run has 2 videos",
        ),
    ],
)
def test_a_line_that_is_no_pair_is_named(library, tmp_path, line, words):
    directory, _, (path, _) = library
    file = tmp_path / "a.jsonl"
    file.write_text(f"{json.dumps(row(path))}\n{line}\n{json.dumps(row(path))}\n")
    assert words in refusal(directory, file)
    assert str(file) in refusal(directory, file)


def test_one_id_for_different_words_is_refused(library, tmp_path):
    directory, _, (path, _) = library
    names = {"tempo": {"id": "mine"}}
    file = write(tmp_path / "a.jsonl", row(path, **names), row(path, chosen="Other.", **names))
    assert "line 2: a pair with the id 'mine'" in refusal(directory, file)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_file_that_cannot_be_read_is_named(library, tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"\xff\xfe no text")
    assert f"{name} cannot be read" in refusal(library[0], tmp_path / name)
    assert "cannot be read" in refusal(library[0], tmp_path)


@pytest.fixture
def films(tmp_path):
    """A folder of two films without any change: no video of theirs would pass the stage `clips`."""
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "a.mp4", 60)
    film(folder / "b.mp4", 150)
    return folder


def test_a_run_goes_from_videos_to_imported_pairs_without_a_model(films, tmp_path):
    file = write(tmp_path / "theirs.jsonl", row("films/a.mp4"), row("films/b.mp4"))
    config = parse_config(
        {
            "run": {"num_workers": 1},
            "model": {"path": "no/such-model"},
            "videos": {"paths": [str(films)]},
            "pairs": {"import_from": str(file)},
        }
    )
    context = Context(config, tmp_path / "run")
    pipeline.run_stages(context, Console(quiet=True), until="pairs")
    store = RunStore(tmp_path / "run")
    pairs = store.read("pairs", Pair)
    assert {pair.video_id for pair in pairs} == {video_id(films / name) for name in ("a.mp4", "b.mp4")}
    done = [name for name in pipeline.NAMES if store.is_done(name)]
    assert done == ["videos", "shots", "pairs"]
    with pytest.raises(ValueError, match=r"stage 'captions' would do nothing: .*import_from"):
        pipeline.run_stages(context, Console(quiet=True), only="captions")


def test_imported_pairs_are_made_again_when_the_file_is_another(films, tmp_path):
    def run(name, **options):
        data = {"run": {"num_workers": 1}, "videos": {"paths": [str(films)]}}
        context = Context(parse_config({**data, "pairs": {"import_from": str(name)}}), tmp_path / "run")
        pipeline.run_stages(context, Console(quiet=True), until="pairs", **options)
        return RunStore(tmp_path / "run").read("pairs", Pair)

    one = write(tmp_path / "one.jsonl", row("films/a.mp4"))
    two = write(tmp_path / "two.jsonl", row("films/b.mp4"))
    (first,) = run(one)
    with pytest.raises(ValueError, match=r"pairs\.import_from"):
        run(two)
    (second,) = run(two, redo=True)
    assert first.video_id != second.video_id


def config_refusal(**sections):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_config({"videos": {"paths": ["films"]}, **sections})
    return str(caught.value)


def test_options_of_what_is_not_made_are_refused():
    pairs = {"import_from": "theirs.jsonl"}
    for section, value in (
        ("clips", {"min_clips": 5}),
        ("captions", {"retries": 1}),
        ("perturbations", {"levels": [4]}),
        ("responses", {"max_new_tokens": 9}),
    ):
        assert f"[{section}] would do nothing" in config_refusal(pairs=pairs, **{section: value})
    for option in ({"max_length_ratio": 2.0}, {"min_difference": 0.1}, {"length": "any"}):
        assert f"pairs: {next(iter(option))} would do nothing" in config_refusal(pairs={**pairs, **option})


def test_phases_may_ask_for_levels_that_only_the_file_knows():
    phase = {"name": "dpo", "objective": "dpo", "learning_rate": 1e-5, "levels": [3]}
    data = {"videos": {"paths": ["films"]}, "training": {"phases": [phase]}}
    assert "perturbations.levels" in config_refusal(**data)
    config = parse_config({**data, "pairs": {"import_from": "theirs.jsonl"}})
    # What a run writes down is a configuration again.
    assert parse_config(config.model_dump(mode="json", exclude_none=True)) == config


def test_a_path_that_leads_nowhere_is_noticed_before_any_work(films, tmp_path):
    data = {"videos": {"paths": [str(films)]}, "pairs": {"import_from": str(tmp_path / "none.jsonl")}}
    with pytest.raises(ValueError, match=r"pairs\.import_from: .*none.jsonl does not exist"):
        pipeline.run_stages(Context(parse_config(data), tmp_path / "run"), Console(quiet=True))
    assert not (tmp_path / "run").exists()
