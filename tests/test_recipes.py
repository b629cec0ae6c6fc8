"""Recipes: the paper's settings, the smoke test's, and f_b before what is trained on it."""

from __future__ import annotations

import pytest
import torch

from art_advtransform.networks import NETWORKS
from art_advtransform.recipes import Net, preset_nets


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "tiny_imagenet", "fashion_mnist"])
def test_the_papers_preset(dataset: str) -> None:
    nets = preset_nets(dataset, "paper")
    f_a, f_b = nets["f_a-defended"], nets["f_b-adversarial"]
    recipe = f_a.recipe
    assert (recipe.nb_epochs, recipe.learning_rate, recipe.momentum, recipe.batch_size) == (80, 0.1, 0.9, 128)
    assert (recipe.decay, recipe.warmup, f_a.redraw_every) == ("constant", 0, 0)
    assert (f_a.architecture, f_a.arguments["width"], f_b.role) == ("ResNet18", 64, "adversarial")
    size = {"digits": 8, "tiny_imagenet": 64, "fashion_mnist": 28}.get(dataset, 32)
    denoising, metric = nets["denoising"], nets["metric"]
    assert (denoising.role, denoising.arguments["denoising"]) == ("adversarial", True)
    assert (metric.role, metric.arguments) == ("metric", f_a.arguments)
    for net in (f_a, f_b, denoising):
        module = NETWORKS[net.architecture](**net.arguments).eval()
        channels, classes = net.arguments["in_channels"], net.arguments["nb_classes"]
        assert module(torch.rand(1, channels, size, size)).shape == (1, classes)


def test_the_smoke_preset_is_one_epoch_of_the_same_nets() -> None:
    nets, smoke = preset_nets("cifar10"), preset_nets("cifar10", "smoke")
    assert list(smoke) == list(nets)
    assert {net.recipe.nb_epochs for net in smoke.values()} == {1}
    assert all(smoke[name].arguments == net.arguments for name, net in nets.items())


@pytest.mark.parametrize("nets", [preset_nets("cifar10"), preset_nets("cifar10", "paper")])
def test_f_b_comes_before_what_needs_it(nets: dict[str, Net]) -> None:
    names = list(nets)
    for name, net in nets.items():
        if net.role == "defended":
            assert names.index(net.f_b) < names.index(name)
    assert nets["f_a-defended"].recipe.seed != nets["f_a-defended-2"].recipe.seed


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="unknown preset 'gpu'; known: cpu, paper, smoke"):
        preset_nets("digits", "gpu")
    with pytest.raises(ValueError, match="no recipes for dataset 'mnist'; known: digits, cifar10"):
        preset_nets("mnist", "paper")
