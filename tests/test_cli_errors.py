"""Errors and interrupts at the command line: a line that says what to do, and the exit code."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from art_advtransform import cli
from art_advtransform.pretrained import BUNDLED
from tests.commands import EVALUATE, fails

pytestmark = pytest.mark.usefixtures("elsewhere")


ERRORS = {
    "evaluate --dataset mnist": "unknown dataset 'mnist'; known: digits, cifar10, ",
    "show --dataset mnist --f-b digits/f_b-adversarial": "unknown dataset 'mnist'; known: digits, ",
    "show --dataset mnist": "no weights 'mnist/f_b-adversarial': .*bundled: .*digits/f_b-adversarial",
    "train --dataset mnist": "no recipes for dataset 'mnist'; known: digits, ",
    "evaluate --preset slow": "unknown preset 'slow'; known: smoke, quick, paper",
    "diagnose --check 20": "unknown check 20; known: 1, 2, ",
    "diagnose --attack square": "unknown attack 'square'; known: pgd, margin",
    "diagnose --images 1000": "expected at most 597 images of digits, got 1000",
    "train --mixed-precision fp8": "unknown mixed_precision 'fp8'; known: no, bf16, fp16",
    "train --dataset fashion_mnist": "no recipes for dataset 'fashion_mnist'; known: digits, .*; the preset paper has them",
    "train --preset slow": "unknown preset 'slow'; known: cpu, paper, smoke",
    "train --net surrogate --test-images 1000": "expected at most 597 images of digits, got 1000",
    "train --net f_c": "unknown net 'f_c'; known: f_b-adversarial, ",
    "evaluate --f-b nowhere": "no weights 'nowhere': neither a folder with card.json nor a bundled net",
    "evaluate --nets cifar10 --images 3": r"undefended does not take images of shape \(1, 8, 8\): ",
    "evaluate --nets nowhere": "no weights 'nowhere/undefended'",
    "evaluate --dataset cifar10 --nets digits --data-root empty": "cifar10 not found: looked for .* in .*/empty; .*--download",
    "show --dataset cifar10 --f-b digits/f_b-adversarial --data-root empty": "cifar10 not found: .*/empty; ",
    "evaluate --images 1000": "expected at most 597 images of digits, got 1000",
    "evaluate --device abacus": "expected a device that is there, got 'abacus': ",
    "diagnose --device cuda:77": "expected a device that is there, got 'cuda:77': ",
    "show --device abacus": "expected a device that is there, got 'abacus': ",
    "evaluate --eps -1": r"expected eps > 0, got -1\.0",
    "report empty": r"no records: looked for \*/evaluation\.json in empty",
    "report nowhere": r"no records: looked for \*/evaluation\.json in nowhere",
}


@pytest.mark.parametrize("command", ERRORS)
def test_errors_are_a_line(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert re.match(f"error: {ERRORS[command]}", fails(command.split(), monkeypatch, capsys))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("net", ["f_b-adversarial", "undefended", "f_a-defended", "surrogate"])
@pytest.mark.parametrize("damage", [_flip, Path.unlink])
def test_damaged_weights(
    net: str, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(BUNDLED / "digits", "nets")
    damage(Path("nets") / net / "model.safetensors")
    error = fails([*EVALUATE, "--nets", "nets", "--out", "runs"], monkeypatch, capsys)
    assert error.startswith(f"error: damaged weights in nets/{net}: ")


def stop(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the evaluation raise ``error``."""

    def stopped(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr("art_advtransform.evaluate_nets.evaluate_nets", stopped)
    monkeypatch.setattr(sys, "argv", ["art-advtransform", *EVALUATE])


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    stop(RuntimeError("a defect of the package"), monkeypatch)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main()


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stop(KeyboardInterrupt(), monkeypatch)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 130
    output = capsys.readouterr()
    assert "interrupted: the same command goes on where it was" in output.out
    assert "Traceback" not in output.err
