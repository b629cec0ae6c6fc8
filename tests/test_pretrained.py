"""Weights on disk: whole or not at all, checked before they are used, never unpickled."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from art_advtransform import pretrained
from art_advtransform.datasets import digits
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.networks import ResNet18, SmallVGG
from art_advtransform.pretrained import (
    BUNDLED,
    bundled_names,
    load_network,
    load_pretrained,
    read_card,
    round_to_half,
    save_pretrained,
)
from tests.problems import images, randomised, seeded

X = images(2, (1, 8, 8), dtype=torch.float32)


def small_net(seed: int = 0) -> nn.Module:
    return randomised(SmallVGG(3, 1, 8, widths=(2, 3, 4, 5), hidden=6), seed, torch.float32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_pretrained(small_net(), tmp_path / "net", {"accuracy": 0.5})


def test_roundtrip(saved: Path) -> None:
    for name in (saved, str(saved), saved / "model.safetensors"):
        loaded = load_pretrained(name)
        assert type(loaded) is SmallVGG
        assert not loaded.training
        assert torch.equal(loaded(X), small_net()(X))


def test_half_precision_halves_matrices_and_kernels_alone(saved: Path) -> None:
    net, path = small_net(), saved / "model.safetensors"
    whole = path.stat().st_size
    save_pretrained(net, saved, {}, half=True)
    assert path.stat().st_size < 0.8 * whole  # most of so small a net is names and vectors
    kept, exact = load_file(path), net.state_dict()
    assert {v.dtype for v in kept.values() if v.ndim >= 2} == {torch.float16}
    assert all(torch.equal(v, exact[k]) for k, v in kept.items() if v.ndim < 2)
    loaded = load_pretrained(saved)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not torch.equal(loaded(X), net(X))
    round_to_half(net)
    assert torch.equal(loaded(X), net(X))
    assert read_card(saved)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_card(saved: Path) -> None:
    sha256 = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    assert read_card(saved) == {"architecture": "SmallVGG", "accuracy": 0.5, "sha256": sha256}


def test_saving_replaces_what_was_there(saved: Path) -> None:
    save_pretrained(ResNet18(2, 1, width=2), saved, {"accuracy": 0.75})
    assert type(load_pretrained(saved)) is ResNet18
    assert read_card(saved)["accuracy"] == 0.75
    assert {file.name for file in saved.parent.iterdir()} == {"net"}  # nothing temporary stays


def test_only_networks_that_can_be_made_again_are_saved(tmp_path: Path) -> None:
    class SmallVGG(nn.Module):
        """Another class of that name."""

    for wrong in (nn.Linear(2, 2), SmallVGG()):
        with pytest.raises(TypeError, match=r"^expected one of SmallVGG, ResNet18, FCN, got (Linear|SmallVGG)$"):
            save_pretrained(wrong, tmp_path / "net", {})
    assert not (tmp_path / "net").exists()


def failing_replace(at: str) -> Callable[[Path, Path], Path]:
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == at:
            raise OSError("disk full")
        return replace(self, target)

    return fail


@pytest.mark.parametrize("at", ["config.json", "model.safetensors", "card.json"])
@pytest.mark.parametrize("before", [False, True])
def test_a_failure_in_the_middle_leaves_no_card(
    at: str, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "net"
    if before:
        save_pretrained(small_net(), folder, {})
    monkeypatch.setattr(Path, "replace", failing_replace(at))
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(small_net(1), folder, {})
    monkeypatch.undo()
    assert not (folder / "card.json").exists()
    with pytest.raises(FileNotFoundError, match="no weights"):
        load_pretrained(folder)
    assert {file.name for file in tmp_path.iterdir()} == {"net"}
    save_pretrained(small_net(1), folder, {})
    assert torch.equal(load_pretrained(folder)(X), small_net(1)(X))


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(pretrained, "_sha256", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(small_net(), tmp_path / "net", {})
    assert not list((tmp_path / "net").iterdir())


# ---- damage


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def no_sha(folder: Path) -> None:
    (folder / "card.json").write_text('{"architecture": "SmallVGG"}')


def other_architecture(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "architecture": "ResNet18"}))


def unknown_architecture(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "architecture": "VGG19"}))


def garbage_with_its_sha(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"garbage")
    sha256 = hashlib.sha256(b"garbage").hexdigest()
    (folder / "card.json").write_text(json.dumps({"architecture": "SmallVGG", "sha256": sha256}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "the sha256 of the weights is not the card's"),
        (truncate, "the sha256 of the weights is not the card's"),
        (no_sha, "sha256"),
        (other_architecture, "unexpected keyword argument"),
        (unknown_architecture, "unknown architecture 'VGG19'; known: SmallVGG, ResNet18, FCN"),
        (garbage_with_its_sha, "header"),
        (lambda folder: (folder / "model.safetensors").unlink(), "No such file or directory"),
        (lambda folder: (folder / "config.json").unlink(), "No such file or directory"),
        (lambda folder: (folder / "config.json").write_text("{"), "Expecting property name"),
        (lambda folder: (folder / "config.json").write_text('{"nb_classes": 4}'), "size mismatch"),
        (lambda folder: (folder / "card.json").write_text("[]"), "list indices must be"),
        (lambda folder: (folder / "card.json").write_text(""), "Expecting value"),
    ],
)
def test_damage_is_told(saved: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(saved)
    with pytest.raises(ValueError, match=rf"(?s)^damaged weights in {saved}: .*{message}"):
        load_pretrained(saved)


# ---- names


def test_unknown_name_lists_the_bundled(tmp_path: Path) -> None:
    assert "digits/f_b-adversarial" in bundled_names()
    for name in ("digits/f_c", str(tmp_path), tmp_path / "model.safetensors"):
        with pytest.raises(FileNotFoundError) as caught:
            load_pretrained(name)
        assert str(name) in str(caught.value)
        assert all(bundled in str(caught.value) for bundled in bundled_names())
    with pytest.raises(FileNotFoundError, match="no weights 'digits/f_c'"):
        read_card("digits/f_c")


def test_missing_card(saved: Path) -> None:
    (saved / "card.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither a folder with card\.json nor a bundled net"):
        load_pretrained(saved)


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_nets_load(name: str, tmp_path: Path) -> None:
    loaded, card = load_pretrained(name), read_card(name)
    assert type(loaded).__name__ == card["architecture"]
    assert not loaded.training
    shutil.copytree(BUNDLED / name, tmp_path / "copy")
    elsewhere = load_pretrained(tmp_path / "copy")
    shape, nb_classes = {"tiny_imagenet": ((3, 64, 64), 200)}.get(card["dataset"], ((3, 32, 32), 10))
    x = X if card["dataset"] == "digits" else images(2, shape, dtype=torch.float32)
    inputs = (x, 0 * x) if card["architecture"] == "FCN" else (x,)
    assert torch.equal(elsewhere(*inputs), loaded(*inputs))
    assert loaded(*inputs).shape == (x.shape if card["architecture"] == "FCN" else (2, nb_classes))


def test_bundled_nets_take_little_room() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*")) < 30e6


@pytest.mark.parametrize("name", [n for n in bundled_names() if n.startswith("digits/") and "imitation" not in n])
def test_bundled_nets_are_as_good_as_their_card_says(name: str) -> None:
    card, test = read_card(name), digits("test")
    net = load_pretrained(name)
    defended = card["net"]["role"] == "defended"
    if defended:
        f_b = load_pretrained(f"digits/{card['net']['f_b']}")
        net = DefendedModel(net, LLPGDTransform(f_b, generator=seeded(0)))
    with torch.no_grad():
        accuracy = (net(test.x).argmax(1) == test.y).double().mean()
    # one draw of g moves the defended net's accuracy by about half a point
    assert float(accuracy) == pytest.approx(card["test_accuracy"], abs=0.02 if defended else 0.002)


def test_load_network_by_name() -> None:
    name = "digits/f_b-adversarial"
    assert torch.equal(load_network(name)(X), load_pretrained(name)(X))
    with pytest.raises(FileNotFoundError, match="no weights 'digits/f_c'"):
        load_network("digits/f_c")
    with pytest.raises(FileNotFoundError, match="no checkpoint at nowhere"):
        load_network("reference:nowhere")
