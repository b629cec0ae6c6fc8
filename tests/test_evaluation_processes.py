"""Evaluate in several processes, and after kill -9: image by image what a single, undisturbed process finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from art_advtransform.records import Evaluation
from art_advtransform.shards import Shards
from tests.evaluations import timeless

ROOT = Path(__file__).parent.parent

SCRIPT = """
import os, signal, sys
import torch
from art_advtransform import LLPGDTransform, DefendedModel, evaluate
from art_advtransform.attacks import View, art_attack, from_function
from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.pretrained import load_pretrained
from art_advtransform.recipes import DIGITS_THREAT
from tests.models import digits_target, defended

torch.set_num_threads(1)
out = sys.argv[1]
calls = 0

def darker(x, y):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return x - 0.05

def broken(x, y):
    if y[0] == second:
        raise RuntimeError("no gradient")
    return x

target = digits_target(defended(), 10)
second = int(target.y[3])
attacks = [momentum_pgd(6), from_function("darker", darker), from_function("broken", broken)]
result = evaluate(target.defended, target.x, target.y, attacks, DIGITS_THREAT, out=out, nb_draws=5,
                  nb_selection_draws=3, chunk_size=3)
assert [bool(a.problem) for a in result.attacks] == [False, False, True], result.attacks
os.write(1, f"calls {calls}\\n".encode())  # whole: two processes share the pipe
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(script: Path, out: Path, kill_at: int = 0, processes: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(script), str(out), str(kill_at)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    """The script, and what one process finds."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "script.py").write_text(SCRIPT)
    ended = start(folder / "script.py", folder / "out")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "calls 4\n"
    return folder / "script.py", Evaluation.load(folder / "out" / "evaluation.json")


def test_two_processes_find_what_one_does(whole: tuple[Path, Evaluation], tmp_path: Path) -> None:
    script, alone = whole
    ended = start(script, tmp_path / "out", processes=2)
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.split("\n")) == ["", "calls 2", "calls 2"]
    together = Evaluation.load(tmp_path / "out" / "evaluation.json")
    assert timeless(together) == timeless(alone)
    assert [a.per_image for a in together.attacks] == [a.per_image for a in alone.attacks]
    names = {path.name for path in (tmp_path / "out" / "chunks").iterdir()}
    assert len(names) == 5 * 4 - 2  # the worst case included; two chunks begin with the class that breaks it
    assert "broken-00003.safetensors" not in names
    # and one goes on where two were
    (tmp_path / "out" / "chunks" / "darker-00003.safetensors").unlink()
    again = start(script, tmp_path / "out")
    assert again.stdout == "calls 1\n"
    assert timeless(Evaluation.load(tmp_path / "out" / "evaluation.json")) == timeless(alone)


@pytest.mark.parametrize("kill_at", [1, 3])
def test_killed_in_the_middle_of_an_attack(kill_at: int, whole: tuple[Path, Evaluation], tmp_path: Path) -> None:
    script, expected = whole
    killed = start(script, tmp_path / "out", kill_at)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "evaluation.json").exists()
    again = start(script, tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert again.stdout == f"calls {4 - (kill_at - 1)}\n"
    assert timeless(Evaluation.load(tmp_path / "out" / "evaluation.json")) == timeless(expected)


def test_the_command_in_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "art_advtransform", "evaluate", "--preset", "smoke", "--images", "6", "--draws", "3"]
    ended = subprocess.run(
        [*command, "--model", "undefended", "--model", "defended"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Accuracy in per cent") == 1  # one of them prints
    assert (tmp_path / "runs" / "evaluate-digits" / "report.html").is_file()


def test_a_process_on_its_own_is_all_of_them() -> None:
    shards = Shards()
    assert shards.is_main
    assert shards.mine([1, 2, 3]) == [1, 2, 3]
    assert shards.everyones(["a"]) == ["a"]
    shards.wait()
