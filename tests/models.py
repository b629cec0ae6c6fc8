"""Small data sets, nets and attacks for the tests of training, attacks, evaluation and the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_advtransform.attacks.base import Attack, Target
from art_advtransform.config import ThreatModel
from art_advtransform.datasets import ImageSet, digits
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.networks import FCN
from art_advtransform.pretrained import load_pretrained
from art_advtransform.randomness import keyed_generator
from art_advtransform.recipes import DIGITS_THREAT, NETS, Net
from art_advtransform.training import Recipe
from tests.problems import randomised, seeded

RECIPE = Recipe(
    nb_epochs=4,
    batch_size=32,
    learning_rate=0.05,
    weight_decay=1e-3,
    decay="cosine",
    warmup=0.5,
    crop_padding=1,
    seed=3,
)


def toy(n: int = 96, seed: int = 0) -> ImageSet:
    """Three classes of 2x6x6 images, told apart by which two rows are bright."""
    y = torch.arange(n) % 3
    rows = (torch.arange(6) // 2)[None] == y[:, None]
    x = 0.1 + 0.6 * rows[:, None, :, None] + 0.3 * torch.rand(n, 2, 6, 6, generator=seeded(seed))
    return ImageSet("toy", x, y, ("top", "middle", "bottom"))


def toy_net(seed: int = 0) -> nn.Module:
    """With all that a checkpoint must bring back: batch statistics, convolutions in channels_last, dropout."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(108, 3),
    )  # fmt: skip
    return randomised(net, seed, torch.float32)


class Spy(nn.Module):
    """A net that remembers what it sees in train mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.training:
            self.seen.append(x.detach().clone())
        logits: Tensor = self.net(x)
        return logits


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether every parameter and buffer is the same to the bit."""
    states = a.state_dict(), b.state_dict()
    return list(states[0]) == list(states[1]) and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def global_state() -> list[bytes]:
    """The state of the global generators of torch and numpy."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return [torch.get_rng_state().numpy().tobytes(), repr(numpy_state["state"]).encode()]


@contextmanager
def global_state_untouched() -> Iterator[None]:
    before = global_state()
    yield
    assert global_state() == before


# ---- digits, with the bundled nets


def undefended() -> DefendedModel:
    return DefendedModel(load_pretrained("digits/undefended"), None)


def defended(seed: int | None = None) -> DefendedModel:
    """Without a ``seed`` its draws are the operating system's, other ones in every process."""
    generator = None if seed is None else seeded(seed)
    g = LLPGDTransform(load_pretrained("digits/f_b-adversarial"), generator=generator)
    return DefendedModel(load_pretrained("digits/f_a-defended"), g)


def digits_target(model: DefendedModel, n: int = 6, seed: int = 0, *, surrogate: bool = True) -> Target:
    """The first ``n`` sampled test images, under the budget that digits have."""
    data = digits("test").sample(n)
    surrogates = {"surrogate": load_pretrained("digits/surrogate")} if surrogate else {}
    return Target(
        model,
        data.x,
        data.y,
        DIGITS_THREAT,
        seed,
        surrogates,
        data.x,
        imitation(),
        load_pretrained("digits/undefended"),
    )


def imitation() -> FCN:
    """h(x, D) for digits, not trained: its gradient is one, if not g's."""
    h = randomised(FCN(in_channels=1, width=4, depth=2), 1, torch.float32)
    assert isinstance(h, FCN)
    return h


def tiny_nets(nb_epochs: int = 1) -> dict[str, Net]:
    """The recipes for digits with nets that train in a second or less."""
    recipe = Recipe(nb_epochs=nb_epochs, batch_size=32, crop_padding=1, flip=False)
    vgg = {"nb_classes": 10, "in_channels": 1, "input_size": 8, "widths": (4, 4, 4, 4), "hidden": 8, "dropout": 0.1}
    # with fewer channels torch 2.14.1 writes past its memory here: one thread, AVX2, weight gradients in channels_last
    resnet = {"nb_classes": 10, "in_channels": 1, "width": 8}
    arguments: dict[str, dict[str, Any]] = {
        "SmallVGG": vgg,
        "ResNet18": resnet,
        "FCN": {"in_channels": 1, "width": 4, "depth": 2},
    }
    return {
        name: replace(net, arguments=arguments[net.architecture], recipe=replace(recipe, crop_padding=0))
        if net.role == "imitation"
        else replace(net, arguments=arguments[net.architecture], recipe=recipe)
        for name, net in NETS["digits"].items()
    }


# ---- attacks that do something simple


def fake_attack(name: str, run: Callable[[Target], Tensor]) -> Attack:
    return Attack(name, lambda target, model: run(target))


def noise(target: Target) -> Tensor:
    """Signs that depend on the target's seed alone."""
    signs = torch.randint(0, 2, target.x.shape, generator=keyed_generator(target.seed)) * 2 - 1
    return target.x + target.threat.eps * signs


ANY_PIXEL = ThreatModel(eps=1.0)


def digits_accuracy(model: DefendedModel, n: int) -> float:
    data = digits("test").sample(n)
    with torch.no_grad():
        return float((model(data.x).argmax(1) == data.y).float().mean())
