"""Jobs are done once, side by side, and after those that they need."""

import pytest

from research.study.plan import DataJob
from research.study.schedule import run_jobs
from tempo.config import Config

CONFIG = Config.model_validate({"synthetic": {}})


def jobs_of(tmp_path, *keys, needs=None):
    """Data jobs; `needs` says which one takes over what another made."""
    needs = needs or {}
    return {
        key: DataJob(key, tmp_path / key, CONFIG, tmp_path / needs[key] if key in needs else None)
        for key in keys
    }


def run(jobs, num_workers=2, work="note"):
    told = []
    run_jobs(
        jobs,
        num_workers=num_workers,
        progress=lambda key, seconds, done, total: told.append((key, done, total)),
        work=f"study_workers:{work}",
    )
    return told


def times(job):
    return [float(word) for word in job.done.read_text().split()]


def test_a_job_begins_when_what_it_needs_is_done_and_others_run_beside_it(tmp_path):
    jobs = jobs_of(tmp_path, "c", "a", "b", needs={"c": "a"})
    told = run(jobs)
    assert sorted(key for key, *_ in told) == ["a", "b", "c"]
    assert [rest for _, *rest in told] == [[1, 3], [2, 3], [3, 3]]
    assert times(jobs["c"])[0] >= times(jobs["a"])[1]
    # One process more makes the pool's second one start late, hence no exact bound.
    assert times(jobs["b"])[0] < times(jobs["c"])[1]


def test_what_is_done_is_not_done_again(tmp_path):
    jobs = jobs_of(tmp_path, "a", "b")
    run(jobs)
    before = {key: job.done.read_text() for key, job in jobs.items()}
    assert run(jobs) == []
    jobs["b"].done.unlink()
    assert [key for key, *_ in run(jobs)] == ["b"]
    assert jobs["a"].done.read_text() == before["a"]
    assert jobs["b"].done.read_text() != before["b"]


@pytest.mark.parametrize(("work", "words"), [("fail", "b: no such luck"), ("die", "--workers 1")])
def test_a_job_that_fails_or_dies_is_named_and_the_others_stay_done(tmp_path, work, words):
    jobs = jobs_of(tmp_path, "a", "b", "c", needs={"b": "a", "c": "b"})
    with pytest.raises(ValueError, match=words):
        run(jobs, num_workers=1, work=work)
    assert jobs["a"].done.exists()
    assert not jobs["c"].done.exists()
