"""Trains and measures models with several recipes and seeds, and decides which claims hold.

    python -m research.study configs/study.toml --out out/study
    python -m research.study configs/study.toml --write docs/study.json docs/study.md README.md

The first command runs the missing rows of a study, and writes `study.json` and `study.md`. The second fills
blocks `<!-- study:NAME --> ... <!-- /study -->` of documents with the results of a finished study.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from research.study.config import load_study
from research.study.output import block, read_results, write_documents
from tempo.cli.terminal import readable_errors


def run(given: argparse.Namespace) -> None:
    """Runs the study and prints its main table and its claims."""
    # Only this command needs torch.
    from research.study.run import run_study

    command = f"python -m research.study {given.config} --out {given.out}"
    for name in ("rows", "seeds"):
        command += f" --{name} {value}" if (value := getattr(given, name)) else ""
    results = run_study(
        given.config,
        given.out,
        rows=[row for row in given.rows.split(",") if row],
        seeds=[int(seed) for seed in given.seeds.split(",") if seed],
        num_workers=given.workers,
        command=command,
    )
    print(*(block(results, name, plots="") for name in ("main", "claims")), sep="\n\n")
    print(f"study: {given.out / 'study.json'}; tables and plots: {given.out / 'study.md'}")


def write(config: Path, results: Path, *documents: Path) -> None:
    """Fills the documents; plots go into a folder with the name of the results."""
    study, _ = load_study(config)
    write_documents(read_results(study, results), documents, plots=results.with_suffix(""))


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m research.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="a study in TOML, like configs/study.toml")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--out", type=Path, help="directory of the study, created if missing")
    mode.add_argument(
        "--write", type=Path, nargs="+", metavar="FILE", help="study.json, then documents to fill"
    )
    parser.add_argument(
        "--rows", default="", metavar="A,B", help="only these rows and the rows that they need"
    )
    parser.add_argument("--seeds", default="", metavar="0,1", help="these seeds instead of the study's own")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes, each for one seed; 0: one per core, one on a GPU"
    )
    given = parser.parse_args()
    with readable_errors(can_resume=True):
        run(given) if given.out else write(given.config, *given.write)


if __name__ == "__main__":
    main()
