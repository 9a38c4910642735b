"""The page's first lines: what runs establish, what they do not, and what it would take; and what to call the page.

Covers choosing and wording the statements. Numbers and statuses are verdict.py's; a page of the embedded world is a
pipeline check, which is no evidence about the paper.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from artifact.editing.methods import printed_name
from artifact.plans.tasks import TASKS
from artifact.reporting.baseline import MeasuredBefore
from artifact.reporting.tables import WITHIN
from artifact.reporting.verdict import JudgedClaim, MeasuredRun, Verdict
from artifact.sizes import count_of
from artifact.sources.catalogue import WORLDS

FULL_NEEDS = "an NVIDIA GPU with 48 GB, 69 GB of disk and about 5.5 hours on an H100 (computed, not measured)"
SAMPLE_NEEDS = "a GPU with 24 GB and about 11 minutes on an H100 (computed, not measured)"
"""What README says of the two plans; a test holds them together."""
_DECIDED = {"holds", "does not hold"}


@dataclass(frozen=True)
class Line:
    """One statement of the summary, and the command that it ends in, if any."""

    words: str
    command: str = ""


@dataclass(frozen=True)
class Summary:
    """What a page is, its heading, and its first lines in three groups."""

    kind: str
    heading: str
    established: tuple[Line, ...]
    open: tuple[Line, ...]
    takes: tuple[Line, ...]


def summarised(runs: Sequence[MeasuredRun], verdict: Verdict, before: Sequence[MeasuredBefore]) -> Summary:
    """The summary of the page of these runs; `before` are their comparisons with our earlier measurements."""
    plan, evidence = runs[0].info.plan, any(run.info.evidence for run in runs)
    judged = [claim for claim in verdict.claims if _DECIDED & set(claim.states)]
    waiting = [claim for claim in verdict.claims if not _DECIDED & set(claim.states)]
    kind = _kind(runs)
    title = f"{plan.title[:1].upper()}{plan.title[1:]}"
    return Summary(
        kind=kind,
        heading=f"Pipeline check: {plan.title}" if kind.startswith("pipeline") else title,
        established=(
            *(Line(f"claim {one.claim.id}, {one.claim.sentence}: {one.status}") for one in judged),
            *((Line(_compared(verdict)),) if evidence else ()),
            *(Line(_ran(run)) for run in runs),
            *(Line(_as_before(one)) for one in before),
        ),
        open=tuple(_open(runs, verdict, waiting)),
        takes=tuple(_takes(runs, verdict, waiting)),
    )


def _as_before(before: MeasuredBefore) -> str:
    if before.itself:
        return before.sentence
    words = "an earlier run of ours gave other numbers" if before.others else "the installation works as ours did"
    return f"{words}: {before.sentence}"


def _kind(runs: Sequence[MeasuredRun]) -> str:
    if all(run.info.model in WORLDS for run in runs):
        return "pipeline check (not evidence)"
    return "reproduction report" if any(run.info.evidence for run in runs) else "report on another model or other data"


def _compared(verdict: Verdict) -> str:
    counts = verdict.counts
    compared = counts["reproduced"] + counts["outside tolerance"]
    partial = any(cell.partial for cell in verdict.cells)
    where = " on a part of the facts, by their intervals" if partial else ""
    meets = "meet the tolerance, {} do not" if partial else "lie within their tolerance, {} outside"
    return (
        f"of the paper's {len(verdict.cells)} values {compared} were compared{where}: {counts['reproduced']} "
        + meets.format(counts["outside tolerance"])
    )


def _ran(run: MeasuredRun) -> str:
    """What was computed, in one sentence."""
    units, counts = run.info.plan.units, run.store.counts()
    done, facts = Counter[str](), Counter[str]()  # the units of a task share their facts
    for unit in units:
        kind, count = unit.task or unit.does, counts.get(unit.name, Counter())["done"]
        done[kind] += count
        facts[kind] = max(facts[kind], count)
    edits = [unit for unit in units if unit.does == "edit" and counts.get(unit.name, Counter())["done"]]
    methods = dict.fromkeys(printed_name(unit.method) for unit in edits)
    parts = []
    if methods:
        controls = sum(counts[unit.name]["done"] for unit in edits if unit.control)
        words = f"{count_of(done['edit'], 'edit')} with {_and(list(methods))}"
        parts.append(words + (f" ({controls:,} of them controls)" if controls else ""))
    if done["trace"]:
        parts.append(count_of(done["trace"], "trace"))
    if done["knockout"]:
        parts.append(count_of(done["knockout"], "attention knockout"))
    parts += [f"“{task.words}” on {count_of(facts[name], 'fact')}" for name, task in TASKS.items() if facts[name]]
    if facts["unedited"]:
        parts.append(f"the unedited model on {count_of(facts['unedited'], 'fact')}")
    lost = sum(one[state] for one in counts.values() for state in ("failed", "excluded"))
    within = sum(one.count for one in run.reasons if one.status == WITHIN)
    reasons = "no case failed"
    if within:
        reasons = f"no case failed as a whole, {count_of(within, 'part')} of cases did, for the reasons below"
    if lost:
        were = "was" if lost == 1 else "were"
        reasons = f"{count_of(lost, 'case')} failed or {were} excluded, for the reasons below"
    computed = _and(parts) if parts else "no case yet"
    return f"computed on {run.info.model}: {computed}; {reasons}"


def _open(runs: Sequence[MeasuredRun], verdict: Verdict, waiting: Sequence[JudgedClaim]) -> list[Line]:
    found = []
    for run in runs:
        counts, units = run.store.counts(), [unit for unit in run.info.plan.units if run.info.asked(unit)]
        recorded, asked = sum(map(Counter.total, counts.values())), sum(map(run.info.asked, units))
        if recorded < asked:
            words = f"the rest of the run on {run.info.model}: {recorded:,} of its {asked:,} cases are computed"
            if empty := sum(not counts.get(unit.name) for unit in units):
                words += f"; tables and figures leave out {empty} of its {len(units)} units, which have none yet"
            found.append(Line(words))
    if not any(run.info.evidence for run in runs):
        found.append(
            Line(
                f"anything about the paper: none of its {len(verdict.cells)} published values was compared, and none "
                f"of its {len(verdict.claims)} claims was judged"
            )
        )
    elif waiting:
        found += [Line(f"claim {one.claim.id}: {one.status}") for one in waiting if one.states]
        if unasked := [one.claim.id for one in waiting if not one.states]:
            named = f"claim{'s' * (len(unasked) > 1)} {_and(unasked)}"
            found.append(Line(f"{named}: not run; the table below says what each needs"))
    if any(run.info.evidence for run in runs) and (missing := verdict.counts["not run"] + verdict.counts["skipped"]):
        found.append(Line(f"{missing} of the paper's {len(verdict.cells)} values, which were not run or were skipped"))
    if any(cell.partial for cell in verdict.cells):
        found.append(Line("the paper's values on all of its facts: part of them was run, so intervals are judged"))
    if all(run.info.model in WORLDS for run in runs):
        found.append(Line("how the methods do on real text: the facts are made up, and the model was trained on them"))
    return found


def _takes(runs: Sequence[MeasuredRun], verdict: Verdict, waiting: Sequence[JudgedClaim]) -> list[Line]:
    partial = any(cell.partial for cell in verdict.cells)
    if not waiting and not partial and not verdict.counts["not run"]:
        return []
    lines = [Line(f"every claim, in full: {FULL_NEEDS}:", "kloc full")]
    if not any(run.info.evidence for run in runs):
        lines.append(Line(f"every claim on GPT-2 XL, on 200 facts: {SAMPLE_NEEDS}:", "kloc run sample"))
    return [*lines, Line("hours, memory and disk for another machine:", "kloc doctor --estimate full")]


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
