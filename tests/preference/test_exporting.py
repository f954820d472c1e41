"""Each export is what its library loads: read by `datasets` and TRL, else checked by the documented schema.

Schemas as documented: ms-swift 4.6 "Custom dataset", LLaMA-Factory 0.9.5 `data/README.md`, TRL 1.16 "Dataset
formats".
"""

from __future__ import annotations

import json
import os
from typing import ClassVar

import datasets
import huggingface_hub
import numpy as np
import pytest
import yaml
from pairs_material import NUM_FRAMES, assistant, make_run, user
from PIL import Image
from sample_material import pair_of

from tempo.core.files import write_lines
from tempo.core.records import Pair
from tempo.core.store import RunStore
from tempo.model.loading import embedded_path, repair_torchvision
from tempo.preference.exporting import FORMATS, export_pairs
from tempo.preference.importing import load_pairs
from tempo.preference.pairs import mirror
from tempo.video.frames import FrameStore


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


def test_rows_with_video_files_have_the_documented_schema(run, tmp_path):
    directory, pairs = run
    for name in ("ms-swift", "llama-factory"):
        export_pairs(directory, name, tmp_path / name)
    info = json.loads((tmp_path / "llama-factory" / "dataset_info.json").read_text())["tempo_pairs"]
    assert (info["formatting"], info["ranking"]) == ("sharegpt", True)
    found = rows(tmp_path / "ms-swift" / "pairs.jsonl"), rows(tmp_path / "llama-factory" / info["file_name"])
    for swift, factory, pair in zip(*found, pairs, strict=True):
        asked = [("system", pair.system), ("user", f"<video>{pair.prompt}")][not pair.system :]
        assert set(swift) == {"messages", "rejected_response", "videos", "tempo"}
        assert [(turn["role"], turn["content"]) for turn in swift["messages"][:-1]] == asked
        assert swift["messages"][-1] == assistant(pair.chosen)
        assert (swift["rejected_response"], swift["videos"]) == (pair.rejected, [pair.video])
        asked = [({"user": "human"}.get(role, role), text) for role, text in asked]
        columns = {name: factory[column] for name, column in info["columns"].items()}
        assert [(turn["from"], turn["value"]) for turn in columns["messages"]] == asked
        assert columns["chosen"] == {"from": "gpt", "value": pair.chosen}
        assert columns["rejected"] == {"from": "gpt", "value": pair.rejected}
        assert columns["videos"] == [pair.video]
        assert os.path.isabs(pair.video)


def test_trl_rows_have_the_documented_schema_and_frames_once_per_video(run, tmp_path):
    directory, pairs = run
    export_pairs(directory, "trl", tmp_path / "out")
    for row, pair in zip(rows(tmp_path / "out" / "pairs.jsonl"), pairs, strict=True):
        system = [{"role": "system", "content": pair.system}] if pair.system else []
        assert row["prompt"] == [*system, user(pair.prompt)]
        assert row["chosen"] == [assistant(pair.chosen)]
        assert row["rejected"] == [assistant(pair.rejected)]
        stored = FrameStore(directory / "frames").read(pair.video_id).images
        shown = np.stack([np.asarray(Image.open(path)) for path in row["images"]])
        # JPEG decoders may differ by one level.
        assert np.abs(shown.astype(int) - stored).max() <= 1
    num_videos = len({pair.video_id for pair in pairs})
    assert len(list((tmp_path / "out" / "frames").rglob("*.jpg"))) == NUM_FRAMES * num_videos < len(pairs) * 3


def test_datasets_opens_the_trl_folder_with_images_also_of_mirrored_pairs(run, tmp_path, load):
    directory, pairs = run
    pairs = [*pairs, *(mirror(pair, np.arange(NUM_FRAMES)) for pair in pairs)]
    pairs.sort(key=lambda pair: (-pair.level, pair.id))
    write_lines(directory / "pairs.jsonl", (pair.model_dump_json() for pair in pairs))
    export_pairs(directory, "trl", tmp_path / "out")
    read = load(tmp_path / "out")
    assert [row["tempo"]["id"] for row in read] == [pair.id for pair in pairs]
    assert [row["tempo"].get("frames") for row in read] == [list(pair.frames) or None for pair in pairs]
    assert [len(row["images"]) for row in read] == [len(pair.frames) or NUM_FRAMES for pair in pairs]
    assert all(image.size == (96, 64) for row in read for image in row["images"])


def test_trl_itself_collates_every_row_with_all_its_frames(run, tmp_path, load):
    repair_torchvision()
    trl = pytest.importorskip("trl.trainer.dpo_trainer", exc_type=(ImportError, RuntimeError))
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
    for read in (load(tmp_path / "out"), load("parquet", data_files=str(tmp_path / "out" / "pairs.parquet"))):
        assert [Pair.model_validate(row) for row in read] == pairs


def test_the_card_counts_pairs_and_claims_only_those_of_the_run(run, tmp_path):
    pairs = make_run(tmp_path / "other", pairs={"import_from": "/secret/place/theirs.jsonl"})
    cards = []
    for number, source in enumerate((run[0], tmp_path / "other", pairs)):
        export_pairs(source, "parquet", tmp_path / str(number))
        cards.append((tmp_path / str(number) / "README.md").read_text())
    _, header, body = cards[0].split("---\n", 2)
    assert "license" not in yaml.safe_load(header)
    assert "| kind | level 16 | level 8 | level 2 | all |\n| --- | --- | --- | --- | --- |\n" in body
    assert "| reverse | 1 | 0 | 1 | 2 |\n| shuffle | 0 | 1 | 0 | 1 |\n\n" in body
    assert all(words in body for words in ("4 pairs about 2 videos", "`some/model`", "seed 7"))
    assert "`theirs.jsonl`" in cards[1]
    for card in cards[1:]:
        assert "Made elsewhere" in card
        assert "some/model" not in card
        assert "/secret" not in card


@pytest.mark.parametrize("name", FORMATS)
def test_rows_go_from_easy_to_hard_and_an_export_is_the_same_twice(run, tmp_path, name):
    directory, pairs = run
    contents = []
    for number in range(2):
        # An empty folder is fine.
        (tmp_path / "out").mkdir()
        assert export_pairs(directory, name, tmp_path / "out") == len(pairs)
        files = [path for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()]
        contents.append([(path.relative_to(tmp_path), path.read_bytes()) for path in files])
        (tmp_path / "out").rename(tmp_path / f"moved {number}")
    assert contents[0] == contents[1]
    (file,) = (tmp_path / "moved 0").glob("pairs.*")
    assert [pair.id for pair in load_pairs(file)] == [pair.id for pair in pairs]
    if name == "trl":
        assert "directory of a run" in refusal(pairs, name, tmp_path / "list")
    else:
        export_pairs(pairs, name, tmp_path / "list")
        assert load_pairs(tmp_path / "list" / file.name) == pairs


def refusal(*arguments):
    with pytest.raises(ValueError, match=r".") as caught:
        export_pairs(*arguments)
    return str(caught.value)


def test_what_cannot_be_exported_is_refused_and_nothing_is_left_behind(run, tmp_path):
    directory, _ = run
    out = tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    assert "'csv' is unknown. The formats are trl, ms-swift" in refusal(directory, "csv", out)
    assert "nowhere has no pairs to export" in refusal(tmp_path / "nowhere", "trl", out)
    assert "already exists" in refusal(directory, "trl", tmp_path / "films")
    assert "already exists" in refusal(directory, "trl", directory / "pairs.jsonl")
    assert "cannot be written" in refusal(directory, "trl", directory / "pairs.jsonl" / "out")
    assert sorted(tmp_path.rglob("*")) == before
    with (directory / "pairs.jsonl").open("a") as file:
        file.write('{"id": "x"}\n')
    assert "pairs.jsonl line 5" in refusal(directory, "trl", out)
    assert not out.exists()


def test_missing_videos_and_frames_are_named(run, tmp_path):
    directory, pairs = run
    (tmp_path / "films").rename(tmp_path / "elsewhere")
    for name in ("ms-swift", "llama-factory"):
        assert f"{pairs[0].video}, which is missing" in refusal(directory, name, tmp_path / "out")
    # TRL shows stored frames, so it needs no video file; it does need the frames.
    export_pairs(directory, "trl", tmp_path / "trl")
    FrameStore(directory / "frames").path(pairs[0].video_id).unlink()
    assert f"frames of video {pairs[0].video_id} are missing" in refusal(directory, "trl", tmp_path / "again")


def test_media_tags_in_texts_mirrored_pairs_and_segments_need_trl_or_parquet(tmp_path):
    make_run(tmp_path / "run")
    film, out = str(tmp_path / "films" / "a film.mp4"), tmp_path / "out"
    tagged = [pair_of("0", video=film, **{name: "a <video>"}) for name in ("system", "chosen", "rejected")]
    mirrored = mirror(pair_of("0", video=film), np.arange(NUM_FRAMES))
    part = pair_of("1", video=film).model_copy(update={"span": (1.0, 2.5)})
    for name in ("ms-swift", "llama-factory"):
        assert "a segment of its video" in refusal([part], name, out)
        assert all("'0/shuffle-04' contains <video>" in refusal([row], name, out) for row in tagged)
        assert "pairs.mirror" in refusal([mirrored], name, out)
    assert export_pairs([*tagged, mirrored, part], "parquet", out) == 5
    assert load_pairs(out / "pairs.parquet")[-1].span == part.span


class Hub:
    """Stands for `huggingface_hub.HfApi`; keeps what is uploaded."""

    calls: ClassVar[list[tuple[str, object]]] = []

    def __init__(self, *, token):
        pass

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        self.calls.append((repo_id, (repo_type, private, exist_ok)))

    def upload_folder(self, *, repo_id, folder_path, repo_type):
        self.calls.append((repo_id, {path.name: path.read_bytes() for path in folder_path.iterdir()}))


def test_pairs_are_pushed_to_a_private_data_set_without_folders(run, tmp_path, load, monkeypatch, tempo):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    out = tmp_path / "out"
    code, printed, _ = tempo("export", run[0], "--format", "parquet", "--out", out, "--push-to", "me/pairs")
    assert (code, "uploaded the pairs to the data set me/pairs" in printed) == (0, True)
    files = {name: (out / name).read_bytes() for name in ("README.md", "pairs.parquet")}
    assert Hub.calls == [("me/pairs", ("dataset", True, True)), ("me/pairs", files)]
    assert {row["video"] for row in load(out)} == {os.path.basename(pair.video) for pair in run[1]}


@pytest.mark.parametrize(
    ("form", "name", "words"),
    [
        ("parquet", "me/pairs", "Token is required"),
        ("parquet", "two words", "Repo id must use alphanumeric"),
        ("trl", "me/pairs", "--push-to needs --format parquet"),
    ],
)
def test_a_push_that_fails_leaves_the_export_if_there_is_one(run, tmp_path, monkeypatch, form, name, words):
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    with pytest.raises(ValueError, match=words):
        export_pairs(run[0], form, tmp_path / "out", push_to=name)
    assert (tmp_path / "out").exists() == (form == "parquet")


def test_an_export_that_fails_makes_no_data_set(run, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    with pytest.raises(ValueError, match="cannot be written"):
        export_pairs(run[0], "parquet", run[0] / "config.toml" / "out", push_to="me/pairs")
