"""Train and measure rows of phases over seeds; say which claims of the paper hold, with figures."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tempo.cli.errors import Terminated, fail, terminable


@dataclass(frozen=True)
class StudyRequest:
    """A study as the command line asks for it; `rows` and `seeds` are lists with commas, empty for all."""

    config: Path
    out: Path
    rows: str = ""
    seeds: str = ""
    num_workers: int = 0

    @property
    def command(self) -> str:
        """The command that does the same again."""
        given = {"--rows": self.rows, "--seeds": self.seeds}
        options = "".join(f" {name} {value}" for name, value in given.items() if value)
        return f"python -m research.study {self.config} --out {self.out}{options}"


def show_study(request: StudyRequest, console: Console) -> None:
    """Does the study and prints its main table and claims; raises ValueError for a seed that is no number."""
    from research.study.cells import terminal
    from research.study.study import run_study
    from research.study.tables import claims_table, main_table

    result = run_study(
        request.config,
        request.out,
        rows=_listed(request.rows),
        seeds=_numbers(request.seeds),
        num_workers=request.num_workers,
        command=request.command,
        tell=console.print,
    )
    console.print(terminal(main_table(result)))
    console.print(terminal(claims_table(result)))
    console.print(f"study: {request.out / 'study.json'}, page: {request.out / 'study.html'}")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    parts = _listed(text)
    if bad := [part for part in parts if not part.isdecimal()]:
        raise ValueError(f"--seeds: {bad[0]!r} is no seed; give whole numbers with commas, like 0,1")
    return [int(part) for part in parts]


@terminable()
def main() -> None:
    """Entry point of `python -m research.study`."""
    parser = argparse.ArgumentParser(prog="python -m research.study", description=__doc__)
    parser.add_argument("config", type=Path, help="study in TOML, like configs/study.toml")
    parser.add_argument("--out", type=Path, required=True, help="directory of the study; made if absent")
    parser.add_argument("--rows", default="", metavar="A,B", help="only these rows, and what they need")
    parser.add_argument("--seeds", default="", metavar="0,1", help="these seeds in place of the study's")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core, one on a GPU")
    given = parser.parse_args()
    request = StudyRequest(given.config, given.out, given.rows, given.seeds, given.workers)
    try:
        show_study(request, Console(highlight=False, soft_wrap=True, markup=False))
    except ValueError as error:
        fail(str(error))
    except (KeyboardInterrupt, Terminated):
        sys.exit("stopped; the same command goes on where it stopped")
