"""The configuration says no by name, and its defaults are the method's."""

from __future__ import annotations

import pytest
import tomli_w
from pydantic import ValidationError

from tempo.config import Config, load_config, parse_config
from tempo.engine.types import Context
from tempo.pipeline.run_files import write_config

OWN = {"videos": {"paths": ["films"]}}
DPO = {"name": "dpo-16", "objective": "dpo", "learning_rate": 5e-6}
SFT = {"name": "sft", "objective": "sft", "learning_rate": 1e-4}


def refusal(data):
    """What is said against a configuration of somebody's own videos with these sections."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the words
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
    ("section", "key", "expected"),
    [
        ("frames", "fps", 1.0),
        ("frames", "max_frames", 600),
        ("shots", "min_frames", 8),
        ("shots", "min_seconds", 0.2),
        ("shots", "min_grey_range", 10),
        ("clips", "min_shots", 4),
        ("clips", "max_shots", 32),
        ("clips", "max_shot_seconds", 16.0),
        ("clips", "similarity", 0.8),
        ("clips", "min_clips", 4),
        ("clips", "max_group_clips", 3),
        ("clips", "group_share", 3),
        ("captions", "temperature", 0.7),
        ("captions", "repetition_penalty", 1.05),
        ("responses", "temperature", 0.7),
        ("responses", "repetition_penalty", 1.05),
        ("responses", "input_form", "captions"),
        ("perturbations", "rule", "distinct"),
        ("perturbations", "kinds", ("drop", "shuffle", "reverse")),
        ("perturbations", "levels", (16, 8, 4, 2)),
        ("pairs", "max_length_ratio", 1.5),
        ("pairs", "length", "paper"),
        ("pairs", "min_difference", 0.0),
        ("pairs", "max_per_video", 0),
        ("pairs", "held_out_share", 0.0),
        ("training", "max_tokens", 16384),
        ("model", "trust_remote_code", False),
        ("run", "seed", 0),
    ],
)
def test_default_is_that_of_the_method(section, key, expected):
    assert getattr(getattr(parse_config(OWN), section), key) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("lora_rank", 32),
        ("lora_alpha", 64),
        ("train_vision", False),
        ("warmup_share", 0.05),
        ("epochs", 1),
        ("beta", 0.1),
        ("nll_weight", 1.0),
        ("loss", "sigmoid"),
        ("label_smoothing", 0.0),
        ("length", "sum"),
        ("reference", "reset"),
        ("grouping", "level"),
        ("order", "random"),
    ],
)
def test_default_of_a_dpo_phase_is_that_of_the_method(key, expected):
    (phase,) = parse_config({**OWN, "training": {"phases": [DPO]}}).training.phases
    assert getattr(phase, key) == expected


@pytest.mark.parametrize(
    ("data", "key", "hint"),
    [
        ({"frames": {"fpss": 1}}, "frames.fpss", "'fps'"),
        ({"video": {"paths": ["x"]}}, "video", "'videos'"),
        ({"clips": {"similarty": 0.9}}, "clips.similarty", "'similarity'"),
        ({"training": {"phase": []}}, "training.phase", "'phases'"),
        ({"training": {"phases": [{**DPO, "epoc": 1}]}}, "training.phases.0.epoc", "'epochs'"),
        ({"training": {"phases": [DPO, {**SFT, "epoch": 1}]}}, "training.phases.1.epoch", "'epochs'"),
    ],
)  # fmt: skip
def test_unknown_key_is_named_with_the_likeliest_one(data, key, hint):
    said = refusal(data)
    assert said.startswith(f"{key}: unknown key")
    assert f"did you mean {hint}?" in said


def test_unknown_key_of_the_optional_section_is_named_with_the_likeliest_one():
    with pytest.raises(ValueError, match=r"synthetic\.num_video: unknown key; did you mean 'num_videos'"):
        parse_config({"synthetic": {"num_video": 3}})


def test_unknown_key_like_no_other_lists_all_keys():
    said = refusal({"frames": {"zzz": 1}})
    assert "did you mean" not in said
    for known in ("fps", "max_frames", "max_pixels", "jpeg_quality"):
        assert known in said


@pytest.mark.parametrize(
    ("data", "key", "value"),
    [
        ({"frames": {"fps": 0}}, "frames.fps", "0"),
        ({"frames": {"fps": "fast"}}, "frames.fps", "'fast'"),
        ({"frames": {"fps": float("nan")}}, "frames.fps", "nan"),
        ({"frames": {"max_frames": 1}}, "frames.max_frames", "1"),
        ({"frames": {"jpeg_quality": 101}}, "frames.jpeg_quality", "101"),
        ({"frames": 3}, "frames", "3"),
        ({"run": {"num_workers": -1}}, "run.num_workers", "-1"),
        ({"run": {"engine": "spark"}}, "run.engine", "'spark'"),
        ({"run": {"engine": "ray", "ray_address": "ray://a:1"}}, "run.ray_address", "'ray://a:1'"),
        ({"run": {"seed": 1.5}}, "run.seed", "1.5"),
        ({"run": {"seed": -1}}, "run.seed", "-1"),
        ({"model": {"path": 7}}, "model.path", "7"),
        ({"model": {"dtype": "int4"}}, "model.dtype", "'int4'"),
        ({"shots": {"detector": "magic"}}, "shots.detector", "'magic'"),
        ({"shots": {"min_grey_range": 256}}, "shots.min_grey_range", "256"),
        ({"clips": {"similarity": 1.5}}, "clips.similarity", "1.5"),
        ({"clips": {"max_shot_seconds": 0}}, "clips.max_shot_seconds", "0"),
        ({"clips": {"min_clips": 1}}, "clips.min_clips", "1"),
        ({"captions": {"temperature": -0.1}}, "captions.temperature", "-0.1"),
        ({"responses": {"repetition_penalty": 0.9}}, "responses.repetition_penalty", "0.9"),
        ({"perturbations": {"kinds": ["cut"]}}, "perturbations.kinds.0", "'cut'"),
        ({"perturbations": {"rule": "papre"}}, "perturbations.rule", "'papre'"),
        ({"responses": {"input_form": "clip"}}, "responses.input_form", "'clip'"),
        ({"perturbations": {"levels": ["hard"]}}, "perturbations.levels.0", "'hard'"),
        ({"pairs": {"max_length_ratio": 0.5}}, "pairs.max_length_ratio", "0.5"),
        ({"training": {"phases": 3}}, "training.phases", "3"),
        ({"training": {"phases": [{**DPO, "name": "a b"}]}}, "training.phases.0.name", "'a b'"),
        ({"training": {"phases": [{**DPO, "objective": "ppo"}]}}, "training.phases.0.objective", "'ppo'"),
        ({"training": {"phases": [{**DPO, "learning_rate": 0}]}}, "training.phases.0.learning_rate", "0"),
        ({"training": {"phases": [{**DPO, "beta": 0}]}}, "training.phases.0.beta", "0"),
        ({"training": {"baselines": {"plain": 3}}}, "training.baselines.plain", "3"),
    ],
)
def test_bad_value_is_refused_by_key_and_shown(data, key, value):
    said = refusal(data)
    assert said.startswith(f"{key}: ")
    assert f"(got {value})" in said


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps", "mps:0", "xpu:1"])
def test_device_that_torch_knows_is_taken(device):
    assert parse_config({**OWN, "model": {"device": device}}).model.device == device


@pytest.mark.parametrize("device", ["gpu", "", "CUDA", "cuda:", "cuda:x", "cuda:01", "cuda:0\n", "auto:0"])
def test_device_that_is_none_is_refused_with_those_there_are(device):
    said = refusal({"model": {"device": device}})
    assert said == (
        f"model.device: {device!r} is no device; give auto, cpu, cuda, cuda:1 and so on, mps or xpu"
    )


def test_every_fault_is_named_at_once():
    lines = refusal({"frames": {"fps": 0, "max_frame": 1}, "clips": {"similarity": 2}}).splitlines()
    assert [line.split(":")[0] for line in lines] == ["frames.fps", "frames.max_frame", "clips.similarity"]


@pytest.mark.parametrize("missing", ["name", "objective", "learning_rate"])
def test_phase_without_a_needed_key_is_refused_by_that_key(missing):
    phase = {key: value for key, value in DPO.items() if key != missing}
    assert refusal({"training": {"phases": [phase]}}).startswith(
        f"training.phases.0.{missing}: Field required"
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"captions": {"temperature": 0, "retries": 5}}, ["captions", "retries 5", "temperature 0"]),
        (
            {"responses": {"input_form": "clips"}, "captions": {"retries": 1}},
            ["[captions] would do nothing", "responses.input_form 'clips'"],
        ),
        ({"perturbations": {"levels": []}}, ["perturbations", "levels", "()"]),
        ({"perturbations": {"levels": [4, 1]}}, ["perturbations", "levels", "(4, 1)"]),
        ({"perturbations": {"levels": [4, 4]}}, ["perturbations", "levels", "(4, 4)"]),
        ({"perturbations": {"kinds": []}}, ["perturbations", "kinds", "()"]),
        ({"perturbations": {"kinds": ["drop", "drop"]}}, ["perturbations", "kinds", "('drop', 'drop')"]),
        ({"training": {"phases": [DPO, DPO]}}, ["training", "phases", "dpo-16"]),
        ({"training": {"phases": [DPO], "baselines": {"a": ["dpo-3"]}}}, ["baselines.a", "dpo-3", "dpo-16"]),
        ({"training": {"phases": [{**DPO, "levels": [16, 5]}]}}, ["levels", "[5]", "perturbations.levels"]),
        ({"training": {"phases": [{**DPO, "kinds": ["swap"]}]}}, ["['swap']", "perturbations.kinds"]),
        ({"training": {"phases": [SFT]}}, ["training.instructions"]),
        ({"training": {"phases": [DPO], "instructions": "i.jsonl"}}, ["training.instructions", "'sft'"]),
        (
            {"pairs": {"length": "any"}, "perturbations": {"kinds": ["shuffle"]}},
            ["pairs.length 'any'", "perturbations.kinds"],
        ),
        (
            {"pairs": {"max_length_ratio": 2}, "perturbations": {"kinds": ["drop"]}},
            ["pairs.max_length_ratio 2", "perturbations.kinds"],
        ),
        ({"audit": {"max_pairs": 10, "max_model_pairs": 11}}, ["max_model_pairs 11", "max_pairs 10"]),
        ({"videos": {"paths": ["x"], "extensions": []}}, ["videos.extensions", "at least 1 item"]),
        ({"synthetic": {}}, ["videos.paths", "[synthetic]"]),
        ({"videos": {"paths": []}}, ["videos.paths", "[synthetic]"]),
        ({"clips": {"min_shots": 9, "max_shots": 5}}, ["clips", "min_shots", "9", "max_shots", "5"]),
    ],
)
def test_values_that_do_not_fit_together_are_refused_by_name(data, words):
    said = refusal(data)
    for word in words:
        assert word in said


def test_world_with_instructions_of_others_is_refused():
    with pytest.raises(ValueError, match=r"training\.instructions would do nothing: the \[synthetic\] world"):
        parse_config({"synthetic": {}, "training": {"phases": [SFT], "instructions": "i.jsonl"}})


@pytest.mark.parametrize(
    "data",
    [
        # What the defaults come to is no wish.
        {"audit": {"max_pairs": 10}},
        {"perturbations": {"kinds": ["drop"]}},
        {"perturbations": {"kinds": ["shuffle"]}},
        {"perturbations": {"kinds": ["swap"]}, "training": {"phases": [{**DPO, "kinds": ["swap"]}]}},
        {"pairs": {"length": "any", "max_length_ratio": 2}},
    ],
)
def test_what_does_something_is_taken(data):
    assert parse_config({"videos": {"paths": ["x"]}, **data}).videos.paths == ("x",)


def test_world_with_more_shots_at_least_than_at_most_is_refused():
    with pytest.raises(ValueError, match=r"min_shots.*9.*max_shots.*5"):
        parse_config({"synthetic": {"min_shots": 9, "max_shots": 5}})


@pytest.mark.parametrize(
    ("phase", "idle"),
    [
        ({**SFT, "levels": [16]}, "levels"),
        ({**SFT, "kinds": ["drop"]}, "kinds"),
        ({**SFT, "beta": 0.2}, "beta"),
        ({**SFT, "nll_weight": 0.5}, "nll_weight"),
        ({**SFT, "loss": "ipo"}, "loss"),
        ({**SFT, "label_smoothing": 0.1}, "label_smoothing"),
        ({**SFT, "length": "ld", "ld_alpha": 0.1}, "length, ld_alpha"),
        ({**SFT, "reference": "fixed", "cache_reference": True}, "reference, cache_reference"),
        ({**SFT, "grouping": "video"}, "grouping"),
        ({**SFT, "order": "adaptive", "mastered_accuracy": 0.5}, "order, mastered_accuracy"),
        ({**DPO, "ld_alpha": 0.1}, "ld_alpha"),
        ({**DPO, "length": "mean", "ld_alpha": 0.1}, "ld_alpha"),
        ({**DPO, "loss": "ipo", "label_smoothing": 0.1}, "label_smoothing"),
        ({**DPO, "loss": "hinge", "label_smoothing": 0.1}, "label_smoothing"),
        ({**DPO, "loss": "sppo", "label_smoothing": 0.1}, "label_smoothing"),
        ({**DPO, "mastered_accuracy": 0.5}, "mastered_accuracy"),
        ({**DPO, "lora_rank": 0, "lora_alpha": 8}, "lora_alpha"),
    ],
)
def test_phase_option_that_would_do_nothing_is_refused(phase, idle):
    said = refusal({"training": {"phases": [phase], "instructions": "i.jsonl"}})
    assert said.startswith("training.phases.0: ")
    assert phase["name"] in said
    assert f"{idle} would do nothing" in said


@pytest.mark.parametrize(
    ("key", "value"), [("loss", "kto"), ("label_smoothing", 0.5), ("ld_alpha", 1.1), ("mastered_accuracy", 0)]
)
def test_phase_option_out_of_bounds_is_refused_by_its_key(key, value):
    said = refusal({"training": {"phases": [{**DPO, key: value}]}})
    assert said.startswith(f"training.phases.0.{key}: ")
    assert f"(got {value!r})" in said


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"training": {"phases": [{**DPO, "order": "adaptive", "levels": [16]}]}}, "single level 16"),
        ({"training": {"phases": [{**DPO, "order": "adaptive", "levels": [16, 16]}]}}, "single level 16"),
        (
            {"training": {"phases": [{**DPO, "order": "adaptive", "grouping": "video"}]}},
            "grouping = 'video'",
        ),
        (
            {"perturbations": {"levels": [4]}, "training": {"phases": [{**DPO, "order": "adaptive"}]}},
            "perturbations.levels has the single level 4",
        ),
    ],
)
def test_an_adaptive_order_without_a_choice_is_refused(data, words):
    said = refusal(data)
    assert "phase 'dpo-16': order = 'adaptive' would do nothing" in said
    assert words in said


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "sigmoid", "label_smoothing": 0.1},
        {"loss": "ipo", "length": "mean"},
        {"length": "ld", "ld_alpha": 0.0},
        {"order": "adaptive", "levels": [16, 4], "mastered_accuracy": 1.0},
        {"order": "adaptive", "grouping": "pair"},
        {"reference": "fixed", "grouping": "video"},
    ],
)
def test_options_of_a_dpo_phase_that_belong_together_are_taken(options):
    (phase,) = parse_config({**OWN, "training": {"phases": [{**DPO, **options}]}}).training.phases
    assert phase.model_dump(mode="json", include=set(options)) == options


def test_an_sft_phase_may_take_question_by_question():
    (phase,) = parse_config(
        {"synthetic": {}, "training": {"phases": [{**SFT, "grouping": "pair"}]}}
    ).training.phases
    assert phase.grouping == "pair"


def test_a_number_of_instructions_without_a_phase_for_them_is_refused():
    said = refusal({"training": {"phases": [DPO], "max_instructions": 9}})
    assert "max_instructions would do nothing" in said


def test_benchmark_beside_the_embedded_world_is_refused():
    with pytest.raises(ValueError, match=r"evaluation\.benchmark would do nothing"):
        parse_config({"synthetic": {}, "evaluation": {"benchmark": "b.jsonl"}})


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "base", "tempo"])
def test_baseline_whose_name_is_a_path_or_taken_is_refused(name):
    """Names become folders, and rows of the table beside `base` and `tempo`."""
    assert name in refusal({"training": {"phases": [DPO], "baselines": {name: ["dpo-16"]}}})


def test_configuration_is_frozen():
    with pytest.raises(ValidationError):
        parse_config(OWN).run.seed = 3


def test_embedded_world_needs_no_further_key():
    assert parse_config({"synthetic": {}}).model.path == "embedded"


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("run.seed=7", "run", "seed", 7),
        ("frames.fps=0.5", "frames", "fps", 0.5),
        ("model.trust_remote_code=true", "model", "trust_remote_code", True),
        ("model.path=/models/qwen", "model", "path", "/models/qwen"),
        ("model.path=Qwen/Qwen2.5-VL-7B-Instruct", "model", "path", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ('model.path="two words"', "model", "path", "two words"),
        ("model.path=two words", "model", "path", "two words"),
        ("model.path=a=b", "model", "path", "a=b"),
        (" model.dtype =bfloat16", "model", "dtype", "bfloat16"),
        ("perturbations.levels=[4, 2]", "perturbations", "levels", (4, 2)),
        ("evaluation.benchmark=", "evaluation", "benchmark", ""),
    ],
)
def test_override_is_toml_or_a_bare_string(write, override, section, key, expected):
    config = load_config(write(OWN), [override])
    assert getattr(getattr(config, section), key) == expected


def test_override_reaches_a_nested_table(write):
    path = write({**OWN, "training": {"phases": [DPO]}})
    assert load_config(path, ['training.baselines.one=["dpo-16"]']).training.baselines == {"one": ("dpo-16",)}


def test_override_replaces_the_phases_as_a_whole(write):
    path = write({**OWN, "training": {"phases": [DPO]}})
    phases = '[{name = "only", objective = "dpo", learning_rate = 1e-3}]'
    (phase,) = load_config(path, [f"training.phases={phases}"]).training.phases
    assert (phase.name, phase.learning_rate) == ("only", 1e-3)


def test_last_of_two_overrides_holds_and_the_rest_of_the_section_stays(write):
    config = load_config(write({**OWN, "frames": {"max_frames": 9}}), ["frames.fps=2", "frames.fps=3"])
    assert (config.frames.fps, config.frames.max_frames) == (3.0, 9)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.seed", "section.key=value"),
        ("=3", "section.key=value"),
        ("run.=3", "section.key=value"),
        (".seed=3", "section.key=value"),
        ("run.seed.more=3", "'seed' is not a section"),
        ("training.phases.0.epochs=2", "'phases' is a list; change it in the file, or set it whole"),
    ],
)
def test_malformed_override_is_refused_and_shown(write, override, words):
    path = write({**OWN, "run": {"seed": 1}, "training": {"phases": [DPO]}})
    with pytest.raises(ValueError, match="--set") as caught:
        load_config(path, [override])
    assert repr(override) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("videos.paths=my films", "videos.paths: write a list: [\"my films\"] (got 'my films')"),
        ("perturbations.levels=4", "perturbations.levels: write a list: [4] (got 4)"),
        ("training.phases={a = 1}", "training.phases: write a list (got {'a': 1})"),
    ],
)
def test_lone_value_in_the_place_of_a_list_is_shown_as_a_list(write, override, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are looked at below
        load_config(write(OWN), [override])
    assert str(caught.value) == words


def test_override_of_an_unknown_key_is_refused_by_name(write):
    with pytest.raises(ValueError, match=r"run\.sed: unknown key; did you mean 'seed'"):
        load_config(write(OWN), ["run.sed=1"])


def test_missing_file_is_named_with_the_way_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml does not exist; `tempo init` writes one"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "content", [b"[run\nseed = 1", b"seed: 1", b"\xff\xfe", b"[run]\nseed = 1\nseed = 2"]
)
def test_file_that_is_not_toml_is_named(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.toml cannot be read as TOML"):
        load_config(path)


def test_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        OWN,
        {"synthetic": {}},
        {**OWN, "shots": {"threshold": 20.0}},
        {**OWN, "training": {"phases": [DPO, {**DPO, "name": "half", "levels": [4], "kinds": ["drop"]}]}},
        {"synthetic": {}, "training": {"phases": [DPO, SFT], "baselines": {"sft-only": ["sft"]}}},
        {**OWN, "training": {"phases": [{**DPO, "lora_rank": 0}]}},
        {**OWN, "training": {"phases": [{**DPO, "length": "ld", "order": "adaptive", "reference": "fixed"}]}},
    ],
    ids=["own", "synthetic", "threshold", "dpo", "sft", "no-lora", "options"],
)
def test_configuration_written_into_a_run_is_read_back_the_same(tmp_path, data):
    """`config.toml` of a run starts the same run again."""
    config = Config.model_validate(data)
    write_config(Context(config, tmp_path))
    assert load_config(tmp_path / "config.toml") == config


@pytest.mark.parametrize(("section", "key"), [("responses", "num_beams"), ("evaluation", "batch_size")])
def test_an_option_that_would_do_nothing_does_not_exist(section, key):
    assert refusal({section: {key: "x"}}).startswith(f"{section}.{key}: unknown key")
