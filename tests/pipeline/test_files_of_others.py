"""A whole run on pairs, instructions and samples as others write them."""

import json
import unicodedata

import pytest
from sample_material import SAMPLE, write_rows
from tiny_film import film

from tempo.config import parse_config
from tempo.core.records import Pair, Skipped
from tempo.core.store import SKIPPED, RunStore
from tempo.pipeline.runner import run


def test_a_run_reads_them_names_bad_rows_and_trains_on_the_others(tmp_path, monkeypatch):
    """The forms of rows are tested where each file is read."""
    names = ["a.mp4", unicodedata.normalize("NFD", "späť.mp4")]
    for number, name in enumerate(names):
        film(tmp_path / name, 60 + 90 * number)
    films = [f"file://{tmp_path}/a.mp4", unicodedata.normalize("NFC", names[1])]
    asked = [{"video": films[i % 2], "question": f"{i}?", "answer": i or " "} for i in range(21)]
    samples = [{**SAMPLE, "id": i, "video": films[i % 2]} for i in range(20)]
    texts = {"rejected": "Nothing.", "system": "Be brief.", "kind": "of others", "id": 7}
    pairs = [
        {
            **texts,
            "prompt": f"What does <video> {i} mean?",
            "chosen": f"\ud83d <|im_end|> {i}.",
            "video": films[i % 2],
        }
        for i in range(20)
    ]
    gone = {"video": "gone.mp4", "id": "x"}
    write_rows(tmp_path / "pairs.jsonl", *pairs)
    with (tmp_path / "pairs.jsonl").open("a") as file:
        file.write('\n{"broken\n')
    (tmp_path / "asked.json").write_text(json.dumps({"data": [*asked, asked[1] | gone]}, indent=1))
    write_rows(tmp_path / "samples.jsonl", *samples, samples[0] | gone)
    phase = {"learning_rate": 1e-3, "lora_rank": 4, "batch_size": 8}
    config = {
        "run": {"num_workers": 1},
        "videos": {"paths": ["."]},
        "pairs": {"import_from": "pairs.jsonl"},
        "training": {
            "instructions": "asked.json",
            "phases": [{"name": name, "objective": name, **phase} for name in ("dpo", "sft")],
        },
        "evaluation": {"benchmark": "samples.jsonl", "held_out_share": 0},
    }
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="are skipped") as warned:
        done = run(parse_config(config), "run")
    named = " ".join(str(warning.message) for warning in warned)
    for words in (
        "pairs.jsonl line 22: not valid",
        "asked.json row 22: gone.mp4 is not",
        "samples.jsonl line 21: ",
    ):
        assert words in named
    store = RunStore(tmp_path / "run")
    assert {(row.stage, row.id, row.reason) for row in store.read(SKIPPED, Skipped)} == {
        ("pairs", "pairs.jsonl line 22", "bad row"),
        ("training", "asked.json row 22", "bad row"),
        ("training", "asked.json row 1", "empty answer"),
    }
    made = store.read("pairs", Pair)
    assert {(row.kind, row.level, row.system) for row in made} == {("other", 0, "Be brief.")}
    assert {(row.prompt, row.chosen) for row in made} == {
        (f"What does <video> {i} mean?", f"\ufffd <|im_end|> {i}.") for i in range(20)
    }
    assert {row.num_items for row in done.figures if row.name == "temporal questions"} == {20}
    assert [*json.loads((tmp_path / "run" / "evaluation.json").read_text())["bad_rows"]] == ["line 21"]
