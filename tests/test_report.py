"""Tables: the exact numbers of hand-made records, on the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from art_advtransform.page import html
from art_advtransform.records import AttackResult, Evaluation
from art_advtransform.report import frame, markdown, problems, rows, save_tables, terminal_table
from tests.evaluations import by_hand, measured

DYNAMIC = "; dynamic, so that standard AutoAttack says little of it: behind g."
CAPTION = (
    "Accuracy in per cent over 40 images, L-inf budget 0.125, mean over 7 fresh draws of D; the worst case is chosen on 3 "
    f"others; seed 5; vote: majority of the draws; any: right in each of 7 draws{DYNAMIC}"
)
MARKDOWN = f"""\
| attack | plain, mean [95 %] | behind g, mean [95 %] | behind g, vote | behind g, any |
|---|---:|---:|---:|---:|
| no attack | 80.0 [75.0, 85.0] | 70.0 [65.0, 75.0] | 80.0 | 60.0 |
| A | 20.0 [15.0, 25.0] | 60.0 [55.0, 65.0] | 70.0 | 50.0 |
| B | 34.6 [29.6, 39.6] | - | - | - |
| C | - | 45.0 [25.0, 65.0] | 55.0 | 35.0 |
| worst, but for 1 attack | 15.0 [10.0, 20.0] | 40.0 [35.0, 45.0] | 50.0 | 30.0 |

{CAPTION}
"""


def with_settings(**more: object) -> dict[str, Evaluation]:
    return {name: replace(e, settings={**e.settings, **more}) for name, e in by_hand().items()}


# ---- rows


def test_rows_begin_with_no_attack_and_end_with_the_worst_case() -> None:
    made = by_hand()
    found = rows(made)
    assert [name for name, _ in found] == ["no attack", "A", "B", "C", "worst"]
    assert [list(results) for _, results in found] == [
        ["plain", "behind g"],
        ["plain", "behind g"],
        ["plain", "behind g"],
        ["behind g"],
        ["plain", "behind g"],
    ]
    assert found[1][1]["behind g"] is made["behind g"].attacks[0]
    assert found[4][1]["plain"] is made["plain"].worst


def test_problems_are_told() -> None:
    made = by_hand()
    assert problems(made) == ["behind g: B: not run: needs foolbox"]
    assert problems({"plain": made["plain"]}) == []
    failed = AttackResult("C", "white box", "art", "failed: ValueError: no start")
    made["plain"] = replace(made["plain"], attacks=[*made["plain"].attacks, failed])
    assert problems(made) == ["behind g: B: not run: needs foolbox", "plain: C: failed: ValueError: no start"]


def test_attacks_that_a_model_has_nothing_of_share_a_line() -> None:
    made = {"plain": by_hand()["plain"]}
    unfit = [AttackResult(name, "white box", "art", "not run: there is no transform to see through") for name in "CDE"]
    lost = [AttackResult(name, "white box", "art", "failed: x") for name in "FG"]
    made["plain"] = replace(made["plain"], attacks=[*unfit, *lost])
    assert problems(made) == [
        "plain: 3 attacks: not run: there is no transform to see through",
        "plain: F: failed: x",
        "plain: G: failed: x",
    ]


# ---- Markdown


def test_markdown() -> None:
    assert markdown(by_hand()) == MARKDOWN


def test_markdown_of_one_model() -> None:
    table = markdown({"net": by_hand()["behind g"]}).splitlines()
    assert table[:2] == ["| attack | net, mean [95 %] | net, vote | net, any |", "|---|---:|---:|---:|"]
    assert table[4] == "| B | - | - | - |"
    assert len(table) == 2 + 5 + 2


def test_numbers_are_rounded_and_reach_both_ends() -> None:
    made = by_hand()["plain"]
    made = replace(made, clean=measured("no attack", 1.0, 0.0), worst=measured("worst", 0.00049, 0.0))
    table = markdown({"net": made}).splitlines()
    assert table[2] == "| no attack | 100.0 [100.0, 100.0] |"
    assert table[5] == "| worst | 0.0 [0.0, 0.0] |"


@pytest.mark.parametrize(("nb_draws", "shown"), [(1, 1), (9, 9), (10, 10), (100, 10)])
def test_caption(nb_draws: int, shown: int) -> None:
    made = with_settings(nb_draws=nb_draws, nb_images=1000, seed=8, nb_selection_draws=20, threat={"eps": 8 / 255})
    assert markdown(made).splitlines()[-1] == (
        f"Accuracy in per cent over 1000 images, L-inf budget 0.03137, mean over {nb_draws} fresh draws of D; the worst "
        f"case is chosen on 20 others; seed 8; vote: majority of the draws; any: right in each of {shown} draws{DYNAMIC}"
    )


def test_single_attacks_may_have_fewer_draws() -> None:
    told = markdown(with_settings(nb_draws=100, nb_attack_draws=8, nb_confirmation_draws=60)).splitlines()[-1]
    assert "mean over 100 fresh draws of D (single attacks: 8); the worst case" in told
    assert "is chosen on 3 others and confirmed on 60; seed 5" in told
    assert told.endswith(f"any: right in each of 10 draws{DYNAMIC}")
    made = with_settings(fixed_draw=True, chunk_size=50)
    told = markdown({"known D": made["plain"]}).splitlines()[-1]
    assert told.endswith("; known D: one D for every 50 images, and intervals for these D.")


def test_a_defence_that_optimises_is_called_dynamic() -> None:
    made = with_settings(transform={"eps": 0.2})
    assert markdown({"net": by_hand()["plain"]}).count("dynamic") == 0
    told = markdown({"net": by_hand()["plain"], "defended": made["plain"]}).splitlines()[-1]
    assert "; dynamic, so that standard AutoAttack says little of it: defended." in told


def test_parts_are_told() -> None:
    parts = [{"nb_images": 250}, {"skip": 250, "nb_images": 125}]
    made = with_settings(nb_images=375, fixed_draw=True, chunk_size=50, parts=parts)
    told = markdown({"known D": made["plain"]}).splitlines()[-1]
    assert "over 375 images in 2 parts (images 0 to 249, 250 to 374 of the sample), L-inf" in told
    assert told.endswith("; known D: one D for every 50 images, and intervals for these D, the same in every part.")


def test_a_defence_above_the_adversarial_net_is_taken_for_a_failed_attack() -> None:
    made = by_hand()
    told = "In the worst case behind g stands above the adversarially trained net: take that for an attack that failed,"
    beside = {"adversarial": made["plain"], "behind g": made["behind g"]}
    assert f" draws{DYNAMIC} {told} unless the checks of diagnose pass." in markdown(beside)
    two = markdown({**beside, "again": made["behind g"]})
    assert "behind g, again stand above the adversarially trained net" in two
    folders = {"adversarial (a)": replace(made["plain"], settings={**made["plain"].settings, "model": "adversarial"})}
    assert "behind g (a) stands above" in markdown({**folders, "behind g (a)": made["behind g"]})
    # no higher is no news, nor is another net without draws
    level = replace(made["plain"], worst=made["behind g"].worst)
    for quiet in ({**beside, "adversarial": level}, {"adversarial": made["plain"], "other": level}, made):
        assert "adversarially trained net" not in markdown(quiet)


def test_nan_is_told() -> None:
    made = by_hand()
    made["plain"] = replace(made["plain"], attacks=[replace(made["plain"].attacks[0], nb_nan=3)])
    assert "plain: A: NaN in 3 images, counted with their clean pixels" in problems(made)


def test_a_worst_case_that_lacks_attacks_says_so() -> None:
    made = {"plain": by_hand()["plain"]}
    assert markdown(made).splitlines()[5].startswith("| worst | ")
    lost = [AttackResult(name, "white box", "art", "failed: x") for name in "CD"]
    made["plain"] = replace(made["plain"], attacks=[*made["plain"].attacks, *lost])
    assert markdown(made).splitlines()[7].startswith("| worst, but for 2 attacks | ")
    unfit = [replace(entry, problem="not run: there is no transform to see through") for entry in lost]
    made["plain"] = replace(made["plain"], attacks=unfit)
    assert markdown(made).splitlines()[5].startswith("| worst | ")


def test_the_paper_s_numbers_stand_beside_ours(tmp_path: Path) -> None:
    made = by_hand()
    behind = made["behind g"]
    made["behind g"] = replace(behind, attacks=[replace(behind.attacks[0], published=0.805), *behind.attacks[1:]])
    assert "the paper" not in markdown(made)  # of another data set
    right = {"dataset": "cifar10", "threat": {"eps": 8 / 255}}
    made = {name: replace(e, settings={**e.settings, **right}) for name, e in made.items()}
    table = markdown(made).splitlines()
    assert table[0].endswith("| the paper's, defended |")
    assert [line.split(" | ")[-1] for line in table[2:5]] == ["- |", "80.5 |", "- |"]
    assert cells(printed(made, 200))[1][-1] == "80.5"
    assert "<td>80.5</td>" in html(made, "a run", {})
    assert "the paper" not in html(by_hand(), "a run", {})
    assert frame(made)["published"].max() == 0.805


# ---- terminal


def printed(evaluations: dict[str, Evaluation], width: int = 160) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(terminal_table(evaluations, "digits, smoke", width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]


def test_terminal_table() -> None:
    lines = printed(by_hand())
    assert lines[0].strip() == "digits, smoke"
    head = [[cell.strip() for cell in line.strip("┃").split("┃")] for line in lines if line.startswith("┃")]
    assert head == [["", "plain", "behind g", "", ""], ["attack", *["mean [95 %]"] * 2, "vote", "any"]]
    # the vote and any of a net that is not randomised say nothing new
    assert cells(lines) == [
        ["no attack", "80.0 [75.0, 85.0]", "70.0 [65.0, 75.0]", "80.0", "60.0"],
        ["A", "20.0 [15.0, 25.0]", "60.0 [55.0, 65.0]", "70.0", "50.0"],
        ["B", "34.6 [29.6, 39.6]", "-", "-", "-"],
        ["C", "-", "45.0 [25.0, 65.0]", "55.0", "35.0"],
        ["worst, but for 1 attack", "15.0 [10.0, 20.0]", "40.0 [35.0, 45.0]", "50.0", "30.0"],
    ]
    ruled = [line[0] for line in lines[1:11]]
    assert "".join(ruled) == "┏┃┃┡││││├│"  # the worst case is set apart
    assert lines[11][0] == "└"
    assert " ".join(" ".join(lines[12:]).split()) == CAPTION


def test_numbers_are_not_cut_where_the_terminal_is_narrow() -> None:
    made = by_hand()
    long = measured("an attack whose name does not fit into the terminal", 0.2)
    made["plain"] = replace(made["plain"], attacks=[long, *made["plain"].attacks])
    lines = printed(made, 80)
    assert all(len(line) <= 80 for line in lines)
    numbers = [row[1:] for row in cells(lines) if any(row[1:])]
    # the intervals are below the means
    assert numbers[2:4] == [["20.0", "-"], ["[15.0, 25.0]", ""]]
    assert numbers[-2:] == [["15.0", "40.0"], ["[10.0, 20.0]", "[35.0, 45.0]"]]
    assert " ".join(row[0] for row in cells(lines)).count("terminal") == 1


# ---- CSV


def test_csv_reads_back_to_the_same_numbers(tmp_path: Path) -> None:
    made = by_hand()
    written = save_tables(made, tmp_path / "new" / "folder")
    assert written == [tmp_path / "new" / "folder" / name for name in ("table.md", "table.tex", "table.csv")]
    assert written[0].read_text() == MARKDOWN
    with written[2].open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["attack"], row["model"]) for row in read] == [
        (name, model) for name, results in rows(made) for model in results
    ]
    for row in read:
        result = dict(rows(made))[row["attack"]][row["model"]]
        assert (row["kind"], row["problem"]) == (result.kind, result.problem)
        for key, interval in (("mean", result.mean), ("majority", result.majority), ("any", result.any)):
            found = [row[key], row[f"{key}_low"], row[f"{key}_high"]]
            if interval is None:
                assert found == ["", "", ""]
            else:
                expected = [interval.value, interval.low, interval.high]
                assert [float(number) for number in found] == pytest.approx(expected, rel=1e-5)
        for key in ("forward", "backward", "seconds", "max_distance"):
            assert float(row[key]) == getattr(result, key)
    assert [row["mean"] for row in read] == ["0.8", "0.7", "0.2", "0.6", "0.345678", "", "0.45", "0.15", "0.4"]
    assert [read[2][key] for key in ("forward", "backward", "seconds", "max_distance")] == ["10", "4", "2.5", "0.125"]


def test_csv_quotes_names_and_problems(tmp_path: Path) -> None:
    failed = AttackResult("PGD-40, EOT 10", "white box", "art", 'failed: ValueError: "a", b\nc')
    made = {"f_a, g": replace(by_hand()["plain"], attacks=[failed])}
    with save_tables(made, tmp_path)[2].open(newline="") as file:
        row = list(csv.DictReader(file))[1]
    assert (row["model"], row["attack"], row["problem"]) == (
        "f_a, g",
        "PGD-40, EOT 10",
        'failed: ValueError: "a", b\nc',
    )


def test_frame() -> None:
    table = frame(by_hand())
    assert table.shape == (9, 23)
    assert list(table["toolkit"][:1]) == [by_hand()["plain"].clean.toolkit]
    assert list(table["nb_nan"]) == [0] * 9
    assert list(table["mean"][:3]) == [0.8, 0.7, 0.2]
    without = table[table["problem"] != ""]
    assert list(without["attack"]) == ["B"]
    assert all(math.isnan(without[key].iloc[0]) for key in ("mean", "mean_low", "majority_high", "any"))


# ---- pandas is optional


def test_without_pandas_there_is_markdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert save_tables(by_hand(), tmp_path) == [tmp_path / "table.md"]
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]
    assert (tmp_path / "table.md").read_text() == MARKDOWN
    with pytest.raises(ModuleNotFoundError, match="pandas"):
        frame(by_hand())


def test_importing_report_and_figures_needs_no_extra() -> None:
    program = (
        "import sys; sys.modules.update(pandas=None, matplotlib=None); "
        "from art_advtransform import figures, report; print(callable(report.markdown), callable(figures.normalised))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True True"), done.stderr


def test_names_are_no_markup_in_what_is_said_of_them() -> None:
    made = by_hand()
    table = terminal_table({"adversarial": made["plain"], "g [/v2] [bold]": made["behind g"]}, "t")
    text = io.StringIO()
    Console(file=text, width=400).print(table)
    assert "In the worst case g [/v2] [bold] stands above" in text.getvalue()


def test_names_are_no_markup() -> None:
    named = dict(zip(["net [seed 1]", "[bold]"], by_hand().values(), strict=True))
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(terminal_table(named, "digits [quick]"))
    text = console.export_text()
    assert all(name in text for name in (*named, "digits [quick]"))


@pytest.mark.parametrize("make", [markdown, lambda none: terminal_table(none, "t"), rows])
def test_nothing_to_report(make: Callable[[dict[str, Evaluation]], object]) -> None:
    with pytest.raises(ValueError, match="expected at least one evaluation"):
        make({})
