"""Where checkpoints are. Imports nothing heavy, so that a wrong path is noticed before any work."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

EMBEDDED = "embedded"


def embedded_path() -> Path:
    """The directory of the embedded model in the installed package."""
    return Path(str(files("tempo.synthetic") / "model"))


def resolve_model_path(path: str) -> str:
    """What transformers is given for `model.path`: a directory, or a hub name as it is."""
    return str(embedded_path()) if path == EMBEDDED else str(Path(path).expanduser())


def check_model_path(path: str) -> None:
    """Raises ValueError if `path` looks like a directory but is none, or one without a checkpoint.

    A hub name (`owner/name`) is left to transformers, which knows the hub.
    """
    if path == EMBEDDED:
        return
    local = Path(path).expanduser()
    try:
        is_there, is_checkpoint = local.exists(), (local / "config.json").exists()
    except OSError as error:
        raise ValueError(f"model.path {path!r} cannot be reached: {error.strerror}") from None
    if is_there:
        if not is_checkpoint:
            raise ValueError(f"model.path {path!r} has no config.json: it is no Hugging Face checkpoint")
    elif path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ValueError(
            f"model.path {path!r} does not exist; give a checkpoint directory, a hub name or {EMBEDDED!r}"
        )
