"""What stands beside this defence in Table 3: ART's preprocessors as modules, and pruning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from art.defences.preprocessor import JpegCompression, ThermometerEncoding, TotalVarMin
from torch import nn

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.identity import network_identity
from art_advtransform.datasets import load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.evaluation import evaluate
from art_advtransform.pretrained import load_pretrained
from art_advtransform.randomness import global_seed
from art_advtransform.recipes import THREATS
from benchmarks.other_defences import ArtPreprocessed, StochasticActivationPruning, Thermometer
from benchmarks.preprocessors import PREPROCESSORS
from benchmarks.scales import SCALES
from benchmarks.workshop import Workshop
from tests.problems import images, seeded


def test_thermometer_is_art_s() -> None:
    art = ThermometerEncoding(clip_values=(0.0, 1.0), num_space=10, channels_first=True)
    levels = torch.arange(75).view(1, 3, 5, 5) % 11 / 10  # on the edges between levels
    x = torch.cat([images(4, (3, 5, 5)).float(), levels]).numpy().astype(np.float32)
    expected, _ = art(x.copy())
    found, _ = Thermometer(10, 0.1)(x)
    assert found.shape == expected.shape == (5, 30, 5, 5)
    assert np.array_equal(found, expected)


def test_thermometer_passes_what_levels_within_reach_say() -> None:
    x = torch.tensor([0.42, 0.97, 0.02]).view(1, 1, 1, 3).numpy()
    gradient = torch.arange(1.0, 11.0).view(1, 10, 1, 1).expand(1, 10, 1, 3).numpy()
    found = Thermometer(10, 0.1).estimate_gradient(x, gradient)
    # the levels 0.4 and 0.5; 0.9 alone; 0.1 alone, since level 0 is one whatever the pixel
    assert found.tolist() == [[[[5.0 + 6.0, 10.0, 2.0]]]]
    assert np.isclose(Thermometer(10, 1.0).estimate_gradient(x, gradient), 54).all()
    # of all levels ART's ramp passes the part that lies below the pixel
    ramp = ThermometerEncoding(clip_values=(0.0, 1.0), num_space=10, channels_first=True)
    assert ramp.estimate_gradient(x, gradient).tolist() == [[[[1 + 2 + 3 + 4 + 5, 55.0, 1.0]]]]


def test_total_variation_smooths_every_channel() -> None:
    # ART's has no channels_first: of (n, C, H, W) it would smooth across colours
    x = torch.zeros(1, 3, 8, 8)
    x[:, 1] = 1.0
    variation = TotalVarMin(prob=1.0, clip_values=(0.0, 1.0))
    model = ArtPreprocessed(nn.Flatten(), variation, channels_last=True, randomized=True)
    assert torch.allclose(model.defended(x), x, atol=1e-3)  # constant channels have no variation
    assert not torch.allclose(ArtPreprocessed(nn.Flatten(), variation).defended(x), x, atol=1e-1)


def test_total_variation_at_the_numbers_of_guo_is_no_defence_in_art() -> None:
    # prob 0.5 and lamb 0.03: the search for a minimum gives up where it begins, which is why Table 3 has ART's defaults
    x = load_dataset("digits").sample(3).x
    for prob, lamb, moved in ((0.5, 0.03, False), (0.3, 0.5, True)):
        variation = TotalVarMin(prob=prob, lamb=lamb, clip_values=(0.0, 1.0))
        model = ArtPreprocessed(nn.Flatten(), variation, channels_last=True, randomized=True)
        with global_seed(0):
            assert torch.allclose(model.defended(x), x, atol=1e-6) != moved


def test_total_variation_draws_by_the_global_seed() -> None:
    model = ArtPreprocessed(nn.Flatten(), TotalVarMin(clip_values=(0.0, 1.0)), channels_last=True, randomized=True)
    x, found = images(2, (3, 8, 8)).float(), []
    for seed in (0, 0, 1):
        with global_seed(seed):
            found.append(model(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_gradient_passes_as_art_estimates_it(channels_last: bool) -> None:
    jpeg = JpegCompression(clip_values=(0.0, 1.0), quality=50, channels_first=not channels_last)
    x, weights = images(2, (3, 16, 16)).float().requires_grad_(), torch.randn(2, 3, 16, 16, generator=seeded(1))
    (ArtPreprocessed(nn.Identity(), jpeg, channels_last=channels_last)(x) * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights)


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_no_defence_of_the_table_hands_images_on_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shop = Workshop("digits", replace(SCALES["digits"], train_images=64, nb_epochs=1), None, 0, "cpu")
    x = load_dataset("digits").sample(10).x
    with global_seed(0):
        seen = PREPROCESSORS[name].model(nn.Identity(), shop).defended(x)
    assert seen.shape == (10, PREPROCESSORS[name].channels, 8, 8)
    assert float((seen - x).abs().mean((1, 2, 3)).min()) > 0.01


def test_another_quality_is_another_net() -> None:
    found = [network_identity(ArtPreprocessed(nn.Flatten(), JpegCompression((0, 1), quality=q))) for q in (50, 50, 90)]
    assert found[0] == found[1] != found[2]


def test_pruning_keeps_the_mean() -> None:
    # what is kept is divided by the probability of being kept
    net = StochasticActivationPruning(nn.Sequential(nn.ReLU())).eval()
    x = images(1, (1, 4, 4)).float()
    with global_seed(0):
        drawn = torch.stack([net(x) for _ in range(4000)])
    assert float((drawn == 0).double().mean()) > 0.1
    assert torch.allclose(drawn.mean(0), x, atol=0.05)


def test_the_gradient_of_pruning_is_that_of_the_mean() -> None:
    net = StochasticActivationPruning(nn.Sequential(nn.ReLU()), share=0.3).eval()
    x = (images(1, (1, 4, 4)).float() - 0.5).requires_grad_()
    weights = torch.randn(1, 1, 4, 4, generator=seeded(1))
    with global_seed(0):
        out = net(x)
    (out * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights * (x > 0))  # that of the ReLU, drawn or not
    assert bool(((out == 0) & (x > 0)).any())


@pytest.mark.parametrize("defence", ["JPEG", "pruning"])
def test_what_others_do_to_images_or_activations_does_not_hold(defence: str) -> None:
    # in front of, or inside, a net that wasn't trained for it; a transfer attack is not among these
    net, data = load_pretrained("digits/undefended"), load_dataset("digits").sample(40)
    jpeg = JpegCompression(clip_values=(0.0, 1.0), quality=80, channels_first=True)
    model = ArtPreprocessed(net, jpeg).eval() if defence == "JPEG" else StochasticActivationPruning(net).eval()
    result = evaluate(
        DefendedModel(model, None).eval(),
        data.x,
        data.y,
        [momentum_pgd(20), expectation_pgd(20, 4, momenta=(0.0, 0.9), continues=False)],
        THREATS["digits"],
        nb_draws=5,
        nb_selection_draws=5,
        nb_confirmation_draws=10,  # what draws by itself is judged image by image
    )
    assert result.clean.mean is not None
    assert result.worst.mean is not None
    assert result.clean.mean.value > 0.8
    assert result.worst.mean.value < 0.2
