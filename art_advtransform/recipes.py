"""L4: which nets there are to train, by data set and preset: architecture, role and recipe.

To train for another data set, add its entry to ``NETS``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from art_advtransform.config import ThreatModel, TransformConfig, check_count
from art_advtransform.networks import NETWORKS
from art_advtransform.training import Recipe

Role = Literal["plain", "adversarial", "trades", "metric", "defended", "imitation"]
ON_EXAMPLES: tuple[Role, ...] = ("adversarial", "trades", "metric")
Preset = Literal["cpu", "paper", "smoke"]


@dataclass(frozen=True)
class Net:
    """One net to train.

    Attributes:
        architecture: a key of ``NETWORKS``.
        arguments: its constructor's.
        role: what it is trained for: clean images, PGD examples, TRADES' pairs, PGD examples with metric learning, g(x), or
            (h(x, D)) to be g_D(x).
        recipe: how it is optimised.
        about: a line for the card.
        threat: budget of the PGD examples; needed by the roles adversarial, trades and metric alone.
        attack_steps: their steps; 1 is the cheap FGSM with a random start.
        f_b: name of the net that g works on; it must be trained before.
        transform: that g.
        redraw_every: epochs that use a draw of g(x); 0: every batch has its own.
        half: keep the weight matrices in half precision; accuracies are measured on what is kept.
    """

    architecture: str
    arguments: dict[str, Any]
    role: Role
    recipe: Recipe
    about: str
    threat: ThreatModel | None = None
    attack_steps: int = 7
    f_b: str = "f_b-adversarial"
    transform: TransformConfig = field(default_factory=TransformConfig)
    redraw_every: int = 0
    half: bool = False

    def __post_init__(self) -> None:
        if self.architecture not in NETWORKS:
            raise ValueError(f"unknown architecture {self.architecture!r}; known: {', '.join(NETWORKS)}")
        if self.role not in get_args(Role):
            raise ValueError(f"unknown role {self.role!r}; known: {', '.join(get_args(Role))}")
        if (self.role in ON_EXAMPLES) != (self.threat is not None):
            raise ValueError(
                f"expected a threat for the roles {', '.join(ON_EXAMPLES)}, and only for them, got {self.threat}"
            )
        check_count("attack_steps", self.attack_steps)
        check_count("redraw_every", self.redraw_every, minimum=0)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them: lists for tuples."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Net:
        """The net of :meth:`to_json`; a field that is younger than the file has its default.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        threat = None if fields["threat"] is None else ThreatModel(**fields["threat"])
        transform = TransformConfig(**fields.get("transform", {}))
        return cls(**{**fields, "recipe": Recipe(**fields["recipe"]), "threat": threat, "transform": transform})


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

# Table 4's net; dropout as light as one of this size bears when it is trained adversarially: it underfits already.
_CIFAR_VGG = {"dropout": 0.1}
# 55 million multiply-adds.
_CIFAR_RESNET = {"width": 20}
_CIFAR_RECIPE = Recipe(nb_epochs=30, weight_decay=5e-4, decay="cosine", warmup=2)
_CIFAR_DEFENDED = Net(
    "ResNet18", _CIFAR_RESNET, "defended", _CIFAR_RECIPE, "the classifier behind g", redraw_every=4, half=True
)

# 64x64 is four times the work for each image: at the rate of single steps an hour or so on two cores for f_b and for f_a.
_TINY_VGG = {"nb_classes": 200, "input_size": 64, "dropout": 0.1}
_TINY_RESNET = {"nb_classes": 200, "width": 16}
_TINY_RECIPE = replace(_CIFAR_RECIPE, nb_epochs=12)
# As many epochs as the net behind g has, though a step on an FGSM example costs two on clean images (by TRADES and metric
# learning more): of fewer they would be weaker than what they stand beside.
_TINY_ON_EXAMPLES = Net(
    "ResNet18",
    _TINY_RESNET,
    "adversarial",
    _TINY_RECIPE,
    "the classifier trained adversarially instead",
    ThreatModel(),
    attack_steps=1,
    half=True,
)


def _imitation(recipe: Recipe) -> Recipe:
    """Images as they are: g of a crop is not the crop of g."""
    return replace(recipe, crop_padding=0, flip=False)


# What trains on two cores: digits in minutes, CIFAR-10 in hours.
NETS: dict[str, dict[str, Net]] = {
    "digits": {
        "f_b-adversarial": Net(
            "SmallVGG", _DIGITS_VGG, "adversarial", _DIGITS_RECIPE, "the external model f_b", DIGITS_THREAT
        ),
        "undefended": Net("ResNet18", _DIGITS_RESNET, "plain", _DIGITS_RECIPE, "the classifier without a defence"),
        "f_a-defended": Net("ResNet18", _DIGITS_RESNET, "defended", _DIGITS_RECIPE, "the classifier behind g"),
        "f_a-defended-2": Net(
            "ResNet18",
            _DIGITS_RESNET,
            "defended",
            replace(_DIGITS_RECIPE, seed=1),
            "an independent copy of the classifier behind g, for transfer attacks",
        ),
        "adversarial": Net(
            "ResNet18",
            _DIGITS_RESNET,
            "adversarial",
            _DIGITS_RECIPE,
            "the classifier trained adversarially instead",
            DIGITS_THREAT,
        ),
        "surrogate": Net(
            "SmallVGG", _DIGITS_VGG, "plain", _DIGITS_RECIPE, "what a black-box attacker trains for himself"
        ),
        "imitation": Net(
            "FCN", {"in_channels": 1}, "imitation", _imitation(_DIGITS_RECIPE), "h(x, D), an imitation of g_D(x)"
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
            half=True,
        ),
        "f_b-standard": Net(
            "SmallVGG", _CIFAR_VGG, "plain", _CIFAR_RECIPE, "an f_b that is not trained adversarially", half=True
        ),
        "f_a-defended": _CIFAR_DEFENDED,
        "f_a-defended-2": replace(
            _CIFAR_DEFENDED,
            # fewer epochs and two draws of g(x): what it is for, gradients to transfer from, needs no more
            recipe=replace(_CIFAR_RECIPE, nb_epochs=12, seed=1),
            redraw_every=6,
            about="an independent copy of the classifier behind g, for transfer attacks",
        ),
        "undefended": Net(
            "ResNet18", _CIFAR_RESNET, "plain", _CIFAR_RECIPE, "the classifier without a defence", half=True
        ),
        "adversarial": Net(
            "ResNet18",
            _CIFAR_RESNET,
            "adversarial",
            _CIFAR_RECIPE,
            "the classifier trained adversarially instead",
            ThreatModel(),
            attack_steps=1,
            half=True,
        ),
        "trades": Net(
            "ResNet18",
            _CIFAR_RESNET,
            "trades",
            _CIFAR_RECIPE,
            "the classifier trained by TRADES instead",
            ThreatModel(),
        ),
        "imitation": Net(
            "FCN", {}, "imitation", replace(_imitation(_CIFAR_RECIPE), nb_epochs=10), "h(x, D), an imitation of g_D(x)"
        ),
    },
    "tiny_imagenet": {
        "f_b-adversarial": Net(
            "SmallVGG",
            _TINY_VGG,
            "adversarial",
            _TINY_RECIPE,
            "the external model f_b",
            ThreatModel(),
            attack_steps=1,
            half=True,
        ),
        "f_a-defended": Net(
            "ResNet18", _TINY_RESNET, "defended", _TINY_RECIPE, "the classifier behind g", redraw_every=6, half=True
        ),
        "f_b-standard": Net(
            "SmallVGG", _TINY_VGG, "plain", _TINY_RECIPE, "an f_b that is not trained adversarially", half=True
        ),
        "undefended": Net(
            "ResNet18", _TINY_RESNET, "plain", _TINY_RECIPE, "the classifier without a defence", half=True
        ),
        "adversarial": _TINY_ON_EXAMPLES,
        "trades": replace(_TINY_ON_EXAMPLES, role="trades", about="the classifier trained by TRADES instead"),
        "metric": replace(_TINY_ON_EXAMPLES, role="metric", about="the classifier trained by metric learning instead"),
    },
}

# Classes, channels and side of the images.
_SHAPES = {"digits": (10, 1, 8), "cifar10": (10, 3, 32), "tiny_imagenet": (200, 3, 64), "fashion_mnist": (10, 1, 28)}

# Training images that the preset "smoke" takes.
SMOKE_IMAGES = 256


def preset_nets(dataset: str, preset: str = "cpu") -> dict[str, Net]:
    """The nets of a data set by name, f_b before what is trained on it.

    Args:
        dataset: one of ``THREATS``.
        preset: "cpu": what trains on two cores; most of it ships with the package; "paper": sections 4 and 5 of the paper
            (ResNet18 of width 64, 80 epochs, SGD 0.1, batch 128; for a GPU); "smoke": those of "cpu" for one epoch.

    Raises:
        ValueError: if the data set or the preset is unknown, or has no recipes (the message lists the known ones).
    """
    if preset == "paper":
        if dataset not in _SHAPES:
            raise ValueError(f"no recipes for dataset {dataset!r}; known: {', '.join(_SHAPES)}")
        return _paper_nets(dataset)
    if preset not in ("cpu", "smoke"):
        raise ValueError(f"unknown preset {preset!r}; known: cpu, paper, smoke")
    if dataset not in NETS:
        elsewhere = "; the preset paper has them" if dataset in _SHAPES else ""
        raise ValueError(f"no recipes for dataset {dataset!r}; known: {', '.join(NETS)}{elsewhere}")
    if preset == "cpu":
        return dict(NETS[dataset])
    return {
        name: replace(net, recipe=replace(net.recipe, nb_epochs=1, warmup=0)) for name, net in NETS[dataset].items()
    }


def _paper_nets(dataset: str) -> dict[str, Net]:
    nb_classes, in_channels, size = _SHAPES[dataset]
    threat = THREATS[dataset]
    # zeros around a digit of 8 pixels are another digit, and its mirror image is none
    recipe = Recipe(crop_padding=1 if size == 8 else 4, flip=in_channels == 3)
    vgg = {"nb_classes": nb_classes, "in_channels": in_channels, "input_size": size}
    resnet = {"nb_classes": nb_classes, "in_channels": in_channels, "width": 64}
    defended = Net("ResNet18", resnet, "defended", recipe, "the classifier behind g")
    return {
        "f_b-adversarial": Net("SmallVGG", vgg, "adversarial", recipe, "the external model f_b", threat),
        "f_b-standard": Net("SmallVGG", vgg, "plain", recipe, "an f_b that is not trained adversarially"),
        "f_a-defended": defended,
        "f_a-defended-2": replace(defended, recipe=replace(recipe, seed=1), about="an independent copy of it"),
        "undefended": Net("ResNet18", resnet, "plain", recipe, "the classifier without a defence"),
        "adversarial": Net("ResNet18", resnet, "adversarial", recipe, "PGD adversarial training", threat),
        "trades": Net("ResNet18", resnet, "trades", recipe, "TRADES", threat, attack_steps=10),
        "denoising": Net(
            "ResNet18", {**resnet, "denoising": True}, "adversarial", recipe, "feature denoising (Xie et al.)", threat
        ),
        "metric": Net("ResNet18", resnet, "metric", recipe, "metric learning (Mao et al.)", threat),
        "imitation": Net("FCN", {"in_channels": in_channels}, "imitation", _imitation(recipe), "h(x, D) for eq. 6"),
    }
