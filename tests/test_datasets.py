"""Data sets: digits, messages for what is missing, fixed samples, and (where they are at hand) the real ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from art_advtransform.datasets import DATASETS, ImageSet, cifar10, digits, load_dataset, tiny_imagenet
from tests.problems import seeded


def test_digits() -> None:
    train, test = digits("train"), digits("test")
    assert (train.x.shape, test.x.shape) == ((1200, 1, 8, 8), (597, 1, 8, 8))
    for part in (train, test):
        assert (part.x.dtype, part.y.dtype) == (torch.float32, torch.int64)
        assert (float(part.x.min()), float(part.x.max())) == (0.0, 1.0)
        assert part.y.unique().tolist() == list(range(10))
        assert part.classes == tuple("0123456789")
        assert len(part) == len(part.y) == len(part.x)


def test_digits_splits_are_disjoint_and_fixed() -> None:
    train, test = digits("train"), digits("test")
    rows = [{x.numpy().tobytes() for x in part.x} for part in (train, test)]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == 1797
    again = digits("train")
    assert torch.equal(again.x, train.x)
    assert torch.equal(again.y, train.y)
    # classes are mixed: the first images are no worse a sample than any
    assert len(train.y[:50].unique()) == 10


def test_labels_belong_to_their_images() -> None:
    """The nearest training image has the same label for nearly every test image."""
    train, test = digits("train"), digits("test")
    nearest = torch.cdist(test.x.flatten(1), train.x.flatten(1)).argmin(1)
    assert float((train.y[nearest] == test.y).double().mean()) > 0.95


# ---- samples


def test_sample_does_not_depend_on_the_order_of_the_source() -> None:
    full = digits("test")
    order = torch.randperm(len(full), generator=seeded(0))
    shuffled = ImageSet("digits", full.x[order], full.y[order], full.classes)
    sample, again = full.sample(100), shuffled.sample(100)
    assert torch.equal(sample.x, again.x)
    assert torch.equal(sample.y, again.y)
    assert (sample.name, sample.classes, len(sample)) == ("digits", full.classes, 100)


def test_samples_are_nested_mixed_and_without_repetition() -> None:
    full = digits("test")
    small, large = full.sample(50), full.sample(200)
    assert torch.equal(large.x[:50], small.x)
    assert len(small.y.unique()) == 10
    assert len(torch.unique(large.x.flatten(1), dim=0)) == 200
    assert not torch.equal(small.x, full.x[:50])
    everything = full.sample(len(full))
    assert torch.equal(everything.y.bincount(), full.y.bincount())


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "expected n >= 1, got 0"),
        (598, ValueError, "expected at most 597 images of digits, got 598"),
        (2.0, TypeError, "expected n to be an int, got float"),
    ],
)
def test_bad_sample(n: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        digits("test").sample(n)


# ---- names, splits, missing files


def test_load_by_name() -> None:
    assert torch.equal(load_dataset("digits", "train").x, digits("train").x)
    assert len(load_dataset("digits")) == 597


def test_unknown_name_and_split() -> None:
    known = "digits, cifar10, tiny_imagenet, fashion_mnist"
    with pytest.raises(ValueError, match=f"^unknown dataset 'mnist'; known: {known}$"):
        load_dataset("mnist")
    wrong: Any = "val"
    for name in DATASETS:
        with pytest.raises(ValueError, match=r"^unknown split 'val'; known: train, test$"):
            load_dataset(name, wrong)


MISSING = {
    "cifar10": ["cifar10/", "cifar10.zip", "cifar-10-batches-py/", "download=True"],
    "fashion_mnist": ["FashionMNIST/raw/", "download=True"],
    "tiny_imagenet": ["tiny-imagenet-200/", "tiny-imagenet-200.zip", "CS231n"],
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_missing_data_say_what_where_and_how(name: str, split: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset(name, split, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name} not found: looked for ")
    for part in (*MISSING[name], str(tmp_path), "root=", "--data-root", "ART_ADVTRANSFORM_DATA"):
        assert part in message
    assert not list(tmp_path.iterdir())


class FromTorchvision:
    """What torchvision's classes look like when their files are there."""

    classes = ["shirt", "shoe"]

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        if not download:
            raise RuntimeError("Dataset not found or corrupted.")
        n = 3 if train else 2
        self.data: Any = torch.arange(n * 4, dtype=torch.uint8).view(n, 2, 2)
        self.targets: Any = torch.arange(n) % 2


class FromTorchvisionInColour(FromTorchvision):
    def __init__(self, root: Path, train: bool, download: bool) -> None:
        super().__init__(root, train, download)
        self.data = np.stack([self.data.numpy(), 100 + self.data.numpy(), 200 + self.data.numpy()], 3)
        self.targets = self.targets.tolist()


@pytest.mark.parametrize(("split", "n"), [("train", 3), ("test", 2)])
def test_torchvisions_own_files(split: Any, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", FromTorchvision)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", FromTorchvisionInColour)
    grey = load_dataset("fashion_mnist", split, tmp_path, download=True)
    colour = load_dataset("cifar10", split, tmp_path, download=True)
    assert (grey.x.shape, colour.x.shape) == ((n, 1, 2, 2), (n, 3, 2, 2))
    assert grey.x[1].flatten().mul(255).round().tolist() == [4, 5, 6, 7]
    assert colour.x[1, 2].flatten().mul(255).round().tolist() == [204, 205, 206, 207]
    for part in (grey, colour):
        assert part.y.tolist() == [0, 1, 0][:n]
        assert (part.x.dtype, part.y.dtype, part.classes) == (torch.float32, torch.int64, ("shirt", "shoe"))
    with pytest.raises(FileNotFoundError, match=r"--download\) fetches it \(Dataset not found or corrupted"):
        load_dataset("fashion_mnist", split, tmp_path)


def test_root_before_environment_before_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_in(root: Path | None) -> str:
        with pytest.raises(FileNotFoundError) as caught:
            tiny_imagenet("test", root)
        found = re.search(r" in (.*); Stanford", str(caught.value))
        assert found is not None
        return found[1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ART_ADVTRANSFORM_DATA", raising=False)
    assert looked_in(None) == str(tmp_path / "data")
    monkeypatch.setenv("ART_ADVTRANSFORM_DATA", str(tmp_path / "from-env"))
    assert looked_in(None) == str(tmp_path / "from-env")
    assert looked_in(tmp_path / "given") == str(tmp_path / "given")


# ---- the real ones


def skip_without(root: Path, *names: str) -> None:
    if not any((root / name).exists() for name in names):
        pytest.skip(f"needs {' or '.join(names)} in ART_ADVTRANSFORM_DATA")


def test_real_cifar10(data_root: Path) -> None:
    skip_without(data_root, "cifar10", "cifar10.zip", "cifar-10-batches-py")
    test = cifar10("test", data_root)
    assert test.x.shape == (10_000, 3, 32, 32)
    assert test.y.bincount().tolist() == [1000] * 10
    assert test.classes[:3] == ("airplane", "automobile", "bird")
    mean = torch.tensor([0.4942, 0.4851, 0.4504])  # of the test images, by channel
    torch.testing.assert_close(test.x.mean((0, 2, 3)), mean, rtol=0, atol=2e-3)


def test_real_tiny_imagenet(data_root: Path) -> None:
    skip_without(data_root, "tiny-imagenet-200", "tiny-imagenet-200.zip")
    test = tiny_imagenet("test", data_root)
    assert test.x.shape == (10_000, 3, 64, 64)
    assert test.y.bincount().tolist() == [50] * 200
    assert len(set(test.classes)) == 200
    assert 0.3 < float(test.x.mean()) < 0.6
