"""L6: the record of an evaluation, in memory and as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from art_advtransform.counting import Count, Interval
from art_advtransform.store import fingerprint, write_json

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
        published: accuracy of the defence under it as the paper gives it, in [0, 1]; ``None`` where it gives none.
        nb_nan: attacked images with NaN, whose clean pixels were taken instead.
        stage: of the attack, where the preset has stages.
        nb_attacked: images that it ran on: all, or those that the attacks before it had left.
        remaining: accuracy under the per-image worst of all attacks up to this one; ``None`` for none and the worst itself.
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
    published: float | None = None
    nb_nan: int = 0
    stage: str = ""
    nb_attacked: int = 0
    remaining: float | None = None

    @property
    def is_missing(self) -> bool:
        """Whether the worst case would be another with it: it failed, or something that it needs is not there."""
        return self.problem.startswith(("failed", "not run: needs"))

    @classmethod
    def counted(cls, name: str, kind: str, toolkit: str, count: Count, **more: Any) -> AttackResult:
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

    @property
    def missing(self) -> list[str]:
        """Names of attacks that the worst case lacks on some image."""
        return [attack.name for attack in self.attacks if attack.is_missing]

    @property
    def named_worst(self) -> str:
        """The worst case, and of which attacks."""
        preset = self.settings.get("preset")
        named = f"preset {preset}" if isinstance(preset, str) else f"{len(self.attacks)} attacks"
        return f"worst case of {named}" + f", but for {len(self.missing)} of its attacks" * bool(self.missing)

    @property
    def identity(self) -> str:
        """sha256 of what its worst case hangs on: model, images, draws, attacks and their code."""
        return _identity(self.settings)

    @property
    def identities(self) -> list[str]:
        """Its own, and those of the parts that it was put together of: a check of a part's images is one of its own."""
        return [self.identity, *(_identity({**self.settings, **part}) for part in self.settings.get("parts", []))]

    def save(self, path: str | os.PathLike[str], *, write: bool = True) -> Evaluation:
        """The same evaluation with its ``path``; the JSON record is written there, whole or not at all, if ``write``."""
        path = Path(path)
        if write:
            write_json(path, {k: v for k, v in asdict(self).items() if k != "path"})
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


def _identity(settings: dict[str, Any]) -> str:
    keys = ("fingerprint", "preset", "budget", "attack_code", "attacks")
    return fingerprint({key: settings.get(key) for key in keys})


def _result(raw: dict[str, Any]) -> AttackResult:
    intervals = {k: None if raw[k] is None else Interval(**raw[k]) for k in ("mean", "majority", "any")}
    return AttackResult(**{**raw, **intervals})


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and kind of hardware; results of others are not mixed, since they may differ in more than rounding."""
    model = [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
    return {
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "device": " ".join([device.type, *model]),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
