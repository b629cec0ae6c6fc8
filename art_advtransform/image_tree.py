"""L3: folders of image files, plain or zipped, decoded to tensors; a zip only once, into a cache."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)

# what zipfile, zlib and Pillow raise for damaged bytes
DAMAGE = (EOFError, KeyError, OSError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error)


class ImageTree:
    """Files below ``top`` in a folder, by their path from ``base``."""

    def __init__(self, base: Path, top: str) -> None:
        self.base, self.top = base, top

    @property
    def stamp(self) -> str | None:
        """What the cache is keyed on; ``None``: a plain folder is read anew each time, since it may have been edited."""
        return None

    def names(self) -> list[str]:
        """Paths of all files, "/" between their parts."""
        return sorted(f.relative_to(self.base).as_posix() for f in (self.base / self.top).rglob("*") if f.is_file())

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        return (self.base / name).read_bytes()


class ZippedTree(ImageTree):
    """The same files in ``<top>.zip``."""

    def __init__(self, base: Path, top: str) -> None:
        super().__init__(base, top)
        self.path = base / f"{top}.zip"
        try:
            self.archive = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"damaged archive {self.path}: {error}") from error

    @property
    def stamp(self) -> str | None:
        state = self.path.stat()
        return hashlib.sha256(f"{self.path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]

    def names(self) -> list[str]:
        return sorted(name for name in self.archive.namelist() if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        return self.archive.read(name)


def open_tree(base: Path, top: str) -> ImageTree | None:
    """The folder ``base/top``, else ``base/top.zip``, else ``None``."""
    if (base / top).is_dir():
        return ImageTree(base, top)
    return ZippedTree(base, top) if (base / f"{top}.zip").is_file() else None


def decode_images(tree: ImageTree, names: list[str]) -> Tensor:
    """RGB images of equal size as uint8 (n, 3, H, W), in the order of ``names``.

    Raises:
        ValueError: if a file is missing or damaged, or there is none.
    """
    if not names:
        raise ValueError(f"expected image files below {tree.base / tree.top}, found none")
    pixels = []
    for name in names:
        try:
            pixels.append(np.asarray(Image.open(io.BytesIO(tree.read(name))).convert("RGB")))
        except DAMAGE as error:
            raise ValueError(f"damaged image {name} in {tree.base}: {error}") from error
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def cached(name: str, tree: ImageTree, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What ``make`` returns, kept in a file until the tree changes; a damaged file is made again."""
    if tree.stamp is None:
        return make()
    folder = Path(os.environ.get("ART_ADVTRANSFORM_CACHE") or Path.home() / ".cache" / "art_advtransform")
    path = folder / f"{name}-{tree.stamp}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            logger.warning("damaged cache file %s (%s): decoding again", path, error)
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # moved into place when complete: nobody ever sees half a file
        save_file(made, Path(scratch) / path.name)
        (Path(scratch) / path.name).replace(path)
    return made
