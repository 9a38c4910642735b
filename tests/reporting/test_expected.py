"""The expected values are complete, equal to the printed tables, and loaded strictly."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from artifact.errors import ExpectedError
from artifact.reporting import resources
from artifact.reporting.expected import load_expected
from artifact.reporting.resources import expected_folder

TABLE_1 = """
gpt2-xl ft     23.92 25.44 98.79 79.03
gpt2-xl kn     22.53 24.61 97.52 76.16
gpt2-xl mend   22.33 24.63 100.0 83.24
gpt2-xl rome   27.92 28.12 99.99 84.47
gpt2-xl memit  24.15 24.63 91.36 76.24
gpt-j   mend   15.51 17.99 100.0 81.52
gpt-j   rome   30.95 31.87 100.0 95.97
gpt-j   memit  18.92 19.37 100.0 88.50
"""
TABLE_2 = """
gpt2-xl rome   99.93 96.6  96.12 74.46
gpt2-xl memit  93.88 79.6  97.28 76.01
gpt-j   rome   99.99 99.49 91.37 74.52
gpt-j   memit  99.87 95.08 92.36 74.20
"""
SUMMARY_CODE = """
gpt2-xl ft     99.28 48.21 97.19 76.14
gpt2-xl kn     30.45 28.8  83.42 72.93
gpt2-xl mend   93.8  58.0  97.91 76.22
"""
ROME_TABLE_4 = """
gpt2-xl none   22.2 24.7 78.1
gpt2-xl ft     99.1 48.7 70.3
gpt2-xl kn     28.7 28.0 72.9
gpt2-xl mend   99.1 65.4 37.9
gpt2-xl rome   100.0 96.4 75.4
gpt-j   none   16.3 18.6 83.0
gpt-j   mend   97.4 53.6 53.9
gpt-j   rome   99.9 99.1 78.9
"""
BOTH_VIEWS = ("entity/reliability", "entity/generality", "relation/reliability", "relation/generality")
ENTITY_VIEW = ("entity/reliability", "entity/generality", "entity/specificity")


def printed(table: str, text: str, columns: tuple[str, ...]) -> dict[str, float]:
    rows = [line.split() for line in text.strip().splitlines()]
    return {
        f"{table}/{model}/{method}/{column}": float(value)
        for model, method, *values in rows
        for column, value in zip(columns, values, strict=True)
    }


def test_every_cell_of_both_tables_as_printed() -> None:
    expected = {**printed("t1", TABLE_1, BOTH_VIEWS), **printed("t2", TABLE_2, BOTH_VIEWS)}
    assert {cell.id: cell.value for cell in load_expected().cells} == expected
    assert len(expected) == 48


def test_second_source_as_printed() -> None:
    expected = {**printed("rake", SUMMARY_CODE, BOTH_VIEWS), **printed("rome-t4", ROME_TABLE_4, ENTITY_VIEW)}
    assert {cell.id: cell.value for cell in load_expected().second_source} == expected


def test_every_cell_is_complete() -> None:
    expected = load_expected()
    for cell in (*expected.cells, *expected.second_source):
        texts = (cell.paper, cell.where, cell.facts, cell.model_revision, cell.metric, cell.unit, cell.sidedness)
        assert all((*texts, cell.taken_from, cell.notes, cell.tolerance.reason)), cell.id
        assert (cell.edited is None) == (cell.method == "none")


def test_tolerances_by_column_and_relation_data() -> None:
    for cell in load_expected().cells:
        own = cell.tolerance_with(rebuilt=False)
        rebuilt = cell.tolerance_with(rebuilt=True)
        if cell.perspective == "entity":
            assert own.points == rebuilt.points == 1.5
        else:
            assert (own.points, own.wide, rebuilt.points, rebuilt.wide) == (2.0, False, 10.0, True)


def test_published_half_width_widens_the_tolerance() -> None:
    cells = {cell.id: cell for cell in load_expected().second_source}
    assert cells["rome-t4/gpt-j/mend/entity/generality"].tolerance.points == pytest.approx(1.5 + 1.9)


def test_claims() -> None:
    claims = {claim.id: claim for claim in load_expected().claims}
    assert sorted(claims) == ["F1", "F2", "F3", "F4", "T1", "T2", "T3"]
    assert len(claims["T1"].cells) == 32 and len(claims["T2"].cells) == 16
    # Table 2 has ROME and MEMIT only, so that a comparison of both tables needs just those rows of Table 1.
    assert len(claims["T3"].cells) == 32
    for claim in claims.values():
        assert claim.sentence and claim.where and claim.predicate
        assert bool(claim.effects) != bool(claim.bounds or claim.orders)
        assert bool(claim.effects) == bool(claim.kinds)
        assert all(effect.reason for effect in claim.effects)
    assert claims["F4"].kinds == ("mlp", "attn", "hidden", "severed-mlp", "severed-attn")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["tables"][0]["rows"][0].update(values=[1.0]), r"rows\[0\]\.values: expected 4 numbers"),
        (lambda f: f["tables"][0]["rows"][0].update(model="gpt3"), r"rows\[0\]\.model: 'gpt3' is unknown"),
        (lambda f: f["tables"][0]["rows"][0].update(notes=["x"]), r"rows\[0\]\.notes: 'x' is unknown"),
        (lambda f: f["tables"][0]["columns"][0].update(tolerance="x"), "columns.tolerance: 'x' is unknown"),
        (lambda f: f["tables"][0]["rows"].append(f["tables"][0]["rows"][0]), "stands twice"),
        (lambda f: f["tables"][0]["rows"][0].update(values=[101, 1, 1, 1]), r"rows\[0\]\.values\[0\]"),
        (lambda f: f.update(surprise=1), "unknown field `surprise`"),
        (lambda f: f["claims"][4].update(tables=["t9"]), "claim T1.tables: 't9' is unknown"),
        (lambda f: f["claims"][4].update(models=["m"]), "claim T1.models: 'm' is unknown"),
        (
            lambda f: f["claims"][0]["effects"][0]["region"].update(roles=["x"]),
            "claim F1.effects.roles: 'x' is unknown",
        ),
        (lambda f: f["claims"][0]["effects"][0]["region"].update(depth=[0.5, 0.5]), "claim F1.effects.depth: expected"),
        (lambda f: f["claims"][0]["effects"][0].pop("share"), "each needs either over or share"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_field(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    folder = Path(shutil.copytree(expected_folder(), tmp_path / "expected"))
    content = msgspec.json.decode((folder / "paper.json").read_bytes())
    change(content)
    (folder / "paper.json").write_bytes(msgspec.json.encode(content))
    with pytest.raises(ExpectedError, match=message) as caught:
        load_expected(folder)
    assert "paper.json" in str(caught.value) and "\n" not in str(caught.value)


def test_folders_of_an_installed_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "artifact")
    with pytest.raises(ExpectedError, match="folder 'expected' is missing"):
        resources.expected_folder()
    for folder in ("expected", "artifact/_expected"):
        (tmp_path / folder).mkdir(parents=True)
        assert resources.expected_folder() == tmp_path / folder


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExpectedError, match="paper.json: cannot be read"):
        load_expected(tmp_path)
