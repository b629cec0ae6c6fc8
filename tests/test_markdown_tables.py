"""The tables of README.md and RESULTS.md are those that the benchmarks wrote, and what they refer to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import markdown_tables
from benchmarks.markdown_tables import DOCUMENTS, TABLES, Column, filled

README, RESULTS = DOCUMENTS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_its_tables_are_the_csvs(document: Path) -> None:
    text = document.read_text()
    assert filled(text) == text


def test_every_table_stands_somewhere() -> None:
    named = [name for document in DOCUMENTS for name in re.findall(r"<!-- table: (\w+)-", document.read_text())]
    assert set(named) == set(TABLES)


def test_a_number_that_was_changed_by_hand_is_seen() -> None:
    text = RESULTS.read_text()
    block = re.search(r"<!-- table: table1-digits -->.*?<!-- end -->", text, re.DOTALL)
    assert block is not None
    changed = re.sub(r"\d\d\.\d", "99.9", block[0], count=1)
    assert changed != block[0]
    assert filled(changed) == block[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_it_refers_to_is_there(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", document.read_text())
    assert links
    for name, anchor in links:
        other = document if not name else document.parent / name
        assert other.is_file(), name
        assert not anchor or anchor in _anchors(other), (name, anchor)


def _anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them: small letters, hyphens for spaces, without other signs."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_cells() -> None:
    row = {"worst": "12.345", "worst_low": "1", "worst_high": "20", "name": "one"}
    assert Column("w", "worst", True).cell(row) == "12.3 (1.0 to 20.0)"
    assert Column("n", "name").cell(row) == "one"
    assert Column("w", "worst", True).cell({**row, "worst": "-"}) == "-"
    counted = {"accuracy": "90.98", "images": "10000", "none": "-"}
    assert Column("a", "accuracy", of="images").cell(counted) == "91.0 % of 10,000"
    assert Column("a", "none", of="images").cell(counted) == "-"
    published = {**row, "worst_low": "-", "worst_high": "-"}
    assert Column("w", "worst", True).cell(published) == "12.3"


def test_a_table_without_its_csv_is_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected a CSV of table1-moon"):
        markdown_tables.table("table1-moon")


def test_a_table_is_of_the_newest_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown_tables, "RESULTS", tmp_path)
    for version, stage in (("2.9.1", "older"), ("2.14.1", "newer")):
        (tmp_path / f"strong-here-cpu-torch{version}.csv").write_text(f"stage\n{stage}\n")
    # a column that the CSV lacks is no column of dashes
    monkeypatch.setitem(markdown_tables.TABLES, "strong", (Column("stage", "stage"), Column("more", "more")))
    assert markdown_tables.table("strong-here").splitlines()[-1] == "| newer |"
