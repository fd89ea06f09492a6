"""docs/theory.md has every section that is cited, and its tables are what is derived; CITATION.cff is up to date."""

import re

import pytest

from derive import __version__, parameterization, prescribe
from tests.helpers.paths import ROOT

PAGE = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r'<a id="s(\d+)"></a>\n\n## (\d+)\. ', PAGE)
CITATION = re.compile(r"theory(?:\.md, sections?)? ((?:\d+(?:, | and )?)+)", re.IGNORECASE)
SCHEMES = ("SP", "NTK", "muP", "MFP")


def row(section: int, scheme: str) -> list[list[str]]:
    text = PAGE.split(f"## {section}. ")[1].split("\n## ")[0]
    line = next(line for line in text.splitlines() if line.startswith(f"| {scheme}"))
    return [cell.strip().split(", ") for cell in line.split("|")[2:-1]]


def test_sections_are_numbered_and_every_anchor_is_its_sections_number() -> None:
    assert [anchor for anchor, _ in SECTIONS] == [number for _, number in SECTIONS]
    assert [int(number) for _, number in SECTIONS] == [*range(1, 12)]


def test_every_cited_section_is_there() -> None:
    sources = [path for room in ("derive", "verify", "tests") for path in (ROOT / room).rglob("*.py")]
    cited = [
        (path.name, number)
        for path in sources
        for listed in CITATION.findall(path.read_text(encoding="utf-8"))
        for number in re.findall(r"\d+", listed)
    ]
    assert len(cited) > 50
    assert {number for _, number in cited} <= {number for number, _ in SECTIONS}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_its_table_of_rates_is_what_is_derived(scheme: str) -> None:
    triples = [(rule, aligned) for rule in ("sgd", "adam", "adafactor") for aligned in ("full", "none")]
    assert row(5, scheme) == [[str(c) for c in prescribe(rule, scheme, aligned).c] for rule, aligned in triples]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_its_table_of_parameterizations_is_the_code_s(scheme: str) -> None:
    a, b = row(1, scheme + ",") if scheme in ("SP", "MFP") else row(1, scheme)
    found = parameterization(scheme)
    assert (a, b) == ([str(x) for x in found.a], [str(x) for x in found.b])


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
