"""The committed runs render without a model: a finished smoke run, and five of a real language model.

The smoke run's numbers are our measured ones. These come from another processor, whose last bits differ: by less than a
ten-thousandth of a point.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

from artifact.evaluation.metrics import Column
from artifact.plans import PLANS
from artifact.plans.mechanism import MECHANISM
from artifact.plans.paper import PAPER_METHODS, SMOKE
from artifact.plans.real import REAL
from artifact.plans.unit import Plan
from artifact.reporting.by_relation import relation_grids
from artifact.reporting.expected import load_expected
from artifact.reporting.findings.both import scored_facts
from artifact.reporting.findings.mechanism import measured
from artifact.reporting.findings.multiverse import measured as multiverse_of
from artifact.reporting.report import make_report
from artifact.reporting.sequences import Written, written_of
from artifact.reporting.verdict import measured_run
from artifact.runs.numbers import LAYOUT
from artifact.runs.store import Store, reading

RESULTS = Path(__file__).parents[2] / "results"
EXAMPLE, REAL_MODEL = RESULTS / "example-world", RESULTS / "smollm2"
KNOCKOUTS, BOTH, WHERE, MULTIVERSE, MODERN = (
    RESULTS / f"smollm2-{plan}" for plan in ("mechanism", "both", "where", "multiverse", "modern")
)


@contextmanager
def committed(folder: Path, plan: Plan) -> Iterator[Store]:
    """A committed run of SmolLM2: the plan's own, whole or in part, and undamaged."""
    with reading(folder) as store:
        info = store.info()
        assert (info.plan.name, info.model, info.limit) == (plan.name, "smollm2", None)
        store.refuse_damage()
        yield store


def test_the_example_renders_without_a_model(tmp_path: Path) -> None:
    with reading(EXAMPLE) as store:
        info = store.info()
        assert (info.plan, info.model, info.limit, info.evidence) == (SMOKE, "world", None, False)
        assert store.meta("numbers") == LAYOUT
        assert all(store.counts()[unit.name].total() == info.planned(unit) for unit in SMOKE.units)
        report = make_report([store], load_expected(), tmp_path)
    (before,) = report.before
    assert before.same == before.compared > 200 and before.largest < 1e-4
    assert "no evidence for or against the paper" in report.files["report.html"].decode()


def test_the_run_on_a_real_model_renders_and_says_what_its_committed_page_says(tmp_path: Path) -> None:
    """Where this fails after a change of the words: `kloc report results/smollm2`, and README's column again."""
    with reading(REAL_MODEL) as store:
        info = store.info()
        assert [unit.name for unit in info.plan.units] == [unit.name for unit in REAL.units]
        assert (info.plan.name, info.model, info.protocol, info.limit) == (REAL.name, "smollm2", "released", None)
        store.refuse_damage()
        assert all(set(counts) <= {"done", "excluded"} for counts in store.counts().values())
        report = make_report([store], load_expected(), tmp_path)
    page = (REAL_MODEL / "report" / "report.md").read_text()
    readme = (RESULTS.parent / "README.md").read_text()
    assert len(report.elsewhere) == 7
    for sentence in report.elsewhere:
        claim, _, answer = sentence.partition(" ")
        assert sentence in page and f"{claim} {answer.partition(' on ')[0]}" in readme
    assert "no evidence for or against the paper" in report.files["report.html"].decode()


def test_the_knockouts_of_a_real_model_render_and_answer_their_question(tmp_path: Path) -> None:
    """Where this fails after a change of the words: `kloc report results/smollm2-mechanism`, and README's numbers."""
    with committed(KNOCKOUTS, MECHANISM) as store:
        assert all(store.counts()[unit.name].total() == store.info().planned(unit) for unit in MECHANISM.units)
        report, found = make_report([store], load_expected(), tmp_path), measured(store)
    assert found is not None
    page = (KNOCKOUTS / "report" / "report.md").read_text()
    assert report.files["report.md"].decode() == page
    (asked,) = (one for one in json.loads(report.files["verdict.json"])["questions"] if one["id"] == "Q3")
    entity, relation = asked["answers"][0]["conditions"]
    assert entity["answer"] == "yes" and relation["answer"] == "not run" and "none of 200" in relation["reason"]
    assert {one["model"] for one in asked["answers"]} == {"smollm2"} and entity["measured"]["n"] == 200
    (grid,) = found.grids
    assert [(one.of, one.name) for one in found.tests] == [
        (f"{line.heads[0]} prompt", f"change, {line.heads[1]}") for line in grid.lines
    ]
    assert all(0 > one.estimate.mean > line.cells[0].mean for one, line in zip(found.tests, grid.lines, strict=True))
    depths = {line.heads[:2]: f"{line.cells[-1].mean:.0%}" for line in grid.lines}
    readme = " ".join((RESULTS.parent / "README.md").read_text().split())
    reads = depths["entity", "last token to relation"], depths["entity", "last token to subject"]
    assert "last token reads the relation at {} of the model's depth and the subject at {}.".format(*reads) in readme


def test_both_edits_of_a_real_model_render_and_answer_their_question(tmp_path: Path) -> None:
    """Where this fails after a change of the words: `kloc report results/smollm2-both`."""
    ((plan,), read) = PLANS["both"], " ".join((RESULTS.parent / "README.md").read_text().split())
    with committed(BOTH, plan) as store:
        assert all(store.counts()[unit.name] == {"done": store.info().planned(unit)} for unit in plan.units)
        report, scored = make_report([store], load_expected(), tmp_path), scored_facts(store)
    assert report.files["report.md"].decode() == (BOTH / "report" / "report.md").read_text()
    (asked,) = (one for one in json.loads(report.files["verdict.json"])["questions"] if one["id"] == "N2")
    assert [one["answer"] for one in asked["answers"]] == ["yes"]
    assert scored is not None
    assert f"When {len(scored.cases_F)} facts were edited from both perspectives, one after the other, the sec" in read
    for first, both, asked_from in (("E", "E then R", "entity"), ("R", "R then E", "relation")):
        column = Column(asked_from, "reliability")
        change = scored.change(both, "magnitude", column).minus(scored.change(first, "magnitude", column))
        assert change.values_N.mean() < -0.3, "the second edit weakens the first"


def test_the_edits_by_site_of_a_real_model_render_and_answer_their_question(tmp_path: Path) -> None:
    """Where this fails after a change of the words: `kloc report results/smollm2-where`, and protocol.md's numbers."""
    (plan,) = PLANS["where"]
    with committed(WHERE, plan) as store:
        (facts,) = {store.counts()[unit.name]["done"] for unit in plan.units}
        assert all(store.info().planned(unit) == facts for unit in plan.units)
        hours = sum(seconds for _, seconds, _ in store.times()) / 3600
        report = make_report([store], load_expected(), tmp_path)
    page = report.files["report.md"].decode()
    assert page == (WHERE / "report" / "report.md").read_text()
    (asked,) = (one for one in json.loads(report.files["verdict.json"])["questions"] if one["id"] == "Q1")
    conditions = asked["answers"][0]["conditions"]
    assert [one["answer"] for one in conditions] == ["no", "yes", "yes"]
    effect = conditions[0]["measured"]
    protocol = " ".join((RESULTS.parent / "docs" / "protocol.md").read_text().split())
    says = "{:.4f} of probability [{:.4f}, {:.4f}]".format(*(-effect[end] for end in ("mean", "high", "low")))
    assert effect["n"] == facts and f"{facts} facts, {hours:.1f} hours of one worker's time" in protocol
    assert says in protocol


def said_of_curves(curves: Sequence[Written]) -> str:
    """What docs/protocol.md says of 100 edits in one model."""
    kept: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    before = set()
    for one in curves:
        column = f"{one.edited} reliability"
        for way in ("sequence", "batch"):
            if (mean := one.found.get(((100, way), column))) is not None:
                kept[way, one.edited][one.method] = round(100 * mean.mean)
        before.add(round(100 * one.found[(0, "unedited"), "relation reliability"].mean))
    entity, relation = (kept["batch", one].values() for one in ("entity", "relation"))
    in_turn, relations = kept["sequence", "entity"], kept["sequence", "relation"]
    assert max(in_turn, key=in_turn.get) == "AlphaEdit" and min(in_turn, key=in_turn.get) == "ROME"
    assert max(relations, key=relations.get) == "ROME"
    return (
        f"the new entity is likelier than the old one in {min(entity)} to {max(entity)} of 100 facts. After the "
        f'relation edits the new relation is likelier than "None" in {min(relation)} to {max(relation)}, and in '
        f'{before.pop()} before any edit: in the other facts "None", which these edits write for the old relation, has '
        f"become the likelier of the two. One after the other, AlphaEdit keeps the most entity edits "
        f"({in_turn['AlphaEdit']} of 100), and ROME the fewest ({in_turn['ROME']}) but the most relation edits "
        f"({relations['ROME']})."
    )


def test_the_newer_editors_run_renders_and_answers_for_each(tmp_path: Path) -> None:
    """Where this fails after a change of the words: `kloc report results/smollm2-modern`, and protocol.md's numbers."""
    (plan,) = PLANS["modern"]
    with committed(MODERN, plan) as store:
        run, counts, curves = measured_run(store), store.counts(), written_of(store)
        rows = run.rows
        tables = [grid for grid in relation_grids(run) if grid.name.startswith("by-relation-entity")]
        report = make_report([store], load_expected(), tmp_path)
    page = report.files["report.md"].decode()
    assert page == (MODERN / "report" / "report.md").read_text()
    assert "The rest of the run" not in page
    edits = {unit.method for unit in plan.units if unit.does == "edit"}
    assert {counts[unit.name]["done"] for unit in plan.units if unit.does != "task"} == {60}
    assert {counts[unit.name]["done"] for unit in plan.units if unit.does == "task"} == {100}
    shown = [name for grid in tables for name in grid.columns if name != "facts"]
    assert len({*shown}) == len(shown) == len(edits) and max(len(grid.columns) for grid in tables) <= 6, "of a page"
    (asked,) = (one for one in json.loads(report.files["verdict.json"])["questions"] if one["id"] == "E")
    found = {tuple(one["condition"].split(", ")[1:3]): one for one in asked["answers"][0]["conditions"]}
    others = {edit: one["measured"] for edit, one in found.items() if one["answer"] != "yes"}
    assert {edit: found[edit]["answer"] for edit in others} == {
        ("relation edit", "IKE"): "no",
        ("relation edit", "RETS"): "undecided",
    }
    at_subject = (one["measured"] for (_, by), one in found.items() if by not in ("IKE", "RETS"))
    least = min(at_subject, key=itemgetter("mean"))
    assert least == found["relation edit", "R-ROME"]["measured"]
    said = [
        "{:+.1f}{} [{:+.1f}, {:+.1f}]".format(100 * one["mean"], unit, 100 * one["low"], 100 * one["high"])
        for one, unit in [(least, " points"), *((one, "") for one in others.values())]
    ]
    protocol = " ".join((RESULTS.parent / "docs" / "protocol.md").read_text().split())
    assert said_of_curves(curves) in protocol
    assert all(one in protocol for one in said), said
    (unedited,) = (row for row in rows if row.method == "none")
    before = 100 * unedited.values["success", Column("relation", "reliability", "another relation")].mean.mean
    assert f"gain {100 - before:.0f} points at most, because they are right in {before:.0f} of 100 facts" in protocol
    readme = " ".join((RESULTS.parent / "README.md").read_text().split())
    said_of_all = "newer editors' relation edits change the entity as little, except RETS's and IKE's"
    assert f"On 60 facts, {said_of_all}" in readme
    column, paper = ("success", Column("entity", "reliability")), PAPER_METHODS["gpt2-xl"]
    own = [row for row in rows if row.edited == "relation" and row.control is None]
    rises = {row.method: change.mean for row in own if (change := row.values[column].change) is not None}
    as_little = max(rises[method] for method in paper) + 0.02
    assert {method for method in edits if rises[method] > as_little} == {"ike", "rets"}


def test_the_multiverse_of_a_real_model_renders_and_says_what_carries_each_finding(tmp_path: Path) -> None:
    """After a change of the words: `kloc report results/smollm2-multiverse`, and protocol.md's table."""
    (plan,) = PLANS["multiverse"]
    with committed(MULTIVERSE, plan) as store:
        assert all(store.counts()[unit.name].total() == store.info().planned(unit) == 20 for unit in plan.units)
        hours = sum(seconds for _, seconds, _ in store.times()) / 3600
        report, found = make_report([store], load_expected(), tmp_path), multiverse_of(store)
    page = report.files["report.md"].decode()
    assert page == (MULTIVERSE / "report" / "report.md").read_text() and found is not None
    protocol = (RESULTS.parent / "docs" / "protocol.md").read_text()
    assert len(found.charts) == 7 and f"20 facts, {hours:.1f} hours of one worker" in protocol
    shares = {curve.finding: curve.agree / len(curve.entries) for curve in found.charts}
    mostly, seldom = min(shares[name] for name in ("T1", "T3", "F2")), max(shares["F1"], shares["F3"])
    assert mostly > 0.75 and seldom < 0.2, "README's words"
    for curve in found.charts:
        choice, share = next(iter(curve.explained.items()))
        assert curve.summary.split(";")[0] in page
        numbers = f"{curve.agree} of {len(curve.entries)} | {curve.contradict} | the {choice} ({share:.0%})"
        assert f"| {curve.finding} | {numbers} |" in protocol
    fourth = next(curve for curve in found.charts if curve.finding == "F4")
    for direction, words in (("restore", "clean values are restored"), ("corrupt", "corrupted values are put in")):
        own = [one for one in fourth.entries if one.specification.choices["direction"] == direction]
        counts = sum(one.agrees for one in own), sum(one.contradicts for one in own)
        said = f"where {words}, {counts[0]} specifications agree and {counts[1]} contradict"
        assert said.lower().replace("specifications ", "") in " ".join(
            protocol.lower().replace("specifications ", "").split()
        )
    assert not any(one.specification.choices.get("corruption") == "replacement" for one in fourth.entries)
