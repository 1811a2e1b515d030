"""Every relative link of the documentation leads somewhere: to a file that exists, and to a heading in it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def without_code(text: str) -> str:
    """Return *text* without its code blocks and inline code, where brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as Git hosts make them: lower case, hyphens, no punctuation."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """Return the relative links of *page* that lead nowhere."""
    found = []
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", without_code(page.read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """File and heading exist."""
    assert broken(page) == []


def test_every_page_can_be_found() -> None:
    """README.md names each page of docs/ and of docs/dev/."""
    text = PAGES[0].read_text("utf-8")
    assert [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in text] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """A missing file and a missing heading are told; code is not looked at."""
    page = tmp_path / "page.md"
    page.write_text("# One, two: `three`\n[a](no.md) [b](#one-two-three) [c](#four) `[d](e.md)`\n```\n[f](g.md)\n```\n")
    assert broken(page) == ["no.md", "#four"]
