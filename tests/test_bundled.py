"""The nets that ship with the package are what their cards say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from art_advtransform.datasets import digits
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.measuring import imitation_error
from art_advtransform.pretrained import BUNDLED, bundled_names, load_pretrained, read_card
from art_advtransform.recipes import NETS, Net
from art_advtransform.transform import random_start
from tests.models import digits_accuracy
from tests.problems import seeded


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_cards_are_those_of_the_recipes(name: str) -> None:
    dataset, _, net = name.partition("/")
    card, recipe = read_card(name), NETS[dataset][net]
    assert card["dataset"] == dataset
    assert Net.from_json(card["net"]).to_json() == recipe.to_json()
    assert card["architecture"] == recipe.architecture
    command, fewer = f"art-advtransform train --dataset {dataset} --preset cpu --net {net}", card["test_images"]
    assert card["command"] in (command, f"{command} --test-images {fewer}")
    if recipe.role in ("defended", "imitation"):
        assert card["f_b_sha256"] == read_card(f"{dataset}/{recipe.f_b}")["sha256"]


def test_the_readme_gives_the_cards_numbers() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    row = r"^\| `((?:cifar10|tiny_imagenet)/\S+)` \|.*\| ([^|]+?)(?: through g)? \| ([\d.]+|-) \|$"
    told = re.findall(row, readme, re.MULTILINE)
    cards = {name: read_card(name) for name in bundled_names() if not name.startswith("digits/")}
    attacked = {name: f"{100 * c['pgd20_accuracy']:.1f}" if "pgd20_accuracy" in c else "-" for name, c in cards.items()}
    assert sorted(told) == [(name, f"{100 * c['test_accuracy']:.1f}", attacked[name]) for name, c in cards.items()]


def test_a_defended_classifier_of_cifar10_and_what_it_is_compared_with_are_bundled() -> None:
    nets = ("adversarial", "f_a-defended", "f_a-defended-2", "f_b-adversarial", "f_b-standard", "undefended")
    assert sorted(name for name in bundled_names() if name.startswith("cifar10/")) == [f"cifar10/{n}" for n in nets]
    cards = {name: read_card(f"cifar10/{name}")["net"] for name in nets}
    classifiers = ("adversarial", "f_a-defended", "f_a-defended-2", "undefended")
    assert {(cards[name]["architecture"], cards[name]["arguments"]["width"]) for name in classifiers} == {
        ("ResNet18", 20)
    }
    first, second = (read_card(f"cifar10/{name}") for name in ("f_a-defended", "f_a-defended-2"))
    assert first["f_b_sha256"] == second["f_b_sha256"]
    assert first["net"]["recipe"]["seed"] != second["net"]["recipe"]["seed"]


def test_all_nets_of_digits_are_bundled() -> None:
    assert {path.parent.name for path in (BUNDLED / "digits").glob("*/card.json")} == set(NETS["digits"])


@pytest.mark.parametrize("name", ["undefended", "f_b-adversarial", "surrogate"])
def test_bundled_plain_nets_are_as_good_as_their_cards(name: str) -> None:
    model = DefendedModel(load_pretrained(f"digits/{name}"), None)
    # an image on the border may fall to the other side on another machine
    assert digits_accuracy(model, 597) == pytest.approx(read_card(f"digits/{name}")["test_accuracy"], abs=0.002)


def test_bundled_imitation_is_as_near_to_g_as_its_card_says() -> None:
    g, h = LLPGDTransform(load_pretrained("digits/f_b-adversarial")), load_pretrained("digits/imitation")
    card, test = read_card("digits/imitation"), digits("test")
    error = imitation_error(h, g, test)
    assert error == pytest.approx(card["test_error"], rel=0.01)
    # nearer than doing nothing, or than the start: it learned something of g
    start = random_start(test.x, 0.2, seeded(0))
    with torch.no_grad():
        still = float((g(test.x, start) - test.x).square().mean().sqrt())
        moved = float((g(test.x, start) - test.x - start).square().mean().sqrt())
    assert error < 0.9 * min(still, moved)


def test_bundled_defended_net_is_as_good_as_its_card() -> None:
    g = LLPGDTransform(load_pretrained("digits/f_b-adversarial"), generator=seeded(0))
    f_a = load_pretrained("digits/f_a-defended")
    accuracies = [digits_accuracy(DefendedModel(f_a, g), 597) for _ in range(4)]
    assert len(set(accuracies)) > 1  # fresh draws
    assert abs(sum(accuracies) / 4 - read_card("digits/f_a-defended")["test_accuracy"]) < 0.015
    # it was trained for g: a net that wasn't is worse behind it
    assert digits_accuracy(DefendedModel(load_pretrained("digits/undefended"), g), 597) < min(accuracies) - 0.1
