"""What the texts of one record must be: the faults of a record, each with its field, found in one look."""

from dataclasses import dataclass, field

from artifact.errors import FactError
from artifact.terminal import short


@dataclass(frozen=True)
class Checks:
    """What one record's texts must be: `faults` with the field of each, which `end` raises as one FactError."""

    source: str
    number: int
    faults: list[str] = field(default_factory=list)

    def refuse(self, why: str) -> None:
        """Note a fault of the record."""
        self.faults.append(f"record {self.number}: {why}")

    def end(self) -> None:
        """Raise FactError with the first fault, and the others beside it, where there is one."""
        if self.faults:
            raise FactError(f"{self.source}: {self.faults[0]}", self.faults[1:])

    def filled(self, field: str, text: str) -> None:
        """The field must have a text."""
        if not text.strip():
            self.refuse(f"{field} is empty; give it a text")

    def template(self, field: str, text: str) -> None:
        """The field must hold one {} for the subject."""
        if text.count("{}") != 1:
            self.refuse(f"{field} must hold exactly one {{}} for the subject, got {short(text)!r}; correct the record")

    def complete(self, field: str, text: str) -> None:
        """The field must be a text without {}."""
        if "{}" in text:
            self.refuse(f"{field} must not hold {{}}, got {short(text)!r}; write the text in full")
