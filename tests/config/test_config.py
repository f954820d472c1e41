"""The configuration: every mistake is an error that names its key."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from tempo.config import load_config, parse_config
from tempo.core.store import write_config

CONFIGS = Path(__file__).parents[2] / "configs"
OWN = {"videos": {"paths": ["films"]}}
DPO = {"name": "dpo-16", "objective": "dpo", "learning_rate": 5e-6}
ADAPTIVE = {**DPO, "order": "adaptive", "grouping": "level"}
SFT = {"name": "sft", "objective": "sft", "learning_rate": 1e-4}
SERVER = {"url": "http://localhost:8000/v1", "model": "m"}


def phases(*given, **training):
    return {"training": {"phases": given, **training}}


def error_of(data):
    """The message about a configuration of a user's own videos with these sections."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers compare the words
        parse_config({**OWN, **data})
    return str(caught.value)


@pytest.fixture
def write(tmp_path):
    """A function that writes plain data as TOML and returns the path."""

    def to_file(data):
        path = tmp_path / "tempo.toml"
        path.write_text(tomli_w.dumps(data))
        return path

    return to_file


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # Unknown keys, with the most similar one.
        ({"frames": {"fpss": 1}}, ["frames.fpss: unknown key; did you mean 'fps'?"]),
        ({"video": {"paths": ["x"]}}, ["video: unknown key; did you mean 'videos'?"]),
        (phases({**DPO, "epoc": 1}), ["training.phases.0.epoc: unknown key; did you mean 'epochs'?"]),
        (phases({**DPO, "length": "ld"}), ["phases.0.length: unknown key; ", "known keys: name, objective"]),
        (phases(DPO, {**SFT, "beta": 0.1}), ["training.phases.1.beta: unknown key; "]),
        ({"endpoint": {**SERVER, "key": "KEY"}}, ["endpoint.key: unknown key; ", "known keys: url, model"]),
        # Missing keys and bad values.
        (phases({"objective": "dpo", "learning_rate": 5e-6}), ["training.phases.0.name: Field required"]),
        (phases({"name": "dpo", "learning_rate": 5e-6}), ["training.phases.0.objective: Field required"]),
        ({"frames": {"fps": 0}}, ["frames.fps: ", "(got 0)"]),
        ({"frames": {"fps": float("nan")}}, ["frames.fps: ", "(got nan)"]),
        ({"frames": 3}, ["frames: ", "(got 3)"]),
        ({"run": {"ray_address": "ray://a:1"}}, ["run.ray_address: ", "(got 'ray://a:1')"]),
        ({"model": {"dtype": "int4"}}, ["model.dtype: ", "(got 'int4')"]),
        ({"perturbations": {"kinds": ["cut"]}}, ["perturbations.kinds.0: ", "(got 'cut')"]),
        (phases({**DPO, "name": "a b"}), ["training.phases.0.name: ", "(got 'a b')"]),
        (phases({**DPO, "objective": "ppo"}), ["training.phases.0.objective: ", "(got 'ppo')"]),
        (phases({**DPO, "levels": ["hard"]}), ["training.phases.0.levels.0: ", "(got 'hard')"]),
        (phases({**SFT, "grouping": "level"}), ["training.phases.0.grouping: ", "(got 'level')"]),
        # The run would ignore these files, or need files that are not given.
        ({"synthetic": {}}, ["videos.paths", "[synthetic]", "not both"]),
        ({"videos": {"paths": []}}, ["videos.paths", "[synthetic]", "not both"]),
        (phases(SFT), ["training.instructions"]),
        # These would fail, or find nothing, after hours.
        (phases({**DPO, "levels": [16, 5]}), ["'dpo-16'", "levels [5]", "perturbations.levels"]),
        (phases({**DPO, "kinds": ["swap"]}), ["'dpo-16'", "kinds ['swap']", "perturbations.kinds"]),
        (phases({**DPO, "order": "adaptive"}), ["training.phases.0: order 'adaptive'"]),
        (phases({**DPO, "order": "hard_to_easy"}), ["order 'hard_to_easy'", "'level' or 'pair'"]),
        ({**phases(DPO), "model": {"dtype": "float16"}}, ["model.dtype 'float16'", "bfloat16"]),
        (
            {**phases({**DPO, "lora_rank": 0}), "model": {"quantization": "4bit"}},
            ["'dpo-16'", "lora_rank 0", "model.quantization '4bit'"],
        ),
        ({"shots": {"detector": "transnet", "threshold": 27.0}}, ["shots: threshold 27", "probability"]),
        ({"clips": {"min_shots": 9, "max_shots": 5}}, ["clips: min_shots 9", "max_shots 5"]),
        ({"frames": {"max_total_pixels": 38399}}, ["frames: max_total_pixels must be at least 38400"]),
        ({"perturbations": {"levels": []}}, ["perturbations: levels", "()"]),
        ({"perturbations": {"levels": [4, 1]}}, ["perturbations: levels", "(4, 1)"]),
        ({"perturbations": {"kinds": ["drop", "drop"]}}, ["perturbations: kinds", "('drop', 'drop')"]),
        ({"perturbations": {"kinds": ["replace"], "rule": "paper"}}, ["'replace'", "'paper'"]),
        (phases(DPO, DPO), ["training: phases must have different names", "dpo-16"]),
        (phases(DPO, baselines={"a": ["dpo-3"]}), ["baselines.a", "dpo-3", "dpo-16"]),
        (phases(DPO, baselines={"../a": ["dpo-16"]}), ["baselines.../a"]),
        (phases(DPO, baselines={"base": ["dpo-16"]}), ["baselines.base", "not base or tempo"]),
        ({"model": {"device": "gpu"}}, ["model.device: ", "cuda", "(got 'gpu')"]),
    ],
)
def test_a_mistake_is_an_error_that_names_its_key(data, words):
    message = error_of(data)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "data",
    [
        {"responses": {"input_form": "video"}, "captions": {"retries": 1}},
        {"pairs": {"import_from": "p.jsonl", "mirror": True}, "clips": {"min_clips": 6}, "endpoint": SERVER},
        {"perturbations": {"kinds": ["drop"], "levels": [4]}, **phases(ADAPTIVE)},
        {"run": {"ray_address": "auto"}},
        *({"endpoint": {**SERVER, "url": url}} for url in ("https://h.example:1/v1/", "http://[::1]:80/a/b")),
        {"pairs": {"import_from": "p.jsonl"}, **phases({**DPO, "levels": [5]})},
        phases({**DPO, "lora_rank": 0, "lora_alpha": 8, "ld_alpha": 0.1, "mastered_accuracy": 0.5}),
        phases({**DPO, "reference": "fixed"}),
        phases(DPO, instructions="i.jsonl", max_instructions=9),
    ],
)
def test_valid_settings_load_even_if_others_make_them_irrelevant(data):
    assert parse_config({**OWN, **data}).videos.paths == ("films",)


def test_the_tiny_run_loads_with_videos_as_input():
    """Its section [captions] then has no effect, which is not an error."""
    config = load_config(CONFIGS / "tiny.toml", ["responses.input_form=video"])
    assert config.responses.input_form == "video"


def test_all_problems_are_named_at_once():
    lines = error_of({"frames": {"fps": 0, "max_frame": 1}, "clips": {"similarity": 2}}).splitlines()
    assert [line.split(":")[0] for line in lines] == ["frames.fps", "frames.max_frame", "clips.similarity"]


@pytest.mark.parametrize(
    ("endpoint", "key"),
    [
        *(
            ({**SERVER, "url": url}, "url: must be like")
            for url in (
                "", "localhost:8000", "ftp://h/v1", "http://h /v1", "http://h:x/v1", "http://h/v1?key=s3cret",
                "http://h/#s3cret", "http://me:s3cret@h/v1", "http://h/a@s3cret", "http://h/v1\nX: s3cret",
            )
        ),
        *(
            ({**SERVER, "api_key_env": name}, "api_key_env: must be the name")
            for name in ("sk-s3cret", "s3cret", "S3CRET=1", "1S3CRET")
        ),
        ({**SERVER, "api_key": "s3cret"}, "api_key: unknown key"),
        ({"url": "http://me:s3cret@h"}, "model: Field required"),
    ],
)  # fmt: skip
def test_key_in_the_wrong_place_is_an_error_that_does_not_show_it(endpoint, key):
    message = error_of({"endpoint": endpoint})
    assert f"endpoint.{key}" in message
    assert "s3cret" not in message.lower()


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("run.seed=7", "run", "seed", 7),
        ("model.trust_remote_code=true", "model", "trust_remote_code", True),
        ('model.path="two words"', "model", "path", "two words"),
        ("model.path=two words", "model", "path", "two words"),
        ("model.path=a=b", "model", "path", "a=b"),
        (" model.dtype =bfloat16", "model", "dtype", "bfloat16"),
        ("perturbations.levels=[4, 2]", "perturbations", "levels", (4, 2)),
        ("evaluation.benchmark=", "evaluation", "benchmark", ""),
        ('training.baselines.one=["dpo-16"]', "training", "baselines", {"one": ("dpo-16",)}),
    ],
)
def test_override_is_toml_or_text_without_quotes(write, override, section, key, expected):
    config = load_config(write({**OWN, **phases(DPO)}), [override])
    assert getattr(getattr(config, section), key) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.seed", "--set 'run.seed': write it as section.key=value"),
        ("run.=3", "--set 'run.=3': write it as section.key=value"),
        ("run.seed.more=3", "--set 'run.seed.more=3': 'seed' is not a section"),
        ("training.phases.0.epochs=2", "'phases' is not a section. Set it as a whole"),
        ("videos.paths=my films", "videos.paths: write a list: [\"my films\"] (got 'my films')"),
        ("perturbations.levels=4", "perturbations.levels: write a list: [4] (got 4)"),
        ("training.phases={a = 1}", "training.phases: write a list (got {'a': 1})"),
    ],
)
def test_bad_override_is_shown_with_its_right_form(write, override, message):
    path = write({**OWN, "run": {"seed": 1}, **phases(DPO)})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
        load_config(path, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"[run\nseed = 1", b"seed: 1", b"\xff\xfe", b"[run]\nseed = 1\nseed = 2"]
)
def test_file_that_is_not_toml_is_named(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.toml cannot be read as TOML"):
        load_config(path)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml does not exist; `tempo init` writes one"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        OWN,
        {"synthetic": {}, **phases(DPO, SFT, baselines={"sft-only": ["sft"]})},
        {**OWN, "shots": {"threshold": 20.0}, "endpoint": {**SERVER, "api_key_env": "KEY"}},
        {**OWN, **phases({**DPO, "lora_rank": 0}, {**DPO, "name": "half", "levels": [4], "kinds": ["drop"]})},
        {**OWN, **phases({**ADAPTIVE, "logp_reduction": "ld", "reference": "fixed"})},
    ],
)
def test_configuration_written_into_a_run_starts_the_same_run_again(tmp_path, data):
    config = parse_config(data)
    write_config(tmp_path, config.model_dump(mode="json", exclude_none=True))
    assert load_config(tmp_path / "config.toml") == config
