"""What switches do and are worth: one source for page and document, and a number only where one was measured."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from artifact.editing.methods import printed_name
from artifact.editing.protocol import SWITCH_WORDS, SWITCHES
from artifact.errors import ExpectedError
from artifact.reporting import resources
from artifact.reporting.cells import Scale
from artifact.reporting.switches import Change, load_worth, switch_lines

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
POINTS = Scale(1, signed=True)


def table(head: str) -> list[list[str]]:
    """The rows of the document's table that opens with this header."""
    body = DOCUMENT.split(head, 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()[2:]]


def test_the_document_says_of_each_switch_what_the_page_says() -> None:
    rows = [[cell.replace("`", "") for cell in row] for row in table("| switch | released | corrected |")]
    assert rows == [[name, *words] for name, words in SWITCH_WORDS.items()]


def test_the_document_has_the_measured_numbers() -> None:
    """A row an edit; of a switch that changed no number, one row for all its methods."""
    worth, expected = load_worth(), []
    assert worth.columns == ("entity reliability", "entity generality", "relation reliability", "relation generality")
    for name, measured in worth.switches.items():
        moved = [change for change in measured.changes if any(mean for mean, *_ in change.points)]
        if measured.changes and not moved:
            methods = dict.fromkeys(printed_name(change.method) for change in measured.changes)
            expected.append([f"`{name}`", ", ".join(methods), *["0.0"] * 4])
        for n, change in enumerate(moved):
            edit = f"{printed_name(change.method)}, {change.edited}"
            numbers = [str(POINTS(mean)) for mean, *_ in change.points]
            expected.append([f"`{name}`" if n == 0 else "", edit, *numbers])
    assert table("| switch | edit | entity rel. |") == expected and len(expected) > 15
    assert worth.command.split(" M, ")[0] in " ".join(DOCUMENT.split())


def test_a_number_stands_with_its_interval_and_what_is_not_measured_says_so() -> None:
    worth = load_worth()
    assert worth.words("removal_without_space") == "-12.5 [-25.0, -4.2]: MEMIT, relation edit, relation reliability."
    assert worth.words("ft_bias") == "No number changed."
    assert worth.words("tf32") == "Not measured: it needs a GPU."
    assert worth.words("target_as_text").startswith("No number changed. Its effect cannot show there")
    for change in (change for one in worth.switches.values() for change in one.changes):
        assert len(change.points) == 4 and all(low <= mean <= high for mean, low, high in change.points)
    less = msgspec.structs.replace(worth, switches={"tf32": msgspec.structs.replace(worth.switches["tf32"], note="")})
    assert less.words("tf32") == "Not measured."
    even = Change("rome", "entity", ((1.0, 0.0, 2.0), (-3.0, -4.0, -2.0), (0.0, 0.0, 0.0), (2.0, 1.0, 3.0)))
    one = msgspec.structs.replace(worth.switches["tf32"], changes=(even,), note="")
    assert msgspec.structs.replace(worth, switches={"tf32": one}).words("tf32").startswith("-3.0 [-4.0, -2.0]: ROME")


def test_a_run_s_lines_name_what_it_followed() -> None:
    worth = load_worth()
    lines = switch_lines({"kn_undone": False, "tf32": True}, worth)
    assert [line.name for line in lines] == list(SWITCHES)
    assert [line.name for line in lines if not line.on] == ["kn_undone"]
    assert switch_lines({}, worth) == []


@pytest.mark.parametrize(
    "change",
    [lambda f: f["switches"].pop("tf32"), lambda f: f["switches"].update(more={}), lambda f: f.pop("facts")],
)
def test_a_file_without_a_switch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], object]
) -> None:
    folder = Path(shutil.copytree(resources.expected_folder(), tmp_path / "artifact" / "_expected"))
    content = msgspec.json.decode((folder / "switches.json").read_bytes())
    change(content)
    (folder / "switches.json").write_bytes(msgspec.json.encode(content))
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "artifact")
    with pytest.raises(ExpectedError, match=re.escape("switches.json: ")) as caught:
        load_worth()
    assert "\n" not in str(caught.value)
