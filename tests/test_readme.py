"""The README is true: its tree has a line for every file, and its commands exist."""

import re
from pathlib import Path

from sample_material import samples_of

from tempo.core.records import Outcome
from tempo.evaluation.benchmark import accuracy_table, read_samples, score_outcomes
from tempo.pipeline.stages import NAMES
from tempo.synthetic.benchmark import CONFLICTING, ORDER, STATIC
from tempo.synthetic.world import ACTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
#: What stands in fenced blocks: commands, the flow, the tree.
BLOCKS = "\n".join(README.split("```")[1::2])


def test_the_tree_has_a_line_for_every_file_and_no_other():
    tree = README.split("## The tree")[1].split("```")[1]
    folders, listed = {}, set()
    for line in tree.strip().splitlines():
        indent, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[indent] = name
        if name.endswith(".py"):
            listed.add("".join(folders[level] for level in range(indent)) + name)
    present = {str(path.relative_to(ROOT)) for path in (ROOT / "src" / "tempo").rglob("*.py")}
    assert listed == {path for path in present if not path.endswith(("__init__.py", "__main__.py"))}


def test_the_demo_table_has_the_rows_that_the_program_prints():
    """In their order, for the aspects of the embedded world."""
    asked = [
        Outcome(id=aspect, aspect=aspect, format="yes_no", answer=0, log_likelihoods=(0, -1))
        for aspect in (*ACTIONS, ORDER, CONFLICTING, STATIC)
    ]
    report = score_outcomes(asked, samples_of(asked))
    printed = accuracy_table({"models": {"base": report.model_dump()}})
    table = README.split("| | base | sft_only | tempo |\n|---|---|---|---|\n")[1].split("\n\n")[0]
    assert [line.split(" | ")[0].strip("| ") for line in table.splitlines()] == list(printed.columns[0].cells)


def test_paths_named_in_the_readme_exist():
    for path in re.findall(r"(?:configs|benchmarks|docs|tests)/[\w/]+\.\w+", README):
        assert (ROOT / path).exists(), path


def test_the_sample_of_a_benchmark_is_one(tmp_path):
    path = tmp_path / "benchmark.jsonl"
    path.write_text(README.split("```json\n")[1].split("```")[0])
    (sample,) = read_samples(path)
    assert sample.options[sample.answer] == "The light goes on."


def test_make_targets_named_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", BLOCKS, re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def test_subcommands_named_in_the_readme_exist():
    for name in re.findall(r"^tempo (\w+)", BLOCKS, re.MULTILINE):
        assert name in (*NAMES, "run", "status", "init", "export", "probe", "study"), name
