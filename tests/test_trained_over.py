"""Which finished nets are kept, which are trained over, and which only where one asks for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from art_advtransform import recipes, train_nets
from art_advtransform.datasets import ImageSet, digits
from art_advtransform.pretrained import load_pretrained, read_card
from art_advtransform.recipes import Net
from art_advtransform.train_nets import Options, is_finished
from art_advtransform.training import fit
from tests.commands import files
from tests.models import same_weights, tiny_nets

UNASKED = Options(replace=False)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Net]:
    nets = tiny_nets()
    monkeypatch.setitem(recipes.NETS, "digits", nets)
    return nets


def train(out: Path, names: list[str] | None = None, options: Options | None = None, n: int = 64) -> dict[str, Path]:
    """Train on the first ``n`` images."""
    data = digits("train")
    few = ImageSet("digits", data.x[:n], data.y[:n], data.classes)
    return train_nets.train_nets("digits", few, digits("test").sample(64), out, names, options)


def refused(what: str, out: Path, names: list[str] | None = None, options: Options = UNASKED, n: int = 64) -> None:
    """That nothing is trained, not even what comes before."""
    before = files(out)
    with pytest.raises(ValueError, match=f"holds a net {what}: choose another folder, or restart to train over it"):
        train(out, names, options, n)
    assert files(out) == before


def test_another_recipe(tmp_path: Path, tiny: dict[str, Net]) -> None:
    train(tmp_path, ["undefended", "f_a-defended"])
    refused("of another recipe", tmp_path, ["surrogate", "f_a-defended"], Options(redraw_every=1, replace=False))
    before = files(tmp_path / "f_a-defended")
    # of the same recipe it is finished, and another one goes on beside it
    train(tmp_path, ["surrogate", "f_a-defended"], UNASKED)
    assert files(tmp_path / "f_a-defended") == before
    train(tmp_path, ["f_a-defended"], Options(redraw_every=1))
    assert files(tmp_path / "f_a-defended") != before


def test_another_precision(tmp_path: Path, tiny: dict[str, Net], fresh_accelerate: None) -> None:
    folder = train(tmp_path, ["surrogate"], Options(mixed_precision="bf16", resume=False))["surrogate"]
    weights = load_pretrained(folder)
    assert read_card(folder)["mixed_precision"] == "bf16"
    assert not is_finished("digits", tiny["surrogate"], folder)
    AcceleratorState._reset_state(reset_partial_state=True)
    refused("of another precision", tmp_path, ["undefended", "surrogate"])
    train(tmp_path, ["surrogate"])
    assert is_finished("digits", tiny["surrogate"], folder)
    assert not same_weights(load_pretrained(folder), weights)


def test_another_f_b(tmp_path: Path, tiny: dict[str, Net]) -> None:
    train(tmp_path, ["f_a-defended"])  # behind the bundled one
    refused("behind another f_b", tmp_path)  # that it would get in the same run
    train(tmp_path, ["f_b-adversarial"], UNASKED)
    refused("behind another f_b", tmp_path, ["surrogate", "f_a-defended"])
    train(tmp_path, ["f_a-defended"])
    train(tmp_path, None, UNASKED)


def test_other_training_images(tmp_path: Path, tiny: dict[str, Net]) -> None:
    folder = train(tmp_path, ["surrogate"])["surrogate"]
    refused("trained on other images", tmp_path, ["undefended", "surrogate"], n=96)
    train(tmp_path, ["surrogate"], n=96)
    assert read_card(folder)["train_images"] == 96
    before = files(folder)
    train(tmp_path, ["surrogate"], UNASKED, n=96)
    assert files(folder) == before
    card = read_card(folder)
    del card["train_sha256"]  # as an older one
    (folder / "card.json").write_text(json.dumps(card))
    train(tmp_path, ["surrogate"], UNASKED, n=96)
    refused("trained on other images", tmp_path, ["surrogate"], n=64)


def test_what_was_begun_anew_and_killed_goes_on(
    tmp_path: Path, tiny: dict[str, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["undefended", "surrogate"]
    folders = train(tmp_path, names)
    trained: list[tuple[str, int]] = []

    def killed(*arguments: Any, **options: Any) -> list[float]:
        def until(done: int, total: int, loss: float) -> None:
            trained.append((options["checkpoint"].name.partition(".")[0], done))
            if len(trained) == 1:
                raise KeyboardInterrupt

        return fit(*arguments, **{**options, "on_epoch": until})

    monkeypatch.setattr(train_nets, "fit", killed)
    recipe = replace(tiny["undefended"].recipe, nb_epochs=3)
    nets = {**tiny, "undefended": replace(tiny["undefended"], recipe=recipe)}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, names, Options(nets=nets, resume=False))
    assert not any(is_finished("digits", nets[name], folder) for name, folder in folders.items())
    # not even asked whether it may train over what was thrown away, and not from the beginning
    train(tmp_path, names, replace(UNASKED, nets=nets))
    assert trained[:3] == [("undefended", 1), ("undefended", 2), ("undefended", 3)]
    assert {name for name, _ in trained[3:]} == {"surrogate"}
    assert all(is_finished("digits", nets[name], folder) for name, folder in folders.items())
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_a_killed_training_does_not_go_on_with_other_images(
    tmp_path: Path, tiny: dict[str, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints: list[Path] = []

    def killed(*arguments: Any, **options: Any) -> list[float]:
        checkpoints.append(options["checkpoint"])
        raise KeyboardInterrupt

    monkeypatch.setattr(train_nets, "fit", killed)
    for n in (64, 96, 64):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, ["surrogate"], n=n)
    assert checkpoints[0] == checkpoints[2] != checkpoints[1]
