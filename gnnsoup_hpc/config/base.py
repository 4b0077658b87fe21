"""What sections of a job have in common: their base, and the kinds of numbers that they hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0.0, le=1.0)]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
PartCount = Annotated[int, Field(ge=0)]
Fanout = Annotated[int, Field(ge=-1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A table of the job file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
