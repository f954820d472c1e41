"""README and docs: the README is short, and commands, links and files that they name exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from tempo.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Records of what was run at the time, with the commands of that time.
HISTORY = ("log.md", "study.md")


def commands(text):
    """The arguments of each `tempo` command in blocks of code and in code within lines."""
    blocks = "\n".join(text.split("```")[1::2]).replace("\\\n", " ")
    found = re.findall(r"^(?:\$ )?(?:.* -m )?tempo ([a-z].*)", blocks, re.MULTILINE)
    found += re.findall(r"`tempo ([a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [shlex.split(line, comments=True) for line in found]


def links(page):
    """Local targets of links and images, without their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    return [target.partition("#")[0] for target in targets if "://" not in target and target[0] != "#"]


def test_readme_is_short():
    assert len(README.splitlines()) <= 180
    assert len(README.split()) <= 1300


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in HISTORY], ids=lambda page: page.name)
def test_commands_exist_with_their_options(page):
    group = typer.main.get_command(app)
    for name, *arguments in commands(page.read_text()):
        command = group.commands[name]
        # Raises for an unknown option.
        command.make_parser(command.context_class(command)).parse_args(arguments)


def test_the_readme_shows_commands():
    """So that the test above cannot pass because it finds none."""
    assert {name for name, *_ in commands(README)} >= {"init", "run", "status", "export"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_to_files(page):
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


def test_files_that_the_readme_names_exist():
    six = README.split("## Read these six files first")[1].split("\n## ")[0]
    assert len(re.findall(r"^\d\. `src/", six, re.MULTILINE)) == 6
    named = re.findall(r"(?:src|configs|benchmarks|docs|tests)/[\w/]+\.\w+", README)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make ([\w-]+)|`make ([\w-]+)`", README, re.MULTILINE)
    assert targets
    for target in map("".join, targets):
        assert f"\n{target}:" in makefile, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_conflict_of_a_merge_is_left(page):
    assert not re.search(r"^(<<<<<<<|>>>>>>>)", page.read_text(), re.MULTILINE)
