"""A record: what a run keeps of one case of one unit."""

from typing import Any, Literal

import msgspec


class Record(msgspec.Struct, frozen=True):
    """One case of one unit. `done`: payload holds the numbers. `excluded`: the case does not count, with the reason.

    `failed`: it could not be computed, with the reason. `undone`: this device cannot compute it, with the reason; such
    a record is never stored.
    """

    case_id: int
    status: Literal["done", "excluded", "failed", "undone"]
    payload: dict[str, Any]

    @property
    def reason(self) -> str:
        return str(self.payload.get("reason", ""))
