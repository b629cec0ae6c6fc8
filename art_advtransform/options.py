"""L8: options that commands share, and what they stand for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from art_advtransform.config import ThreatModel

HELP = """Adversarial transformation (Xiao & Zheng 2020): train nets, attack them, look at g(x).

Begin with `art-advtransform evaluate`: the bundled nets of digits, in a minute or two; then `diagnose`, which checks what that
found, and `report runs/evaluate-digits`, which adds the checks to its page. `train` makes nets for `evaluate --nets FOLDER`;
`show` draws g(x).

Everything long goes on where it was interrupted when the same command is given again. Exit codes: 0; 1 where an attack or a
check failed; 2 for bad input; 130 after an interrupt.
"""

Dataset = Annotated[str, typer.Option(help="digits, cifar10, tiny_imagenet or fashion_mnist.")]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder with the data; default: $ART_ADVTRANSFORM_DATA, else ./data.")
]
Download = Annotated[bool, typer.Option(help="Let torchvision fetch missing data (CIFAR-10, Fashion-MNIST).")]
Seed = Annotated[int, typer.Option(help="Of every draw.", min=0)]
Eps = Annotated[float | None, typer.Option(help="L-inf budget; default: 8/255, for digits 2/16.")]
NetsFolder = Annotated[
    Path | None, typer.Option("--nets", help="Folder of nets that `train` wrote; default: the bundled ones.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: a GPU if there is one.")]
FB = Annotated[
    str | None, typer.Option("--f-b", help="f_b: a bundled name, a folder, or reference:<the authors' checkpoint>.")
]

Skip = Annotated[
    int, typer.Option(help="Images left out before them: the next part of an evaluation, for `report --pool`.", min=0)
]
Pool = Annotated[
    bool, typer.Option("--pool", help="The runs are parts: the same models on other images, made with --skip.")
]


def threat_of(dataset: str, eps: float | None) -> ThreatModel:
    """That of ``eps``, else of the data set."""
    from art_advtransform.config import ThreatModel
    from art_advtransform.recipes import THREATS

    return THREATS.get(dataset, ThreatModel()) if eps is None else ThreatModel(eps)


def device_of(name: str | None) -> torch.device:
    """That of ``name``, else a GPU if there is one: of several processes each has its own, where no number is given.

    Raises:
        ValueError: for a device that this machine, or this torch, has not.
    """
    import torch

    if name in (None, "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        device = torch.device(name or "cpu")
        if device.type == "mps":
            raise ValueError(
                "expected cpu or cuda, got mps: Apple's GPU has no float64, which accuracies are counted in"
            )
        if device.type != "cuda":
            return torch.empty(0, device=device).device
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"expected a device that is there, got {name!r}: {error}") from error
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"expected a device that is there, got {name!r}: there are {torch.cuda.device_count()} GPUs")
    return device


def counted_by(preset: str, draws: int | None, attack_draws: int | None, selection_draws: int | None) -> dict[str, int]:
    """How many draws to count by: those given, else the preset's; single attacks are not scored by more than the worst case."""
    from art_advtransform.attacks.presets import DRAWS

    usual = DRAWS[preset]
    nb_draws = usual.nb_draws if draws is None else draws
    nb_selection_draws = usual.nb_selection_draws if selection_draws is None else selection_draws
    return {
        "nb_draws": nb_draws,
        "nb_selection_draws": nb_selection_draws,
        "nb_confirmation_draws": max(usual.nb_confirmation_draws, nb_selection_draws),
        "nb_attack_draws": min(usual.nb_attack_draws, nb_draws) if attack_draws is None else attack_draws,
    }
