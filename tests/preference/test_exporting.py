"""Each export is what its library loads: read by `datasets` and TRL, else checked by the documented schema.

Schemas as documented: ms-swift 4.6 "Custom dataset", LLaMA-Factory 0.9.5 `data/README.md`, TRL 1.16 "Dataset
formats".
"""

from __future__ import annotations

import importlib
import json
import os

import datasets
import numpy as np
import pytest
import yaml
from pairs_material import NUM_FRAMES, make_run, pair_of
from PIL import Image

from tempo.core.files import write_lines
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.model.loading import embedded_path, repair_torchvision
from tempo.preference.exporting import FORMATS, LLAMA_FACTORY_NAME, PARQUET_FILE, export_pairs
from tempo.preference.importing import load_pairs
from tempo.preference.pairs import mirror
from tempo.video.frames import FrameStore


def library(name):
    """An optional library; skips if it is absent or does not import."""
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
    return lambda *names, **options: datasets.load_dataset(
        *map(str, names), split="train", cache_dir=str(tmp_path / "cache"), **options
    )


def rows(path):
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def message(role, content):
    return {"role": role, "content": content}


def test_rows_with_video_files_have_the_documented_schema(run, tmp_path):
    directory, pairs = run
    for name in ("ms-swift", "llama-factory"):
        export_pairs(directory, name, tmp_path / name)
    for row, pair in zip(rows(tmp_path / "ms-swift" / "pairs.jsonl"), pairs, strict=True):
        assert set(row) == {"messages", "rejected_response", "videos", "tempo"}
        question, answer = row["messages"]
        assert question == message("user", f"<video>{pair.prompt}")
        assert answer == message("assistant", pair.chosen)
        assert (row["rejected_response"], row["videos"]) == (pair.rejected, [pair.video])
        assert os.path.isabs(pair.video)
    info = json.loads((tmp_path / "llama-factory" / "dataset_info.json").read_text())[LLAMA_FACTORY_NAME]
    assert (info["formatting"], info["ranking"]) == ("sharegpt", True)
    for row, pair in zip(rows(tmp_path / "llama-factory" / info["file_name"]), pairs, strict=True):
        assert row[info["columns"]["messages"]] == [{"from": "human", "value": f"<video>{pair.prompt}"}]
        assert row[info["columns"]["chosen"]] == {"from": "gpt", "value": pair.chosen}
        assert row[info["columns"]["rejected"]] == {"from": "gpt", "value": pair.rejected}
        assert row[info["columns"]["videos"]] == [pair.video]


def test_trl_rows_have_the_documented_schema_and_frames_once_per_video(run, tmp_path):
    directory, pairs = run
    export_pairs(directory, "trl", tmp_path / "out")
    for row, pair in zip(rows(tmp_path / "out" / "pairs.jsonl"), pairs, strict=True):
        assert row["prompt"] == [message("user", pair.prompt)]
        assert row["chosen"] == [message("assistant", pair.chosen)]
        assert row["rejected"] == [message("assistant", pair.rejected)]
        stored = FrameStore(directory / "frames").read(pair.video_id).images
        shown = np.stack([np.asarray(Image.open(path)) for path in row["images"]])
        # JPEG decoders may differ by one level.
        assert np.abs(shown.astype(int) - stored).max() <= 1
    num_videos = len({pair.video_id for pair in pairs})
    assert len(list((tmp_path / "out" / "frames").rglob("*.jpg"))) == NUM_FRAMES * num_videos < len(pairs) * 3


@pytest.mark.parametrize("mirrored", [False, True])
def test_datasets_opens_the_trl_folder_with_images(run, tmp_path, load, mirrored):
    directory, pairs = run
    if mirrored:
        pairs = [*pairs, *(mirror(pair, np.arange(NUM_FRAMES)) for pair in pairs)]
        write_lines(directory / "pairs.jsonl", (pair.model_dump_json() for pair in pairs))
        pairs = sorted(pairs, key=lambda pair: (-pair.level, pair.id))
    export_pairs(directory, "trl", tmp_path / "out")
    read = load(tmp_path / "out")
    assert [row["tempo"]["id"] for row in read] == [pair.id for pair in pairs]
    assert [row["tempo"].get("frames") for row in read] == [list(pair.frames) or None for pair in pairs]
    assert [len(row["images"]) for row in read] == [len(pair.frames) or NUM_FRAMES for pair in pairs]
    assert all(image.size == (96, 64) for row in read for image in row["images"])


def test_trl_itself_collates_every_row_with_all_its_frames(run, tmp_path, load):
    trl = library("trl.trainer.dpo_trainer")
    from transformers import AutoProcessor

    directory, pairs = run
    export_pairs(directory, "trl", tmp_path / "out")
    processor = AutoProcessor.from_pretrained(embedded_path())
    batch = trl.DataCollatorForVisionPreference(processor)(list(load(tmp_path / "out")))
    # Chosen and rejected each have the frames.
    assert len(batch["image_grid_thw"]) == 2 * NUM_FRAMES * len(pairs)
    ids, answers = batch["input_ids"], batch["completion_mask"].bool()
    assert len(ids) == 2 * len(pairs)
    for number, pair in enumerate(pairs):
        for row, text in ((number, pair.chosen), (number + len(pairs), pair.rejected)):
            wanted = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids[row][answers[row]].tolist()[: len(wanted)] == wanted


def test_parquet_and_its_card_load_as_a_data_set_without_held_out_pairs(run, tmp_path, load):
    directory, pairs = run
    RunStore(directory).append("held_out_pairs", [pairs[0].model_copy(update={"id": "held/out"})])
    export_pairs(directory, "parquet", tmp_path / "out")
    for read in (load(tmp_path / "out"), load("parquet", data_files=str(tmp_path / "out" / PARQUET_FILE))):
        assert [Pair.model_validate(row) for row in read] == pairs


def test_the_card_counts_by_kind_and_level_and_leaves_the_licence_open(run, tmp_path):
    export_pairs(run[0], "parquet", tmp_path / "out")
    _, header, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    data = yaml.safe_load(header)
    assert "license" not in data
    assert data["configs"][0]["data_files"][0]["path"] == PARQUET_FILE
    assert "| kind | level 16 | level 8 | level 2 | all |\n| --- | --- | --- | --- | --- |\n" in body
    assert "| reverse | 1 | 0 | 1 | 2 |\n| shuffle | 0 | 1 | 0 | 1 |\n\n" in body
    assert all(
        words in body for words in ("4 pairs about 2 videos", "`some/model`", "seed 7", "add `license`")
    )


def test_the_card_does_not_claim_pairs_made_elsewhere(tmp_path):
    pairs = make_run(tmp_path / "run", pairs={"import_from": "/secret/place/theirs.jsonl"})
    for source, folder, name in ((tmp_path / "run", "out", "`theirs.jsonl`"), (pairs, "list", "")):
        export_pairs(source, "parquet", tmp_path / folder)
        card = (tmp_path / folder / "README.md").read_text()
        assert "Made elsewhere" in card
        assert name in card
        assert "some/model" not in card
        assert "/secret" not in card


def test_pairs_without_a_run_are_exported_except_as_trl(tmp_path):
    pairs = make_run(tmp_path / "run")
    for name in ("ms-swift", "llama-factory", "parquet"):
        assert export_pairs(pairs, name, tmp_path / name) == len(pairs)
        (file,) = (tmp_path / name).glob("pairs.*")
        assert sorted(load_pairs(file), key=lambda pair: pair.id) == pairs
    with pytest.raises(ValueError, match="directory of a run"):
        export_pairs(pairs, "trl", tmp_path / "trl")


@pytest.mark.parametrize("name", FORMATS)
def test_rows_go_from_easy_to_hard_and_an_export_is_the_same_twice(run, tmp_path, name):
    directory, pairs = run
    assert export_pairs(directory, name, tmp_path / "out") == len(pairs)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out").rename(tmp_path / "before")
    (tmp_path / "out").mkdir()
    export_pairs(directory, name, tmp_path / "out")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (file,) = (tmp_path / "out").glob("pairs.*")
    assert [pair.id for pair in load_pairs(file)] == [pair.id for pair in pairs]


def refusal(*arguments):
    with pytest.raises(ValueError, match=r".") as caught:
        export_pairs(*arguments)
    return str(caught.value)


def test_what_cannot_be_exported_is_refused_and_nothing_is_left_behind(run, tmp_path):
    directory, _ = run
    out = tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    assert "'csv' is unknown; the formats are trl, ms-swift" in refusal(directory, "csv", out)
    assert "nowhere has no pairs yet" in refusal(tmp_path / "nowhere", "trl", out)
    assert "exists already" in refusal(directory, "trl", tmp_path / "films")
    assert "exists already" in refusal(directory, "trl", directory / "pairs.jsonl")
    assert "cannot be written" in refusal(directory, "trl", directory / "pairs.jsonl" / "out")
    assert sorted(tmp_path.rglob("*")) == before
    with (directory / "pairs.jsonl").open("a") as file:
        file.write('{"id": "x"}\n')
    assert "pairs.jsonl line 5" in refusal(directory, "trl", out)
    (directory / "pairs.jsonl").write_text("")
    assert "has no pair to export" in refusal(directory, "trl", out)
    assert not out.exists()


def test_missing_videos_and_frames_are_named(run, tmp_path):
    directory, pairs = run
    (tmp_path / "films").rename(tmp_path / "elsewhere")
    for name in ("ms-swift", "llama-factory"):
        assert f"{pairs[0].video} is gone" in refusal(directory, name, tmp_path / "out")
    # TRL shows stored frames, so it needs no video file; it does need the frames.
    export_pairs(directory, "trl", tmp_path / "trl")
    FrameStore(directory / "frames").path(pairs[0].video_id).unlink()
    assert f"frames of video {pairs[0].video_id} are gone" in refusal(directory, "trl", tmp_path / "again")


@pytest.mark.parametrize("name", ["ms-swift", "llama-factory"])
@pytest.mark.parametrize("text", ["prompt", "chosen", "rejected"])
def test_a_media_tag_in_a_text_and_a_mirrored_pair_need_trl_or_parquet(tmp_path, name, text):
    make_run(tmp_path / "run")
    film = str(tmp_path / "films" / "a film.mp4")
    pair = pair_of("0123", video=film, **{text: "a <video> in words"})
    assert "'0123/shuffle-04': its text contains <video>" in refusal([pair], name, tmp_path / "out")
    mirrored = mirror(pair_of("0123", video=film), np.arange(NUM_FRAMES))
    assert "pairs.mirror" in refusal([mirrored], name, tmp_path / "out")
    assert export_pairs([pair, mirrored], "parquet", tmp_path / "out") == 2


def test_the_command_exports_or_refuses_in_one_line(run, tmp_path, tempo):
    directory, _ = run
    code, out, _ = tempo("export", directory, "--format", "ms-swift", "--out", tmp_path / "out")
    assert code == 0
    assert "wrote 4 pairs" in out
    code, out, error = tempo("export", tmp_path / "nowhere", "--format", "trl", "--out", tmp_path / "again")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "nowhere is not a run directory" in error
