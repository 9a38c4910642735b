"""The published numbers and claims, one complete object each, loaded strictly from the folder `expected/`.

Covers the files' schema, resolving what they factor out (models, tolerances, notes), and which tolerance holds for
which relation data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec

from artifact.errors import ExpectedError
from artifact.evaluation.metrics import Group
from artifact.facts.fact import Perspective
from artifact.io import NOT_JSON
from artifact.reporting.resources import expected_folder
from artifact.tracing.averages import roles
from artifact.tracing.kinds import KindName

T = TypeVar("T")
_Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
_Points = Annotated[float, msgspec.Meta(gt=0, le=100)]


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Points either side of a published value, why that many, and whether they are too wide for a close match."""

    points: _Points
    wide: bool
    reason: str


class PublishedCell(msgspec.Struct, frozen=True):
    """One published number with all that is needed to read it. `edited` is None for the unedited model.

    `facts` says in words how many records the source scored.

    `tolerance` holds with the authors' relation data, `reconstructed` (relation columns only) with prompts built from
    templates.
    """

    id: str
    paper: str
    table: str
    where: str
    facts: str
    model: str
    printed_model: str
    model_revision: str
    method: str
    edited: Perspective | None
    perspective: Perspective
    group: Group
    metric: str
    unit: str
    sidedness: str
    value: float
    tolerance: Tolerance
    reconstructed: Tolerance | None
    taken_from: str
    notes: tuple[str, ...]
    edit_applied: bool = False
    """The edit was in force when this was scored, so that a run whose edit is undone first is not compared with it."""

    def tolerance_with(self, rebuilt: bool) -> Tolerance:
        """The tolerance that holds for a run, with relation prompts that were `rebuilt` from templates or not."""
        return self.reconstructed if rebuilt and self.reconstructed is not None else self.tolerance


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a claim's predicate: every method's value of a column lies within low to high (percent)."""

    edited: Perspective
    perspective: Perspective
    group: Group
    low: _Percent
    high: _Percent
    taken_from: str


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a claim's predicate: a column is lower after edits from one perspective than from the other.

    `disjoint` asks for 95% intervals that do not overlap; otherwise the cell's tolerance is allowed.
    """

    perspective: Perspective
    group: Group
    lower: Perspective
    higher: Perspective
    disjoint: bool


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cells of one trace kind and perspective whose indirect effects are averaged: token roles and a range of depth.

    `depth` is a half-open range of the model's depth from 0 to 1; layer l of L stands at (l + 0.5) / L.
    """

    kind: KindName
    perspective: Perspective
    roles: tuple[str, ...]
    depth: tuple[float, float]


class Effect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of a figure claim's predicate, fact by fact: the mean effect of `region` exceeds a comparison's.

    The comparison is another region's mean effect (`over`), or `share` of the fact's total effect (clean - corrupted).
    `reason` says why the words of the claim are read this way.
    """

    region: Region
    reason: str
    over: Region | None = None
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None


class _Sentence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: str
    paper: str
    sentence: str
    where: str
    models: tuple[str, ...]
    predicate: tuple[str, ...]
    """Its conditions in words, in the order of bounds, orders and effects; a claim holds if all of them do."""
    bounds: tuple[Bound, ...]
    orders: tuple[Order, ...]
    notes: tuple[str, ...]
    effects: tuple[Effect, ...] = ()


class Claim(_Sentence, frozen=True, kw_only=True):
    """One sentence of the paper, what judging it needs, and its predicate in words and, where it has one, as data."""

    cells: tuple[str, ...]
    kinds: tuple[str, ...]


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published count: of so many statements to trace (`of`) the model answers `value`; tolerance in statements."""

    id: str
    paper: str
    sentence: str
    where: str
    taken_from: str
    model: str
    unit: Literal["statements"]
    value: Annotated[int, msgspec.Meta(ge=0)]
    of: Annotated[int, msgspec.Meta(ge=1)]
    tolerance: Tolerance


class Expected(msgspec.Struct, frozen=True):
    """All that is published: the paper's `cells`, `claims` and `checks`, and the second source's cells, in order."""

    cells: tuple[PublishedCell, ...]
    claims: tuple[Claim, ...]
    second_source: tuple[PublishedCell, ...]
    checks: tuple[Check, ...] = ()


class _Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    printed: str
    revision: str


class _Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    perspective: Perspective
    group: Group
    printed: str
    tolerance: str
    reconstructed: str | None = None


class _PrintedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    method: str
    values: tuple[_Percent, ...]
    notes: tuple[str, ...] = ()
    half_widths: tuple[_Percent, ...] | None = None
    edit_applied: bool = False


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    paper: str
    where: str
    facts: str
    edited: Perspective
    notes: tuple[str, ...]
    columns: tuple[_Column, ...]
    rows: tuple[_PrintedRow, ...]


class _Claim(_Sentence, frozen=True, kw_only=True):
    tables: tuple[str, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    metric: str
    unit: Literal["percent"]
    sidedness: Literal["two-sided"]
    models: dict[str, _Model]
    tolerances: dict[str, Tolerance]
    notes: dict[str, str]
    tables: tuple[_Table, ...]
    claims: tuple[_Claim, ...]
    checks: tuple[Check, ...] = ()


def load_expected(folder: Path | None = None) -> Expected:
    """The published values of `folder` (default: the package's) in percent; ExpectedError names file and field."""
    folder = folder or expected_folder()
    paper, second = folder / "paper.json", folder / "second_source.json"
    file = _read(paper)
    cells = _cells(file, paper)
    claims = tuple(_claim(claim, cells, file, paper) for claim in file.claims)
    _refuse_twins(paper, "claims", [claim.id for claim in claims])
    second_source = _cells(_read(second), second)
    _refuse_twins(second, "tables", [cell.id for cell in (*cells, *second_source)])
    _refuse_twins(paper, "checks", [check.id for check in file.checks])
    for check in file.checks:
        if check.model not in file.models:
            raise _unknown(paper, f"check {check.id}.model", check.model, file.models)
        if check.value > check.of:
            raise ExpectedError(f"{paper}: check {check.id}: {check.value} of {check.of} is not a count; correct it")
    return Expected(cells, claims, second_source, file.checks)


def _read(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise ExpectedError(f"{path}: cannot be read ({error.strerror}); restore it from the repository") from None
    except NOT_JSON as error:
        raise ExpectedError(f"{path}: {error}; correct the field as expected/README.md describes") from None


def _cells(file: _File, path: Path) -> tuple[PublishedCell, ...]:
    cells = []
    for t, table in enumerate(file.tables):
        for r, row in enumerate(table.rows):
            at = f"tables[{t}].rows[{r}]"
            for name, given in (("values", row.values), ("half_widths", row.half_widths)):
                if given is not None and len(given) != len(table.columns):
                    raise ExpectedError(
                        f"{path}: {at}.{name}: expected {len(table.columns)} numbers, one a column, got {len(given)}; "
                        "correct the row"
                    )
            where = _Place(file, path, table, row, at)
            cells += [_cell(where, c, column) for c, column in enumerate(table.columns)]
    _refuse_twins(path, "tables", [cell.id for cell in cells])
    return tuple(cells)


class _Place(NamedTuple):
    """Where a row of a file stands; `at` names it in messages."""

    file: _File
    path: Path
    table: _Table
    row: _PrintedRow
    at: str

    def known(self, field: str, name: str, of: Mapping[str, T]) -> T:
        """The entry of that name; ExpectedError names the field that asks for an unknown one."""
        if name not in of:
            raise _unknown(self.path, field, name, of)
        return of[name]


def _cell(place: _Place, c: int, column: _Column) -> PublishedCell:
    file, _, table, row, at = place
    model = place.known(f"{at}.model", row.model, file.models)
    columns = f"tables {table.id}.columns"
    method = "unedited" if row.method == "none" else row.method.upper()
    return PublishedCell(
        id=f"{table.id}/{row.model}/{row.method}/{column.perspective}/{column.group}",
        paper=table.paper,
        table=table.id,
        where=table.where,
        facts=table.facts,
        model=row.model,
        printed_model=model.printed,
        model_revision=model.revision,
        method=row.method,
        edited=None if row.method == "none" else table.edited,
        perspective=column.perspective,
        group=column.group,
        metric=file.metric,
        unit=file.unit,
        sidedness=file.sidedness,
        value=row.values[c],
        tolerance=_widened(
            place.known(f"{columns}.tolerance", column.tolerance, file.tolerances),
            row.half_widths[c] if row.half_widths else None,
        ),
        reconstructed=None
        if column.reconstructed is None
        else place.known(f"{columns}.reconstructed", column.reconstructed, file.tolerances),
        taken_from=f"{table.where}, row {model.printed} {method}, column {column.printed}",
        notes=tuple(place.known(f"{at}.notes", note, file.notes) for note in (*table.notes, *row.notes)),
        edit_applied=row.edit_applied,
    )


def _widened(tolerance: Tolerance, half_width: float | None) -> Tolerance:
    """The tolerance, with the published 95% half-width where there is one."""
    if half_width is None:
        return tolerance
    reason = f"{tolerance.points} points ({tolerance.reason}), plus {half_width} points, the published 95% half-width"
    return Tolerance(tolerance.points + half_width, tolerance.wide, reason)


def _regions(effect: Effect) -> tuple[Region, ...]:
    return (effect.region,) if effect.over is None else (effect.region, effect.over)


def _check_effect(effect: Effect, claim: _Claim, path: Path) -> None:
    if (effect.over is None) == (effect.share is None):
        raise ExpectedError(f"{path}: claim {claim.id}.effects: each needs either over or share; correct the file")
    for region in _regions(effect):
        for role in region.roles:
            if role not in roles(region.perspective):
                raise _unknown(path, f"claim {claim.id}.effects.roles", role, dict.fromkeys(roles(region.perspective)))
        low, high = region.depth
        if not 0 <= low < high <= 1:
            raise ExpectedError(
                f"{path}: claim {claim.id}.effects.depth: expected 0 <= low < high <= 1, got {low}, {high}"
            )


def _claim(claim: _Claim, cells: tuple[PublishedCell, ...], file: _File, path: Path) -> Claim:
    tables = {table.id: table for table in file.tables}
    for name in claim.tables:
        if name not in tables:
            raise _unknown(path, f"claim {claim.id}.tables", name, tables)
    for name in claim.models:
        if name not in file.models:
            raise _unknown(path, f"claim {claim.id}.models", name, file.models)
    for effect in claim.effects:
        _check_effect(effect, claim, path)
    if len(claim.predicate) != (conditions := len(claim.bounds) + len(claim.orders) + len(claim.effects)):
        raise ExpectedError(
            f"{path}: claim {claim.id}.predicate: expected a sentence for each of its {conditions} conditions, got "
            f"{len(claim.predicate)}"
        )
    # A claim about several tables compares them, so it needs the methods that all of them have.
    rows = {(cell.table, cell.model, cell.method) for cell in cells}
    needed = tuple(
        cell.id
        for cell in cells
        if cell.table in claim.tables
        and cell.model in claim.models
        and all((table, cell.model, cell.method) in rows for table in claim.tables)
    )
    kinds = tuple(dict.fromkeys(region.kind for effect in claim.effects for region in _regions(effect)))
    said = {name: getattr(claim, name) for name in _Sentence.__struct_fields__}
    return Claim(**said, cells=needed, kinds=kinds)


def _unknown(path: Path, field: str, name: str, known: Mapping[str, object]) -> ExpectedError:
    return ExpectedError(f"{path}: {field}: {name!r} is unknown; expected one of {', '.join(known)}")


def _refuse_twins(path: Path, field: str, ids: list[str]) -> None:
    for number, name in enumerate(ids):
        if name in ids[:number]:
            raise ExpectedError(f"{path}: {field}: {name} stands twice; remove one of them")
