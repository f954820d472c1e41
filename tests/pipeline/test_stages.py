"""The table of stages is consistent with itself, the configuration, and the code that it names."""

from pkgutil import resolve_name

import pytest

from tempo.config import parse_config
from tempo.pipeline.stages import NAMES, STAGES, look_up

CONFIG = parse_config(
    {"videos": {"paths": ["x"]}, "endpoint": {"url": "http://localhost/v1", "model": "m"}, "synthetic": None}
)


@pytest.mark.parametrize("stage", STAGES, ids=NAMES)
def test_an_entry_is_complete(stage):
    assert stage.description
    assert bool(stage.worker) != bool(stage.function)
    assert not stage.worker or callable(resolve_name(stage.worker))
    for name, record in stage.reads:
        source = STAGES[NAMES.index(name)]
        assert source.writes is record, "what it reads is what that stage writes"
        assert NAMES.index(name) < NAMES.index(stage.name)
    for key in (*stage.keys, *stage.ignored_keys, *stage.input_files, *stage.checkpoints):
        assert key == "synthetic" or look_up(CONFIG, key) is not None, f"{key} is a key of the configuration"
    for key in (*stage.input_files, *stage.checkpoints):
        assert key in stage.keys or key.split(".")[0] in stage.keys or key == "model.path"


def test_no_two_stages_have_the_same_name_or_own_the_same_file():
    assert len(set(NAMES)) == len(NAMES)
    files = [name for stage in STAGES for name in (*stage.files, f"{stage.name}.jsonl")]
    assert len(set(files)) == len(files)
