"""The report's files: the same bytes each time, well formed, self-contained, and honest in their first lines."""

import csv
import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from artifact.errors import RunError
from artifact.plans import PLANS, narrowed
from artifact.plans.paper import SMOKE
from artifact.plans.unit import Plan, Unit
from artifact.reporting.charts import chart_csv, charts, largest_half_width
from artifact.reporting.expected import load_expected
from artifact.reporting.questions import Answer
from artifact.reporting.report import make_report, render, repeat_command
from artifact.reporting.resources import paper_folder
from artifact.runs.store import Store, reading

Build = Callable[..., Store]
ROME = Plan(
    "tables",
    "ROME from the relation perspective",
    (
        Unit("unedited", "unedited", batch=8),
        Unit("rome-relation", "edit", batch=8, method="rome", perspective="relation"),
    ),
)
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags balance; collects visible text, resources and links, and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.alts: list[str | None] = []
        self.unscoped = 0
        self.text = ""
        self.captions = self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"] or "")
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif "src" in given or "href" in given:
            self.resources.append(given.get("src") or given.get("href") or "")
        if tag == "img":
            self.alts.append(given.get("alt"))
        self.unscoped += tag == "th" and "scope" not in given
        self.captions += tag == "caption"
        self.tables += tag == "table"

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.text += " " + data


def parsed(files: dict[str, bytes]) -> Page:
    page = Page()
    page.feed(files["report.html"].decode())
    page.close()
    assert page.open == []
    page.text = " ".join(page.text.split())
    return page


def made(*stores: Store) -> dict[str, bytes]:
    return make_report(stores, load_expected(), stores[0].report_folder).files


@pytest.fixture(scope="module")
def files(shared_smoke: Store) -> dict[str, bytes]:
    return made(shared_smoke)


def test_rendering_twice_gives_the_same_bytes_and_needs_no_torch(smoke: Store, drawn: None) -> None:
    page, _ = render(smoke)
    folder = page.parent
    assert page == smoke.report_folder / "report.html"

    def content() -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = content()
    # Another process has other hash seeds, and the time in seconds has moved on.
    program = (
        "import sys; from pathlib import Path; from artifact.runs.store import reading\n"
        "from artifact.reporting.report import render\n"
        f"with reading(Path({str(smoke.folder)!r})) as store: render(store)\n"
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert content() == first
    assert {"report.html", "report.md", "verdict.json", "timings.json"} <= first.keys()
    assert {"figures/aie-hidden.pdf", "figures/aie-hidden.png", "figures/aie-hidden.csv"} <= first.keys()
    assert {"tables/success.tex", "tables/success.md", "tables/run.csv", "tables/paper-table-1.csv"} <= first.keys()
    assert not [name for name in first if name.endswith(".tmp")]


def test_the_page_is_well_formed_and_self_contained(files: dict[str, bytes]) -> None:
    page = parsed(files)
    assert all(resource.startswith("data:image/png;base64,") for resource in page.resources)
    assert "@import" not in files["report.html"].decode() and "url(" not in files["report.html"].decode()
    assert page.tables == page.captions > 0 and page.unscoped == 0
    assert len(page.alts) == 3 and all(page.alts)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("https://arxiv.org/"):
            assert link in files, link


def test_the_first_lines_say_what_ran_and_that_it_is_no_evidence(files: dict[str, bytes]) -> None:
    for text in (parsed(files).text[:1500], files["report.md"].decode()[:1500]):
        for part in ("every stage once, on a small model", "world", "no hub can be reached", "cpu", "float32", "24"):
            assert part in text
        assert "no evidence for or against the paper" in text
        assert "editing site by design" in text
        assert text.index("no evidence") < text.index("nothing was compared with the paper")


def test_evidence_has_no_such_notice(build: Build, full_size: dict[str, Any]) -> None:
    files = made(build(**full_size))
    assert "no evidence" not in parsed(files).text
    assert "8 of 48 published values were compared: 8 reproduced" in parsed(files).text
    assert {name for name in files if name.startswith("figures/")} == {
        "figures/drawn.json",
        *(f"figures/edits-{asked}.{form}" for asked in ("entity", "relation") for form in ("pdf", "png", "csv")),
    }


def test_reasons_are_escaped_where_they_stand(files: dict[str, bytes]) -> None:
    assert "the value's loss is <nan> & 100% lost" in parsed(files).text
    assert b"<nan>" not in files["report.html"]
    assert rb"\<nan\>" in files["report.md"]


def figures_in(text: str) -> list[str]:
    return re.findall(r"[+-]?\d+\.\d+", text)


@pytest.mark.parametrize("metric", ["success", "accuracy", "magnitude"])
def test_all_formats_hold_the_same_numbers(files: dict[str, bytes], metric: str) -> None:
    markdown = files[f"tables/{metric}.md"].decode()
    latex = files[f"tables/{metric}.tex"].decode()
    rows = figures_in(markdown.split("---:", 1)[1])
    assert rows == figures_in(latex.split(r"\midrule")[1])
    table = [row for row in csv.DictReader(io.StringIO(files["tables/run.csv"].decode())) if row["metric"] == metric]
    spread: list[str] = []
    for unit in dict.fromkeys(row["unit_of_work"] for row in table):
        mine = [row for row in table if row["unit_of_work"] == unit]
        for keys in (("mean", "low", "high"), ("change", "change_low", "change_high")):
            spread += [row[key] for row in mine for key in keys if row[key]]
    assert spread == rows
    assert files["report.md"].decode().count(markdown.split("\n\n")[1].strip()) == 1
    page = parsed(files).text.replace("−", "-")
    assert all(found in page for found in rows)


def test_published_tables_hold_the_published_numbers(files: dict[str, bytes]) -> None:
    cells = {cell.id: f"{cell.value:.2f}" for cell in load_expected().cells}
    for name in ("paper-table-1", "paper-table-2"):
        table = list(csv.DictReader(io.StringIO(files[f"tables/{name}.csv"].decode())))
        assert all(cells[row["id"]] == row["value"] for row in table)
        for form in ("md", "tex"):
            text = files[f"tables/{name}.{form}"].decode()
            assert all(row["value"] in text for row in table)


def test_latex_is_escaped_and_balanced(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        if name.endswith(".tex"):
            text = re.sub(r"\\[{}%&_#$]", "", content.decode())
            assert text.count("{") == text.count("}")
            assert all(part in text for part in (r"\toprule", r"\midrule", r"\bottomrule"))
            assert "±" not in text and "<" not in text
            (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
            width = len(columns)
            assert all(line.count("&") == width - 1 for line in text.splitlines() if line.endswith(r"\\"))


def test_times_stand_in_timings_alone(files: dict[str, bytes]) -> None:
    timings = msgspec.json.decode(files["timings.json"])
    assert {"model": "world", "unit": "rome-entity", "seconds": 1.25, "cases": 24} in timings["units"]
    assert not any(b"1.25" in content for name, content in files.items() if name.endswith((".html", "report.md")))


def test_an_unwritable_folder_is_one_clear_line(smoke: Store) -> None:
    smoke.report_folder.write_text("in the way")
    with pytest.raises(RunError, match="cannot be written") as caught:
        render(smoke)
    assert "\n" not in str(caught.value)


def test_an_empty_run_has_a_report(build: Build) -> None:
    files = made(build(cases=0))
    assert "nothing was compared" in parsed(files).text


def test_every_kind_of_trace_is_drawn(build: Build, drawn: None) -> None:
    """Heat maps of five kinds from two perspectives, and the severed effects of each as lines."""
    files = made(build(plan=SMOKE, cases=3))
    kinds = ("hidden", "mlp", "attn", "severed-mlp", "severed-attn")
    for name in (*(f"aie-{kind}" for kind in kinds), "severed-entity", "severed-relation", "edits-entity"):
        assert b"\n" in files[f"figures/{name}.csv"]
        assert files[f"figures/{name}.pdf"].startswith(b"%PDF") and files[f"figures/{name}.png"].startswith(b"\x89PNG")
    page = parsed(files)
    assert len(page.alts) == 2 + len(kinds) + 2 and all(page.alts)
    assert "MLP window of 3 layers" in page.text and "hidden state, attention severed" in page.text
    assert "severed scores come from other noise" in page.text


def test_two_models_stand_in_one_report(build: Build, full_size: dict[str, Any], tmp_path: Path) -> None:
    xl, j = build(**full_size), build(**{**full_size, "model": "gpt-j"})
    path, report = render(xl, j, folder=tmp_path / "report")
    page = parsed(report.files)
    assert path.parent == tmp_path / "report" and report.verdict.counts["reproduced"] > 8
    assert "Edits on gpt2-xl" in page.text and "Edits on gpt-j" in page.text
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith("https://arxiv.org/") or link in report.files or link[1:] in page.ids
    assert {"tables/gpt2-xl-run.csv", "tables/gpt-j-run.csv", "tables/paper-table-1.csv"} <= report.files.keys()
    with pytest.raises(RunError, match="are both runs of gpt-j; name one of them"):
        make_report([j, build(**{**full_size, "model": "gpt-j"})], load_expected(), tmp_path)


def test_a_method_without_weights_is_skipped_with_its_reason(build: Build, full_size: dict[str, Any]) -> None:
    mend = Unit("mend-relation", "edit", batch=8, method="mend", perspective="relation")
    plan = msgspec.structs.replace(ROME, units=(*ROME.units, mend))
    store = build(**{**full_size, "plan": plan, "excluded": {"mend-relation": "MEND needs weights"}})
    report = make_report([store], load_expected(), store.report_folder)
    cells = {cell.cell.id: cell.status for cell in report.verdict.cells}
    assert cells["t1/gpt2-xl/mend/relation/reliability"] == "skipped: MEND needs weights"
    assert report.verdict.counts["skipped"] == 4 and report.verdict.exit_code == 0
    assert "4 skipped, " in parsed(report.files).text


def test_a_status_is_marked_by_its_state_and_not_by_words_in_it(build: Build, full_size: dict[str, Any]) -> None:
    reason = "its weights lie outside the folder"
    store = build(**full_size, excluded={"rome-relation": reason})
    page = make_report([store], load_expected(), store.report_folder).files["report.html"].decode()
    assert page.count(f'<span class="status wait">skipped: {reason}</span>') == 1
    assert 'class="status good">reproduced</span>' in page and 'class="status bad"' not in page


def test_numbers_are_a_shortcut_and_the_records_count(shared_smoke: Store, tmp_path: Path) -> None:
    """A journal without its numbers, of an older version or damaged, gives the same from the records."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.sqlite").write_bytes((shared_smoke.folder / "run.sqlite").read_bytes())
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        assert connection.execute("delete from numbers where case_id % 2").rowcount > 20
    connection.close()
    with reading(folder) as store:
        for unit in store.info().plan.units:
            for found, expected in zip(store.numbers(unit), shared_smoke.numbers(unit), strict=True):
                assert np.array_equal(found, expected, equal_nan=True) and len(found) > 20


def test_one_fact_has_no_interval_of_a_trace(build: Build) -> None:
    chart, *_ = charts(build(cases=1))
    rows = list(csv.DictReader(io.StringIO(chart_csv(chart).decode())))
    assert {row["low"] for row in rows} == {""} and {row["facts"] for row in rows} == {"1"}
    assert largest_half_width(chart.panels[0]) is None


def test_the_first_lines_say_how_many_facts_a_unit_takes(build: Build) -> None:
    text = parsed(made(build(cases=0, planned=100))).text
    takes = [unit.most for unit in SMOKE.units]
    assert f"over a list of 100 facts, of which each unit takes {min(takes)} to {max(takes)}." in text
    assert "over a list of 1 fact." in parsed(made(build(cases=0, planned=1))).text


def test_an_unfinished_run_says_so(build: Build, full_size: dict[str, Any]) -> None:
    files = made(build(**{**full_size, "cases": 20, "planned": 30}))
    assert "The run is unfinished: 60 of 90 cases are stored." in parsed(files).text
    assert "reproduced (partial)" in parsed(files).text


def test_a_finished_run_of_fewer_facts_is_finished(build: Build) -> None:
    text = parsed(made(build(cases=4, planned=24, limit=4, odd_cases=False))).text
    assert "Only the first 4 facts were asked for." in text and "The run is unfinished" not in text


def test_tolerances_notes_and_settings_are_on_the_page(files: dict[str, bytes]) -> None:
    text = parsed(files).text
    for cell in load_expected().cells:
        assert cell.tolerance.reason in text
        assert all(note[1:] in text for note in cell.notes)
    assert "hash 0123456789ab : layers = [1]; v_lr = 0.2; prefixes = 21 entries" in text
    assert "packages torch 2.13.0" in text


def test_command_to_repeat(build: Build, full_size: dict[str, Any], smoke: Store) -> None:
    assert repeat_command(smoke.info()) == "kloc run smoke --model world --only T3 --only F2 --methods rome"
    whole = msgspec.structs.replace(smoke.info(), plan=SMOKE)
    assert repeat_command(whole) == "kloc smoke --model world"
    sample = msgspec.structs.replace(whole, plan=PLANS["sample"][0], model="gpt2-xl", device="cpu")
    assert repeat_command(sample) == "kloc run sample --model gpt2-xl --device cpu"
    assert repeat_command(msgspec.structs.replace(sample, device="cuda")) == "kloc run sample --model gpt2-xl"
    narrowed_info = msgspec.structs.replace(smoke.info(), plan=narrowed(SMOKE, ("table2",), ("rome",)))
    assert repeat_command(narrowed_info) == "kloc run smoke --model world --only table2 --methods rome"
    info = build(**{**full_size, "cases": 5, "limit": 5}).info()
    assert repeat_command(info) == "kloc run tables --model gpt2-xl --limit 5"
    corrected = msgspec.structs.replace(info, protocol="corrected", limit=None)
    assert repeat_command(corrected) == "kloc run tables --model gpt2-xl --protocol corrected"


def test_chart_numbers(shared_smoke: Store, files: dict[str, bytes]) -> None:
    chart, *_ = charts(shared_smoke)
    assert [panel.perspective for panel in chart.panels] == ["entity", "relation"]
    assert [panel.facts for panel in chart.panels] == [22, 22]
    assert [panel.shared_last for panel in chart.panels] == [0, 22]
    # The last token's last layer is larger, by construction, and no site.
    assert [panel.peak for panel in chart.panels] == [(2, 1), (2, 5)]
    rows = list(csv.DictReader(io.StringIO(files["figures/aie-hidden.csv"].decode())))
    assert len(rows) == (6 + 5) * 6
    for row in rows:
        assert row["facts"] == "22" and float(row["low"]) <= float(row["aie"]) <= float(row["high"])
    peak = next(row for row in rows if row["role"] == "last subject token" and row["layer"] == "1")
    assert float(peak["aie"]) == pytest.approx(chart.panels[0].aie_RL[2, 1], abs=1e-6)
    for name in ("aie-hidden.pdf", "aie-hidden.png"):
        assert not re.search(rb"matplotlib|CreationDate", files[f"figures/{name}"], re.IGNORECASE)


def test_statistics_stand_beside_the_tables_and_change_no_status(build: Build, full_size: dict[str, Any]) -> None:
    def of(relations: int) -> tuple[dict[str, bytes], dict[str, Any]]:
        files = make_report([build(**full_size, relations=relations)], load_expected(), Path("none")).files
        return files, json.loads(files["verdict.json"])

    (_, before), (files, verdict) = of(0), of(8)
    cells = [cell for cell in verdict["cells"] if cell["measured"]]
    assert cells and all(cell["status"] == "reproduced" for cell in cells)
    assert [cell["status"] for cell in before["cells"]] == [cell["status"] for cell in verdict["cells"]]
    for cell in cells:
        found = cell["statistics"]
        assert (found["target"], found["margin"]) == (cell["value"], cell["tolerance"])
        assert found["by_relation"]["relations"] == 8 and found["detectable"] > 0
        assert found["p_equivalent_holm"] >= found["p_equivalent"]
    assert not any(cell["statistics"]["by_relation"] for cell in before["cells"] if cell["measured"])
    assert all(cell["statistics"] is None for cell in verdict["cells"] if not cell["measured"])
    rows = list(csv.DictReader(io.StringIO(files["tables/paper-statistics.csv"].decode())))
    assert len(rows) >= len(cells) and {row["outcome"] for row in rows} <= {"equivalent", "different", "undecided"}
    own = list(csv.DictReader(io.StringIO(files["tables/statistics.csv"].decode())))
    assert {row["table"] for row in own} >= {"success", "accuracy", "magnitude", "transfer-success"}
    assert any(row["outcome"] == "different" for row in own) and all(row["relations"] == "8" for row in own)
    page = files["report.html"].decode()
    assert page.count("<summary>Statistics: ") >= 5 and "<summary>Statistics: changes of success</summary>" in page


def test_each_answer_to_a_question_has_its_own_mark() -> None:
    css = (paper_folder() / "page.css").read_text()
    marks = re.findall(r'\.answer-([a-z-]+)::before \{ content: "(.) "', css)
    assert {name.replace("-", " ") for name, _ in marks} == set(get_args(Answer))
    assert len({mark for _, mark in marks}) == 4


def test_a_plan_of_tasks_says_where_its_numbers_stand(build: Build) -> None:
    """Not that it edits nothing."""
    (plan,) = PLANS["both"]
    text = parsed(made(build(plan=plan, cases=0, planned=24))).text
    assert "what it measures stands under Questions beyond the paper" in text and "edits nothing" not in text
