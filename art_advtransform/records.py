"""L6: records of an evaluation: what it holds in memory, as JSON, and chunk by chunk on disk, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from art_advtransform.counting import Count, Interval

_PACKAGES = ("art-advtransform", "torch", "numpy", "adversarial-robustness-toolbox", "foolbox", "torchattacks")


@dataclass(frozen=True)
class AttackResult:
    """What one attack (or none, or the per-image worst of all) does to a model.

    Attributes:
        name, kind, toolkit: of the attack.
        problem: why there are no numbers ("not run: ...", "failed: ..."); empty if there are.
        mean, majority, any: accuracies, as in :class:`~art_advtransform.counting.Count`.
        per_image: share of right draws of every image.
        forward, backward: passes through the defended model that the attack spent on an image, on average.
        seconds: that it took for all images.
        max_distance: largest change of a pixel.
    """

    name: str
    kind: str
    toolkit: str
    problem: str = ""
    mean: Interval | None = None
    majority: Interval | None = None
    any: Interval | None = None
    per_image: list[float] = field(default_factory=list)
    forward: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0
    max_distance: float = 0.0

    @classmethod
    def counted(cls, name: str, kind: str, toolkit: str, count: Count, **more: float) -> AttackResult:
        """The result with the numbers of ``count``."""
        per_image: list[float] = count.per_image.tolist()
        return cls(name, kind, toolkit, "", count.mean, count.majority, count.any, per_image, **more)


@dataclass(frozen=True)
class Evaluation:
    """One model under the attacks of a preset.

    Attributes:
        settings: threat, seeds, draws, versions, device: all that a repetition needs.
        clean: without an attack.
        attacks: in the order of the preset.
        worst: per image the attack that the selection draws choose, clean included; scored on the scoring draws.
        chosen: name of that attack for every image.
        path: the JSON record, if one was written.
    """

    settings: dict[str, Any]
    clean: AttackResult
    attacks: list[AttackResult]
    worst: AttackResult
    chosen: list[str]
    path: Path | None = None

    def save(self, path: str | os.PathLike[str]) -> Evaluation:
        """Write the JSON record, whole or not at all; the same evaluation, with its ``path``."""
        path = Path(path)
        content = {k: v for k, v in asdict(self).items() if k != "path"}
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".partial")
        scratch.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        scratch.replace(path)
        return Evaluation(self.settings, self.clean, self.attacks, self.worst, self.chosen, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read a record.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged.
        """
        path = Path(path)
        try:
            raw = json.loads(path.read_text())
            attacks = [_result(entry) for entry in raw["attacks"]]
            return cls(raw["settings"], _result(raw["clean"]), attacks, _result(raw["worst"]), raw["chosen"], path)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"damaged record {path}: {error}") from error


def _result(raw: dict[str, Any]) -> AttackResult:
    intervals = {k: None if raw[k] is None else Interval(**raw[k]) for k in ("mean", "majority", "any")}
    return AttackResult(**{**raw, **intervals})


@dataclass(frozen=True)
class Chunk:
    """What is kept of one attack on one chunk of images.

    Attributes:
        attacked: images (n, C, H, W).
        selection, scoring: predicted classes (n, draws).
        forward, backward: passes spent on the chunk.
        seconds: spent on it.
    """

    attacked: Tensor
    selection: Tensor
    scoring: Tensor
    forward: int
    backward: int
    seconds: float


class ChunkStore:
    """Finished chunks in ``folder``, valid for one ``fingerprint``; with ``folder=None`` nothing is kept."""

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def get(self, attack: str, first: int, make: Callable[[], Chunk]) -> Chunk:
        """The stored chunk that begins with image ``first``; where there is none, what ``make`` returns, stored."""
        if self.folder is None:
            return make()
        path = self.folder / f"{_slug(attack)}-{first:05d}.safetensors"
        stored = self._load(path)
        if stored is None:
            stored = make()
            self._save(path, stored)
        return stored

    def _load(self, path: Path) -> Chunk | None:
        """``None`` too where the file is damaged or of another evaluation: it is made again."""
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                if meta.get("fingerprint") != self.fingerprint:
                    return None
                return Chunk(
                    file.get_tensor("attacked"),
                    file.get_tensor("selection"),
                    file.get_tensor("scoring"),
                    int(meta["forward"]),
                    int(meta["backward"]),
                    float(meta["seconds"]),
                )
        except (FileNotFoundError, OSError, KeyError, ValueError, SafetensorError):
            return None

    def _save(self, path: Path, chunk: Chunk) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {k: getattr(chunk, k).cpu().contiguous() for k in ("attacked", "selection", "scoring")}
        metadata = {k: str(getattr(chunk, k)) for k in ("forward", "backward", "seconds")}
        scratch = path.with_suffix(".partial")
        save_file(tensors, scratch, metadata={**metadata, "fingerprint": self.fingerprint})
        scratch.replace(path)


def fingerprint(settings: dict[str, Any], tensors: Iterable[Tensor]) -> str:
    """sha256 of everything that a result depends on."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for tensor in tensors:
        digest.update(str((tensor.shape, tensor.dtype)).encode())
        # as bytes: numpy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, for the record."""
    return {
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
