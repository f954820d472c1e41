"""`tempo study`: what was asked for, and what a person sees of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console


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
        return f"tempo study {self.config} --out {self.out}{options}"


def show_study(request: StudyRequest, console: Console) -> None:
    """Does the study and prints its main table and claims; raises ValueError for a seed that is no number."""
    from tempo.study.cells import terminal
    from tempo.study.study import run_study
    from tempo.study.tables import claims_table, main_table

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
