"""How large the paper's tables and figures are made.

`--scale digits`: minutes on two cores for all of them, so that they can be run with the tests: what is compared is trained alike,
and briefly; `cpu`: hours on two cores, CIFAR-10 (Tiny ImageNet for Table 6 and Fig. 9) with small nets, few epochs and a share of
the training images (of Tiny ImageNet all at hand), or where all of a table's nets come with the package, with those; `paper`: the
paper's own setting, where it tells it (Fig. 5 has fewer draws), for a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scale:
    """One size of everything.

    Attributes:
        dataset: what it is about.
        preset: of the recipes that nets are trained by.
        train_images: of the training set, at most; ``None``: all.
        width: of the ResNets that are trained; ``None``: the recipes'.
        images: attacked.
        draws: of D that score.
        selection_draws, confirmation_draws: others, that choose the worst attack for each image.
        nb_epochs: instead of the recipes'; ``None``: theirs.
        redraw_every: see :class:`~art_advtransform.recipes.Net`.
        attack_steps: of adversarial training; 1 is FGSM with a random start.
        eot_samples, max_iter: of the attacks.
        climb: steps of momentum PGD, one draw each.
        shipped: nets of the preset's own recipe, not of this scale's, where a table wants just these; taken as they are once they
            come with the package, else trained.
    """

    dataset: str
    preset: str
    train_images: int | None
    width: int | None
    images: int
    draws: int
    selection_draws: int
    confirmation_draws: int
    nb_epochs: int | None
    redraw_every: int
    attack_steps: int
    eot_samples: int
    max_iter: int
    climb: int
    shipped: tuple[str, ...] = ()


SCALES = {
    "digits": Scale(
        dataset="digits",
        preset="cpu",
        train_images=None,
        width=None,
        images=20,
        draws=10,
        selection_draws=10,
        confirmation_draws=20,
        nb_epochs=10,
        redraw_every=4,
        attack_steps=3,
        eot_samples=4,
        max_iter=20,
        climb=40,
        shipped=("f_b-adversarial",),
    ),
    "cpu": Scale(
        dataset="cifar10",
        preset="cpu",
        train_images=8000,
        width=12,
        images=40,
        draws=20,
        selection_draws=10,
        confirmation_draws=20,
        nb_epochs=10,
        redraw_every=5,
        attack_steps=3,
        eot_samples=5,
        max_iter=20,
        climb=100,
        shipped=("f_b-adversarial", "f_b-standard"),
    ),
    "paper": Scale(
        dataset="cifar10",
        preset="paper",
        train_images=None,
        width=None,
        images=1000,
        draws=100,
        selection_draws=20,
        confirmation_draws=100,
        nb_epochs=None,
        redraw_every=0,
        attack_steps=7,
        eot_samples=500,
        max_iter=20,
        climb=200,
    ),
}

# Where all nets of a table ship with the package, it takes them as they are, by this scale: they were trained on all images, alike.
ALL_SHIPPED: dict[str, dict[str, Any]] = {
    "cpu": {
        "train_images": None,
        "shipped": (*SCALES["cpu"].shipped, "f_a-defended", "undefended", "adversarial"),
    },
}

# What is otherwise by scale and data set: 64x64 pixels are four times the work.
ELSEWHERE: dict[tuple[str, str], dict[str, Any]] = {
    ("cpu", "tiny_imagenet"): {
        "train_images": None,
        "width": None,
        "nb_epochs": None,
        "redraw_every": 6,
        "eot_samples": 4,
        "images": 100,  # of 200 classes nets this small know one image in ten, and g of 64x64 pixels takes its time
        "shipped": ("f_b-adversarial", "f_b-standard", "f_a-defended", "undefended", "adversarial", "trades", "metric"),
    },
}
