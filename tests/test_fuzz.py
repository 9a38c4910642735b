"""The fuzz harness in short: fixed seeds and a fixed number of cases of each kind. `nox -s fuzz` goes on with others."""

from collections.abc import Iterator

import pytest
from fuzz.drive import Driver
from fuzz.kinds import KINDS

SEED = 13
CASES = {"code": 40, "runs": 40, "arguments": 50, "servers": 30}
"""Of the other kinds 30: about 600 cases in all, a minute on one core."""


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with Driver() as one:
        yield one


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_end_in_one_line_or_in_the_same_numbers(kind, driver) -> None:
    found = [finding for number in range(CASES.get(kind, 30)) if (finding := driver.case(kind, SEED, number))]
    assert not found, "\n" + "\n\n".join(map(str, found))
