"""Reference log-probabilities on disk: computed once, whatever the epochs, phases and restarts.

Needed where the reference is not the policy without its adapter (`reference = "fixed"`), and worth its disk
where a phase has several epochs. An entry is keyed by model, frames, prompt and answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tempo.model.chat import VideoLM
from tempo.model.features import hash_tensors
from tempo.model.loading import resolve_model_path
from tempo.model.prefix import Group, packed_log_probs
from tempo.training.step import autocast


class ReferenceStore:
    """Token log-probabilities of whole groups, one JSON line each, in a file per model and process."""

    def __init__(self, directory: Path, *, key: str, rank: int = 0) -> None:
        self._path = directory / f"{key}-{rank}.jsonl"
        self._known: dict[str, list[list[float]]] = {}
        for path in sorted(directory.glob(f"{key}-*.jsonl")):
            self._known |= dict(_rows(path))

    def get(self, group: Group) -> list[Tensor] | None:
        """Per continuation the log-probabilities [num_scored] in float32, None where they are not known."""
        found = self._known.get(group_key(group))
        return None if found is None else [torch.tensor(row) for row in found]

    def add(self, group: Group, logps: Sequence[Tensor]) -> None:
        """Keeps the log-probabilities of a group; float32 comes back to the bit."""
        key, rows = group_key(group), [logp.tolist() for logp in logps]
        self._known[key] = rows
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            # The line break comes first: half a line that a kill left must not swallow this one.
            file.write("\n" + json.dumps([key, rows]))

    def fill(self, lm: VideoLM, groups: Iterable[Group]) -> None:
        """Computes what is missing with the reference model `lm`."""
        for group in groups:
            if self.get(group) is None:
                device = lm.model.get_input_embeddings().weight.device
                with torch.no_grad(), autocast(device, lm.model.dtype):
                    self.add(group, packed_log_probs(lm.model, [group])[0])


def _rows(path: Path) -> list[tuple[str, list[list[float]]]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        # Empty, or half a line that a kill left: what it held is computed again.
        try:
            key, logps = json.loads(line)
        except ValueError:
            continue
        rows.append((key, logps))
    return rows


def group_key(group: Group) -> str:
    """A hash of what the log-probabilities depend on beside the model: pixels, prompt and answers."""
    digest = hash_tensors(sorted(group.inputs.items()))
    digest.update(json.dumps([[c.token_ids, c.num_context] for c in group.continuations]).encode())
    return str(digest.hexdigest()[:32])


def model_key(lm: VideoLM, path: str | Path) -> str:
    """A hash of a checkpoint: of its weights in a directory, of name and commit on a hub."""
    import transformers

    quantized = bool(getattr(lm.model, "is_quantized", False))
    known = [
        transformers.__version__,
        str(path),
        str(lm.model.dtype),
        quantized,
        getattr(lm.model.config, "_commit_hash", None),
    ]
    digest = hashlib.sha256()
    directory = Path(resolve_model_path(str(path)))
    if directory.is_dir():
        known[1] = directory.name
        for file in sorted(directory.glob("*.safetensors")):
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    digest.update(json.dumps(known).encode())
    return digest.hexdigest()[:16]
