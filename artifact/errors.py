"""What can go wrong, by domain. Messages name the thing, what was expected, what came, and the remedy.

Covers the errors that a user can cause or must act on; the command line prints the message alone and exits with
`exit_code`. Defects of this package are any other exception; their traceback goes to a log (cli/commands.py).
"""

from collections.abc import Sequence


class ArtifactError(Exception):
    """Base of every error with a remedy. `exit_code` is what the command line returns."""

    exit_code = 2


class FactError(ArtifactError):
    """A fact file, a record, or a perspective that a record does not carry; `others` are further faults of a record."""

    def __init__(self, text: str, others: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.others = tuple(others)


class NotFetched(FactError):
    """A file of a source that is not in the cache; one that is there and damaged is another error."""


class ModelError(ArtifactError):
    """A model that cannot be found, read, or is of a family the decoder does not know."""


class DeviceError(ArtifactError):
    """A device that is not there, or that torch cannot use."""


class PromptError(ArtifactError):
    """A prompt or subject the model cannot be asked with."""


class EditError(ArtifactError):
    """An edit that cannot be computed, has no effect, or is not finite; in a run, a recorded failure of its case."""


class DoesNotFit(EditError):
    """One case that the device's memory does not hold on its own; it is left undone, as a larger device computes it."""


class SettingError(ArtifactError):
    """An option, hyperparameter, prefix or moment file that cannot be used."""


class RunError(ArtifactError):
    """A run folder that cannot be written, is held by another process, or belongs to another plan."""


class NotBegun(RunError):
    """A run folder whose run was stopped before its first record: the same command begins it."""


class ExpectedError(ArtifactError):
    """A file of expected values that does not follow its schema."""


class Interrupted(ArtifactError):
    """The run was stopped on request; what was done is kept and the same command goes on from there."""

    exit_code = 3
