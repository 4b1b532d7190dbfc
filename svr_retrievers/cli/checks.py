"""What `svr doctor` reports of each thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `fix` says what to do when it is not ok."""

    name: str
    state: State
    detail: str
    fix: str = ""
