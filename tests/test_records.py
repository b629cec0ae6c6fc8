"""Records: JSON whole or not at all, chunks kept for the evaluation they belong to, fingerprints that notice all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from art_advtransform import records
from art_advtransform.counting import count
from art_advtransform.records import AttackResult, Chunk, ChunkStore, Evaluation, environment, fingerprint
from tests.problems import seeded


def result(name: str, seed: int) -> AttackResult:
    predicted = torch.randint(0, 3, (6, 12), generator=seeded(seed))
    counted = count(predicted, torch.zeros(6, dtype=torch.int64))
    return AttackResult.counted(name, "white box", "art", counted, forward=3.5, backward=2.0, seconds=0.25)


def evaluation() -> Evaluation:
    failed = AttackResult("C", "black box", "foolbox", "failed: ValueError: no start")
    settings = {"seed": 0, "threat": {"eps": 8 / 255}, "transform": None}
    return Evaluation(
        settings, result("no attack", 0), [result("A", 1), failed], result("worst", 2), ["A", "no attack"]
    )


# ---- the JSON record


def test_roundtrip(tmp_path: Path) -> None:
    original = evaluation()
    saved = original.save(tmp_path / "new" / "evaluation.json")
    assert saved == replace(original, path=tmp_path / "new" / "evaluation.json")
    assert Evaluation.load(tmp_path / "new" / "evaluation.json") == saved
    assert saved.attacks[0].mean is not None
    assert saved.attacks[0].forward == 3.5
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["evaluation.json"]


def test_what_is_counted_is_recorded() -> None:
    predicted = torch.randint(0, 3, (6, 12), generator=seeded(1))
    counted = count(predicted, torch.zeros(6, dtype=torch.int64))
    found = result("A", 1)
    assert (found.mean, found.majority, found.any) == (counted.mean, counted.majority, counted.any)
    assert found.per_image == counted.per_image.tolist()
    assert found.problem == ""


def _without_attacks(path: Path) -> None:
    raw = json.loads(path.read_text())
    del raw["attacks"]
    path.write_text(json.dumps(raw))


def _with_another_field(path: Path) -> None:
    raw = json.loads(path.read_text())
    raw["clean"]["luck"] = 1
    path.write_text(json.dumps(raw))


def _cut_short(path: Path) -> None:
    path.write_text(path.read_text()[:200])


def _a_list(path: Path) -> None:
    path.write_text("[1, 2]")


@pytest.mark.parametrize("damage", [_without_attacks, _with_another_field, _cut_short, _a_list])
def test_damaged_record(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    evaluation().save(path)
    damage(path)
    with pytest.raises(ValueError, match=r"damaged record .*evaluation\.json"):
        Evaluation.load(path)


def test_missing_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Evaluation.load(tmp_path / "evaluation.json")


def test_a_record_that_can_not_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    saved = evaluation().save(tmp_path / "evaluation.json")
    with pytest.raises(ValueError, match="JSON"):
        replace(evaluation(), settings={"eps": float("nan")}).save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == saved


# ---- chunks


def chunk(seed: int = 0) -> Chunk:
    classes = torch.randint(0, 3, (2, 5), generator=seeded(seed))
    return Chunk(torch.rand(2, 1, 3, 3, generator=seeded(seed)), classes, classes.flip(1), 40, 20, 1.5)


def same(a: Chunk, b: Chunk) -> bool:
    tensors = all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("attacked", "selection", "scoring"))
    return tensors and (a.forward, a.backward, a.seconds) == (b.forward, b.backward, b.seconds)


def never() -> Chunk:
    raise AssertionError("a stored chunk was made again")


def test_a_chunk_is_made_once(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "chunks", "f")
    assert same(store.get("PGD: 40 / 2", 50, chunk), chunk())
    assert same(ChunkStore(tmp_path / "chunks", "f").get("PGD: 40 / 2", 50, never), chunk())
    assert [path.name for path in (tmp_path / "chunks").iterdir()] == ["pgd-40-2-00050.safetensors"]
    # another attack, another chunk and another evaluation are others
    assert same(store.get("PGD: 40 / 3", 50, lambda: chunk(1)), chunk(1))
    assert same(store.get("PGD: 40 / 2", 100, lambda: chunk(2)), chunk(2))
    assert same(ChunkStore(tmp_path / "chunks", "g").get("PGD: 40 / 2", 50, lambda: chunk(3)), chunk(3))
    assert same(store.get("PGD: 40 / 3", 50, never), chunk(1))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _rubbish(path: Path) -> None:
    path.write_bytes(b"rubbish")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _rubbish, _empty])
def test_a_damaged_chunk_is_made_again(damage: Callable[[Path], None], tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, "f")
    store.get("A", 0, chunk)
    damage(tmp_path / "a-00000.safetensors")
    assert same(store.get("A", 0, lambda: chunk(1)), chunk(1))
    assert same(store.get("A", 0, never), chunk(1))


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ChunkStore(tmp_path, "f")

    def disk_full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(records, "save_file", disk_full)
        with pytest.raises(OSError, match="disk full"):
            store.get("A", 0, chunk)
    assert not (tmp_path / "a-00000.safetensors").exists()
    assert same(store.get("A", 0, lambda: chunk(1)), chunk(1))


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = ChunkStore(None, "f")
    assert same(store.get("A", 0, chunk), chunk())
    assert same(store.get("A", 0, lambda: chunk(1)), chunk(1))
    assert list(tmp_path.iterdir()) == []


# ---- fingerprints


def test_fingerprint_notices_everything() -> None:
    settings: dict[str, Any] = {"seed": 0, "threat": {"eps": 0.1}}
    x, w = torch.rand(2, 1, 2, 2, generator=seeded(0)), torch.rand(3, generator=seeded(1))
    base = fingerprint(settings, [x, w])
    assert base == fingerprint({"threat": {"eps": 0.1}, "seed": 0}, [x.clone(), w.clone()])
    nudged = x.clone()
    nudged[1, 0, 1, 1] += 1e-6
    others = [
        fingerprint({**settings, "seed": 1}, [x, w]),
        fingerprint({**settings, "threat": {"eps": 0.2}}, [x, w]),
        fingerprint(settings, [nudged, w]),
        fingerprint(settings, [x, w.flip(0)]),
        fingerprint(settings, [x.view(1, 2, 2, 2), w]),
        fingerprint(settings, [x, w.view(torch.int32)]),
        fingerprint(settings, [x]),
        fingerprint(settings, [w, x]),
    ]
    assert len({base, *others}) == len(others) + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool])
def test_fingerprint_of_any_type(dtype: torch.dtype) -> None:
    ones, scalar = torch.ones(3, dtype=dtype), torch.ones((), dtype=dtype)
    assert fingerprint({}, [ones, scalar]) != fingerprint({}, [ones, torch.zeros_like(scalar)])


def test_fingerprint_of_channels_last_is_that_of_the_same_numbers() -> None:
    x = torch.rand(2, 3, 4, 4, generator=seeded(0))
    assert fingerprint({}, [x]) == fingerprint({}, [x.contiguous(memory_format=torch.channels_last)])


def test_environment() -> None:
    found = environment(torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]  # the wheel names the build behind a "+"
    assert {"art-advtransform", "numpy", "adversarial-robustness-toolbox"} <= set(found["versions"])
    assert all(found["versions"].values())
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
