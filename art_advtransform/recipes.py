"""L4: the nets that ship with the package, by data set: architecture, loss and recipe; ``train`` makes them again.

To train for another data set, add its entry to ``NETS``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.datasets import ImageSet
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.networks import NETWORKS
from art_advtransform.pretrained import load_pretrained, read_card, save_pretrained
from art_advtransform.randomness import derived_seed, global_seed, keyed_generator
from art_advtransform.training import Loss, OnEpoch, Recipe, adversarial_loss, defended_loss, fit, plain_loss

Role = Literal["plain", "adversarial", "defended"]


@dataclass(frozen=True)
class Net:
    """One net to train.

    Attributes:
        architecture: a key of ``NETWORKS``.
        arguments: its constructor's.
        role: what it is trained on: clean images, PGD examples, or g(x) with fresh draws.
        recipe: how it is optimised.
        about: a line for the card.
        threat: budget of the PGD examples; needed by that role alone.
        attack_steps: their steps; 1 is the cheap FGSM with a random start.
        f_b: name of the net that g works on; it must be trained before.
    """

    architecture: str
    arguments: dict[str, Any]
    role: Role
    recipe: Recipe
    about: str
    threat: ThreatModel | None = None
    attack_steps: int = 7
    f_b: str = "f_b-adversarial"

    def __post_init__(self) -> None:
        if (self.role == "adversarial") != (self.threat is not None):
            raise ValueError(f"expected a threat for the role adversarial, and only for it, got {self.threat}")


# Digits have 16 grey levels; at two of them an undefended net falls to a few per cent, at the usual 8/255 to 89.
DIGITS_THREAT = ThreatModel(eps=2 / 16)

# The budget of every data set, for training f_b and for attacks.
THREATS = {
    "digits": DIGITS_THREAT,
    "cifar10": ThreatModel(),
    "tiny_imagenet": ThreatModel(),
    "fashion_mnist": ThreatModel(),
}

_DIGITS_RESNET = {"nb_classes": 10, "in_channels": 1, "width": 8}
_DIGITS_VGG = {
    "nb_classes": 10,
    "in_channels": 1,
    "input_size": 8,
    "widths": (16, 32, 32, 32),
    "hidden": 64,
    "dropout": 0.1,
}
_DIGITS_RECIPE = Recipe(
    nb_epochs=60,
    batch_size=64,
    learning_rate=0.05,
    weight_decay=5e-4,
    decay="cosine",
    warmup=2,
    crop_padding=1,
    flip=False,
)

# Dropout as light as an adversarially trained net of this size bears: it underfits already.
_CIFAR_VGG = {"dropout": 0.1}
_CIFAR_RECIPE = Recipe(nb_epochs=30, weight_decay=5e-4, decay="cosine", warmup=2)

NETS: dict[str, dict[str, Net]] = {
    "digits": {
        "f_b-adversarial": Net(
            "SmallVGG", _DIGITS_VGG, "adversarial", _DIGITS_RECIPE, "the external model f_b", DIGITS_THREAT
        ),
        "undefended": Net("ResNet18", _DIGITS_RESNET, "plain", _DIGITS_RECIPE, "the classifier without a defence"),
        "f_a-defended": Net("ResNet18", _DIGITS_RESNET, "defended", _DIGITS_RECIPE, "the classifier behind g"),
        "surrogate": Net(
            "SmallVGG", _DIGITS_VGG, "plain", _DIGITS_RECIPE, "what a black-box attacker trains for himself"
        ),
    },
    "cifar10": {
        "f_b-adversarial": Net(
            "SmallVGG",
            _CIFAR_VGG,
            "adversarial",
            _CIFAR_RECIPE,
            "the external model f_b",
            ThreatModel(),
            attack_steps=1,
        ),
    },
}


def train_nets(
    dataset: str,
    train: ImageSet,
    test: ImageSet,
    out: str | os.PathLike[str],
    names: list[str] | None = None,
    on_epoch: Callable[[str], OnEpoch] | None = None,
) -> dict[str, Path]:
    """Train the nets of ``NETS[dataset]``; what is finished is kept, what was killed goes on after its last epoch.

    Args:
        dataset: a key of ``NETS``.
        train: training images.
        test: images for the accuracy on the cards; never trained on.
        out: folder; every net becomes ``out/<name>/``.
        names: which nets; ``None``: all.
        on_epoch: progress, called with a net's name, gives :func:`~art_advtransform.training.fit`'s callback.

    Returns:
        The folder of every net.

    Raises:
        ValueError: if the data set or a name is unknown (the message lists the known ones).
    """
    if dataset not in NETS:
        raise ValueError(f"no recipes for dataset {dataset!r}; known: {', '.join(NETS)}")
    known = NETS[dataset]
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise ValueError(f"unknown net {unknown[0]!r}; known: {', '.join(known)}")
    # in the table's order: f_b before what is trained on it
    folders = {name: Path(out) / name for name in known if not names or name in names}
    for name, folder in folders.items():
        net = known[name]
        if not _finished(folder, _made_from(dataset, net, folder.parent)):
            _train_net(dataset, net, train, test, folder, None if on_epoch is None else on_epoch(name))
    return folders


def _train_net(dataset: str, net: Net, train: ImageSet, test: ImageSet, folder: Path, on_epoch: OnEpoch | None) -> None:
    with global_seed(derived_seed(net.recipe.seed)):  # the initial weights
        model: nn.Module = NETWORKS[net.architecture](**net.arguments)
    transform = _transform(dataset, net, folder.parent) if net.role == "defended" else None
    made_from = _made_from(dataset, net, folder.parent)
    # of another role or f_b it is another file: never gone on from
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:8]
    checkpoint = folder.with_name(f"{folder.name}.{digest}.checkpoint.safetensors")
    fit(model, train, _loss(net, transform), net.recipe, checkpoint=checkpoint, on_epoch=on_epoch)
    defended = DefendedModel(model, transform)
    card = {**made_from, "test_images": len(test), **_accuracy(defended, test)}
    save_pretrained(model, folder, card)
    checkpoint.unlink()


def _loss(net: Net, transform: LLPGDTransform | None) -> Loss:
    if transform is not None:
        return defended_loss(transform)
    return plain_loss if net.threat is None else adversarial_loss(net.threat, net.attack_steps)


def _transform(dataset: str, net: Net, folder: Path) -> LLPGDTransform:
    f_b = load_pretrained(_f_b(dataset, net, folder))
    return LLPGDTransform(f_b, TransformConfig(), generator=keyed_generator(net.recipe.seed))


def _f_b(dataset: str, net: Net, folder: Path) -> str | Path:
    """The f_b trained beside, else the bundled one."""
    beside = folder / net.f_b
    return beside if beside.is_dir() else f"{dataset}/{net.f_b}"


def _accuracy(defended: DefendedModel, test: ImageSet, draws: int = 10) -> dict[str, float]:
    """Mean test accuracy; over several draws where there are any."""
    draws = draws if defended.randomized else 1
    device = next(defended.classifier.parameters()).device
    with torch.no_grad():
        predicted = [
            torch.cat([defended(part.to(device)).argmax(1).cpu() for part in test.x.split(512)]) for _ in range(draws)
        ]
    right = [(classes == test.y).float().mean().item() for classes in predicted]
    return {"test_accuracy": round(sum(right) / draws, 4), "draws": draws}


def _finished(folder: Path, made_from: dict[str, Any]) -> bool:
    if not (folder / "card.json").is_file():
        return False
    card = read_card(folder)
    return made_from.items() <= {**card, "net": _net_on(card)}.items()


def _net_on(card: dict[str, Any]) -> dict[str, Any] | None:
    """The entry of ``NETS`` as the card has it; a field that is younger than the card has its default."""
    try:
        net = card["net"]
        threat = None if net["threat"] is None else ThreatModel(**net["threat"])
        return _plain(Net(**{**net, "recipe": Recipe(**net["recipe"]), "threat": threat}))
    except (KeyError, TypeError, ValueError):
        return None


def _made_from(dataset: str, net: Net, folder: Path) -> dict[str, Any]:
    """What the weights depend on, as the card shows it: the entry in ``NETS``, and which f_b g works on."""
    made_from: dict[str, Any] = {"dataset": dataset, "net": _plain(net)}
    if net.role == "defended":
        made_from["f_b_sha256"] = read_card(_f_b(dataset, net, folder))["sha256"]
    return made_from


def _plain(net: Net) -> dict[str, Any]:
    """As JSON has it: lists for tuples."""
    fields: dict[str, Any] = json.loads(json.dumps(asdict(net)))
    return fields
