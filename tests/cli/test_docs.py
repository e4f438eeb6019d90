"""The documentation: what it links to exists."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What a link may name in a page: its headings, in GitHub's spelling."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: there is no {target}"
        assert not anchor or anchor in anchors(target), f"{link}: {target} has no such heading"


def test_every_family_has_a_page_and_every_page_is_linked() -> None:
    from edge_assets.families.families import FAMILIES

    assert {page.stem for page in (ROOT / "docs" / "families").glob("*.md")} == set(FAMILIES)
    every = {
        (page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in LINK.findall(page.read_text())
    }
    assert {page for page in PAGES if page.parent != ROOT} <= every


def test_the_page_on_devices_has_the_tiers_in_the_words_of_the_scorecard() -> None:
    from edge_assets.spec.tiers import MEANINGS

    table = re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "docs" / "devices.md").read_text(), re.MULTILINE)
    assert [(tier, meaning) for tier, meaning in table if tier in MEANINGS] == list(MEANINGS.items())
