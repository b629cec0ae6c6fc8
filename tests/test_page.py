"""The page: all numbers, all pictures, nothing from elsewhere; and it shows in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from art_advtransform.diagnosis import DIAGNOSIS, read_diagnosis
from art_advtransform.page import EXAMPLES, html, save_report
from art_advtransform.report import latex
from tests.evaluations import by_hand
from tests.problems import images

VERDICTS = {
    "2": {"name": "budgets & ranges", "status": "pass", "reason": "0.0 <= 0.2", "figures": {}, "curves": {}},
    "10": {
        "name": "budget",
        "status": "fail",
        "reason": "it rises",
        "figures": {"rise": 0.5},
        "curves": {"accuracy against budget": [[0.0, 0.9], [0.1, 0.3]]},
    },
}
SETTINGS = {
    "sha256": {"f_a": "a"},
    "eps": 0.125,
    "nb_images": 4,
    "nb_draws": 3,
    "seed": 0,
    "max_iter": 5,
    "eot_samples": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with a diagnosis and examples."""
    (tmp_path / DIAGNOSIS).write_text(json.dumps({"settings": SETTINGS, "verdicts": VERDICTS}))
    x = images(2, (3, 8, 8), dtype=torch.float32)
    save_file({"x": x, "attacked": x * 0.9, "g": x * 0.8, "g_attacked": x * 0.7}, tmp_path / EXAMPLES)
    return tmp_path


class Cells(HTMLParser):
    """Rows of every table by its id, and what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.sources: list[str] = []
        self.open, self.table = False, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.sources += [str(named[key]) for key in ("src", "href") if key in named]
        if tag == "table":
            self.table = str(named["id"])
            self.tables[self.table] = []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in ("td", "th"):
            self.tables[self.table][-1].append("")
            self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.tables[self.table][-1][-1] += data


def test_the_page_has_every_number(folder: Path) -> None:
    made = by_hand()
    page = Cells(html(made, "a run", {}, {"settings": SETTINGS, "verdicts": VERDICTS}))
    assert page.tables["results"] == [
        ["attack", "plainmean [95 %]", "behind gmean [95 %]", "vote", "any"],
        ["no attack", "80.0 [75.0, 85.0]", "70.0 [65.0, 75.0]", "80.0", "60.0"],
        ["A", "20.0 [15.0, 25.0]", "60.0 [55.0, 65.0]", "70.0", "50.0"],
        ["B", "34.6 [29.6, 39.6]", "-", "-", "-"],
        ["C", "-", "45.0 [25.0, 65.0]", "55.0", "35.0"],
        ["worst, but for 1 attack", "15.0 [10.0, 20.0]", "40.0 [35.0, 45.0]", "50.0", "30.0"],
    ]
    assert page.tables["checks"][1:] == [
        ["2. budgets & ranges", "pass", "0.0 <= 0.2"],
        ["10. budget", "fail", "it rises"],
    ]
    assert page.tables["costs"][1] == ["plain", "A", "10", "4", "2.5", "-", "-"]


def test_what_is_in_the_folder_is_in_the_page(folder: Path) -> None:
    written = save_report(by_hand(), "a run", folder)
    names = {kind: [Path(path).name for path in paths] for kind, paths in written.items()}
    assert names == {
        "tables": ["table.md", "table.tex", "table.csv"],
        "figures": ["accuracy.png", "accuracy-against-budget.png", "examples.png"],
        "report": ["report.html"],
    }
    text = (folder / "report.html").read_text()
    sources = Cells(text).sources
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)  # nothing from elsewhere
    embedded = [base64.b64decode(source.partition(",")[2]) for source in sources]
    assert embedded == [(folder / name).read_bytes() for name in names["figures"]]
    assert "<script" not in text


def test_a_run_without_checks_and_examples(tmp_path: Path) -> None:
    written = save_report(by_hand(), "a run", tmp_path)
    assert [Path(path).name for path in written["figures"]] == ["accuracy.png"]
    assert "Checks" not in (tmp_path / "report.html").read_text()


def test_names_are_no_markup() -> None:
    made = dict(zip(["<b>net</b>", "a & b"], by_hand().values(), strict=True))
    text = html(made, "<script>alert(1)</script>", {})
    assert "<script>" not in text
    assert Cells(text).tables["results"][0][1] == "<b>net</b>mean [95 %]"


def test_latex_compiles_as_a_table() -> None:
    made = by_hand()
    made["plain"] = replace(made["plain"], attacks=[replace(made["plain"].attacks[0], name="PGD_40 & 50 %")])
    text = latex(made)
    assert text.startswith("% Accuracy in per cent")
    assert r"PGD\_40 \& 50 \% & 20.0 [15.0, 25.0] & - & - & - \\" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}}'])
def test_a_damaged_diagnosis(content: str, tmp_path: Path) -> None:
    (tmp_path / DIAGNOSIS).write_text(content)
    with pytest.raises(ValueError, match=r"damaged record .*diagnosis\.json"):
        read_diagnosis(tmp_path)


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_what_is_missing_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    written: dict[str, Any] = save_report(by_hand(), "a run", tmp_path)
    assert (tmp_path / "table.md").is_file()
    assert "report" not in written
    assert 'pip install "art-advtransform[report]"' in str(written["figures"][0])


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_shows_in_a_browser(folder: Path) -> None:
    save_report(by_hand(), "a run", folder)
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,2600"]
    page = (folder / "report.html").as_uri()
    dom = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(r"<h1>a run</h1>", dom)
    subprocess.run(
        [*command, f"--screenshot={folder / 'page.png'}", page], capture_output=True, timeout=120, check=True
    )
    from matplotlib.image import imread

    picture = imread(folder / "page.png")[..., :3]
    assert picture.shape[:2] == (2600, 1200)
    # the figures are there: their bars are coloured
    coloured = (picture.max(2) - picture.min(2)) > 0.3
    assert coloured.sum() > 10_000
