"""The nets that ship: made by their recipes, finished once, and as good as their cards say."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from art_advtransform import recipes
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.datasets import ImageSet, digits
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.measuring import found, imitation_error, pgd_images
from art_advtransform.networks import NETWORKS
from art_advtransform.pretrained import load_pretrained, read_card
from art_advtransform.recipes import DIGITS_THREAT, NETS, Net
from art_advtransform.train_nets import Options, train_nets
from art_advtransform.training import Recipe
from art_advtransform.transform import ll_pgd
from tests.models import digits_accuracy, same_weights, tiny_nets


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Net]:
    nets = tiny_nets()
    monkeypatch.setitem(recipes.NETS, "digits", nets)
    return nets


def train(out: Path, names: list[str] | None = None, seen: list[str] | None = None) -> dict[str, Path]:
    """Train on a few images; the names of the nets that were trained are added to ``seen``."""
    data = digits("train")
    few = ImageSet("digits", data.x[:160], data.y[:160], data.classes)
    trained = [] if seen is None else seen

    def progress(name: str) -> Any:
        def told(what: str, done: int, total: int) -> None:
            if what != "measuring":
                trained.append(f"{name} {done}/{total}")

        return told

    return train_nets("digits", few, digits("test").sample(64), out, names, Options(progress=progress))


# ---- the training of a table


def test_unknown_names(tmp_path: Path) -> None:
    data = digits("test").sample(8)
    with pytest.raises(ValueError, match=r"no recipes for dataset 'mnist'; known: digits"):
        train_nets("mnist", data, data, tmp_path)
    with pytest.raises(ValueError, match=r"unknown net 'f_c'; known: f_b-adversarial, undefended, "):
        train_nets("digits", data, data, tmp_path, ["surrogate", "f_c"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("role", "threat"), [("adversarial", None), ("plain", ThreatModel())])
def test_a_threat_belongs_to_adversarial_training(role: recipes.Role, threat: ThreatModel | None) -> None:
    # without it f_b would silently be trained on clean images
    with pytest.raises(
        ValueError, match="expected a threat for the roles adversarial, trades, metric, and only for them"
    ):
        Net("SmallVGG", {}, role, Recipe(), "f_b", threat)


def test_unknown_architectures_and_roles() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'VGG'; known: SmallVGG, ResNet18, FCN"):
        Net("VGG", {}, "plain", Recipe(), "f_b")
    with pytest.raises(ValueError, match="unknown role 'defendd'; known: plain, adversarial, "):
        Net("SmallVGG", {}, "defendd", Recipe(), "f_a")  # type: ignore[arg-type]


def test_a_table_is_trained_and_finished_once(tmp_path: Path, tiny: dict[str, Net]) -> None:
    seen: list[str] = []
    folders = train(tmp_path, seen=seen)
    assert folders == {name: tmp_path / name for name in tiny}
    assert seen == [f"{name} 1/1" for name in tiny]
    assert {path.name for path in tmp_path.iterdir()} == set(tiny)  # the checkpoints are gone
    for name, folder in folders.items():
        _check_card(folder, tiny[name])
    assert read_card(folders["f_a-defended"])["f_b_sha256"] == read_card(folders["f_b-adversarial"])["sha256"]
    before = {name: (folder / "card.json").stat().st_mtime_ns for name, folder in folders.items()}
    assert train(tmp_path, seen=seen) == folders
    assert len(seen) == len(tiny)
    assert before == {name: (folder / "card.json").stat().st_mtime_ns for name, folder in folders.items()}


def _check_card(folder: Path, net: Net) -> None:
    card = json.loads((folder / "card.json").read_text())
    assert card["architecture"] == net.architecture
    assert card["net"] == json.loads(json.dumps(asdict(net)))
    assert card["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (card["dataset"], card["test_images"]) == ("digits", 64)
    assert card["draws"] == (5 if net.role == "defended" else 1)
    if net.role == "imitation":
        g = LLPGDTransform(load_pretrained(folder.parent / net.f_b))
        assert card["test_error"] == round(imitation_error(load_pretrained(folder), g, digits("test").sample(64)), 5)
    elif net.role != "defended":
        assert card["test_accuracy"] == round(digits_accuracy(DefendedModel(load_pretrained(folder), None), 64), 4)


def test_weights_follow_the_recipe_alone(tmp_path: Path, tiny: dict[str, Net]) -> None:
    torch.manual_seed(1)
    first = train(tmp_path / "a", ["surrogate"])["surrogate"]
    torch.manual_seed(2)
    again = train(tmp_path / "b", ["surrogate"])["surrogate"]
    assert same_weights(load_pretrained(first), load_pretrained(again))
    untrained = NETWORKS["SmallVGG"](**tiny["surrogate"].arguments)
    assert not same_weights(load_pretrained(first), untrained)


def test_a_changed_recipe_is_trained_again_with_what_depends_on_it(tmp_path: Path, tiny: dict[str, Net]) -> None:
    train(tmp_path)
    tiny["f_b-adversarial"] = replace(tiny["f_b-adversarial"], recipe=replace(tiny["surrogate"].recipe, seed=5))
    seen: list[str] = []
    folders = train(tmp_path, seen=seen)
    # both f_a and h were trained on g of the old f_b
    again = ("f_b-adversarial", "f_a-defended", "f_a-defended-2", "imitation")
    assert seen == [f"{name} 1/1" for name in again]
    assert read_card(folders["f_b-adversarial"])["net"]["recipe"]["seed"] == 5


def test_f_b_comes_first_in_whatever_order_it_is_asked_for(tmp_path: Path, tiny: dict[str, Net]) -> None:
    seen: list[str] = []
    folders = train(tmp_path, ["f_a-defended", "f_b-adversarial"], seen)
    assert [name.split()[0] for name in seen] == ["f_b-adversarial", "f_a-defended"]
    assert read_card(folders["f_a-defended"])["f_b_sha256"] == read_card(folders["f_b-adversarial"])["sha256"]


def test_without_an_f_b_beside_the_bundled_one_serves(tmp_path: Path, tiny: dict[str, Net]) -> None:
    folder = train(tmp_path, ["f_a-defended"])["f_a-defended"]
    assert read_card(folder)["f_b_sha256"] == read_card("digits/f_b-adversarial")["sha256"]


def test_a_killed_training_goes_on(tmp_path: Path, tiny: dict[str, Net]) -> None:
    tiny["surrogate"] = replace(tiny["surrogate"], recipe=replace(tiny["surrogate"].recipe, nb_epochs=3))
    expected = train(tmp_path / "whole", ["surrogate"])["surrogate"]

    def kill(name: str) -> Any:
        def progress(what: str, done: int, total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        return progress

    data = digits("train")
    few = ImageSet("digits", data.x[:160], data.y[:160], data.classes)
    with pytest.raises(KeyboardInterrupt):
        train_nets("digits", few, digits("test").sample(64), tmp_path / "killed", ["surrogate"], Options(progress=kill))
    assert not (tmp_path / "killed" / "surrogate").exists()  # no net that looks finished
    seen: list[str] = []
    resumed = train(tmp_path / "killed", ["surrogate"], seen)["surrogate"]
    assert seen == ["surrogate 3/3"]
    assert same_weights(load_pretrained(resumed), load_pretrained(expected))
    assert read_card(resumed) == read_card(expected)


def test_a_field_that_is_younger_than_a_card_has_its_default(tmp_path: Path, tiny: dict[str, Net]) -> None:
    path = train(tmp_path, ["f_b-adversarial"])["f_b-adversarial"] / "card.json"
    card = json.loads(path.read_text())
    assert card["net"].pop("attack_steps") == 7
    path.write_text(json.dumps(card))
    seen: list[str] = []
    train(tmp_path, ["f_b-adversarial"], seen)
    assert seen == []
    tiny["f_b-adversarial"] = replace(tiny["f_b-adversarial"], attack_steps=1)
    train(tmp_path, ["f_b-adversarial"], seen)
    assert seen == ["f_b-adversarial 1/1"]
    assert read_card(path)["net"]["attack_steps"] == 1


@pytest.mark.parametrize("net", [None, {}, {"threat": None}, {"colour": "red"}])
def test_cards_of_something_else_are_trained_over(net: Any, tmp_path: Path, tiny: dict[str, Net]) -> None:
    path = train(tmp_path, ["surrogate"])["surrogate"] / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "net": net}))
    seen: list[str] = []
    train(tmp_path, ["surrogate"], seen)
    assert seen == ["surrogate 1/1"]


# ---- options


def test_restart_trains_again(tmp_path: Path, tiny: dict[str, Net]) -> None:
    data, seen = digits("test").sample(64), []
    expected = train(tmp_path, ["surrogate"])["surrogate"]
    before = load_pretrained(expected)

    def progress(name: str) -> Any:
        return lambda what, done, total: seen.append(f"{what.split()[0]} {done}/{total}")

    leftover = tmp_path / "surrogate.00000000.checkpoint.safetensors"
    leftover.write_bytes(b"of another recipe")
    few = ImageSet("digits", digits("train").x[:160], digits("train").y[:160], data.classes)
    train_nets("digits", few, data, tmp_path, ["surrogate"], Options(resume=False, progress=progress))
    assert seen == ["loss 1/1", "measuring 0/1", "measuring 1/1"]
    assert same_weights(load_pretrained(expected), before)
    assert leftover.exists()


def test_cards_are_measured_on_as_many_images_as_asked_for(tmp_path: Path, tiny: dict[str, Net]) -> None:
    data, options = digits("test"), Options(test_images=40)
    folder = train_nets("digits", data.sample(64), data, tmp_path, ["surrogate"], options)["surrogate"]
    net, seen = load_pretrained(folder), data.sample(40)
    with torch.no_grad():
        right = float((net(seen.x).argmax(1) == seen.y).float().mean())
    assert (read_card(folder)["test_accuracy"], read_card(folder)["test_images"]) == (pytest.approx(right), 40)


def test_recipes_of_one_s_own_are_no_command(tmp_path: Path, tiny: dict[str, Net]) -> None:
    data = digits("train").sample(64)
    folder = train_nets("digits", data, data, tmp_path, options=Options(nets={"mine": tiny["surrogate"]}))["mine"]
    assert "command" not in read_card(folder)


def test_redraw_every_is_another_training(tmp_path: Path, tiny: dict[str, Net]) -> None:
    tiny["f_a-defended"] = replace(tiny["f_a-defended"], recipe=replace(tiny["f_a-defended"].recipe, nb_epochs=3))
    data, seen = digits("train").sample(160), []

    def progress(name: str) -> Any:
        def told(what: str, done: int, total: int) -> None:
            if what != "measuring":
                seen.append((what.split()[0], done, total))

        return told

    options = Options(redraw_every=2, progress=progress)
    folder = train_nets("digits", data, data, tmp_path, ["f_a-defended"], options)["f_a-defended"]
    assert seen == [("g(x)", 160, 160), ("loss", 1, 3), ("loss", 2, 3), ("g(x)", 160, 160), ("loss", 3, 3)]
    card = read_card(folder)
    assert card["net"]["redraw_every"] == 2
    assert card["command"].endswith("--preset cpu --net f_a-defended --redraw-every 2")
    assert [path.name for path in tmp_path.iterdir()] == ["f_a-defended"]  # neither checkpoint nor bank
    seen.clear()
    train_nets("digits", data, data, tmp_path, ["f_a-defended"], options)
    assert seen == []
    train_nets("digits", data, data, tmp_path, ["f_a-defended"], Options(progress=progress))
    assert seen == [("loss", 1, 3), ("loss", 2, 3), ("loss", 3, 3)]


def test_half_precision_is_what_is_measured(tmp_path: Path, tiny: dict[str, Net]) -> None:
    tiny["surrogate"] = replace(tiny["surrogate"], half=True)
    folder = train(tmp_path, ["surrogate"])["surrogate"]
    assert {v.dtype for v in load_file(folder / "model.safetensors").values()} >= {torch.float16, torch.float32}
    measured = digits_accuracy(DefendedModel(load_pretrained(folder), None), 64)
    assert read_card(folder)["test_accuracy"] == round(measured, 4)


def test_trades_and_adversarial_training_are_not_the_same(tmp_path: Path, tiny: dict[str, Net]) -> None:
    f_b = tiny["f_b-adversarial"]
    tiny["surrogate"] = replace(f_b, role="trades")
    folders = train(tmp_path, ["f_b-adversarial", "surrogate"])
    assert not same_weights(*(load_pretrained(folder) for folder in folders.values()))
    for folder in folders.values():
        assert 0 <= read_card(folder)["pgd20_accuracy"] <= read_card(folder)["test_accuracy"] + 0.05


def test_accuracy_under_pgd_is_that_of_images_after_twenty_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    data, net, accelerator = digits("test").sample(64), NETS["digits"]["adversarial"], Accelerator()
    model, seen = load_pretrained("digits/adversarial").to(accelerator.device), list[TransformConfig]()

    def spy(f: nn.Module, x: Tensor, y: Tensor, start: Tensor, config: TransformConfig) -> Tensor:
        seen.append(config)
        return ll_pgd(f, x, y, start, config)

    monkeypatch.setattr("art_advtransform.measuring.ll_pgd", spy)
    card = found(net, model, None, data, data, accelerator, lambda done, total: None)
    eps = DIGITS_THREAT.eps
    assert seen == [TransformConfig(eps, eps / 4, 20, "most_likely", clip_values=(0.0, 1.0))]
    with torch.no_grad():
        clean, attacked = (
            float((model(x.to(accelerator.device)).argmax(1).cpu() == data.y).float().mean())
            for x in (data.x, pgd_images(model, data, DIGITS_THREAT, accelerator.device, 20))
        )
    assert attacked <= clean - 0.05
    assert (card["test_accuracy"], card["pgd20_accuracy"]) == (round(clean, 4), round(attacked, 4))


def test_pgd_images_stay_in_the_budget_and_hurt() -> None:
    data, net = digits("test").sample(200), load_pretrained("digits/undefended")
    attacked = pgd_images(net, data, DIGITS_THREAT, "cpu")
    assert float((attacked - data.x).abs().max()) <= DIGITS_THREAT.eps + 1e-6
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    with torch.no_grad():
        assert float((net(attacked).argmax(1) == data.y).float().mean()) < 0.2
