"""Where the templates and the expected values lie: inside an installed package, or beside it in the repository."""

from pathlib import Path

from artifact.errors import ExpectedError

_PACKAGE = Path(__file__).resolve().parents[1]


def paper_folder() -> Path:
    """Folder of the jinja2 templates; ExpectedError when it is missing."""
    return _find("paper")


def expected_folder() -> Path:
    """Folder of the paper's values and claims; ExpectedError when it is missing."""
    return _find("expected")


def _find(name: str) -> Path:
    installed, beside = _PACKAGE / f"_{name}", _PACKAGE.parent / name
    for folder in (installed, beside):
        if folder.is_dir():
            return folder
    raise ExpectedError(
        f"folder {name!r} is missing; expected {installed} or {beside}; install the package again, or run from its "
        "repository"
    )
