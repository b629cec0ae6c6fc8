"""Table 3: standard accuracy and the worst case over white-box attacks, this defence beside others, all by the same harness.

    python -m benchmarks.table3_white_box [--scale digits | cpu | paper]

Each under PGD on the expected loss with the gradient that breaks it: its own, or BPDA as ART estimates it. Says for each which
implementation ran. Not run: image quilting (Guo et al.), which no maintained library has; PixelDefend (Song et al.): ART has its
projection but no PixelCNN, whose 256-way distribution of every pixel is the whole defence, and a poor one would be another defence.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from art.defences.preprocessor import JpegCompression, ThermometerEncoding, TotalVarMin
from torch import nn

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import bpda_identity, white_box_transfer
from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.store import slug
from benchmarks.harness import progress
from benchmarks.other_defences import ArtPreprocessed, StochasticActivationPruning
from benchmarks.scales import Workshop, per_cent

_LEVELS = 10  # of the thermometer


@dataclass(frozen=True)
class System:
    """A row: the net in front of which nothing stands but what is in it, and what the paper says.

    Attributes:
        model: images to logits.
        implementation: whose.
        paper: standard and worst accuracy; ``None`` where it has none.
        nb_epochs: that the net was trained for.
        f_b: for this defence.
    """

    model: nn.Module
    implementation: str
    paper: tuple[float | None, float | None]
    nb_epochs: int
    f_b: nn.Module | None = None


def main() -> None:
    shop = Workshop.from_command_line(__doc__)
    rows: list[dict[str, Any]] = []
    for name, system in systems(shop).items():
        progress(name)
        found = shop.evaluate(f"table3-{slug(name)}", system.model, system.f_b, attacks(shop))
        assert found.worst.mean is not None
        best = min(found.attacks, key=lambda a: 1.0 if a.mean is None else a.mean.value)
        rows.append(
            {
                "method": name,
                "implementation": system.implementation,
                "epochs": system.nb_epochs,
                "standard": per_cent(found),
                "worst": 100 * found.worst.mean.value,
                "best_attack": best.name,
                "paper_standard": "-" if system.paper[0] is None else system.paper[0],
                "paper_worst": "-" if system.paper[1] is None else system.paper[1],
            }
        )
    shop.write("table3", rows)


def attacks(shop: Workshop) -> list[Attack]:
    """White box, and transfer from f_a alone, which the paper calls the best attack on its defence."""
    draws = shop.scale.eot_samples
    return [
        white_box_transfer(shop.scale.max_iter),
        bpda_identity(shop.scale.max_iter, draws),
        momentum_pgd(100),
        expectation_pgd(40, 4, momenta=(0.0, 0.9)),
    ]


def systems(shop: Workshop) -> dict[str, System]:
    """All rows."""
    plain = shop.recipe("undefended")
    recipes = {
        "f_b-adversarial": shop.recipe("f_b-adversarial"),
        "f_a-defended": shop.recipe("f_a-defended"),
        "undefended": plain,
        "adversarial": shop.adversarial("adversarial"),
        "trades": shop.adversarial("trades"),
        "denoising": shop.adversarial("adversarial", arguments={**plain.arguments, "denoising": True}),
        "metric": shop.adversarial("metric"),
    }
    nets, clip = shop.nets(recipes), (0.0, 1.0)
    thermometer = ThermometerEncoding(clip_values=clip, num_space=_LEVELS, channels_first=True)
    arguments = {**plain.arguments, "in_channels": _LEVELS * shop.train.x.shape[1]}
    recipes["thermometer"] = shop.recipe("undefended", arguments=arguments)
    encoded = shop.nets(
        {"thermometer": recipes["thermometer"]},
        lambda x: torch.as_tensor(thermometer(x.numpy())[0], dtype=x.dtype),
    )["thermometer"]
    jpeg = JpegCompression(clip_values=clip, quality=50, channels_first=True)
    variation = TotalVarMin(clip_values=clip)

    def system(
        role: str,
        implementation: str,
        *paper: float | None,
        model: nn.Module | None = None,
        f_b: nn.Module | None = None,
    ) -> System:
        standard, worst = paper
        model = nets[role] if model is None else model
        return System(model, implementation, (standard, worst), recipes[role].recipe.nb_epochs, f_b)

    net, loop = nets["undefended"], "our loop"
    pruned = StochasticActivationPruning(copy.deepcopy(net))
    return {
        "none": system("undefended", loop, 92.9, 0.0),
        "PGD adversarial training (Madry)": system("adversarial", loop, 81.7, 42.7),
        "TRADES (Zhang)": system("trades", loop, 80.4, 44.6),
        "feature denoising (Xie)": system("denoising", "ResNet18(denoising=True)", 83.8, 45.2),
        "metric learning (Mao)": system("metric", "losses.metric_loss", None, None),
        "JPEG (Guo)": system("undefended", "ART JpegCompression", None, 0.0, model=ArtPreprocessed(net, jpeg)),
        "total variation (Guo)": system(
            "undefended", "ART TotalVarMin", None, 0.0, model=ArtPreprocessed(net, variation)
        ),
        "thermometer encoding (Buckman)": system(
            "thermometer", "ART ThermometerEncoding", None, 0.0, model=ArtPreprocessed(encoded, thermometer)
        ),
        "activation pruning (Dhillon)": system("undefended", "benchmarks.other_defences", None, 0.0, model=pruned),
        "this defence": system("f_a-defended", "this package", 82.9, 78.1, f_b=nets["f_b-adversarial"]),
    }


if __name__ == "__main__":
    main()
