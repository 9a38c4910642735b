"""The report's page as readers meet it, in Chromium: accessible, on a phone, in the dark, by keyboard, printed.

axe-core judges WCAG 2.2 A and AA and its own best practices. Figures are blanks of their size: drawing them is tested
elsewhere, and so are the page's bytes and words (test_report.py).
"""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Tab, browsing, installed

from artifact.reporting.expected import load_expected
from artifact.reporting.report import make_report
from artifact.runs.store import Store

DESKTOP, PHONE, NARROW = 1200, 390, 320
SHIPPED = {path.parts[-3]: path for path in Path(__file__).parents[2].glob("results/smollm2*/report/report.html")}
"""Pages of runs on a real model, by the run's folder."""
PAPER = 703
"""CSS pixels between the page's own margins on A4."""
WIDE = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth)"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory, shared_smoke: Store, two_models: list[Store]
) -> dict[str, tuple[Path, set[str]]]:
    """The pages by name, each with the names of its report's files: a smoke run's, one of two models' runs, and those
    that are shipped, of runs on a real model, as they stand.
    """
    installed()
    found: dict[str, tuple[Path, set[str]]] = {name: (path, set()) for name, path in SHIPPED.items()}
    for name, stores in {"smoke": [shared_smoke], "models": two_models}.items():
        folder = tmp_path_factory.mktemp(name)
        files = make_report(stores, load_expected(), folder).files
        found[name] = folder / "report.html", set(files)
        found[name][0].write_bytes(files["report.html"])
    return found


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browsing(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module", params=["smoke", "models"])
def page(request: pytest.FixtureRequest, pages: dict[str, tuple[Path, set[str]]], tab: Tab) -> Tab:
    """Each page in turn, opened once for all tests, with everything unfolded."""
    tab.open(pages[request.param][0])
    assert tab.run("document.querySelectorAll('details').length") > 8
    tab.run("document.querySelectorAll('details').forEach(one => { one.open = true }); 0")
    return tab


every_page = pytest.mark.parametrize("page", ["smoke", "models", *SHIPPED], indirect=True)
smoke_only = pytest.mark.parametrize("page", ["smoke"], indirect=True)


@pytest.fixture
def desktop(page: Tab) -> Tab:
    page.window(DESKTOP)
    return page


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's script, read out of the package that carries it and not run by it."""
    try:
        package = importlib.metadata.distribution("axe-playwright-python")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("axe-core is not installed (dependency group `page`); accessibility is not judged")
    return Path(str(package.locate_file("axe_playwright_python/axe.min.js"))).read_text()


def judged(page: Tab, rules: str, part: str = "document") -> dict[str, list[Any]]:
    """What axe found wrong, and what it could not decide: rule, impact and the elements, three at most."""
    return page.run(
        f"axe.run({part}, {{resultTypes: ['violations', 'incomplete'], {rules}}}).then(found =>"
        "Object.fromEntries(['violations', 'incomplete'].map(kind => [kind, found[kind].map(one =>"
        "[one.id, one.impact, one.nodes.slice(0, 3).map(node => node.html.slice(0, 200) + node.failureSummary)])])))"
    )


EVERYTHING = f"runOnly: {RULES}, rules: {{'color-contrast': {{enabled: false}}}}"
CONTRAST = "runOnly: ['color-contrast']"
LOOKS = """{include: (() => {
    const looks = new Map();
    for (const one of document.body.querySelectorAll('*')) {
        if (![...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
        const look = getComputedStyle(one);
        let under = one;
        while (under && getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)') under = under.parentElement;
        const ground = under && getComputedStyle(under).backgroundColor;
        const key = [look.color, look.fontSize, look.fontWeight, ground].join();
        if (!looks.has(key)) looks.set(key, one);
    }
    return [...looks.values()];
})()}"""
"""An element with text of every colour, size, weight and ground: contrast takes axe seconds for a thousand alike."""
FEWER_ROWS = """window.whole = [...document.querySelectorAll('tbody')].map(body => {
    const rows = [...body.rows], forms = new Set();
    for (const row of rows) {
        const form = row.outerHTML.replace(/>[^<]+</g, '>x<').replace(/[0-9]+/g, '0');
        if (forms.has(form)) row.remove();
        forms.add(form);
    }
    return [body, rows];
}); 0"""
"""Of rows that differ only in digits and in what their words are, a table keeps the first: axe judges each as long."""
ALL_ROWS = "whole.forEach(([body, rows]) => body.replaceChildren(...rows)); 0"


@every_page
def test_nothing_is_fetched_and_nothing_complains(
    tab: Tab, pages: dict[str, tuple[Path, set[str]]], page: Tab, request: pytest.FixtureRequest
) -> None:
    path = pages[request.node.callspec.params["page"]][0]
    assert page.requests() == [path.as_uri()]
    assert page.complaints() == []


@every_page
def test_axe_finds_nothing(page: Tab, axe: str) -> None:
    """In both colour schemes and at both widths, with every table unfolded and one of its rows that are alike."""
    nothing: dict[str, list[Any]] = {"violations": [], "incomplete": []}
    page.run(f"{axe};0")
    page.run(FEWER_ROWS)
    for width, scheme, ground in ((DESKTOP, "light", "rgb(252, 251, 248)"), (PHONE, "dark", "rgb(23, 24, 26)")):
        page.window(width, scheme)
        assert page.run("getComputedStyle(document.body).backgroundColor") == ground
        assert judged(page, EVERYTHING) == nothing
        # On a phone axe cannot decide what lies under a table's pinned column.
        assert judged(page, CONTRAST, LOOKS)["violations"] == []
    page.window(DESKTOP)
    assert judged(page, CONTRAST, LOOKS) == nothing
    page.window(DESKTOP, "dark")
    assert judged(page, CONTRAST, LOOKS) == nothing
    page.window(PHONE, "light")
    assert judged(page, CONTRAST, LOOKS)["violations"] == []
    page.run(ALL_ROWS)


@smoke_only
def test_axe_would_find_a_fault(page: Tab, axe: str) -> None:
    page.window(DESKTOP)
    page.run(f"{axe}; document.querySelector('.lede').style.color = '#bbb'; document.documentElement.lang = ''; 0")
    faults = [
        *judged(page, CONTRAST, "document.querySelector('header')")["violations"],
        *judged(page, "runOnly: ['html-has-lang']")["violations"],
    ]
    page.run("document.querySelector('.lede').style.color = ''; document.documentElement.lang = 'en'; 0")
    assert [rule for rule, *_ in faults] == ["color-contrast", "html-has-lang"]


@every_page
@pytest.mark.parametrize(("width", "media"), [(DESKTOP, ""), (PHONE, ""), (NARROW, ""), (PAPER, "print")])
def test_nothing_sticks_out(page: Tab, width: int, media: str) -> None:
    """The page never scrolls sideways; wide tables do so alone, on screens that are too narrow for them."""
    page.window(width, media=media)
    assert page.run("document.documentElement.scrollWidth") <= width
    wide = page.run(f"{WIDE}.map(one => one.ariaLabel)")
    assert not wide if width > PHONE else wide


def test_the_first_column_stays_in_sight_on_a_phone(page: Tab) -> None:
    page.window(PHONE)
    left = page.run(
        f"{WIDE}.filter(one => one.querySelector('.pinned')).map(one => {{"
        "one.scrollLeft = 60; const cell = one.querySelector('tbody th').getBoundingClientRect();"
        "one.scrollLeft = 0; return cell.left - one.getBoundingClientRect().left})"
    )
    assert len(left) > 2 and all(abs(offset) < 1 for offset in left)


@smoke_only
def test_the_keyboard_reaches_everything(page: Tab) -> None:
    """The first key shows the way past the header; every link and wide table can be focused, and is seen to be."""
    page.window(PHONE)
    page.run("scrollTo(0, 0); document.activeElement.blur(); getSelection().removeAllRanges(); 0")
    page.press("Tab", 9)
    assert page.run("document.activeElement.className") == "skip"
    assert page.run("document.activeElement.getBoundingClientRect().left") >= 0
    page.press("Enter", 13)
    assert page.run("location.hash") == "#main"
    met, outlines = [], set()
    for _ in range(200):
        page.press("Tab", 9)
        name, inside, outline = page.run(
            "(one => [one.ariaLabel ?? one.getAttribute('href'), document.querySelector('main').contains(one),"
            "getComputedStyle(one).outlineStyle])(document.activeElement)"
        )
        if not inside:
            break
        met.append(name)
        outlines.add(outline)
    there = (
        "[...document.querySelectorAll('main a, main .scroll, main summary')]"
        ".map(one => one.ariaLabel ?? one.getAttribute('href'))"
    )
    assert met == page.run(there)
    assert outlines == {"solid"}


@smoke_only
def test_arrow_keys_scroll_a_table(page: Tab) -> None:
    page.window(PHONE)
    page.run(f"window.table = {WIDE}[0]; table.focus(); 0")
    page.press("ArrowRight", 39)
    moved = "new Promise(done => { const end = performance.now() + 5000; const look = () =>"
    moved += (
        "table.scrollLeft > 0 || performance.now() > end ? done(table.scrollLeft) : setTimeout(look, 20); look() })"
    )
    assert page.run(moved) > 0
    page.run("table.scrollLeft = 0; 0")


def test_headings_and_links(
    desktop: Tab, pages: dict[str, tuple[Path, set[str]]], request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["page"]
    ids = desktop.run("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids)) and not [one for one in ids if re.search(r"\s", one)]
    for link in desktop.run("[...document.querySelectorAll('a')].map(one => one.getAttribute('href'))"):
        assert link[1:] in ids if link[0] == "#" else link in pages[name][1] or link.startswith("https://arxiv.org/")
    labels = desktop.run("[...document.querySelectorAll('[role=group]')].map(one => one.ariaLabel)")
    assert len(labels) == len(set(labels))
    headings = desktop.run("[...document.querySelectorAll('h2')].map(one => one.textContent)")
    if name == "models":
        for words in ("Edits on gpt2-xl", "Edits on gpt-j", "Traces on gpt-j"):
            assert words in headings
        assert "Success on gpt-j, table" in labels
    else:
        assert "This run’s edits" in headings and "Success, table" in labels


@smoke_only
def test_the_print(desktop: Tab) -> None:
    """Whole pages with text, tagged for screen readers; dark ink even where the reader prefers the dark."""
    desktop.window(DESKTOP, "dark", "print")
    texts = "['body', '.small', 'figcaption'].map(one => document.querySelector(one))"
    colours = desktop.run(f"{texts}.map(one => getComputedStyle(one).color)")
    assert colours == ["rgb(0, 0, 0)", "rgb(68, 68, 68)", "rgb(68, 68, 68)"]
    desktop.window(DESKTOP, "dark")
    content = desktop.pdf()
    assert content.startswith(b"%PDF") and b"/StructTreeRoot" in content and b"/Font" in content
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 18


@smoke_only
def test_what_is_folded_is_printed(page: Tab) -> None:
    """A reader who prints the page as it opened has its tables, too."""
    page.run("document.querySelectorAll('details').forEach(one => { one.open = false }); 0")
    seen = "document.querySelector('#run').closest('section').querySelector('table').checkVisibility()"
    page.window(DESKTOP)
    assert page.run(seen) is False
    page.window(DESKTOP, media="print")
    assert page.run(seen) is True
    page.run("document.querySelectorAll('details').forEach(one => { one.open = true }); 0")


@smoke_only
def test_a_word_leads_to_its_meaning(desktop: Tab) -> None:
    """All ten words have their place on the page, and most are linked from where they are used."""
    linked = desktop.run("[...document.querySelectorAll('a.word')].map(one => one.getAttribute('href'))")
    there = desktop.run("[...document.querySelectorAll('#words ~ dl dt')].map(one => '#' + one.id)")
    assert len(there) == 10 and set(linked) <= set(there) and len(set(linked)) >= 7
