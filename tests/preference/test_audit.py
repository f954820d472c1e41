"""The audit finds planted shortcuts, finds none where there is none, and says when it cannot know."""

from __future__ import annotations

import json

import numpy as np
import pytest
from audit_material import change, fair_pairs, pair, short_drops
from pydantic import ValidationError
from rich.console import Console

from tempo.config import AuditConfig, ModelConfig, PairsConfig, parse_config
from tempo.core.store import RunStore
from tempo.engine.types import Context
from tempo.pipeline.fingerprints import fingerprints
from tempo.pipeline.runner import discard_files, run_stages
from tempo.pipeline.stages import NAMES, find_stage
from tempo.preference import audit as module
from tempo.preference.audit import audit_directory, audit_pairs, choose_videos, score, summarise
from tempo.preference.selection import select_pairs

LENGTHS = ("longer", "length")
FITTED = ("length", "words")


def audited(rows, **settings):
    return audit_pairs(rows, AuditConfig(**settings), seed=0, model=None)


def test_length_is_found_in_drop_pairs_and_gone_from_fair_pairs():
    rows = change(fair_pairs(80), short_drops)
    plain = audited(rows)
    assert plain["judges"]["longer"]["accuracy"] > 0.6
    assert plain["judges"]["length"]["by_kind"]["drop"]["accuracy"] > 0.95
    assert "Length alone tells" in plain["verdict"]
    assert "a shortcut. Set pairs.length" in plain["verdict"]
    fair = audited(select_pairs(rows, PairsConfig(length="fair"), seed=0).pairs)
    assert all(fair["judges"][name]["accuracy"] <= 0.55 for name in LENGTHS)
    assert "Length alone tells" in fair["verdict"]
    assert "Set pairs.length" not in fair["verdict"]


def test_every_judge_has_accuracy_and_interval_overall_by_kind_and_by_level():
    result = audited(fair_pairs(30))
    assert set(result["judges"]) == {"longer", "length", "words"}
    for judge in result["judges"].values():
        assert set(judge["by_kind"]) == {"drop", "shuffle", "reverse"}
        assert list(judge["by_level"]) == ["16", "2"]
        for cell in (judge, *judge["by_kind"].values(), *judge["by_level"].values()):
            low, high = cell["interval"]
            assert low <= cell["accuracy"] <= high
            assert cell["num_videos"] == 30
    assert result["judges"]["words"]["num_pairs"] == result["num_audited"] == result["num_pairs"] == 180


@pytest.mark.parametrize(
    ("num_videos", "judges"),
    [(0, set()), (1, {"longer"}), (4, {"longer"}), (5, {"longer", *FITTED}), (19, {"longer", *FITTED})],
)
def test_few_videos_have_their_figures_with_wide_intervals_and_no_verdict(num_videos, judges):
    """What is fitted on some videos and asked about others needs a video for each fold."""
    result = audited(change(fair_pairs(num_videos), short_drops))
    assert set(result["judges"]) == judges
    for judge in result["judges"].values():
        for cell in (judge, *judge["by_kind"].values(), *judge["by_level"].values()):
            low, high = cell["interval"]
            assert low <= cell["accuracy"] <= high
            assert high - low > 0.15
    assert result["verdict"].startswith(f"Too few to say: {6 * num_videos} pairs of {num_videos} videos")


def test_a_kind_of_few_videos_has_its_figure_and_is_not_in_the_verdict():
    rows = [row for row in change(fair_pairs(60), short_drops) if row.kind != "drop" or row.video_id < "v2"]
    result = audited(rows)
    few = result["judges"]["longer"]["by_kind"]["drop"]
    assert few["num_videos"] < 20
    assert few["interval"][0] > 0.6
    assert "drop" not in result["verdict"]


def test_interval_knows_that_pairs_of_one_video_stand_or_fall_together():
    """Forty videos whose ten pairs agree are forty samples and not four hundred."""
    videos = [f"v{i // 10}" for i in range(400)]
    together = np.repeat(np.arange(40) % 2, 10).astype(float)
    apart = np.tile(np.arange(10) % 2, 40).astype(float)
    wide, narrow = (score(right, videos, seed=0)["interval"] for right in (together, apart))
    assert wide[1] - wide[0] == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.2)
    assert narrow[1] - narrow[0] < 0.01


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_interval_of_all_right_or_all_wrong_is_not_a_point(right):
    found = score(np.full(50, right), [f"v{i // 2}" for i in range(50)], seed=0)
    low, high = found["interval"]
    assert found["accuracy"] == right
    assert 0.1 < high - low < 0.2


def test_audit_takes_whole_videos_up_to_its_limit_and_enough_of_them():
    rows = fair_pairs(60)
    chosen = choose_videos(rows, 200, seed=0)
    assert len(chosen) == 198
    assert all(sum(row.video_id == video for row in chosen) == 6 for video in {r.video_id for r in chosen})
    assert {row.id for row in choose_videos(rows[::-1], 200, seed=0)} == {row.id for row in chosen}
    assert len({row.video_id for row in choose_videos(rows, 1, seed=0)}) == 20
    assert len(choose_videos(rows, 10**6, seed=0)) == len(rows)
    result = audited(rows, max_pairs=200)
    assert (result["num_pairs"], result["num_audited"], result["num_videos"]) == (360, 198, 33)


def test_order_of_the_rows_changes_nothing():
    rows = fair_pairs(30)
    assert audited(rows) == audited(rows[::-1])


def test_model_is_asked_of_so_many_pairs_and_not_at_all_where_unwanted(monkeypatch):
    import tempo.model.loading

    asked = []
    monkeypatch.setattr(tempo.model.loading, "load_video_lm", lambda config: config.path)
    monkeypatch.setattr(
        module.judges,
        "model_right",
        lambda rows, lm, progress: asked.append((len(rows), lm)) or np.ones(len(rows)),
    )
    rows, model = fair_pairs(60), ModelConfig(path="some/model")
    result = audit_pairs(rows, AuditConfig(max_model_pairs=150), seed=0, model=model)
    assert asked == [(150, "some/model")]
    assert result["judges"]["model"]["accuracy"] == 1.0
    assert result["judges"]["model"]["num_pairs"] == 150
    for settings, given in ((AuditConfig(max_model_pairs=0), model), (AuditConfig(), None)):
        assert "model" not in audit_pairs(rows, settings, seed=0, model=given)["judges"]
    assert len(asked) == 1
    assert "model" in audit_pairs(rows[:6], AuditConfig(), seed=0, model=model)["judges"]


def test_summary_counts_each_pair_in_its_own_kind_and_level():
    rows = [
        pair(f"v{i}", kind, level) for i in range(20) for kind in ("drop", "shuffle") for level in (16, 2)
    ]
    right = np.array([float(row.kind == "drop" and row.level == 2) for row in rows])
    found = summarise(right, rows, seed=0)
    assert found["accuracy"] == 0.25
    assert {kind: cell["accuracy"] for kind, cell in found["by_kind"].items()} == {
        "drop": 0.5,
        "shuffle": 0.0,
    }
    assert {level: cell["accuracy"] for level, cell in found["by_level"].items()} == {"16": 0.0, "2": 0.5}


def test_directory_needs_only_pairs_and_the_file_says_what_was_returned(tmp_path):
    RunStore(tmp_path).append("pairs", fair_pairs(25))
    result = audit_directory(tmp_path, with_model=False)
    assert json.loads((tmp_path / "audit.json").read_text()) == result
    assert result["num_pairs"] == 150


def test_directory_is_audited_as_its_config_says(tmp_path):
    """Keys of another version do not matter: only seed, model and audit are looked at."""
    RunStore(tmp_path).append("pairs", fair_pairs(40))
    (tmp_path / "config.toml").write_text("[run]\nseed = 3\n[audit]\nmax_pairs = 150\n[pairs]\nold_key = 1\n")
    result = audit_directory(tmp_path, with_model=False)
    assert result == audit_pairs(fair_pairs(40), AuditConfig(max_pairs=150), seed=3, model=None)


def test_directory_without_pairs_or_without_a_model_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"no pairs\.jsonl"):
        audit_directory(tmp_path, with_model=True)
    RunStore(tmp_path).append("pairs", fair_pairs(20))
    with pytest.raises(ValueError, match="--no-model"):
        audit_directory(tmp_path, with_model=True)
    assert not (tmp_path / "audit.json").exists()


def test_line_that_is_no_pair_is_named(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(ValueError, match=r"pairs\.jsonl line 1"):
        audit_directory(tmp_path, with_model=False)


def test_directory_in_which_a_run_is_at_work_is_not_audited(tmp_path):
    RunStore(tmp_path).append("pairs", fair_pairs(40))
    with RunStore(tmp_path).lock(), pytest.raises(ValueError, match="in use by another tempo run"):
        audit_directory(tmp_path, with_model=False)
    assert not (tmp_path / "audit.json").exists()
    with pytest.raises(ValueError, match=r"has no pairs\.jsonl"):
        audit_directory(tmp_path / "typo", with_model=False)
    assert not (tmp_path / "typo").exists()


def test_stage_writes_the_file_and_its_removal_leaves_nothing(tmp_path):
    config = parse_config({"videos": {"paths": [str(tmp_path)]}, "audit": {"max_model_pairs": 0}})
    store = RunStore(tmp_path / "run")
    store.append("pairs", fair_pairs(25))
    marks = fingerprints(config)
    for name in NAMES[1 : NAMES.index("audit")]:
        store.finish(name, marks[name])
    run_stages(Context(config, store.directory), Console(quiet=True), only="audit")
    assert json.loads((store.directory / "audit.json").read_text())["num_videos"] == 25
    discard_files(find_stage("audit"), store.directory)
    assert not (store.directory / "audit.json").exists()


def test_stage_counts_as_not_done_once_the_model_is_left_out(tmp_path):
    """The file of `--no-model` takes the place of the whole one: the next `tempo run` asks the model."""
    store = RunStore(tmp_path)
    store.append("pairs", fair_pairs(25))
    store.finish("audit", "mark")
    audit_directory(tmp_path, with_model=False)
    assert not store.is_done("audit")
    assert (tmp_path / "audit.json").exists()


def test_no_stage_waits_for_the_audit(tmp_path):
    config = parse_config({"videos": {"paths": [str(tmp_path)]}})
    store, marks = RunStore(tmp_path / "run"), fingerprints(config)
    for name in NAMES[1 : NAMES.index("training")]:
        if name != "audit":
            store.finish(name, marks[name])
    run_stages(Context(config, store.directory), Console(quiet=True), only="training")
    assert store.is_done("training")
    assert not store.is_done("audit")


def test_another_audit_setting_makes_no_training_stale():
    old, new = (
        fingerprints(parse_config({"videos": {"paths": ["x"]}, "audit": {"max_pairs": count}}))
        for count in (500, 600)
    )
    assert [name for name in old if old[name] != new[name]] == ["audit", "report"]


@pytest.mark.parametrize("bad", [{"max_pairs": 0}, {"max_model_pairs": -1}, {"model": True}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValidationError):
        AuditConfig(**bad)


def test_command_prints_the_table_and_the_verdict_and_takes_a_directory(tempo, tmp_path):
    RunStore(tmp_path).append("pairs", change(fair_pairs(40), short_drops))
    code, out, _ = tempo("audit", tmp_path, "--no-model")
    assert code == 0
    assert "longer text" in out
    assert "240 of 240 pairs" in out
    assert "Length alone tells" in out
    assert (tmp_path / "audit.json").exists()


def test_command_says_how_a_report_of_the_audit_before_is_renewed(tempo, tmp_path):
    store = RunStore(tmp_path)
    store.append("pairs", fair_pairs(25))
    assert "report.html" not in tempo("audit", tmp_path, "--no-model")[1]
    (tmp_path / "report.html").write_text("old")
    store.finish("report", "mark")
    _, out, _ = tempo("audit", tmp_path, "--no-model")
    assert f"`tempo report {tmp_path}/config.toml --out {tmp_path}` writes it again" in out
    assert not store.is_done("report"), "that command would do nothing"


def test_command_says_that_there_are_too_few_pairs(tempo, tmp_path):
    RunStore(tmp_path).append("pairs", fair_pairs(3))
    code, out, _ = tempo("audit", tmp_path, "--no-model")
    assert code == 0
    assert "Too few to say: 18 pairs of 3 videos" in out


def test_command_refuses_a_directory_without_pairs(tempo, tmp_path):
    code, _, err = tempo("audit", tmp_path / "none")
    assert code == 2
    assert "none has no pairs.jsonl" in err
    assert not (tmp_path / "none").exists()
