"""L4: training of the nets of a table: f_b first, what is finished is kept, what was killed goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from art_advtransform.bank import TransformBank
from art_advtransform.datasets import ImageSet
from art_advtransform.layer import LLPGDTransform
from art_advtransform.losses import (
    Loss,
    adversarial_loss,
    defended_loss,
    imitation_loss,
    metric_loss,
    plain_loss,
    trades_loss,
)
from art_advtransform.measuring import found
from art_advtransform.networks import NETWORKS
from art_advtransform.pretrained import load_pretrained, read_card, round_to_half, save_pretrained
from art_advtransform.randomness import derived_seed, global_seed, keyed_generator, usual_device
from art_advtransform.recipes import Net, preset_nets
from art_advtransform.training import Precision, check_precision, fit, start_accelerator

# Roles that are trained on g.
_ON_G = ("defended", "imitation")

# What is done, how far, of how much.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """How a table is trained, beside its recipes.

    Attributes:
        preset: see :func:`~art_advtransform.recipes.preset_nets`.
        nets: by name, f_b before what is trained on it: instead of the preset's.
        redraw_every: instead of the recipes', where g is trained on.
        resume: go on from the checkpoints and keep what is finished; ``False`` throws both away and begins anew, so that where that
            is killed the same with ``True`` goes on.
        replace: train over finished nets that are others (of another recipe, precision, f_b or training set); ``False`` refuses
            to, before any work.
        mixed_precision, log_dir: as for :func:`~art_advtransform.training.fit`.
        test_images: a fixed sample of as many test images is what the cards are measured on; ``None``: all. Through g every one
            of them costs several transformations.
        progress: called with a net's name, gives the callback (what, done, all) for its training.
    """

    preset: str = "cpu"
    nets: Mapping[str, Net] | None = None
    redraw_every: int | None = None
    resume: bool = True
    replace: bool = True
    mixed_precision: Precision = "no"
    log_dir: str | os.PathLike[str] | None = None
    test_images: int | None = None
    progress: Callable[[str], Progress] | None = None


@usual_device()
def train_nets(
    dataset: str,
    train: ImageSet,
    test: ImageSet,
    out: str | os.PathLike[str],
    names: list[str] | None = None,
    options: Options | None = None,
) -> dict[str, Path]:
    """Train the nets of a data set; what is finished is kept, what was killed goes on after its last epoch.

    Args:
        dataset: a data set with recipes.
        train: training images.
        test: images for the accuracy on the cards; never trained on.
        out: folder; every net becomes ``out/<name>/``.
        names: which nets; ``None``: all.
        options: preset and so on.

    Returns:
        The folder of every net.

    Raises:
        ValueError: as :func:`planned_nets`, if there are fewer test images than are asked for, or, without ``options.replace``, if
            a folder holds a finished net of other training images.
    """
    options = Options() if options is None else options
    nets = planned_nets(dataset, out, names, options)
    if options.test_images is not None:
        test = test.sample(options.test_images)
    images = train.sha256()
    for folder in nets:
        if not options.replace and _has_card(folder) and not _made_of(folder, images, len(train)):
            raise ValueError(_refusal(folder, "trained on other images"))
    if not options.resume:
        _throw_away(nets, options.mixed_precision)
    for folder, net in nets.items():
        _train_net(dataset, net, train, test, folder, options, images)
    return {folder.name: folder for folder in nets}


def _throw_away(nets: Mapping[Path, Net], precision: Precision) -> None:
    """Finished nets, which without their cards are none; checkpoints go when it is known what theirs is called."""
    accelerator = start_accelerator(precision)  # the one that the training gets
    if accelerator.is_main_process:
        for folder in nets:
            (folder / "card.json").unlink(missing_ok=True)
    accelerator.wait_for_everyone()


def planned_nets(
    dataset: str, out: str | os.PathLike[str], names: list[str] | None, options: Options
) -> dict[Path, Net]:
    """What :func:`train_nets` would train, by folder, f_b before what is trained on it; needs no data.

    Raises:
        ValueError: if the data set, the preset, a name or the precision is unknown (the message lists the known ones), fp16 has
            no GPU, or, without ``options.replace``, a folder holds a finished net of another recipe or precision, or behind
            another f_b than the one beside it, which may be yet to come.
    """
    check_precision(options.mixed_precision)
    known = preset_nets(dataset, options.preset) if options.nets is None else options.nets
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise ValueError(f"unknown net {unknown[0]!r}; known: {', '.join(known)}")
    planned: dict[Path, Net] = {}
    for name, net in known.items():
        if names and name not in names:
            continue
        if net.role == "defended" and options.redraw_every is not None:
            net = replace(net, redraw_every=options.redraw_every)
        planned[Path(out) / name] = net
    for folder, net in planned.items():
        if not options.replace and _has_card(folder):
            _check_same(dataset, net, folder, planned, options.mixed_precision)
    return planned


def _check_same(dataset: str, net: Net, folder: Path, planned: Mapping[Path, Net], precision: Precision) -> None:
    """That the net in ``folder`` is the one that would be trained there."""
    card = read_card(folder)
    if card.get("dataset", dataset) != dataset or _recipe_of(folder) != net.to_json():
        raise ValueError(_refusal(folder, "of another recipe"))
    if card.get("mixed_precision", "no") != precision:
        raise ValueError(_refusal(folder, "of another precision"))
    beside = folder.parent / net.f_b
    if net.role in _ON_G and (
        (beside in planned and not _has_card(beside))
        or read_card(_f_b(dataset, net, folder.parent))["sha256"] != card.get("f_b_sha256")
    ):
        raise ValueError(_refusal(folder, "behind another f_b"))


def _refusal(folder: Path, what: str) -> str:
    return f"{folder} holds a net {what}: choose another folder, or restart to train over it"


def _train_net(
    dataset: str, net: Net, train: ImageSet, test: ImageSet, folder: Path, options: Options, images: str
) -> None:
    made_from = _made_from(dataset, net, folder.parent, options.mixed_precision)
    accelerator = start_accelerator(options.mixed_precision)
    # of another role, f_b or training set it is another file: never gone on from
    digest = hashlib.sha256(f"{json.dumps(made_from, sort_keys=True)} {images}".encode()).hexdigest()[:8]
    checkpoint, kept = (
        folder.with_name(f"{folder.name}.{digest}.{kind}.safetensors") for kind in ("checkpoint", "bank")
    )
    if _finished(folder, made_from) and _made_of(folder, images, len(train)):
        return
    if not options.resume and accelerator.is_main_process:
        for path in (checkpoint, kept):
            path.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    progress = (lambda what, done, total: None) if options.progress is None else options.progress(folder.name)
    with global_seed(derived_seed(net.recipe.seed)):  # the initial weights
        model: nn.Module = NETWORKS[net.architecture](**net.arguments)
    transform = _transform(dataset, net, folder.parent, accelerator.device) if net.role in _ON_G else None
    bank = None
    if transform is not None and net.role == "defended" and net.redraw_every:
        bank = TransformBank(
            transform, train.x, net.redraw_every, net.recipe.seed, kept, accelerator, partial(progress, "g(x)")
        )
    fit(
        model,
        train,
        _loss(net, None if bank is not None else transform),
        net.recipe,
        images=bank,
        checkpoint=checkpoint,
        on_epoch=lambda done, total, loss: progress(f"loss {loss:.3f}", done, total),
        mixed_precision=options.mixed_precision,
        log_dir=None if options.log_dir is None else Path(options.log_dir) / folder.name,
    )
    if net.half:
        round_to_half(model)
    card = {
        **made_from,
        **_how(dataset, folder.name, options, train),
        "train_sha256": images,
        **found(net, model, transform, train, test, accelerator, partial(progress, "measuring")),
    }
    if accelerator.is_main_process:
        save_pretrained(model, folder, card, half=net.half)
        checkpoint.unlink(missing_ok=True)  # without epochs there is none
        kept.unlink(missing_ok=True)
    accelerator.wait_for_everyone()


def _loss(net: Net, transform: LLPGDTransform | None) -> Loss:
    """What ``net`` is trained for; on images that are g(x) already, ``transform`` is ``None``."""
    if transform is not None:
        return imitation_loss(transform) if net.role == "imitation" else defended_loss(transform)
    if net.threat is None:
        return plain_loss
    kind = {"adversarial": adversarial_loss, "trades": trades_loss, "metric": metric_loss}[net.role]
    return kind(net.threat, net.attack_steps)


def _transform(dataset: str, net: Net, folder: Path, device: torch.device) -> LLPGDTransform:
    f_b = load_pretrained(_f_b(dataset, net, folder), device)
    return LLPGDTransform(f_b, net.transform, generator=keyed_generator(net.recipe.seed))


def _f_b(dataset: str, net: Net, folder: Path) -> str | Path:
    """The f_b trained beside, else the bundled one."""
    beside = folder / net.f_b
    return beside if beside.is_dir() else f"{dataset}/{net.f_b}"


def _how(dataset: str, name: str, options: Options, train: ImageSet) -> dict[str, Any]:
    """For the reader of the card: the command, where one makes this net."""
    made = {"torch": torch.__version__.split("+")[0], "train_images": len(train)}
    if options.nets is not None:
        return made
    words = ["art-advtransform train", f"--dataset {dataset}", f"--preset {options.preset}", f"--net {name}"]
    if options.redraw_every is not None:
        words.append(f"--redraw-every {options.redraw_every}")
    if options.test_images is not None:
        words.append(f"--test-images {options.test_images}")
    if options.mixed_precision != "no":
        words.append(f"--mixed-precision {options.mixed_precision}")
    return {"command": " ".join(words), **made}


def is_finished(dataset: str, net: Net, folder: Path) -> bool:
    """Whether ``folder`` holds this net, trained to its end."""
    return _finished(folder, _made_from(dataset, net, folder.parent))


def _has_card(folder: Path) -> bool:
    return (folder / "card.json").is_file()


def _made_of(folder: Path, images: str, nb_images: int) -> bool:
    """Whether the net in ``folder`` was trained on these images, as far as its card says: older ones only say how many."""
    card = read_card(folder)
    if "train_sha256" in card:
        return bool(card["train_sha256"] == images)
    return bool(card.get("train_images", nb_images) == nb_images)


def _finished(folder: Path, made_from: dict[str, Any]) -> bool:
    if not _has_card(folder):
        return False
    # a card that is older than the choice of a precision had none
    return made_from.items() <= {"mixed_precision": "no", **read_card(folder), "net": _recipe_of(folder)}.items()


def _recipe_of(folder: Path) -> dict[str, Any] | None:
    """The recipe of the net in ``folder``, with the fields of today; ``None``: its card has none."""
    try:
        return Net.from_json(read_card(folder)["net"]).to_json()
    except (KeyError, TypeError, ValueError):
        return None


def _made_from(dataset: str, net: Net, folder: Path, mixed_precision: Precision = "no") -> dict[str, Any]:
    """What the weights depend on, as the card shows it: the recipe, the precision, and which f_b g works on."""
    made_from: dict[str, Any] = {"dataset": dataset, "net": net.to_json(), "mixed_precision": mixed_precision}
    if net.role in _ON_G:
        made_from["f_b_sha256"] = read_card(_f_b(dataset, net, folder))["sha256"]
    return made_from
