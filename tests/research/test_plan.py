"""Rows and seeds become jobs, and what rows have in common is one job; wrong studies are refused."""

from pathlib import Path

import pytest
from made_up_study import ROOT

from research.study.config import StudyConfig, load_study, row_phases, select
from research.study.plan import DataJob, MeasureJob, PhaseJob, make_plan

PHASES = [
    {"name": "easy", "objective": "dpo", "levels": [16], "learning_rate": 1e-3},
    {"name": "hard", "objective": "dpo", "levels": [2], "learning_rate": 1e-3},
    {"name": "sft", "objective": "sft", "learning_rate": 1e-3},
]
PLAIN = {"synthetic": {"num_videos": 4, "num_held_out": 2}, "model": {"path": "embedded"}}
ROW = {"description": "a row"}


def make_study(seeds=(0,), more=None, **rows):
    data = {"base": "b", "seeds": seeds, "phases": PHASES, **(more or {})}
    return StudyConfig.model_validate(data | {"rows": {name: ROW | row for name, row in rows.items()}})


def plan(seeds=(0,), **rows):
    return make_plan(make_study(seeds, **rows), PLAIN, Path("/study"))


def of(jobs, kind):
    return [job for job in jobs.values() if isinstance(job, kind)]


def test_rows_that_begin_alike_share_their_phases_and_all_share_their_data():
    jobs, _ = plan(
        base={},
        one={"phases": ["easy"]},
        two={"phases": ["easy", "hard"]},
        three={"phases": ["easy", "hard", "sft"]},
    )
    assert len(of(jobs, DataJob)) == 1
    assert [job.phase.name for job in of(jobs, PhaseJob)] == ["easy", "hard", "sft"]
    assert len(of(jobs, MeasureJob)) == 4


def test_other_orders_settings_and_seeds_share_no_phase():
    rows = {"one": {"phases": ["easy", "hard"]}, "two": {"phases": ["hard", "easy"]}}
    jobs, plans = plan((0, 1), **rows, three={"phases": ["easy"], "dpo": {"beta": 0.5}})
    assert len(of(jobs, PhaseJob)) == 2 * 5
    assert len(of(jobs, DataJob)) == 2
    assert [row.seed for row in plans] == [0, 0, 0, 1, 1, 1]


def test_every_job_comes_after_those_that_it_needs():
    jobs, _ = plan(
        one={"phases": ["easy"]},
        again={"phases": ["easy", "sft"], "start": "one", "pairs_by": "one"},
        other={"phases": ["hard"], "data": {"pairs.mirror": True}},
    )
    seen = set()
    for key, job in jobs.items():
        assert job.needs <= seen, key
        seen.add(key)


def test_a_row_can_make_the_pairs_of_another_and_continue_from_it():
    jobs, _ = plan(one={"phases": ["easy"]}, two={"phases": ["easy"], "start": "one", "pairs_by": "one"})
    (first, second), (before, after) = of(jobs, DataJob), of(jobs, PhaseJob)
    assert (second.model, second.data) == (before, first)
    assert (after.model, after.data) == (before, second)


def test_a_row_of_another_model_makes_its_own_pairs_and_is_measured_on_the_common_videos():
    jobs, _ = plan(a={"phases": ["easy"]}, b={"phases": ["easy"], "model": "other/model"})
    assert [job.model for job in of(jobs, DataJob)] == ["embedded", "other/model"]
    assert [job.model for job in of(jobs, PhaseJob)] == ["embedded", "other/model"]
    assert len({job.data.key for job in of(jobs, MeasureJob)}) == 1


def test_overrides_reach_only_phases_of_their_objective_and_those_of_a_row_win():
    study = make_study(
        more={"dpo": {"beta": 0.2, "epochs": 3}}, one={"phases": ["easy", "sft"], "dpo": {"epochs": 2}}
    )
    easy, sft = row_phases(study, "one")
    assert (easy.beta, easy.epochs, sft.epochs) == (0.2, 2, 1)


def test_a_row_may_have_fewer_seeds():
    _, plans = plan((5, 6, 7), one={}, two={"phases": ["easy"], "num_seeds": 2})
    assert [row.seed for row in plans if row.row == "two"] == [5, 6]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"phases": ["none"]}, r"rows\.two: unknown phases \['none'\]; the phases are"),
        ({"start": "later"}, r"rows\.two\.start: 'later' is not the name of an earlier row"),
        ({"start": "one", "model": "m"}, r"rows\.two: give either start or model"),
        ({"start": "one", "num_seeds": 2}, "two needs row 'one', which has fewer seeds"),
        ({"pairs_by": "two"}, r"rows\.two\.pairs_by: row 'two' must be defined earlier"),
        ({"phases": ["easy"], "dpo": {"betta": 1}}, "betta: unknown key; did you mean 'beta'"),
        ({"phases": ["easy"], "data": {"pairs.mirrored": True}}, "did you mean 'mirror'"),
        ({"phases": ["easy"], "data": {"pairs": 1}}, r"rows\.two: pairs: "),
        ({"data": {"clips.max_clips": 1}}, r"'clips.max_clips' must be equal for all rows; use captions\.\*"),
    ],
)
def test_a_wrong_row_is_refused_by_name(row, message):
    with pytest.raises(ValueError, match=message):
        plan((1, 2), one={"num_seeds": 1}, two=row)


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
        make_study(more=more, one={})


def test_selected_rows_bring_those_that_they_need():
    study = make_study(one={"phases": ["easy"]}, two={"phases": ["hard"], "start": "one"}, three={})
    found = select(study, rows=["two"], seeds=[7])
    assert (list(found.rows), found.seeds) == (["one", "two"], (7,))
    with pytest.raises(ValueError, match="unknown row 'four'; the rows are one, two, three"):
        select(study, rows=["four"], seeds=[])


def test_the_studies_of_the_repository_can_be_planned():
    small, plain = load_study(ROOT / "configs" / "study.toml")
    assert make_plan(small, plain, Path("/study"))[1]
    large, large_plain = load_study(ROOT / "configs" / "study_large.toml")
    changed = {"seeds", "set", "dpo", "sft"}
    assert large.model_dump(exclude=changed) == small.model_dump(exclude=changed)
    assert large_plain["model"]["path"] == "out/study-large/model"
    rates = {phase.name: phase.learning_rate for phase in row_phases(large, "method")}
    assert rates == dict.fromkeys(("dpo-16", "dpo-8", "dpo-4", "dpo-2"), 5e-4) | {"sft": 2.5e-4}


def test_wrong_files_and_keys_are_named(tmp_path):
    text = (ROOT / "configs" / "study.toml").read_text().replace("probe_videos", "probe_vidios")
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ValueError, match="probe_vidios: unknown key; did you mean 'probe_videos'"):
        load_study(tmp_path / "study.toml")
    (tmp_path / "above.toml").write_text('extends = "none.toml"\n')
    with pytest.raises(ValueError, match=r"extends: .*none\.toml cannot be read"):
        load_study(tmp_path / "above.toml")
