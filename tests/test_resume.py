"""A training that is killed and started again ends with the very weights of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from art_advtransform import checkpoint, training
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.layer import LLPGDTransform
from art_advtransform.losses import adversarial_loss, defended_loss, plain_loss
from art_advtransform.training import OnEpoch, fit
from tests.models import RECIPE, same_weights, toy, toy_net

ROOT = Path(__file__).parent.parent
RECIPE_WITHOUT_MOMENTUM = replace(RECIPE, momentum=0.0)


def stop_after(epoch: int) -> OnEpoch:
    def on_epoch(done: int, total: int, loss: float) -> None:
        if done == epoch:
            raise KeyboardInterrupt

    return on_epoch


def uninterrupted(recipe: training.Recipe = RECIPE) -> tuple[nn.Module, list[float]]:
    net = toy_net()
    return net, fit(net, toy(), plain_loss, recipe)


def interrupt(path: Path, epoch: int = 2, recipe: training.Recipe = RECIPE) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(toy_net(), toy(), plain_loss, recipe, checkpoint=path, on_epoch=stop_after(epoch))


@pytest.mark.parametrize("recipe", [RECIPE, RECIPE_WITHOUT_MOMENTUM], ids=["momentum", "no momentum"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_and_resumed(epoch: int, recipe: training.Recipe, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "net.safetensors"
    interrupt(path, epoch, recipe)
    expected, losses = uninterrupted(recipe)
    resumed, epochs = toy_net(seed=1), []  # other weights: all that counts comes from the file
    assert fit(resumed, toy(), plain_loss, recipe, checkpoint=path, on_epoch=lambda *e: epochs.append(e[0])) == losses
    assert epochs == list(range(epoch + 1, 5))
    assert same_weights(resumed, expected)
    assert not resumed.training


@pytest.mark.parametrize("kind", ["adversarial", "defended"])
def test_losses_that_draw_go_on_with_their_draws(kind: str, tmp_path: Path) -> None:
    g = LLPGDTransform(toy_net(5), TransformConfig(max_iter=2))
    loss = adversarial_loss(ThreatModel(0.1), 2) if kind == "adversarial" else defended_loss(g)
    path, resumed, expected = tmp_path / "net.safetensors", toy_net(seed=1), toy_net()
    with pytest.raises(KeyboardInterrupt):
        fit(toy_net(), toy(), loss, RECIPE, checkpoint=path, on_epoch=stop_after(2))
    assert fit(resumed, toy(), loss, RECIPE, checkpoint=path) == fit(expected, toy(), loss, RECIPE)
    assert same_weights(resumed, expected)
    assert not same_weights(resumed, uninterrupted()[0])


def test_a_checkpoint_changes_nothing(tmp_path: Path) -> None:
    net, (expected, losses) = toy_net(), uninterrupted()
    assert fit(net, toy(), plain_loss, RECIPE, checkpoint=tmp_path / "net.safetensors") == losses
    assert same_weights(net, expected)


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    losses = fit(toy_net(), toy(), plain_loss, RECIPE, checkpoint=path)

    def never(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        raise AssertionError("a finished net was trained")

    again = toy_net(seed=1)
    assert fit(again, toy(), never, RECIPE, checkpoint=path) == losses
    assert same_weights(again, uninterrupted()[0])


KILLED = """
import os, signal, sys
from art_advtransform.losses import plain_loss
from art_advtransform.training import fit
from tests.models import RECIPE, toy, toy_net

batches = 0

def loss(*arguments):
    global batches
    batches += 1
    if batches == 8:  # the second batch of the third epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return plain_loss(*arguments)

fit(toy_net(), toy(), loss, RECIPE, checkpoint=sys.argv[1])
"""


def test_killed_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    threads = str(torch.get_num_threads())  # sums of another number of threads may round otherwise
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env=environment, capture_output=True, timeout=120, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    resumed, epochs = toy_net(seed=1), []
    expected, losses = uninterrupted()
    assert fit(resumed, toy(), plain_loss, RECIPE, checkpoint=path, on_epoch=lambda *e: epochs.append(e[0])) == losses
    assert epochs == [3, 4]
    assert same_weights(resumed, expected)


# ---- the file


def test_the_checkpoint_is_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    interrupt(path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    with safe_open(path, framework="pt") as file:  # refuses anything but safetensors
        names = set(file.keys())
    assert {f"model.{name}" for name in toy_net().state_dict()} < names
    assert {f"momentum.{i}" for i in range(len(list(toy_net().parameters())))} < names


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    interrupt(path, epoch=1)

    def disk_full(tensors: dict[str, Tensor], target: Path, metadata: dict[str, str]) -> None:
        Path(target).write_bytes(b"half of it")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", disk_full)
        with pytest.raises(OSError, match="disk full"):
            fit(toy_net(), toy(), plain_loss, RECIPE, checkpoint=path)
    resumed = toy_net(seed=1)
    fit(resumed, toy(), plain_loss, RECIPE, checkpoint=path)
    assert same_weights(resumed, uninterrupted()[0])


@pytest.mark.parametrize("changes", [{"learning_rate": 0.04}, {"nb_epochs": 5}, {"seed": 4}])
def test_checkpoint_of_another_recipe(changes: dict[str, float], tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    interrupt(path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"net\.safetensors was made with another recipe; delete it"):
        fit(toy_net(), toy(), plain_loss, replace(RECIPE, **changes), checkpoint=path)  # type: ignore[arg-type]
    assert path.read_bytes() == content


def test_checkpoint_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    interrupt(path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    with pytest.raises(ValueError, match=r"net\.safetensors is of another network; delete it"):
        fit(other, toy(), plain_loss, RECIPE, checkpoint=path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _rubbish(path: Path) -> None:
    path.write_bytes(os.urandom(1000))


@pytest.mark.parametrize("damage", [_truncate, _empty, _rubbish])
def test_damaged_checkpoint(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    interrupt(path)
    damage(path)
    with pytest.raises(ValueError, match=r"damaged checkpoint .*net\.safetensors: .*delete it to start anew"):
        fit(toy_net(), toy(), plain_loss, RECIPE, checkpoint=path)


def test_weights_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.zeros(2)}, path)  # a safetensors file, but not of ours
    with pytest.raises(ValueError, match="another recipe"):
        fit(toy_net(), toy(), plain_loss, RECIPE, checkpoint=path)
