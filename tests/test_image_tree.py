"""Image files in folders and zips: the same tensors from both, a cache, and damage that is told."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from art_advtransform.datasets import ImageSet, cifar10, tiny_imagenet

LOADERS: dict[str, Callable[..., ImageSet]] = {"cifar10": cifar10, "tiny-imagenet-200": tiny_imagenet}


def pixels(seed: int, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.RandomState(seed).randint(0, 256, (size, size, 3)).astype(np.uint8)


def png(seed: int, size: int) -> bytes:
    """Lossless, whatever the file is called."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, size)).save(buffer, "PNG")
    return buffer.getvalue()


def cifar10_files() -> dict[str, bytes]:
    """Written in no particular order; classes are numbered alphabetically."""
    return {
        f"cifar10/{split}/{name}/{i}.png": png(100 * s + 10 * k + i, 32)
        for s, split in enumerate(["test", "train"])
        for k, name in enumerate(["frog", "airplane", "bird"])
        for i in (1, 0)
    }


def tiny_imagenet_files() -> dict[str, bytes]:
    top = "tiny-imagenet-200"
    files = {
        f"{top}/wnids.txt": b"n02\nn01\n",
        f"{top}/words.txt": b"n01\tgoldfish\nn02\ttoad\nn03\tnever used\n",
        f"{top}/val/val_annotations.txt": b"val_0.JPEG\tn01\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\n",
        f"{top}/val/images/val_0.JPEG": png(0, 64),
        f"{top}/val/images/val_1.JPEG": png(1, 64),
    }
    for k, wnid in enumerate(["n01", "n02"]):
        files[f"{top}/train/{wnid}/{wnid}_boxes.txt"] = b"0 0 9 9\n"
        files |= {f"{top}/train/{wnid}/images/{wnid}_{i}.JPEG": png(10 + 10 * k + i, 64) for i in range(2)}
    return files


FILES = {"cifar10": cifar10_files, "tiny-imagenet-200": tiny_imagenet_files}


def write(root: Path, name: str, zipped: bool, leave_out: str = "") -> None:
    root.mkdir(exist_ok=True)
    files = {path: data for path, data in FILES[name]().items() if path != leave_out}
    if zipped:
        with zipfile.ZipFile(root / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files.items():
                archive.writestr(path, data)
        return
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ART_ADVTRANSFORM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def image(seed: int, size: int) -> torch.Tensor:
    return torch.from_numpy(pixels(seed, size)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("zipped", [False, True])
def test_cifar10(zipped: bool, tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "data", "cifar10", zipped)
    test = cifar10("test", tmp_path / "data")
    assert (test.name, test.classes) == ("cifar10", ("airplane", "bird", "frog"))
    assert test.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(test.x, torch.stack([image(seed, 32) for seed in (10, 11, 20, 21, 0, 1)]))
    train = cifar10("train", tmp_path / "data")
    assert torch.equal(train.x[0], image(110, 32))


@pytest.mark.parametrize("zipped", [False, True])
def test_tiny_imagenet(zipped: bool, tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "data", "tiny-imagenet-200", zipped)
    test, train = (tiny_imagenet(split, tmp_path / "data") for split in ("test", "train"))
    assert test.classes == ("toad", "goldfish")  # in the order of wnids.txt
    assert test.y.tolist() == [1, 0]
    assert torch.equal(test.x, torch.stack([image(0, 64), image(1, 64)]))
    assert train.y.tolist() == [1, 1, 0, 0]
    assert torch.equal(train.x, torch.stack([image(seed, 64) for seed in (10, 11, 20, 21)]))


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_environment_says_where(name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data", name, zipped=True)
    monkeypatch.setenv("ART_ADVTRANSFORM_DATA", str(tmp_path / "data"))
    assert torch.equal(LOADERS[name]().x, LOADERS[name]("test", tmp_path / "data").x)


# ---- the cache


def test_a_zip_is_decoded_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data", "cifar10", zipped=True)
    first = cifar10("test", tmp_path / "data")
    assert [file.suffix for file in cache.iterdir()] == [".safetensors"]
    monkeypatch.setattr("art_advtransform.image_tree.Image.open", lambda file: pytest.fail("decoded again"))
    again = cifar10("test", tmp_path / "data")
    assert torch.equal(again.x, first.x)
    assert torch.equal(again.y, first.y)
    assert again.classes == first.classes


def test_a_folder_is_read_anew(tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "data", "cifar10", zipped=False)
    before = cifar10("test", tmp_path / "data")
    (tmp_path / "data/cifar10/test/bird/0.png").write_bytes(png(77, 32))
    after = cifar10("test", tmp_path / "data")
    assert torch.equal(after.x[2], image(77, 32))
    assert not torch.equal(after.x, before.x)
    assert not cache.exists()


def test_another_zip_is_not_taken_from_the_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data" / "cifar10.zip"
    write(tmp_path / "data", "cifar10", zipped=True)
    before, size = cifar10("test", tmp_path / "data"), path.stat().st_size
    files = cifar10_files()
    first, second = "cifar10/test/bird/0.png", "cifar10/test/bird/1.png"
    monkeypatch.setitem(FILES, "cifar10", lambda: {**files, first: files[second], second: files[first]})
    write(tmp_path / "data", "cifar10", zipped=True)
    os.utime(path, ns=(1, 1))
    assert path.stat().st_size == size  # only its time tells it from the other
    assert torch.equal(cifar10("test", tmp_path / "data").x[2:4], before.x[2:4].flip(0))


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_cache_is_made_again(damage: bytes | None, tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "data", "cifar10", zipped=True)
    first = cifar10("test", tmp_path / "data")
    (file,) = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2] if damage is None else damage)
    assert torch.equal(cifar10("test", tmp_path / "data").x, first.x)
    assert file.read_bytes() == good
    assert list(cache.iterdir()) == [file]  # nothing temporary stays


# ---- damage


@pytest.mark.parametrize("name", sorted(LOADERS))
@pytest.mark.parametrize("keep", [0, 10, 2000])
def test_damaged_zip(name: str, keep: int, tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "data", name, zipped=True)
    path = tmp_path / "data" / f"{name}.zip"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"^damaged archive {path}: "):
        LOADERS[name]("test", tmp_path / "data")


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_a_damaged_byte_in_a_zip(name: str, tmp_path: Path, cache: Path) -> None:
    """Wherever it lies: in the compressed data, the image in it, or a list of labels."""
    write(tmp_path / "data", name, zipped=True)
    path = tmp_path / "data" / f"{name}.zip"
    good = path.read_bytes()
    told = 0
    for position in range(31, len(good), len(good) // 60):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        os.utime(path, ns=(position, position))
        try:
            LOADERS[name]("test", tmp_path / "data")
        except ValueError:
            told += 1
    # half of the bytes belong to the other split, or to headers nobody reads
    assert told > 10


@pytest.mark.parametrize("content", [b"", b"no image", png(0, 32)[:200]])
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_image(
    content: bytes, zipped: bool, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, "cifar10", lambda: {**cifar10_files(), "cifar10/test/bird/1.png": content})
    write(tmp_path / "data", "cifar10", zipped)
    with pytest.raises(ValueError, match=f"^damaged image cifar10/test/bird/1.png in {tmp_path / 'data'}: "):
        cifar10("test", tmp_path / "data")
    assert len(cifar10("train", tmp_path / "data")) == 6


def test_images_of_different_sizes(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "cifar10", lambda: {**cifar10_files(), "cifar10/test/bird/1.png": png(0, 16)})
    write(tmp_path / "data", "cifar10", zipped=False)
    with pytest.raises(ValueError, match="same shape"):
        cifar10("test", tmp_path / "data")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("missing", ["wnids.txt", "words.txt", "val/val_annotations.txt", "val/images/val_0.JPEG"])
def test_incomplete_tiny_imagenet(missing: str, zipped: bool, tmp_path: Path, cache: Path) -> None:
    write(tmp_path / "data", "tiny-imagenet-200", zipped, leave_out=f"tiny-imagenet-200/{missing}")
    with pytest.raises(ValueError, match=f"^damaged .*{missing}"):
        tiny_imagenet("test", tmp_path / "data")


@pytest.mark.parametrize("zipped", [False, True])
def test_a_tree_without_images(zipped: bool, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "cifar10", lambda: {"cifar10/README": b"to be filled"})
    write(tmp_path / "data", "cifar10", zipped)
    with pytest.raises(ValueError, match=f"^expected image files below {tmp_path / 'data' / 'cifar10'}, found none$"):
        cifar10("test", tmp_path / "data")
