"""How many known facts GPT-2 XL answers, against the paper's count: the tolerance, and who is not judged."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from artifact.plans import find_plans
from artifact.plans.unit import Plan
from artifact.reporting.checks import JudgedCheck, judge_check
from artifact.reporting.expected import load_expected
from artifact.reporting.verdict import Verdict, reach_verdict, verdict_json
from artifact.runs.describe import RunInfo, TracedData
from artifact.runs.record import Record
from artifact.runs.store import NOT_ANSWERED, Store, begin, writing
from artifact.sources.catalogue import HUB_MODELS, PLAIN_SOURCES

(CHECK,) = load_expected().checks
FULL = find_plans("gpt2-xl")[0]
UNITS = tuple(unit for unit in FULL.units if unit.does == "trace")[:2]
PLAN: Plan = msgspec.structs.replace(FULL, units=UNITS)
Judged = Callable[..., JudgedCheck]


def info_of(shared_smoke: Store, **changes: object) -> RunInfo:
    traced = TracedData("known facts", str(PLAIN_SOURCES["known"].files[0].sha256), "", list(range(CHECK.of)))
    usual = {"model": "gpt2-xl", "revision": HUB_MODELS["gpt2-xl"].revision, "plan": PLAN, "traced": traced}
    return msgspec.structs.replace(shared_smoke.info(), **(usual | changes))


@pytest.fixture
def judged(shared_smoke: Store, tmp_path: Path) -> Judged:
    """The check of a run in which so many statements were asked, of which so many were not answered."""

    def made(asked: int, unanswered: int, units: int = 1, **changes: object) -> JudgedCheck:
        info = info_of(shared_smoke, **changes)
        with writing(tmp_path / f"run-{asked}-{unanswered}-{units}") as store:
            begin(store, info)
            with store.together():
                for unit in UNITS[:units]:
                    done = next(
                        record
                        for one in shared_smoke.info().plan.units
                        if one.does == "trace"
                        for record in shared_smoke.records(one)
                        if record.status == "done"
                    )
                    for case in range(asked):
                        answered = msgspec.structs.replace(done, case_id=case)
                        reason = {"reason": f"{NOT_ANSWERED} 'x', not 'y'"}
                        store.add(unit, answered if case >= unanswered else Record(case, "excluded", reason))
            return judge_check(CHECK, {info.model: (info, store)})

    return made


def test_the_published_count() -> None:
    assert (CHECK.value, CHECK.of, CHECK.model, CHECK.unit) == (1207, 1209, "gpt2-xl", "statements")
    assert CHECK.taken_from and CHECK.where and CHECK.tolerance.reason


@pytest.mark.parametrize(
    ("unanswered", "state"), [(2, "reproduced"), (0, "reproduced"), (8, "reproduced"), (9, "outside tolerance")]
)
def test_a_run_of_all_statements_is_judged(judged: Judged, unanswered: int, state: str) -> None:
    for units in (1, 2):
        found = judged(CHECK.of, unanswered, units)
        assert found.state == state
        said = f"{CHECK.of - unanswered:,} of 1,209 statements are answered, published 1,207 of 1,209, to within 6"
        assert found.status == f"{state}: {said}"


def test_a_run_on_part_says_partial_until_it_is_out_of_reach(judged: Judged) -> None:
    assert judged(24, 1).state == judged(24, 8).state == "partial"
    assert judged(24, 1).status.startswith("partial: 23 of 24 statements are answered")
    assert judged(24, 9).status.startswith("outside tolerance (partial): 15 of 24")
    assert judged(0, 0).state == "not run"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "gpt-j"},
        {"revision": "0" * 40},
        {"traced": None},
        {"traced": TracedData("own", "0" * 64, "", list(range(1209)))},
        {"plan": msgspec.structs.replace(PLAN, name="smoke", models=())},
    ],
    ids=["another model", "another revision", "no traces", "other facts", "a smoke run"],
)
def test_what_is_not_held_against_it(judged: Judged, changes: dict) -> None:
    assert judged(30, 30, **changes).state == "not run"


def test_it_decides_the_exit_code_and_is_in_the_verdict(judged: Judged) -> None:
    runs = reach_verdict(load_expected(), [])
    assert [one.state for one in runs.checks] == ["not run"] and runs.exit_code == 0
    for unanswered, code in ((8, 0), (9, 1)):
        one = judged(CHECK.of, unanswered)
        found = Verdict((), runs.paper, runs.second_source, runs.claims, (one,))
        assert found.exit_code == code and ("gpt2-xl: outside tolerance" in found.sentence) == bool(code)
        (entry,) = msgspec.json.decode(verdict_json(found))["checks"]
        assert (entry["answered"], entry["asked"], entry["state"]) == (CHECK.of - unanswered, CHECK.of, one.state)
