"""The commands evaluate, report and diagnose: what they print and write, that they go on, records of several runs; help."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from art_advtransform import cli, runs, terminal
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.presets import PRESETS
from art_advtransform.defended import DefendedModel
from art_advtransform.options import device_of
from art_advtransform.records import Evaluation
from tests.commands import EVALUATE, files, run, table

COMMANDS = {
    "train": (
        "--preset",
        "--net",
        "--redraw-every",
        "--restart",
        "--test-images",
        "--mixed-precision",
        "--tensorboard",
        "--out",
    ),
    "evaluate": (
        "--preset",
        "--images",
        "--draws",
        "--eps",
        "--attack-draws",
        "--selection-draws",
        "--budget",
        "--model",
        "--nets",
        "--f-b",
        "--seed",
        "--out",
        "--restart",
        "--list",
        "--json",
        "--data-root",
    ),
    "diagnose": ("--images", "--draws", "--max-iter", "--eot-samples", "--corners", "--check", "--json", "--out"),
    "report": ("run", "--out", "--json"),
    "show": ("--f-b", "--images", "--draws", "--rows", "--seed", "--out", "--download"),
}
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What `evaluate` wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(terminal, "console", Console(width=160))
        return folder / "results", run(*EVALUATE, "--out", "results")


# ---- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    output = run(command, "--help")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert all(option in plain.lower() for option in COMMANDS[command]), plain
    assert f"{command} [OPTIONS]" in plain


def test_the_module_runs() -> None:
    command, root = [sys.executable, "-m", "art_advtransform", "--help"], Path(__file__).parent.parent
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=True)
    listed = re.findall(r"^\W*(\w+) {2,}[A-Z]", ended.stdout, re.MULTILINE)
    assert sorted(name for name in listed if name in COMMANDS) == sorted(COMMANDS)


# ---- evaluate and report


def test_evaluate(evaluated: tuple[Path, str]) -> None:
    out, output = evaluated
    rows = table(output)
    assert re.search(r"undefended *┃ *adversarial *┃ *defended *┃ *┃ *┃ *defended, known D", rows[1])
    names = ["no attack", "white-box transfer: PGD-10 on f_a", "BPDA-I: PGD-10, EOT 4", "per-image worst case"]
    assert [row.split("│")[1].strip() for row in rows if row[0] == "│"] == names
    assert "6 images, L-inf budget 0.125, mean over 4 fresh draws" in output
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.suffix not in ("", ".safetensors")}
    records = {f"{name}/evaluation.json" for name in ("undefended", "adversarial", "defended", "defended-known-D")}
    printed = {
        "table.md",
        "table.tex",
        "table.csv",
        "accuracy.png",
        "cost.png",
        "examples.png",
        "report.html",
        *records,
    }
    manifests = {name.replace("evaluation", "manifest") for name in records}
    assert written == printed | manifests
    assert (out / "examples.safetensors").is_file()
    assert all(f"results/{name}" in output for name in printed)
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    # what is shown is what is recorded
    for name in ("undefended", "defended"):
        record = Evaluation.load(out / name / "evaluation.json")
        assert (record.settings["nb_images"], record.settings["nb_draws"], record.settings["preset"]) == (6, 4, "smoke")
        assert (record.settings["transform"] is None) == (name == "undefended")
        assert record.clean.mean is not None
        assert record.worst.mean is not None
        assert record.clean.mean.value >= 0.8
        assert record.worst.mean.value <= 0.4
        for result in (record.clean, *record.attacks, record.worst):
            assert result.mean is not None
            shown = f"{100 * result.mean.value:.1f} [{100 * result.mean.low:.1f}, {100 * result.mean.high:.1f}]"
            assert any(result.name in row and shown in row for row in rows)


def test_evaluate_goes_on_where_it_was(
    evaluated: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(evaluated[0], "results")
    first = table(evaluated[1])
    attacked: list[str] = []
    original = runs._run_chunk

    def spy(plan: Any, attack: Any, *rest: Any) -> Any:
        attacked.append(attack.name)
        return original(plan, attack, *rest)

    monkeypatch.setattr(runs, "_run_chunk", spy)
    before = files(tmp_path / "results")
    assert table(run(*EVALUATE, "--out", "results")) == first
    assert attacked == []
    chunks = {name: stat for name, stat in before.items() if "chunks" in name}
    assert len(chunks) == 16
    assert chunks.items() <= files(tmp_path / "results").items()
    # what is missing, and only that, is made again
    (lost,) = (tmp_path / "results" / "defended" / "chunks").glob("bpda*")
    lost.unlink()
    assert table(run(*EVALUATE, "--out", "results")) == first
    assert attacked == ["BPDA-I: PGD-10, EOT 4"]
    # other settings are another evaluation, which takes another folder or a clean one
    result = CliRunner().invoke(cli.app, [*EVALUATE, "--out", "results", "--seed", "1"])
    assert isinstance(result.exception, ValueError)
    assert len(attacked) == 1
    run(*EVALUATE, "--out", "results", "--seed", "1", "--restart")
    assert len(attacked) == 1 + 12


def test_report_is_the_table_of_the_evaluation(evaluated: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(evaluated[0], "results")
    printed = table(evaluated[1])
    tables = {
        name: (tmp_path / "results" / name).read_bytes()
        for name in ("table.md", "table.tex", "table.csv", "report.html")
    }
    for name in (*tables, "accuracy.png", "examples.png"):
        (tmp_path / "results" / name).unlink()
    output = run("report", "results")
    assert table(output) == printed
    assert len(printed) > 6
    assert {name: (tmp_path / "results" / name).read_bytes() for name in tables} == tables
    assert (tmp_path / "results" / "accuracy.png").is_file()


def test_list_shows_the_attacks_and_runs_none(tmp_path: Path) -> None:
    output = run("evaluate", "--preset", "quick", "--list")
    rows = {line.split("│")[1].strip(): line for line in table(output) if line[0] == "│"}
    assert re.search(
        r"white box.*torchattacks: APGD.*identity *│ *4 │ fresh *│ *88 │", rows["BPDA-I: APGD-CE-20, EOT 4"]
    )
    assert "foolbox: GenAttack" in output
    listed = json.loads(run("evaluate", "--preset", "quick", "--list", "--json"))
    assert [entry["attack"] for entry in listed["attacks"]] == [attack.name for attack in PRESETS["quick"]()]
    assert [listed["attacks"][2][key] for key in ("sees", "EOT", "evaluations an image")] == ["f_a(g(x))", 4, 88]
    assert listed["attacks"][0]["EOT"] is None  # of f_a alone
    assert list(tmp_path.iterdir()) == []


def test_report_of_several_runs(evaluated: tuple[Path, str], tmp_path: Path) -> None:
    for name, model in (("a", "undefended"), ("b", "undefended"), ("c", "adversarial")):
        shutil.copytree(evaluated[0] / model, tmp_path / name / model)
    output = run("report", "a", "b", "c")
    assert all(name in output for name in ("undefended (a)", "undefended (b)", "adversarial"))
    assert (tmp_path / "runs" / "report" / "report.html").is_file()
    assert not (tmp_path / "a" / "report.html").exists()
    run("report", "a", "--out", "elsewhere")
    assert (tmp_path / "elsewhere" / "table.md").is_file()


def test_what_was_evaluated_otherwise_is_not_put_beside(evaluated: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(evaluated[0], "a")
    run(*EVALUATE, "--model", "undefended", "--seed", "1", "--out", "b")
    for folders in (("a", "b"), ("b", "a")):
        result = CliRunner().invoke(cli.app, ["report", *folders])
        assert isinstance(result.exception, ValueError)
        assert re.search(
            "expected records of the same settings, got others for .*: seed: . and .", str(result.exception)
        )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("change", ["another attack of that name", "an older record", "another version"])
def test_rows_are_of_one_attack(change: str, evaluated: tuple[Path, str]) -> None:
    for name, model in (("a", "undefended"), ("b", "adversarial")):
        shutil.copytree(evaluated[0] / model, Path(name) / model)
    path = Path("b/adversarial/evaluation.json")
    record = json.loads(path.read_text())
    if change == "an older record":
        del record["settings"]["attack_code"]
        told = "attack_code: '.*' and None"
    elif change == "another version":
        record["settings"]["version"] = "0.0.1"
        told = "version: '.*' and '0.0.1'"
    else:
        record["settings"]["attacks"]["BPDA-I: PGD-10, EOT 4"] += "0"
        told = "other attack 'BPDA-I: PGD-10, EOT 4'"
    path.write_text(json.dumps(record))
    result = CliRunner().invoke(cli.app, ["report", "a", "b"])
    assert isinstance(result.exception, ValueError)
    assert re.search(f"got others for adversarial in b: {told}$", str(result.exception))


def test_an_attack_that_fails_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(target: Target, model: DefendedModel) -> Tensor:
        raise RuntimeError("no gradient")

    monkeypatch.setitem(PRESETS, "smoke", lambda: [Attack("broken", broken)])
    result = CliRunner().invoke(cli.app, [*EVALUATE, "--model", "undefended", "--out", "results"])
    assert result.exit_code == 1
    told = " ".join(result.output.split())
    assert "undefended: broken: failed on 1 of 1 chunks of images: RuntimeError: no gradient" in told
    assert "per-image worst case, but for 1 attack" in told


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(device_of(None)) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in (None, "cuda"):
        found = []
        for rank in "012":
            monkeypatch.setenv("LOCAL_RANK", rank)
            found.append(str(device_of(name)))
        assert found == ["cuda:0", "cuda:1", "cuda:0"]
    assert str(device_of("cpu")) == "cpu"
    assert str(device_of("cuda:0")) == "cuda:0"


def test_json(evaluated: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(evaluated[0], "results")
    for command in (["report", "results"], [*EVALUATE, "--out", "results"]):
        found = json.loads(CliRunner().invoke(cli.app, [*command, "--json"]).stdout)  # nothing else is there
        assert found["folder"] == "results"
        assert len(found["results"]) == 4 * 4
        named = {(r["model"], r["attack"]): r["mean"] for r in found["results"]}
        record = Evaluation.load(tmp_path / "results" / "defended" / "evaluation.json")
        assert record.worst.mean is not None
        assert named["defended", "per-image worst case"] == record.worst.mean.value


# ---- diagnose


def test_diagnose(evaluated: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(evaluated[0], "results")
    few = [
        "diagnose",
        "--images",
        "4",
        "--draws",
        "3",
        "--max-iter",
        "4",
        "--eot-samples",
        "2",
        "--attack",
        "margin",
        "--out",
        "results",
    ]
    result = CliRunner().invoke(cli.app, [*few, "--check", "1", "--check", "2", "--check", "7"])
    assert result.exit_code in (0, 1), result.exception
    record = json.loads((tmp_path / "results" / "diagnosis.json").read_text())
    assert sorted(record["verdicts"]) == ["1", "2", "7"]
    assert record["settings"]["found_by"] == "the worst case of preset smoke"
    assert record["settings"]["attack"] == "margin_pgd"
    assert "PGD-4 on the mean margin" in " ".join(result.output.split())
    assert record["settings"]["found"] is not None
    assert result.exit_code == int(any(v["status"] == "fail" for v in record["verdicts"].values()))
    assert all(v["reason"].split(" ")[0] in result.output for v in record["verdicts"].values())
    # and the report has them
    run("report", "results")
    page = (tmp_path / "results" / "report.html").read_text()
    assert "<h2>Checks</h2>" in page
    assert record["verdicts"]["2"]["name"] in page
    assert "Loss against steps of the attack" in page
    # another check is added to those of the same settings
    again = CliRunner().invoke(cli.app, [*few, "--check", "3"])
    assert again.exit_code in (0, 1), again.exception
    record = json.loads((tmp_path / "results" / "diagnosis.json").read_text())
    assert sorted(record["verdicts"]) == ["1", "2", "3", "7"]
    CliRunner().invoke(cli.app, [*few, "--seed", "1", "--check", "3"])
    assert sorted(json.loads((tmp_path / "results" / "diagnosis.json").read_text())["verdicts"]) == ["3"]
    # what is of other nets is not shown beside these
    record["settings"]["sha256"]["f_a"] = "another"
    (tmp_path / "results" / "diagnosis.json").write_text(json.dumps(record))
    output = run("report", "results")
    assert (
        "checks: left out: results/diagnosis.json is of other nets, another budget or an earlier evaluation" in output
    )
    assert "<h2>Checks</h2>" not in (tmp_path / "results" / "report.html").read_text()
    # and goes with the results
    run(*EVALUATE, "--out", "results", "--restart")
    assert not (tmp_path / "results" / "diagnosis.json").exists()
