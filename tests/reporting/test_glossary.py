"""The ten words of the page are those of docs/glossary.md, in the same words; every link on a page leads to one."""

import re
from html import unescape
from pathlib import Path

from artifact.reporting.resources import paper_folder

DOCUMENT = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
PARTS = paper_folder() / "page"


def plain(text: str) -> str:
    return re.sub(r"[“”]", '"', unescape(re.sub(r"<[^>]+>", "", text))).replace("’", "'").replace("`", "")


def test_page_and_document_say_the_same() -> None:
    page = re.findall(r'<dt id="word-([a-z-]+)">(.+?)</dt><dd>(.+?)</dd>', (PARTS / "glossary.html.j2").read_text())
    document = re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", DOCUMENT, re.MULTILINE)
    assert [(word, plain(meaning)) for _, word, meaning in page] == [(word, plain(text)) for word, text in document]
    assert [name for name, *_ in page] == [word.lower().replace(" ", "-") for word, _ in document]
    assert len(page) == 10


def test_every_word_that_is_linked_has_a_meaning() -> None:
    linked = {
        (term or text).lower().replace(" ", "-")
        for part in PARTS.glob("*.j2")
        for text, term in re.findall(r'\{\{ word\("([^"]+)"(?:, "([^"]+)")?\) \}\}', part.read_text())
    }
    there = set(re.findall(r'id="word-([a-z-]+)"', (PARTS / "glossary.html.j2").read_text()))
    assert linked <= there and there - linked <= {"moments"}
