"""What the paper's tables and figures keep in `runs/`, so that a kill loses little: nets, encoded images, E[g(x)], evaluations."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import art_advtransform
from art_advtransform.attacks.identity import network_identity
from art_advtransform.datasets import ImageSet
from art_advtransform.expectation import expected_g
from art_advtransform.layer import LLPGDTransform
from art_advtransform.pretrained import read_card
from art_advtransform.records import Evaluation, environment
from art_advtransform.store import MANIFEST, AnotherEvaluationError, fingerprint, tensors_sha256
from benchmarks.harness import progress

_CODE_OF_G = ("config", "randomness", "arithmetic", "transform", "folding", "frozen", "layer", "expectation")


def copied(folder: Path, same: Callable[[Path], bool]) -> bool:
    """Whether a table had this very net trained by another name; it is copied then."""
    others = [other.parent for other in sorted(folder.parent.glob("[!.]*/card.json")) if other.parent != folder]
    found = next((other for other in others if same(other)), None)
    if found is not None:
        copy_net(found, folder)
    return found is not None


def encoded_and_kept(
    train: ImageSet, test: ImageSet, encode: Callable[[Tensor], Tensor], kept: Path
) -> tuple[ImageSet, ImageSet]:
    """Both through ``encode``; on file until the net is there, since some take longer than the training."""
    if not kept.exists():
        _save({"train": encode(train.x), "test": encode(test.x)}, kept)
    x = load_file(kept)
    return replace(train, x=x["train"]), replace(test, x=x["test"])


def copy_net(net: Path, folder: Path) -> None:
    """In place of what is there; a kill leaves no half of it, and another table may copy the same one at this moment."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        begun = shutil.copytree(net, Path(scratch) / folder.name)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            begun.rename(folder)
        except OSError:  # the other one was quicker
            if read_card(folder) != read_card(begun):
                raise


def in_place_of_another(run: Callable[[], Evaluation], folder: Path) -> Evaluation:
    """What ``run`` finds or goes on with in ``folder``; an evaluation of other settings that is there is renamed.

    Hours of work are not deleted because torch, or the GPU, is another one today. One that was renamed before is taken again
    where it is the one that is asked for.
    """
    earlier = iter(sorted(folder.parent.glob(f"{folder.name}.before-*")))
    while True:
        try:
            return run()
        except AnotherEvaluationError as error:
            progress(f"{error}; that one is kept as {_set_aside(folder)}")
            again = next(earlier, None)
            if again is not None:
                again.rename(folder)


def _set_aside(folder: Path) -> Path:
    """Renamed by the evaluation in it."""
    manifest = json.loads((folder / MANIFEST).read_text())
    found = manifest.get("fingerprint") if isinstance(manifest, dict) else None
    return folder.rename(folder.with_name(f"{folder.name}.before-{str(found)[:8]}"))


def means_of_g(
    f_b: nn.Module, x: Tensor, nb_draws: int, seed: int, home: Path, report: Callable[[int, int], None]
) -> Tensor:
    """E[g(x)] twice, (2, n, C, H, W), each of a half of the draws; on file in ``home`` once it is known, since of one f_b it may
    take longer than an evaluation.

    Raises:
        ValueError: if ``nb_draws`` is odd.
    """
    if nb_draws % 2:
        raise ValueError(f"expected an even nb_draws, got {nb_draws}")
    made_by: dict[str, Any] = {
        "f_b": network_identity(f_b),
        "images": tensors_sha256([x]),
        "draws": nb_draws,
        "means": 2,
        "seed": seed,
        "code": _code_of_g(),
        "environment": environment(x.device),
    }
    kept = home / "expected" / f"{fingerprint(made_by)[:16]}.safetensors"
    if not kept.exists():
        g, half = LLPGDTransform(f_b), nb_draws // 2
        first = expected_g(g, x, half, 2 * seed, lambda done, _: report(done, nb_draws))
        second = expected_g(g, x, half, 2 * seed + 1, lambda done, _: report(half + done, nb_draws))
        _save({"expected": torch.stack([first, second])}, kept)
    return load_file(kept)["expected"].to(x)


def _save(tensors: dict[str, Tensor], kept: Path) -> None:
    """Whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    scratch = kept.with_suffix(".partial")
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, scratch)
    scratch.replace(kept)


@cache
def _code_of_g() -> str:
    package = Path(art_advtransform.__file__).parent
    return hashlib.sha256(b"".join((package / f"{name}.py").read_bytes() for name in _CODE_OF_G)).hexdigest()
