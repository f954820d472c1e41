"""Rows and seeds become jobs; what rows have in common is one job."""

import tomllib
from pathlib import Path

import pytest

from research.study.config import StudyConfig, load_study, row_phases, select
from research.study.plan import DataJob, MeasureJob, PhaseJob, make_plan, needs

STUDY = Path(__file__).parents[2] / "configs" / "study.toml"

PHASES = [
    {"name": "easy", "objective": "dpo", "levels": [16], "learning_rate": 1e-3},
    {"name": "hard", "objective": "dpo", "levels": [2], "learning_rate": 1e-3},
    {"name": "sft", "objective": "sft", "learning_rate": 1e-3},
]

PLAIN = {"synthetic": {"num_videos": 4, "num_held_out": 2}, "model": {"path": "embedded"}}


def study(seeds=(0,), **rows):
    made = {name: {"says": name} | row for name, row in rows.items()}
    return StudyConfig.model_validate({"base": "b", "seeds": seeds, "phases": PHASES, "rows": made})


def plan(seeds=(0,), **rows):
    return make_plan(study(seeds, **rows), PLAIN, Path("/study"))


def of(made, kind):
    return [job for job in made.jobs.values() if isinstance(job, kind)]


def test_rows_that_begin_alike_share_their_phases_and_all_share_their_data():
    made = plan(
        base={},
        one={"phases": ["easy"]},
        two={"phases": ["easy", "hard"]},
        three={"phases": ["easy", "hard", "sft"]},
    )
    assert len(of(made, DataJob)) == 1
    assert [job.phase.name for job in of(made, PhaseJob)] == ["easy", "hard", "sft"]
    assert len(of(made, MeasureJob)) == 4


def test_another_order_is_another_phase():
    made = plan(one={"phases": ["easy", "hard"]}, two={"phases": ["hard", "easy"]})
    assert len(of(made, PhaseJob)) == 4


def test_every_job_comes_after_those_that_it_needs():
    made = plan(
        one={"phases": ["easy"]},
        again={"phases": ["easy", "sft"], "start": "one", "pairs_by": "one"},
        other={"phases": ["hard"], "data": {"pairs.mirror": True}},
    )
    seen = set()
    for key, job in made.jobs.items():
        assert set(needs(job)) <= seen, key
        seen.add(key)


def test_pairs_of_a_second_round_are_made_by_the_row_that_is_named():
    made = plan(one={"phases": ["easy"]}, two={"phases": ["easy"], "start": "one", "pairs_by": "one"})
    first, second = of(made, DataJob)
    (before, after) = of(made, PhaseJob)
    assert second.pairs_by == before.key
    assert after.start is before
    assert after.data is second
    assert second.shares == first.directory


def test_overrides_reach_the_phases_of_their_objective_only():
    made = plan(one={"phases": ["easy", "sft"], "dpo": {"epochs": 2}})
    easy, sft = (job.phase for job in of(made, PhaseJob))
    assert easy.epochs == 2
    assert sft.epochs == 1


def test_seeds_share_nothing():
    made = plan((0, 1), one={"phases": ["easy"]})
    assert len(of(made, DataJob)) == len(of(made, PhaseJob)) == 2
    assert {measured.seed for measured in made.measured} == {0, 1}


def test_another_model_keeps_its_own_pairs_and_its_benchmark_is_the_common_one():
    made = plan(a={"phases": ["easy"]}, b={"phases": ["easy"], "model": "other/model"})
    ours, theirs = of(made, DataJob)
    assert (ours.config.model.path, theirs.config.model.path) == ("embedded", "other/model")
    assert {job.data.key for job in of(made, MeasureJob)} == {ours.key}
    assert [job.start for job in of(made, PhaseJob)] == ["embedded", "other/model"]


def test_a_row_may_have_fewer_seeds_but_none_that_it_needs():
    made = plan((5, 6, 7), one={}, two={"phases": ["easy"], "num_seeds": 2})
    assert [m.seed for m in made.measured if m.row == "two"] == [5, 6]
    with pytest.raises(ValueError, match="two needs 'one', which has fewer seeds"):
        plan((5, 6), one={"phases": ["easy"], "num_seeds": 1}, two={"start": "one", "phases": ["sft"]})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"phases": ["none"]}, "unknown phases"),
        ({"start": "later"}, "no row above it"),
        ({"phases": ["sft"], "dpo": {"beta": 1}}, "rows.one.dpo would do nothing"),
        ({"phases": ["sft"], "pairs_by": "truth"}, "pairs_by would do nothing"),
        ({"phases": ["easy"], "dpo": {"betta": 1}}, "betta: unknown key; did you mean 'beta'"),
        ({"phases": ["easy"], "data": {"pairs.mirrored": True}}, "did you mean 'mirror'"),
        ({"phases": ["easy"], "data": {"pairs": 1}}, "not of the form section.key"),
    ],
)
def test_a_row_that_cannot_be_is_refused_by_name(row, words):
    with pytest.raises(ValueError, match=words):
        plan(one=row)


def test_selected_rows_bring_those_that_they_need():
    whole = study(one={"phases": ["easy"]}, two={"phases": ["hard"], "start": "one"}, three={})
    assert list(select(whole, rows=["two"], seeds=[7]).rows) == ["one", "two"]
    assert select(whole, rows=["two"], seeds=[7]).seeds == (7,)
    with pytest.raises(ValueError, match="'four' is no row of the study"):
        select(whole, rows=["four"], seeds=[])


def test_the_study_of_the_repository_can_be_planned():
    made, plain = load_study(STUDY)
    assert make_plan(made, plain, Path("/study")).measured


def test_the_study_of_the_large_model_differs_in_model_seeds_and_learning_rates():
    small, plain = load_study(STUDY)
    large, large_plain = load_study(STUDY.with_name("study_large.toml"))
    changed = {"seeds", "set", "dpo", "sft"}
    assert large.model_dump(exclude=changed) == small.model_dump(exclude=changed)
    assert large_plain["model"] == {"path": "out/study-large/model", "dtype": "float32"}
    assert large_plain["pairs"] == plain["pairs"]
    rates = {phase.name: phase.learning_rate for phase in row_phases(large, "method")}
    assert rates == dict.fromkeys(("dpo-16", "dpo-8", "dpo-4", "dpo-2"), 5e-4) | {"sft": 2.5e-4}


def test_a_row_overrides_what_the_study_says_of_an_objective():
    made = study(one={"phases": ["easy", "sft"], "dpo": {"epochs": 2}})
    made = made.model_copy(update={"dpo": {"epochs": 3, "beta": 0.2}})
    easy, sft = row_phases(made, "one")
    assert (easy.epochs, easy.beta) == (2, 0.2)
    assert sft.epochs == 1


def test_a_study_extends_another_from_any_folder(tmp_path):
    (tmp_path / "base.toml").write_text("[synthetic]\nnum_videos = 4\n")
    rows = '[[phases]]\nname = "sft"\nobjective = "sft"\nlearning_rate = 1e-3\n[rows.one]\nsays = "one"\n'
    (tmp_path / "below.toml").write_text(
        f'base = "base.toml"\nseeds = [1]\nset = {{ "run.seed" = 3 }}\n{rows}'
    )
    (tmp_path / "inner").mkdir()
    above = tmp_path / "inner" / "above.toml"
    above.write_text('extends = "../below.toml"\nseeds = [2]\nset = { "model.path" = "m" }\n')
    made, plain = load_study(above)
    assert (made.seeds, list(made.rows)) == ((2,), ["one"])
    assert plain == {"synthetic": {"num_videos": 4}, "run": {"seed": 3}, "model": {"path": "m"}}


@pytest.mark.parametrize(
    ("other", "words"), [("one.toml", "extend each other"), ("no.toml", "does not exist")]
)
def test_a_study_that_extends_nothing_is_refused(tmp_path, other, words):
    (tmp_path / "one.toml").write_text(f'extends = "{other}"\n')
    with pytest.raises(ValueError, match=words):
        load_study(tmp_path / "one.toml")


def test_a_wrong_key_of_a_study_is_named(tmp_path):
    text = STUDY.read_text().replace("probe_videos", "probe_vidios")
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ValueError, match="probe_vidios: unknown key; did you mean 'probe_videos'"):
        load_study(tmp_path / "study.toml")
    rows = tomllib.loads(STUDY.read_text())["rows"]
    assert "method" in rows
