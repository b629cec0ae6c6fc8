"""The commands show and train, and evaluate of what was trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from art_advtransform import recipes
from art_advtransform.pretrained import read_card
from art_advtransform.records import Evaluation
from art_advtransform.training import fit
from tests.commands import EVALUATE, fails, files, run
from tests.models import tiny_nets

pytestmark = pytest.mark.usefixtures("elsewhere")

# ---- show


def test_show(tmp_path: Path) -> None:
    output = run("show", "--images", "4", "--draws", "8", "--rows", "2", "--out", "figures/g.png")
    found = re.search(r"over 4 images, 8 draws, seed 0: mean (0\.\d{4}), RMS (0\.\d{4}), maximum (0\.\d{4})\n", output)
    assert found is not None, output
    mean, rms, largest = (float(number) for number in found.groups())
    assert 0.05 < mean < rms < largest <= 0.2
    assert (tmp_path / "figures" / "g.png").read_bytes().startswith(b"\x89PNG")
    assert "figure: figures/g.png" in output
    again = run("show", "--images", "4", "--draws", "8", "--rows", "9")
    assert found.group() in again
    assert (tmp_path / "runs" / "show-digits.png").is_file()
    assert found.group() not in run("show", "--images", "4", "--draws", "8", "--seed", "1").replace("seed 1", "seed 0")


# ---- train


def test_train_one_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.NETS, "digits", tiny_nets(1))
    trained: list[int] = []

    def spy(*arguments: Any, **options: Any) -> list[float]:
        trained.append(1)
        return fit(*arguments, **options)

    monkeypatch.setattr("art_advtransform.train_nets.fit", spy)
    arguments = ("train", "--net", "surrogate", "--out", "nets")
    output = run(*arguments)
    folder = tmp_path / "nets" / "surrogate"
    card = read_card(folder)
    told = f"surrogate: test accuracy {100 * card['test_accuracy']:.1f} %, 597 test images"
    assert f"{told}, 1 draws, nets/surrogate" in output
    assert [path.name for path in (tmp_path / "nets").iterdir()] == ["surrogate"]
    before = files(folder)
    assert set(before) == {"card.json", "config.json", "model.safetensors"}
    run(*arguments)  # finished: kept
    assert (files(folder), len(trained)) == (before, 1)
    kept = " (it was finished before: --restart would train and measure it anew)"
    assert told + kept in run(*arguments, "--test-images", "20")
    assert (files(folder), len(trained)) == (before, 1)
    run(*arguments, "--restart")
    assert len(trained) == 2
    assert read_card(folder)["sha256"] == card["sha256"]


def test_train_with_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_accelerate: None) -> None:
    monkeypatch.setitem(recipes.NETS, "digits", tiny_nets(2))
    arguments = ("train", "--net", "f_a-defended", "--out", "nets", "--redraw-every", "1")
    run(*arguments, "--test-images", "30", "--mixed-precision", "bf16", "--tensorboard", "logs")
    card = read_card(tmp_path / "nets" / "f_a-defended")
    assert (card["net"]["redraw_every"], card["mixed_precision"], card["test_images"]) == (1, "bf16", 30)
    assert card["command"].endswith("--net f_a-defended --redraw-every 1 --test-images 30 --mixed-precision bf16")
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))


def test_a_word_less_trains_over_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(recipes.NETS, "digits", tiny_nets(2))
    run("train", "--net", "surrogate", "--out", "nets")
    before = files(tmp_path / "nets" / "surrogate")
    arguments = ["train", "--net", "surrogate", "--out", "nets", "--preset", "smoke"]
    assert "nets/surrogate holds a net of another recipe" in fails(arguments, monkeypatch, capsys)
    assert files(tmp_path / "nets" / "surrogate") == before
    run(*arguments, "--restart")
    assert read_card(tmp_path / "nets" / "surrogate")["net"]["recipe"]["nb_epochs"] == 1


def test_evaluate_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.NETS, "digits", tiny_nets(1))
    output = run("train", "--preset", "smoke", "--out", "nets")
    names = set(recipes.NETS["digits"])
    assert {path.name for path in (tmp_path / "nets").iterdir()} == names
    assert all(f"{name}: test accuracy" in output for name in names - {"imitation"})
    assert re.search(r"imitation: distance to g 0\.\d{4} \(training images: 0\.\d{4}\)", output)
    run(*EVALUATE, "--nets", "nets", "--out", "theirs")
    record = Evaluation.load(tmp_path / "theirs" / "defended" / "evaluation.json")
    assert record.clean.mean is not None
    assert record.clean.mean.value < 0.8  # not the bundled nets: one epoch on 256 images
