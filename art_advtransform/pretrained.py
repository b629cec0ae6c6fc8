"""L3: weights on disk. A net is a folder: model.safetensors, config.json (constructor arguments), card.json (how it was made)."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from art_advtransform.networks import NETWORKS, SmallVGG

BUNDLED = Path(__file__).parent / "weights"
_WEIGHTS, _CARD = "model.safetensors", "card.json"


def bundled_names() -> list[str]:
    """Names that :func:`load_pretrained` knows without a path."""
    return sorted(card.parent.relative_to(BUNDLED).as_posix() for card in BUNDLED.glob(f"*/*/{_CARD}"))


def save_pretrained(
    model: nn.Module, folder: str | os.PathLike[str], card: Mapping[str, Any], *, half: bool = False
) -> Path:
    """Write ``model`` with its card; the folder appears whole or not at all.

    Args:
        model: one of the networks of :mod:`art_advtransform.networks`.
        folder: where to; what a folder of that name held before is replaced.
        card: recipe, accuracy and whatever else a reader should know; the architecture's name and the weights' sha256
            are added.
        half: keep matrices and kernels in half precision, at half the size; :func:`round_to_half` shows what that makes of
            the net.

    Returns:
        The folder.

    Raises:
        TypeError: if the network is not one that :func:`load_pretrained` can make again.
    """
    name = type(model).__name__
    if name not in NETWORKS or not isinstance(model, NETWORKS[name]):
        raise TypeError(f"expected one of {', '.join(NETWORKS)}, got {name}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch)
        model.save_pretrained(made)
        if half:
            weights = load_file(made / _WEIGHTS)
            save_file({k: v.half() if _halved(v) else v for k, v in weights.items()}, made / _WEIGHTS)
        full = {"architecture": name, **card, "sha256": _sha256(made / _WEIGHTS)}
        (made / _CARD).write_text(json.dumps(full, indent=2) + "\n")
        # the card goes first and comes last: a folder with a card is complete
        (folder / _CARD).unlink(missing_ok=True)
        for part in ("config.json", _WEIGHTS, _CARD):
            (made / part).replace(folder / part)
    return folder


def round_to_half(model: nn.Module) -> None:
    """Round the matrices and kernels of ``model`` as ``save_pretrained(half=True)`` keeps them: measure the net after this."""
    with torch.no_grad():
        for parameter in model.parameters():
            if _halved(parameter):
                parameter.copy_(parameter.half())


def _halved(weights: torch.Tensor) -> bool:
    """Vectors (biases, batch statistics) take little room, and variances may be beyond half precision."""
    return weights.ndim >= 2


def read_card(name: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a bundled net or a local folder.

    Raises:
        FileNotFoundError: if there is none (the message lists the bundled names).
    """
    card: dict[str, Any] = json.loads((_folder(name) / _CARD).read_text())
    return card


def load_pretrained(name: str | os.PathLike[str], device: torch.device | str = "cpu") -> nn.Module:
    """A network with its weights, in eval mode.

    Args:
        name: a bundled net ("digits/f_b-adversarial"), or a local folder (or a file in it) that :func:`save_pretrained` wrote.
        device: where to put it.

    Raises:
        FileNotFoundError: if there is no such net (the message lists the bundled ones).
        ValueError: if its files are damaged: the sha256 is checked before anything is loaded.

    Example:
        >>> f_b = load_pretrained("digits/f_b-adversarial")
        >>> f_b(torch.rand(1, 1, 8, 8)).shape
        torch.Size([1, 10])
    """
    folder = _folder(name)
    try:
        card = json.loads((folder / _CARD).read_text())
        arguments = json.loads((folder / "config.json").read_text())
        if _sha256(folder / _WEIGHTS) != card["sha256"]:
            raise ValueError("the sha256 of the weights is not the card's")
        if card["architecture"] not in NETWORKS:
            raise ValueError(f"unknown architecture {card['architecture']!r}; known: {', '.join(NETWORKS)}")
        model = NETWORKS[card["architecture"]](**arguments)
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"damaged weights in {folder}: {error}") from error
    return model.to(device).eval()


def load_network(spec: str, device: torch.device | str = "cpu") -> nn.Module:
    """:func:`load_pretrained`, or :func:`load_reference_checkpoint` for ``"reference:<file>"``.

    Raises:
        FileNotFoundError, ValueError: as they do.
    """
    kind, _, path = spec.partition(":")
    return load_reference_checkpoint(path, device) if kind == "reference" else load_pretrained(spec, device)


def load_reference_checkpoint(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> SmallVGG:
    """f_b as the paper's authors released it (64 channels in the third block), in eval mode.

    Their file is a pickled state dict saved from a GPU; it is read with ``weights_only=True``, so that no code in it runs.
    Its dropouts sit before the hidden layers instead of behind them, which in eval mode makes no difference.

    Args:
        path: their ``vgg0_adv.pth``.
        device: where to put it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not that checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: expected the authors' vgg0_adv.pth")
    model = SmallVGG(widths=(64, 128, 64, 128))
    ours = {"classifier.1": "classifier.0", "classifier.4": "classifier.3"}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        renamed = {
            ours.get(key.rpartition(".")[0], key.rpartition(".")[0]) + "." + key.rpartition(".")[2]: value
            for key, value in state.items()
        }
        model.load_state_dict(renamed)
    except Exception as error:  # torch.load raises whatever the damaged file leads its unpickler to
        raise ValueError(f"{path} is not the authors' f_b checkpoint: {error}") from error
    return model.to(device).eval()


def _folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a bundled name, a local folder, or a file in one."""
    for folder in (Path(name), BUNDLED / name):
        if folder.is_file():
            folder = folder.parent
        if (folder / _CARD).is_file():
            return folder
    raise FileNotFoundError(
        f"no weights {str(name)!r}: neither a folder with {_CARD} nor a bundled net; bundled: {', '.join(bundled_names())}"
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
