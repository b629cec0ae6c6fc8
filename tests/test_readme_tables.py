"""The README's tables of the paper are those that the benchmarks wrote."""

from __future__ import annotations

import re

import pytest

from benchmarks import readme_tables
from benchmarks.readme_tables import README, TABLES, Column, filled


def test_the_readme_s_tables_are_the_csvs() -> None:
    text = README.read_text()
    assert filled(text) == text
    named = re.findall(r"<!-- table: (\w+)-", text)
    assert set(named) == set(TABLES)


def test_a_number_that_was_changed_by_hand_is_seen() -> None:
    text = README.read_text()
    block = re.search(r"<!-- table: table1-digits -->.*?<!-- end -->", text, re.DOTALL)
    assert block is not None
    changed = re.sub(r"\d\d\.\d", "99.9", block[0], count=1)
    assert changed != block[0]
    assert filled(changed) == block[0]


def test_cells() -> None:
    row = {"worst": "12.345", "worst_low": "1", "worst_high": "20", "name": "one"}
    assert Column("w", "worst", True).cell(row) == "12.3 (1.0 to 20.0)"
    assert Column("n", "name").cell(row) == "one"
    assert Column("w", "worst", True).cell({**row, "worst": "-"}) == "-"
    published = {**row, "worst_low": "-", "worst_high": "-"}
    assert Column("w", "worst", True).cell(published) == "12.3"


def test_a_table_without_its_csv_is_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unpack"):
        readme_tables.table("table1-moon")
