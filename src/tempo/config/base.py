"""What all sections of the configuration share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

#: Names of phases and baselines are used as folder names.
NAME_PATTERN = r"^[A-Za-z0-9_-]+$"


class Section(BaseModel):
    """A part of the configuration. It is frozen and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
