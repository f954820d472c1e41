"""Each export is what its library loads: read back by that library where it is installed, else by its schema.

Schemas as documented: ms-swift 4.6 "Custom dataset", LLaMA-Factory 0.9.5 `data/README.md`, TRL 1.16 "Dataset
formats".
"""

from __future__ import annotations

import importlib
import json
import os

import numpy as np
import pytest
import yaml
from pairs_material import NUM_FRAMES, make_run
from PIL import Image

from tempo.core.records import Pair, Video
from tempo.core.store import RunStore, write_lines
from tempo.preference.export import LLAMA_FACTORY_NAME, PARQUET_FILE, WRITERS, export_pairs
from tempo.preference.formats import origin_of
from tempo.preference.pairs import mirror
from tempo.video.frames import FrameStore


def library(name):
    """A library that no test needs; skips where it is absent or does not import."""
    from tempo.model.loading import repair_torchvision

    repair_torchvision()
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name}: {error}")


@pytest.fixture
def run(tmp_path):
    """A run's directory and its pairs from easy to hard, as they are exported."""
    pairs = make_run(tmp_path / "run")
    return tmp_path / "run", sorted(pairs, key=lambda pair: (-pair.level, pair.id))


@pytest.fixture
def load(tmp_path):
    """`datasets.load_dataset`, with a cache of its own."""
    datasets = library("datasets")
    return lambda *names, **options: datasets.load_dataset(
        *map(str, names), split="train", cache_dir=str(tmp_path / "cache"), **options
    )


def rows(path):
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_ms_swift_rows_have_the_documented_schema(run, tmp_path):
    directory, pairs = run
    export_pairs(directory, "ms-swift", tmp_path / "out")
    for row, pair in zip(rows(tmp_path / "out" / "pairs.jsonl"), pairs, strict=True):
        assert set(row) == {"messages", "rejected_response", "videos", "tempo"}
        assert row["messages"] == [
            {"role": "user", "content": f"<video>{pair.prompt}"},
            {"role": "assistant", "content": pair.chosen},
        ]
        assert row["rejected_response"] == pair.rejected
        assert row["videos"] == [pair.video]
        assert os.path.isabs(row["videos"][0])


@pytest.mark.parametrize("format_name", ["ms-swift", "llama-factory"])
def test_a_copy_stands_in_for_a_video_that_went(run, tmp_path, format_name):
    directory, pairs = run
    store = RunStore(directory)
    videos = []
    for video in store.read("videos", Video):
        copy = tmp_path / "copies" / os.path.basename(video.path)
        copy.parent.mkdir(exist_ok=True)
        os.replace(video.path, copy)
        videos.append(video.model_copy(update={"copies": ("gone too", str(copy))}))
    write_lines(store.path("videos"), [video.model_dump_json() for video in videos])
    export_pairs(directory, format_name, tmp_path / "out")
    found = [row["videos"] for row in rows(tmp_path / "out" / "pairs.jsonl")]
    assert found == [[str(tmp_path / "copies" / os.path.basename(pair.video))] for pair in pairs]


def test_ms_swift_itself_reads_every_row(run, tmp_path, load, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    core = library("swift.dataset.preprocessor.core")
    directory, pairs = run
    export_pairs(directory, "ms-swift", tmp_path / "out")
    read = core.AutoPreprocessor()(
        load("json", data_files=str(tmp_path / "out" / "pairs.jsonl")), strict=True
    )
    assert [row["rejected_response"] for row in read] == [pair.rejected for pair in pairs]
    assert [row["videos"] for row in read] == [[pair.video] for pair in pairs]
    assert [row["messages"][-1]["content"] for row in read] == [pair.chosen for pair in pairs]
    # Its loader does this last; `tempo` is no column that it knows.
    known = core.RowPreprocessor.remove_useless_columns(read)
    assert set(known.column_names) == {"messages", "rejected_response", "videos"}


def test_llama_factory_rows_and_description_have_the_documented_schema(run, tmp_path):
    directory, pairs = run
    export_pairs(directory, "llama-factory", tmp_path / "out")
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())[LLAMA_FACTORY_NAME]
    assert (info["formatting"], info["ranking"]) == ("sharegpt", True)
    assert (tmp_path / "out" / info["file_name"]).is_file()
    for row, pair in zip(rows(tmp_path / "out" / info["file_name"]), pairs, strict=True):
        assert row[info["columns"]["messages"]] == [{"from": "human", "value": f"<video>{pair.prompt}"}]
        assert row[info["columns"]["chosen"]] == {"from": "gpt", "value": pair.chosen}
        assert row[info["columns"]["rejected"]] == {"from": "gpt", "value": pair.rejected}
        assert row[info["columns"]["videos"]] == [pair.video]


def test_llama_factory_itself_reads_every_row(run, tmp_path, load):
    parser, converter = library("llamafactory.data.parser"), library("llamafactory.data.converter")
    directory, pairs = run
    export_pairs(directory, "llama-factory", tmp_path / "out")
    (attributes,) = parser.get_dataset_list([LLAMA_FACTORY_NAME], str(tmp_path / "out"))
    arguments = type("Arguments", (), {"media_dir": str(tmp_path)})()
    convert = converter.get_dataset_converter(attributes.formatting, attributes, arguments)
    read = map(convert, load("json", data_files=str(tmp_path / "out" / attributes.dataset_name)))
    for row, pair in zip(read, pairs, strict=True):
        assert row["_prompt"] == [{"role": "user", "content": f"<video>{pair.prompt}"}]
        assert [answer["content"] for answer in row["_response"]] == [pair.chosen, pair.rejected]
        assert row["_videos"] == [pair.video]


def test_trl_rows_have_the_documented_schema(run, tmp_path):
    directory, pairs = run
    export_pairs(directory, "trl", tmp_path / "out")
    for row, pair in zip(rows(tmp_path / "out" / "pairs.jsonl"), pairs, strict=True):
        assert row["prompt"] == [{"role": "user", "content": pair.prompt}]
        assert row["chosen"] == [{"role": "assistant", "content": pair.chosen}]
        assert row["rejected"] == [{"role": "assistant", "content": pair.rejected}]
        stored = FrameStore(directory / "frames").read(pair.video_id).frames
        shown = np.stack([np.asarray(Image.open(path)) for path in row["images"]])
        # Another JPEG decoder may round otherwise by a level.
        assert np.abs(shown.astype(int) - stored).max() <= 1


def test_trl_frames_are_written_once_per_video(run, tmp_path):
    directory, pairs = run
    export_pairs(directory, "trl", tmp_path / "out")
    videos = {pair.video_id for pair in pairs}
    assert len(pairs) > len(videos)
    assert len(list((tmp_path / "out" / "frames").rglob("*.jpg"))) == NUM_FRAMES * len(videos)


def add_mirrors(directory, pairs):
    """Gives every pair of a run its mirror image; returns all, as they are exported."""
    both = [*pairs, *(mirror(pair, np.arange(NUM_FRAMES)) for pair in pairs)]
    write_lines(directory / "pairs.jsonl", (pair.model_dump_json() for pair in both))
    return sorted(both, key=lambda pair: (-pair.level, pair.id))


def origin_read(pair, *, has_frames):
    """The column `tempo` as `datasets` gives it: lists, and every key that some row has."""
    frames = {"frames": list(pair.frames) or None} if has_frames else {}
    return {**origin_of(pair), "order": list(pair.order), **frames}


@pytest.mark.parametrize("mirrored", [False, True])
def test_datasets_opens_the_trl_folder_with_pictures(run, tmp_path, load, mirrored):
    directory, pairs = run
    pairs = add_mirrors(directory, pairs) if mirrored else pairs
    export_pairs(directory, "trl", tmp_path / "out")
    read = load(tmp_path / "out")
    assert [row["tempo"] for row in read] == [origin_read(pair, has_frames=mirrored) for pair in pairs]
    assert [len(row["images"]) for row in read] == [len(pair.frames) or NUM_FRAMES for pair in pairs]
    assert all(image.size == (96, 64) for row in read for image in row["images"])


def test_trl_itself_collates_every_row_with_all_its_frames(run, tmp_path, load):
    trl = library("trl.trainer.dpo_trainer")
    from transformers import AutoProcessor

    from tempo.model.paths import embedded_path

    directory, pairs = run
    export_pairs(directory, "trl", tmp_path / "out")
    processor = AutoProcessor.from_pretrained(embedded_path())
    read = list(load(tmp_path / "out"))
    batch = trl.DataCollatorForVisionPreference(processor)(read)
    # Chosen and rejected each carry the frames.
    assert len(batch["image_grid_thw"]) == 2 * NUM_FRAMES * len(pairs)
    ids, answers = batch["input_ids"], batch["completion_mask"].bool()
    assert len(ids) == 2 * len(pairs)
    for number, pair in enumerate(pairs):
        for row, text in ((number, pair.chosen), (number + len(pairs), pair.rejected)):
            wanted = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids[row][answers[row]].tolist()[: len(wanted)] == wanted


def test_parquet_and_its_card_load_as_a_data_set(run, tmp_path, load):
    library("pyarrow")
    directory, pairs = run
    export_pairs(directory, "parquet", tmp_path / "out")
    for read in (load(tmp_path / "out"), load("parquet", data_files=str(tmp_path / "out" / PARQUET_FILE))):
        assert [Pair.model_validate(row) for row in read] == pairs


def test_the_card_counts_by_kind_and_level_and_leaves_the_licence_open(run, tmp_path):
    library("pyarrow")
    directory, _ = run
    export_pairs(directory, "parquet", tmp_path / "out")
    _, header, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    data = yaml.safe_load(header)
    assert "license" not in data
    assert "# license:" in header
    assert data["size_categories"] == ["n<1K"]
    assert data["configs"][0]["data_files"][0]["path"] == PARQUET_FILE
    assert "4 pairs about 2 videos" in body
    assert "| kind | level 16 | level 8 | level 2 | all |" in body
    assert "| reverse | 1 | 0 | 1 | 2 |" in body
    assert "| shuffle | 0 | 1 | 0 | 1 |" in body
    assert "`some/model`" in body
    assert "seed 7" in body


def test_the_card_of_imported_pairs_does_not_claim_them(tmp_path):
    library("pyarrow")
    make_run(tmp_path / "run", pairs={"import_from": "/secret/place/theirs.jsonl"})
    export_pairs(tmp_path / "run", "parquet", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Made elsewhere" in card
    assert "`theirs.jsonl`" in card
    assert "some/model" not in card
    assert "/secret" not in card


@pytest.mark.parametrize("name", WRITERS)
def test_rows_go_from_easy_to_hard_and_an_export_is_the_same_twice(run, tmp_path, name):
    if name == "parquet":
        library("pyarrow")
    directory, pairs = run
    assert export_pairs(directory, name, tmp_path / "out") == len(pairs)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out").rename(tmp_path / "before")
    (tmp_path / "out").mkdir()
    export_pairs(directory, name, tmp_path / "out")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    if name != "parquet":
        found = [row["tempo"]["id"] for row in rows(tmp_path / "out" / "pairs.jsonl")]
        assert found == [pair.id for pair in pairs]


def test_held_out_pairs_stay_at_home(run, tmp_path):
    directory, pairs = run
    held_out = pairs[0].model_copy(update={"id": "held/out", "chosen": "a secret"})
    RunStore(directory).append("held_out_pairs", [held_out])
    export_pairs(directory, "ms-swift", tmp_path / "out")
    assert "a secret" not in (tmp_path / "out" / "pairs.jsonl").read_text()


def refusal(*arguments):
    with pytest.raises(ValueError, match=r".") as caught:
        export_pairs(*arguments)
    return str(caught.value)


def test_what_cannot_be_exported_is_said_and_nothing_is_left_behind(run, tmp_path):
    directory, _ = run
    out = tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    assert "'csv' is not known; the formats are trl, ms-swift" in refusal(directory, "csv", out)
    assert "nowhere has no pairs yet" in refusal(tmp_path / "nowhere", "trl", out)
    assert "exists already" in refusal(directory, "trl", tmp_path / "films")
    assert "exists already" in refusal(directory, "trl", directory / "pairs.jsonl")
    assert "cannot be written" in refusal(directory, "trl", directory / "pairs.jsonl" / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_without_pairs_says_so(run, tmp_path):
    directory, _ = run
    (directory / "pairs.jsonl").write_text("")
    assert "has no pair to export" in refusal(directory, "trl", tmp_path / "out")
    RunStore(directory).forget("pairs")
    assert "stage 'pairs' is not done" in refusal(directory, "trl", tmp_path / "out")


def test_a_damaged_row_is_named_by_its_line(run, tmp_path):
    directory, _ = run
    with (directory / "pairs.jsonl").open("a") as file:
        file.write('{"id": "x"}\n')
    assert "pairs.jsonl line 5 is not a valid pair" in refusal(directory, "trl", tmp_path / "out")


def test_missing_videos_and_frames_are_named(run, tmp_path):
    directory, pairs = run
    films = tmp_path / "films"
    films.rename(tmp_path / "elsewhere")
    for name in ("ms-swift", "llama-factory"):
        assert f"{pairs[0].video} is gone" in refusal(directory, name, tmp_path / "out")
    # TRL shows stored frames, so it needs no video file; it does need the frames.
    export_pairs(directory, "trl", tmp_path / "out")
    FrameStore(directory / "frames").path(pairs[0].video_id).unlink()
    assert f"frames of video {pairs[0].video_id} are gone" in refusal(directory, "trl", tmp_path / "again")
    (directory / "videos.jsonl").write_text("")
    assert "not among the videos" in refusal(directory, "trl", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_command_says_how_many_pairs_it_wrote(run, tmp_path, tempo):
    directory, _ = run
    code, said, _ = tempo("export", directory, "--format", "ms-swift", "--out", tmp_path / "out")
    assert code == 0
    assert "wrote 4 pairs" in said
    assert len(rows(tmp_path / "out" / "pairs.jsonl")) == 4


def test_the_command_refuses_in_one_line(run, tmp_path, tempo):
    directory, _ = run
    for place, name, words in (
        (tmp_path / "nowhere", "trl", "nowhere does not exist"),
        (tmp_path / "films", "trl", "is no run of tempo"),
        (directory, "csv", "the formats are"),
    ):
        code, said, complaint = tempo("export", place, "--format", name, "--out", tmp_path / "out")
        assert (code, said) == (2, "")
        assert words in complaint
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1
