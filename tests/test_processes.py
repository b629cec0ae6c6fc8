"""Training in several processes, as torchrun starts them: the same batches, and as good a net."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from art_advtransform.losses import plain_loss
from art_advtransform.pretrained import read_card
from art_advtransform.training import Recipe, fit
from tests.models import RECIPE, Spy, toy, toy_net

ROOT = Path(__file__).parent.parent

# Two processes note what they are given; each writes a file.
SCRIPT = """
import shutil, sys
import torch
from safetensors.torch import save_file
from accelerate import PartialState
from art_advtransform.bank import TransformBank
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.layer import LLPGDTransform
from art_advtransform.losses import adversarial_loss, plain_loss, trades_loss
from art_advtransform.training import fit, start_accelerator
from tests.models import RECIPE, Spy, toy, toy_net
from tests.problems import seeded

torch.set_num_threads(1)
accelerator = start_accelerator()
rank, found = accelerator.process_index, {}
assert accelerator.num_processes == 2

spy = Spy(toy_net())
losses = fit(spy, toy(), plain_loss, RECIPE, checkpoint=sys.argv[1] + "/net.safetensors")
found["seen"] = torch.cat(spy.seen)
found["losses"] = torch.tensor(losses)
found.update({f"weights.{name}": value for name, value in spy.net.state_dict().items()})

# killed after two of four epochs, and gone on from there: examples are made by the statistics that a checkpoint has
attacked, whole, again = adversarial_loss(ThreatModel(0.1), 2), toy_net(), toy_net()
path, kept = (f"{sys.argv[1]}/{name}.safetensors" for name in ("whole", "killed"))
fit(whole, toy(), attacked, RECIPE, checkpoint=path, on_epoch=lambda n, *_: shutil.copy(path, kept) if n == 2 else None)
accelerator.wait_for_everyone()
fit(again, toy(), attacked, RECIPE, checkpoint=kept)
for name, net in (("whole", whole), ("again", again)):
    found.update({f"{name}.{key}": value for key, value in net.state_dict().items()})

for loss in (adversarial_loss(ThreatModel(0.1), 2), trades_loss(ThreatModel(0.1), 2)):
    fit(toy_net(), toy(), loss, RECIPE)

g = LLPGDTransform(toy_net(5), TransformConfig(max_iter=2), generator=seeded(0))
found["bank"] = TransformBank(g, toy(1200).x, 1, path=sys.argv[1] + "/bank.safetensors", accelerator=accelerator)(3)
save_file({k: v.contiguous() for k, v in found.items()}, f"{sys.argv[1]}/{rank}.safetensors")
accelerator.wait_for_everyone()
"""


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    ended = torchrun(str(folder / "script.py"), str(folder))
    assert ended.returncode == 0, ended.stderr
    assert (folder / "net.safetensors").is_file()
    assert (folder / "bank.safetensors").is_file()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def test_the_processes_share_the_batches_of_one(both: list[dict[str, Any]]) -> None:
    spy = Spy(toy_net())
    fit(spy, toy(), plain_loss, RECIPE)
    alone = torch.cat(spy.seen)
    shares = [found["seen"] for found in both]
    # row 0, 2, .. of a batch of 32 go to one process, row 1, 3, .. to the other
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), alone)


def test_the_processes_end_with_the_same_weights_and_loss(both: list[dict[str, Any]]) -> None:
    names = [name for name in both[0] if name.startswith("weights.")]
    initial = toy_net().state_dict()  # with the running statistics of batch norm
    assert {name.removeprefix("weights.") for name in names} == set(initial)
    for name in names:
        assert torch.equal(both[0][name], both[1][name])
        assert not torch.equal(both[0][name], initial[name.removeprefix("weights.")])
    assert torch.equal(both[0]["losses"], both[1]["losses"])
    assert both[0]["losses"][-1] < both[0]["losses"][0]


def test_a_killed_training_of_two_processes_ends_with_the_same_weights(both: list[dict[str, Any]]) -> None:
    names = [name.removeprefix("whole.") for name in both[0] if name.startswith("whole.")]
    assert set(names) == set(toy_net().state_dict())
    for name in names:
        assert torch.equal(both[0][f"whole.{name}"], both[0][f"again.{name}"])
        assert torch.equal(both[0][f"whole.{name}"], both[1][f"again.{name}"])


def test_the_processes_share_the_bank(both: list[dict[str, Any]]) -> None:
    from art_advtransform.bank import TransformBank
    from art_advtransform.config import TransformConfig
    from art_advtransform.layer import LLPGDTransform

    alone = TransformBank(LLPGDTransform(toy_net(5), TransformConfig(max_iter=2)), toy(1200).x, 1)(3)
    for found in both:
        # signs of gradients near zero may differ with the number of threads, here and there
        assert float((found["bank"] == alone).float().mean()) > 0.999


def test_a_net_of_two_processes_is_as_good(tmp_path: Path) -> None:
    ended = torchrun("-m", "art_advtransform", "train", "--net", "surrogate", "--out", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    card, alone = read_card(tmp_path / "surrogate"), read_card("digits/surrogate")
    assert card["test_images"] == 597
    assert abs(card["test_accuracy"] - alone["test_accuracy"]) < 0.015
    assert card["sha256"] != alone["sha256"]
    assert [path.name for path in tmp_path.iterdir()] == ["surrogate"]


def test_a_batch_that_does_not_divide(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from art_advtransform.losses import plain_loss\nfrom art_advtransform.training import Recipe, fit\n"
        "from tests.models import toy, toy_net\nfit(toy_net(), toy(), plain_loss, Recipe(1, batch_size=5))\n"
    )
    ended = torchrun(str(script))
    assert ended.returncode != 0
    assert "expected batch_size=5 to divide among 2 processes" in ended.stderr


def test_one_process_takes_any_batch() -> None:
    assert len(fit(toy_net(), toy(), plain_loss, Recipe(1, batch_size=5, crop_padding=0))) == 1
