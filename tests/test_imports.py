"""Imports go one way, between packages and between files; imports inside functions and types count too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tempo

SOURCE = Path(tempo.__file__).parent

#: Each package imports only from itself and from those before it.
ORDER = (
    *("core", "config", "engine", "model", "video", "preference", "training", "evaluation", "synthetic"),
    *("report", "pipeline", "cli"),
)

FILES = {
    ".".join(("tempo", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


def imports(module: str) -> set[str]:
    """The files of tempo that a module imports, anywhere in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module} has a relative import"
            # The package as well: its __init__ may import this file.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {found for name in names if (found := _file(name))} - {module}


def _file(name: str) -> str:
    """The module that an imported name is, or is defined in; empty if it is not one of tempo."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name


def test_only_init_and_main_are_on_the_top_floor():
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py"}
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ORDER)


def test_packages_import_only_from_packages_before_them():
    wrong = []
    for module in FILES:
        package = module.split(".")[1:2]
        for other in imports(module) - {"tempo", "tempo.__main__"}:
            if package and package[0] in ORDER and ORDER.index(other.split(".")[1]) > ORDER.index(package[0]):
                wrong.append(f"{module} imports {other}")
    assert wrong == []


def test_no_files_import_each_other():
    """Nor in a circle of several files."""
    graph = {module: imports(module) - {"tempo"} for module in FILES}
    while leaves := [module for module, needed in graph.items() if not needed & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert sorted(graph) == [], "these files are part of a circle, or import one"


def test_nothing_in_the_package_imports_the_research():
    for path in FILES.values():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.strip().startswith(("import research", "from research"))]


HEAVY = (
    *("torch", "scipy", "transformers", "peft", "accelerate"),
    *("cv2", "av", "scenedetect", "matplotlib", "jinja2"),
)


@pytest.mark.parametrize(
    ("statement", "allowed_seconds", "allowed"),
    [
        ("import tempo", 0.3, set()),
        ("import tempo; tempo.perturb", 0.3, set()),
        ("import tempo.pipeline", 2.0, set()),
        ("import tempo.cli.main", 2.0, set()),
        ("import tempo.report.view_server", 2.0, {"av", "cv2", "jinja2"}),
    ],
)
def test_importing_is_quick_and_loads_no_heavy_package(statement, allowed_seconds, allowed):
    script = (
        "import sys, time; start = time.process_time(); "
        f"{statement}; print(time.process_time() - start, *sys.modules)"
    )
    results = [
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert {name for _, *loaded in results for name in loaded if name in HEAVY} == allowed
    assert min(float(seconds) for seconds, *_ in results) <= allowed_seconds


@pytest.mark.parametrize("name", tempo.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(tempo, name)
    assert name == "__version__" or (callable(value) and value.__doc__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'tempo' has no attribute 'perturbb'"):
        tempo.perturbb  # noqa: B018
    assert "perturb" in dir(tempo)
