"""L6: the folder of a run: its manifest, and one file for each attack and chunk of images, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Chunk:
    """What is kept of one attack on one chunk of images.

    Attributes:
        attacked: images (n, C, H, W).
        share: of the draws that choose, in which each image is right, (n,); where ``confirmed``, of the draws that confirm.
        lead: mean lead of the best other class over the label in these draws, (n,).
        confirmed: whether it was right in at most one of the draws that choose, and was judged by more for that, (n,) bool.
        scoring: predicted classes (n, draws).
        forward, backward: passes spent on the chunk.
        seconds: spent on it.
        nb_nan: images in which the attack left NaN, which count as clean pixels.
    """

    attacked: Tensor
    share: Tensor
    lead: Tensor
    confirmed: Tensor
    scoring: Tensor
    forward: int
    backward: int
    seconds: float
    nb_nan: int = 0


class AnotherEvaluationError(ValueError):
    """A folder holds another evaluation than the one asked for."""


class RunFolder:
    """``folder`` with ``manifest.json`` and ``chunks/``, for one evaluation; with ``folder=None`` nothing is kept."""

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def claim(self, settings: dict[str, Any], *, restart: bool) -> None:
        """Write the manifest, or see that the one there is of this very evaluation, and add this sitting to it.

        Args:
            settings: what a reader wants to know of the run.
            restart: throw away what is there.

        Raises:
            AnotherEvaluationError: if the folder holds another evaluation; says what differs.
        """
        if self.folder is None:
            return
        path = self.folder / MANIFEST
        if restart:
            for name in (MANIFEST, "evaluation.json", "chunks/*.safetensors"):
                for old in self.folder.glob(name):
                    old.unlink(missing_ok=True)
        found = _read_manifest(path)
        if found is not None and found.get("fingerprint") != self.fingerprint:
            raise AnotherEvaluationError(
                f"{self.folder} holds another evaluation ({_difference(found, settings)}): "
                "expected another folder, or restart"
            )
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        sitting = {"started": started, **{name: settings[name] for name in _OF_A_SITTING if name in settings}}
        fixed = {name: value for name, value in settings.items() if name not in _OF_A_SITTING}
        write_json(path, {**fixed, "sittings": [*(found or {}).get("sittings", []), sitting]})

    def get(self, attack: str, first: int, make: Callable[[], Chunk], depends: str = "") -> Chunk:
        """The stored chunk that begins with image ``first``; where there is none, what ``make`` returns, stored.

        ``depends``: what else it was made from than attack and evaluation.
        """
        if self.folder is None:
            return make()
        path = _chunk_path(self.folder, attack, first)
        made_by = {"attack": attack, "first": str(first), "fingerprint": self.fingerprint, "depends": depends}
        stored = self._load(path, made_by)
        if stored is None:
            stored = make()
            self._save(path, made_by, stored)
        return stored

    def _load(self, path: Path, made_by: dict[str, str]) -> Chunk | None:
        """``None`` where there is nothing of this evaluation; what can't be used is named before it is made again."""
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                if not made_by.items() <= meta.items():
                    logger.warning(
                        "%s is of another evaluation, attack, version of it, chunk or beginning: computed again", path
                    )
                    return None
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            if _sha256(tensors, meta) != meta["sha256"]:
                raise ValueError("it is not what was written")
            return Chunk(
                **tensors,
                forward=int(meta["forward"]),
                backward=int(meta["backward"]),
                seconds=float(meta["seconds"]),
                nb_nan=int(meta["nb_nan"]),
            )
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            logger.warning("%s is damaged (%s): computed again", path, error)
            return None

    def _save(self, path: Path, made_by: dict[str, str], chunk: Chunk) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(chunk, name).cpu().contiguous() for name in _TENSORS}
        metadata = {name: str(getattr(chunk, name)) for name in _NUMBERS}
        metadata["sha256"] = _sha256(tensors, metadata)
        scratch = path.with_suffix(".partial")
        save_file(tensors, scratch, metadata={**metadata, **made_by})
        scratch.replace(path)


def _sha256(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Of all that a chunk has."""
    numbers = " ".join(metadata[name] for name in _NUMBERS)
    return hashlib.sha256(f"{tensors_sha256(tensors.values())} {numbers}".encode()).hexdigest()


def read_attacked(folder: Path, attack: str, chunk_size: int, image: int) -> Tensor:
    """The attacked image (C, H, W) number ``image`` of a finished run in ``folder``."""
    first = image - image % chunk_size
    with safe_open(_chunk_path(folder, attack, first), framework="pt") as file:
        attacked: Tensor = file.get_slice("attacked")[image - first : image - first + 1]
    return attacked[0]


def _chunk_path(folder: Path, attack: str, first: int) -> Path:
    return folder / "chunks" / f"{slug(attack)}-{first:05d}.safetensors"


def fingerprint(settings: dict[str, Any]) -> str:
    """sha256 of everything that a result depends on; tensors by their own."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def tensors_sha256(tensors: Iterable[Tensor]) -> str:
    """sha256 of shapes, types and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tensor.shape, tensor.dtype)).encode())
        # as bytes: numpy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    scratch.replace(path)


def slug(name: str) -> str:
    """``name`` as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """``None`` where there is none, or none that can be read: every chunk says itself what evaluation it is of."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s is damaged (%s): written again", path, error)
        return None
    return found if isinstance(found, dict) else {}


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = [name for name in wanted if name in found and found[name] != wanted[name] and name not in _INCIDENTAL]
    hashes = found.get("sha256", {})
    tensors = [name for name in {**hashes, **wanted["sha256"]} if hashes.get(name) != wanted["sha256"].get(name)]
    told = [f"{name}: {found[name]!r} there, {wanted[name]!r} here" for name in names if name != "sha256"]
    return ", ".join([*told, *(f"other {name}" for name in tensors)])


_NUMBERS = ("forward", "backward", "seconds", "nb_nan")
_TENSORS = ("attacked", "share", "lead", "confirmed", "scoring")
# What may differ between sittings of a run.
_OF_A_SITTING = ("command", "threads", "preset", "budget", "attack_code", "attacks")
# What says nothing to a reader.
_INCIDENTAL = ("fingerprint", "nets", *_OF_A_SITTING)
