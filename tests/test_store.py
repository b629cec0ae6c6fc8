"""The folder of a run: chunks kept for the evaluation they belong to, a manifest, fingerprints that notice all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from art_advtransform import store as store_module
from art_advtransform.store import Chunk, RunFolder, fingerprint, read_attacked, tensors_sha256
from tests.problems import seeded

# ---- chunks


def chunk(seed: int = 0) -> Chunk:
    share, lead = torch.rand(2, 2, generator=seeded(seed), dtype=torch.float64)
    classes = torch.randint(0, 3, (2, 5), generator=seeded(seed))
    confirmed = share < 0.5
    return Chunk(torch.rand(2, 1, 3, 3, generator=seeded(seed)), share, lead, confirmed, classes, 40, 20, 1.5, 1)


def same(a: Chunk, b: Chunk) -> bool:
    names = ("attacked", "share", "lead", "confirmed", "scoring")
    tensors = all(torch.equal(getattr(a, k), getattr(b, k)) for k in names)
    return tensors and all(getattr(a, k) == getattr(b, k) for k in ("forward", "backward", "seconds", "nb_nan"))


def never() -> Chunk:
    raise AssertionError("a stored chunk was made again")


def test_a_chunk_is_made_once(tmp_path: Path) -> None:
    store = RunFolder(tmp_path, "f")
    assert same(store.get("PGD: 40 / 2", 50, chunk), chunk())
    assert same(RunFolder(tmp_path, "f").get("PGD: 40 / 2", 50, never), chunk())
    assert [path.name for path in (tmp_path / "chunks").iterdir()] == ["pgd-40-2-00050.safetensors"]
    # another attack, another chunk and another evaluation are others
    assert same(store.get("PGD: 40 / 3", 50, lambda: chunk(1)), chunk(1))
    assert same(store.get("PGD: 40 / 2", 100, lambda: chunk(2)), chunk(2))
    assert same(RunFolder(tmp_path, "g").get("PGD: 40 / 2", 50, lambda: chunk(3)), chunk(3))
    assert same(store.get("PGD: 40 / 3", 50, never), chunk(1))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _rubbish(path: Path) -> None:
    path.write_bytes(b"rubbish")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # of a tensor: the file can still be read
    path.write_bytes(bytes(content))


def _flip_a_digit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"forward":"40"', b'"forward":"41"'))


@pytest.mark.parametrize("damage", [_truncate, _rubbish, _empty, _flip_a_bit, _flip_a_digit])
def test_a_damaged_chunk_is_made_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    store = RunFolder(tmp_path, "f")
    store.get("A", 0, chunk)
    before = (tmp_path / "chunks" / "a-00000.safetensors").read_bytes()
    damage(tmp_path / "chunks" / "a-00000.safetensors")
    assert (tmp_path / "chunks" / "a-00000.safetensors").read_bytes() != before
    assert same(store.get("A", 0, lambda: chunk(1)), chunk(1))
    assert same(store.get("A", 0, never), chunk(1))


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunFolder(tmp_path, "f")

    def disk_full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "save_file", disk_full)
        with pytest.raises(OSError, match="disk full"):
            store.get("A", 0, chunk)
    assert not (tmp_path / "chunks" / "a-00000.safetensors").exists()
    assert same(store.get("A", 0, lambda: chunk(1)), chunk(1))


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = RunFolder(None, "f")
    assert same(store.get("A", 0, chunk), chunk())
    assert same(store.get("A", 0, lambda: chunk(1)), chunk(1))
    assert list(tmp_path.iterdir()) == []


# ---- manifest


SETTINGS: dict[str, Any] = {"seed": 0, "sha256": {"images": "i", "f_a": "f"}, "fingerprint": "f", "threads": 2}


def test_a_folder_is_claimed_by_one_evaluation(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", "f").claim(SETTINGS, restart=False)
    manifest = (tmp_path / "run" / "manifest.json").read_text()
    RunFolder(tmp_path / "run", "f").claim({**SETTINGS, "threads": 4}, restart=False)
    again = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [sitting["threads"] for sitting in again.pop("sittings")] == [2, 4]
    assert again == {name: value for name, value in json.loads(manifest).items() if name != "sittings"}
    other = {**SETTINGS, "seed": 1, "sha256": {"images": "i", "f_a": "g"}, "fingerprint": "g", "threads": 4}
    with pytest.raises(ValueError, match=r"holds another evaluation \(seed: 0 there, 1 here, other f_a\)"):
        RunFolder(tmp_path / "run", "g").claim(other, restart=False)
    RunFolder(tmp_path / "run", "f").get("A", 0, chunk)
    RunFolder(tmp_path / "run", "g").claim(other, restart=True)
    assert [path.name for path in (tmp_path / "run" / "chunks").iterdir()] == []
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["seed"] == 1


def test_an_attacked_image_is_read_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "f")
    for first in (0, 2):
        folder.get("PGD: 40", first, lambda first=first: chunk(first))  # type: ignore[misc]
    for image in range(4):
        expected = chunk(image - image % 2).attacked[image % 2]
        assert torch.equal(read_attacked(tmp_path, "PGD: 40", 2, image), expected)


# ---- fingerprints


def test_fingerprint_notices_everything() -> None:
    settings: dict[str, Any] = {"seed": 0, "threat": {"eps": 0.1}}
    base = fingerprint(settings)
    assert base == fingerprint({"threat": {"eps": 0.1}, "seed": 0})
    others = [fingerprint({**settings, "seed": 1}), fingerprint({**settings, "threat": {"eps": 0.2}})]
    assert len({base, *others}) == 3


def test_hashes_of_tensors_notice_everything() -> None:
    x, w = torch.rand(2, 1, 2, 2, generator=seeded(0)), torch.rand(3, generator=seeded(1))
    base = tensors_sha256([x, w])
    assert base == tensors_sha256([x.clone(), w.clone()])
    nudged = x.clone()
    nudged[1, 0, 1, 1] += 1e-6
    others = [
        tensors_sha256(tensors)
        for tensors in ([nudged, w], [x, w.flip(0)], [x.view(1, 2, 2, 2), w], [x, w.view(torch.int32)], [x], [w, x])
    ]
    assert len({base, *others}) == len(others) + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool])
def test_hash_of_any_type(dtype: torch.dtype) -> None:
    ones, scalar = torch.ones(3, dtype=dtype), torch.ones((), dtype=dtype)
    assert tensors_sha256([ones, scalar]) != tensors_sha256([ones, torch.zeros_like(scalar)])


def test_hash_of_channels_last_is_that_of_the_same_numbers() -> None:
    x = torch.rand(2, 3, 4, 4, generator=seeded(0))
    assert tensors_sha256([x]) == tensors_sha256([x.contiguous(memory_format=torch.channels_last)])
