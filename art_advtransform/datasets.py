"""L3: the data sets, one function each: images as float32 in [0, 1], labels as int64.

Digits stay 1x8x8. Enlarged to 3x32x32, every pixel would be an interpolation of its neighbours and a transformation would
cost 100 times as much; kept, no pixel is invented, a whole evaluation takes minutes, and the same networks run (a pooling
is left out where the map is already 1x1).

Where files are looked for: the ``root`` argument, else the environment variable ``ART_ADVTRANSFORM_DATA``, else ``./data``.
Archives are decoded once, into ``ART_ADVTRANSFORM_CACHE`` (default ``~/.cache/art_advtransform``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from art_advtransform.config import check_count
from art_advtransform.image_tree import DAMAGE, ImageTree, cached, decode_images, open_tree
from art_advtransform.randomness import usual_device

Split = Literal["train", "test"]
Root = str | os.PathLike[str] | None
Labels = Callable[[list[str], ImageTree, Split], tuple[dict[str, int], tuple[str, ...]]]


@dataclass(frozen=True)
class ImageSet:
    """Images with labels.

    Attributes:
        name: the data set's name.
        x: images (n, C, H, W), float32 in [0, 1].
        y: labels (n,), int64.
        classes: names of the classes, by label.
    """

    name: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)

    def sha256(self) -> str:
        """Of images and labels: what tells a training set from another of the same name."""
        digest = hashlib.sha256(str(tuple(self.x.shape)).encode())
        for tensor in (self.x, self.y):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def sample(self, n: int, skip: int = 0) -> ImageSet:
        """``n`` images in the order of a hash of their pixels: a fixed, mixed sample, the same from whatever source.

        Args:
            n: images.
            skip: of that order, left out before them; ``sample(250)`` and ``sample(250, skip=250)`` are ``sample(500)``.

        Raises:
            ValueError: if the set has fewer than ``n`` beside those left out.
        """
        check_count("n", n)
        check_count("skip", skip, minimum=0)
        if skip + n > len(self):
            left_out = f" after {skip} others" if skip else ""
            raise ValueError(f"expected at most {len(self) - skip} images of {self.name}{left_out}, got {n}")
        pixels = (self.x * 255).round().to(torch.uint8).numpy()
        order = sorted(range(len(self)), key=lambda i: hashlib.sha256(pixels[i].tobytes()).digest())[skip : skip + n]
        return ImageSet(self.name, self.x[order], self.y[order], self.classes)


def digits(split: Split = "test", root: Root = None, *, download: bool = False) -> ImageSet:
    """scikit-learn's digits, 1x8x8, 10 classes: 1,200 for training, 597 for testing (a fixed shuffle). Needs no files.

    Example:
        >>> digits("test").x.shape
        torch.Size([597, 1, 8, 8])
    """
    from sklearn.datasets import load_digits

    _check_split(split)
    raw = load_digits()
    order = np.random.RandomState(0).permutation(len(raw.images))
    order = order[:1200] if split == "train" else order[1200:]
    x = torch.from_numpy(raw.images[order]).float().div(16).unsqueeze(1)
    return ImageSet("digits", x, torch.from_numpy(raw.target[order]).long(), tuple(str(k) for k in range(10)))


def cifar10(split: Split = "test", root: Root = None, *, download: bool = False) -> ImageSet:
    """CIFAR-10, 3x32x32, 10 classes, 50,000 for training and 10,000 for testing.

    Looks in ``root`` for a folder ``cifar10/{train,test}/<class>/`` of image files, for ``cifar10.zip`` with that folder in
    it, and for torchvision's own files, which ``download=True`` fetches.
    """
    base = _root(root)
    tree = open_tree(base, "cifar10")
    if tree is not None:
        return _from_tree("cifar10", tree, split, _cifar10_labels)
    from torchvision.datasets import CIFAR10

    return _from_torchvision(
        "cifar10", CIFAR10, base, split, download, "cifar10/ or cifar10.zip (image files), or cifar-10-batches-py/"
    )


def fashion_mnist(split: Split = "test", root: Root = None, *, download: bool = False) -> ImageSet:
    """Fashion-MNIST, 1x28x28, 10 classes, 60,000 for training and 10,000 for testing: torchvision's own files."""
    from torchvision.datasets import FashionMNIST

    return _from_torchvision("fashion_mnist", FashionMNIST, _root(root), split, download, "FashionMNIST/raw/")


def tiny_imagenet(split: Split = "test", root: Root = None, *, download: bool = False) -> ImageSet:
    """Tiny ImageNet, 3x64x64, 200 classes: ``test`` is the validation split (its test labels were never published).

    Looks in ``root`` for the standard folder ``tiny-imagenet-200/`` or for ``tiny-imagenet-200.zip``.
    """
    _check_split(split)
    base = _root(root)
    tree = open_tree(base, "tiny-imagenet-200")
    if tree is None:
        wanted = "tiny-imagenet-200/ or tiny-imagenet-200.zip"
        raise _missing("tiny_imagenet", base, wanted, "Stanford's course CS231n publishes it as tiny-imagenet-200.zip")
    return _from_tree("tiny_imagenet", tree, split, _tiny_imagenet_labels)


DATASETS: dict[str, Callable[..., ImageSet]] = {
    "digits": digits,
    "cifar10": cifar10,
    "tiny_imagenet": tiny_imagenet,
    "fashion_mnist": fashion_mnist,
}


def load_dataset(name: str, split: Split = "test", root: Root = None, *, download: bool = False) -> ImageSet:
    """The data set ``name``.

    Args:
        name: a key of ``DATASETS``.
        split: "train" or "test".
        root: folder to look in; see the module's text.
        download: let torchvision fetch what is missing (CIFAR-10, Fashion-MNIST).

    Raises:
        ValueError: if the name or split is unknown (the message lists the known ones), or a file is damaged.
        FileNotFoundError: if the files are missing: what was looked for, where, and how to get it.
    """
    check_dataset(name)
    return DATASETS[name](split, root, download=download)


def check_dataset(name: str) -> None:
    """Raise ``ValueError`` if the data set is unknown; the message lists the known ones."""
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")


def _check_split(split: Split) -> None:
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}; known: {', '.join(get_args(Split))}")


def _root(root: Root) -> Path:
    return Path(root if root is not None else os.environ.get("ART_ADVTRANSFORM_DATA", "data"))


def _missing(name: str, base: Path, wanted: str, how: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name} not found: looked for {wanted} in {base.resolve()}; {how}. "
        "Set the folder with root= (--data-root) or ART_ADVTRANSFORM_DATA"
    )


@usual_device()
def _from_torchvision(name: str, kind: type, base: Path, split: Split, download: bool, wanted: str) -> ImageSet:
    _check_split(split)
    try:
        raw = kind(base, train=split == "train", download=download)
    except RuntimeError as error:
        how = f"download=True (--download) fetches it ({error})"
        raise _missing(name, base, wanted, how) from error
    pixels = torch.as_tensor(raw.data)
    pixels = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels.unsqueeze(1)
    return ImageSet(name, pixels.float() / 255, torch.as_tensor(raw.targets).long(), tuple(raw.classes))


@usual_device()
def _from_tree(name: str, tree: ImageTree, split: Split, label: Labels) -> ImageSet:
    """A folder or zip of image files; a zip is decoded once."""
    _check_split(split)

    def decode() -> dict[str, Tensor]:
        labels, _ = label(tree.names(), tree, split)
        paths = sorted(labels)
        return {"x": decode_images(tree, paths), "y": torch.tensor([labels[path] for path in paths])}

    decoded = cached(f"{name}-{split}", tree, decode)
    _, classes = label(tree.names(), tree, split)
    return ImageSet(name, decoded["x"].float() / 255, decoded["y"].long(), classes)


def _cifar10_labels(names: list[str], tree: ImageTree, split: Split) -> tuple[dict[str, int], tuple[str, ...]]:
    """Label of every image path cifar10/<split>/<class>/<file>; class indices are alphabetical, as in CIFAR-10."""
    mine = [name for name in names if name.startswith(f"cifar10/{split}/") and name.count("/") == 3]
    classes = tuple(sorted({name.split("/")[2] for name in mine}))
    return {name: classes.index(name.split("/")[2]) for name in mine}, classes


def _tiny_imagenet_labels(names: list[str], tree: ImageTree, split: Split) -> tuple[dict[str, int], tuple[str, ...]]:
    """Label of every image: the line of its wnid in wnids.txt."""
    top = "tiny-imagenet-200"
    wnids = _lines(tree, f"{top}/wnids.txt")
    words = dict(line.split("\t") for line in _lines(tree, f"{top}/words.txt"))
    index = {wnid: k for k, wnid in enumerate(wnids)}
    if split == "train":
        images = [name for name in names if name.startswith(f"{top}/train/") and name.endswith(".JPEG")]
        labels = {name: index[name.split("/")[2]] for name in images}
    else:
        lines = [line.split("\t") for line in _lines(tree, f"{top}/val/val_annotations.txt")]
        labels = {f"{top}/val/images/{line[0]}": index[line[1]] for line in lines}
    return labels, tuple(words.get(wnid, wnid) for wnid in wnids)


def _lines(tree: ImageTree, name: str) -> list[str]:
    try:
        return tree.read(name).decode().splitlines()
    except (UnicodeDecodeError, *DAMAGE) as error:
        raise ValueError(f"damaged data set in {tree.base}: can't read {name}: {error}") from error
