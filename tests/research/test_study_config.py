"""Rows become configurations of runs, and wrong studies are refused."""

import pytest
from made_up_study import ROOT

from research.study.config import StudyConfig, load_study, row_config, select

PHASES = [
    {"name": "easy", "objective": "dpo", "levels": [16], "learning_rate": 1e-3},
    {"name": "hard", "objective": "dpo", "levels": [2], "learning_rate": 1e-3},
    {"name": "sft", "objective": "sft", "learning_rate": 1e-3},
]
PLAIN = {"synthetic": {"num_videos": 4, "num_held_out": 2}, "model": {"path": "embedded"}}
ROW = {"description": "a row"}


def make_study(more=None, **rows):
    data = {"base": "b", "seeds": (0, 1), "phases": PHASES, **(more or {})}
    return StudyConfig.model_validate(data | {"rows": {name: ROW | row for name, row in rows.items()}})


def test_a_row_is_the_base_run_with_its_phases_and_values():
    study = make_study(
        {"dpo": {"beta": 0.2, "epochs": 3}},
        one={"phases": ["easy", "sft"], "dpo": {"epochs": 2}, "data": {"pairs.mirror": True}, "model": "m"},
    )
    config = row_config(study, PLAIN, "one", seed=7)
    easy, sft = config.training.phases
    # Overrides reach only phases of their objective, and those of a row win.
    assert (easy.beta, easy.epochs, sft.epochs) == (0.2, 2, 1)
    assert (config.run.seed, config.pairs.mirror, config.model.path) == (7, True, "m")
    moved = row_config(study, PLAIN, "one", seed=7, model="trained", pairs="pairs.jsonl")
    assert (moved.model.path, moved.pairs.import_from) == ("trained", "pairs.jsonl")
    base = row_config(study, PLAIN, "", seed=7)
    assert (base.training.phases, base.model.path, base.pairs.mirror) == ((), "embedded", False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"phases": ["none"]}, r"rows\.two: unknown phases \['none'\]; the phases are"),
        ({"start": "later"}, r"rows\.two: 'later' is not the name of an earlier row"),
        ({"pairs_from": "two"}, r"rows\.two: 'two' is not the name of an earlier row"),
        ({"start": "one", "model": "m"}, r"rows\.two: give either start or model"),
        ({"start": "one"}, "two needs row 'one', which has fewer seeds"),
        ({"phases": ["easy"], "dpo": {"betta": 1}}, r"rows\.two: .*betta: unknown key; did you mean 'beta'"),
        ({"phases": ["easy"], "data": {"pairs.mirrored": True}}, "did you mean 'mirror'"),
        ({"phases": ["easy"], "data": {"pairs": 1}}, r"rows\.two: pairs: "),
        ({"data": {"clips.max_clips": 1}}, r"'clips.max_clips' must be equal for all rows; use captions\.\*"),
    ],
)
def test_a_wrong_row_is_refused_by_name(row, message):
    with pytest.raises(ValueError, match=message):
        row_config(make_study(one={"num_seeds": 1}, two=row), PLAIN, "two", seed=0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seeds": [1, 1]}, "duplicates"),
        ({"tables": {"main": {"rows": ["none"]}}}, "unknown rows: none"),
        ({"tables": {"main": {"columns": ["temporal / one"]}}}, "String should match pattern"),
        ({"plots": {"main": {"kind": "bars", "rows": ["none"]}}}, "unknown rows: none"),
        ({"claims": [{"name": "c", "source": "s", "text": "t", "rows": [["one", "none"]]}]}, "unknown rows"),
        ({"claims": [{"name": "c", "source": "s", "text": "t", "rows": [["one"]]}]}, "needs lists of 2 rows"),
    ],
)
def test_a_wrong_study_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        make_study(more, one={})


def test_selected_rows_bring_those_that_they_need():
    rows = {"one": {"phases": ["easy"]}, "two": {"start": "one"}, "three": {"pairs_from": "one"}, "four": {}}
    study = make_study(**rows)
    for name in ("two", "three"):
        found = select(study, rows=[name], seeds=[7])
        assert (list(found.rows), found.seeds) == (["one", name], (7,))
    with pytest.raises(ValueError, match="unknown row 'five'; the rows are one, two, three, four"):
        select(study, rows=["five"], seeds=[])


def test_every_row_of_the_studies_of_the_repository_is_a_valid_run():
    small, plain = load_study(ROOT / "configs" / "study.toml")
    assert all(row_config(small, plain, name, seed=1) for name in small.rows)
    large, large_plain = load_study(ROOT / "configs" / "study_large.toml")
    changed = {"seeds", "set", "dpo", "sft"}
    assert large.model_dump(exclude=changed) == small.model_dump(exclude=changed)
    method = row_config(large, large_plain, "method", seed=1)
    assert method.model.path == "out/study-large/model"
    rates = {phase.name: phase.learning_rate for phase in method.training.phases}
    assert rates == dict.fromkeys(("dpo-16", "dpo-8", "dpo-4", "dpo-2"), 5e-4) | {"sft": 2.5e-4}


def test_wrong_files_and_keys_are_named(tmp_path):
    text = (ROOT / "configs" / "study.toml").read_text().replace("probe_videos", "probe_vidios")
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ValueError, match="probe_vidios: unknown key; did you mean 'probe_videos'"):
        load_study(tmp_path / "study.toml")
    (tmp_path / "above.toml").write_text('extends = "none.toml"\n')
    with pytest.raises(ValueError, match=r"extends: .*none\.toml cannot be read"):
        load_study(tmp_path / "above.toml")
