"""What would break on a GPU, as far as a CPU can tell: who asks for which device, and what is held, moved and written."""

from __future__ import annotations

import copy
import pickle
import weakref
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from art_advtransform import runs, shards, training
from art_advtransform.adapters.art_defence import AdversarialTransform
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.evolution import evolution_strategy
from art_advtransform.attacks.flatness import flat_transfer
from art_advtransform.attacks.foolbox_attacks import gen_attack
from art_advtransform.attacks.student import student
from art_advtransform.attacks.torchattacks_attacks import spsa
from art_advtransform.config import TransformConfig
from art_advtransform.datasets import load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnostics import CRASHED, diagnose
from art_advtransform.evaluation import evaluate
from art_advtransform.expectation import expected_g
from art_advtransform.frozen import FrozenModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.losses import defended_loss, imitation_loss, plain_loss
from art_advtransform.networks import FCN
from art_advtransform.options import device_of
from art_advtransform.pretrained import load_pretrained
from art_advtransform.records import environment
from art_advtransform.training import fit
from tests.cases import digits_case, status
from tests.evaluations import THREAT, X, Y
from tests.models import RECIPE, defended, digits_target, toy, toy_net
from tests.problems import conv_net, images, seeded, start_for


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch says that there is one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


# ---- devices


def test_apples_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="expected cpu or cuda, got mps: Apple's GPU has no float64"):
        device_of("mps")


def test_images_are_expected_where_f_a_is() -> None:
    f_a = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).to("meta")
    with pytest.raises(ValueError, match="expected images on f_a's device, meta, got them on cpu"):
        evaluate(DefendedModel(f_a, None), X, Y, "smoke", THREAT)


def test_records_name_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rounds as the other does not."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert environment(torch.device("cuda"))["device"] == "cuda Tesla T4"
    assert environment(torch.device("cpu"))["device"] == "cpu"


@pytest.mark.parametrize("loss", [defended_loss, imitation_loss])
def test_g_is_brought_to_the_images_of_the_training(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here, asked = LLPGDTransform(toy_net(5), TransformConfig(max_iter=2)), []
    far = copy.deepcopy(here).to("meta")

    def brought(self: LLPGDTransform, device: torch.device) -> LLPGDTransform:
        asked.append((self, device))
        return here

    monkeypatch.setattr(LLPGDTransform, "to", brought)
    data = toy(8)
    model = toy_net() if loss is defended_loss else FCN(data.x.shape[1], here.config.eps, 2, 1)
    found, expected = (loss(g)(model.eval(), data.x, data.y, seeded(0)) for g in (far, here))
    assert asked == [(far, torch.device("cpu"))]  # and not where it is there already
    assert torch.equal(found, expected)


def test_a_program_s_default_device_is_no_concern_of_what_draws() -> None:
    """As `torch.set_default_device("cuda")` sets it: what is made on it by mistake meets what is not."""
    target, data, recipe = digits_target(defended(), 4), toy(), replace(RECIPE, nb_epochs=1)
    attacks = [flat_transfer(2, 2), student(1, 4, 2, 1), evolution_strategy(2, 8), spsa(1, 4), gen_attack(2, 4)]
    options: dict[str, Any] = {
        "threat": target.threat,
        "nb_draws": 4,
        "nb_selection_draws": 2,
        "nb_confirmation_draws": 2,
        "surrogates": target.surrogates,
    }
    g, case = LLPGDTransform(load_pretrained("digits/f_b-adversarial")), digits_case(n=2)

    def run(net: nn.Module) -> list[Any]:
        losses = fit(net, data, plain_loss, recipe)
        evaluation = evaluate(target.defended, target.x, target.y, attacks, **options)
        assert not evaluation.missing
        images = load_dataset("digits").sample(4).x
        with target.defended.frozen(5), torch.no_grad():
            logits = target.defended(images)
        shares = [attack.per_image for attack in evaluation.attacks]
        assert not diagnose(case, [15])[15].reason.startswith(CRASHED)
        return [losses, shares, logits.tolist(), expected_g(g, images, 2).tolist()]

    first, second = toy_net(), toy_net()
    usual = run(first)
    with torch.device("meta"):
        assert run(second) == usual


def test_f_b_is_folded_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's square root is another: f_b would be another net, with another hash, by where it was frozen."""

    class Elsewhere(nn.Sequential):
        def cpu(self) -> Elsewhere:
            where.append("cpu")
            return super().cpu()

    def fused(*args: Any, **options: Any) -> nn.Module:
        where.append("fuse")
        return fuse(*args, **options)

    where: list[str] = []
    monkeypatch.setattr("art_advtransform.folding.fuse", fused)
    net = Elsewhere(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    assert FrozenModel(net).optimised
    assert where == ["cpu", "fuse"]


class Rounded(nn.Module):
    """As a GPU: its rounding depends on the size of the batch; none in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.net = load_pretrained("digits/undefended")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits if x.dtype == torch.float64 else logits * (1 + 1e-2 * len(x))


def test_rounding_is_no_dependence_on_the_batch() -> None:
    assert status(digits_case(DefendedModel(Rounded(), None).eval()), 1) == "pass"


# ---- processes


@pytest.mark.usefixtures("gpu")
def test_processes_exchange_objects_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(shards, "PartialState", lambda **options: asked.update(options))
    monkeypatch.setenv("WORLD_SIZE", "2")
    shards.Shards()
    assert asked == {"cpu": False, "timeout": timedelta(days=7), "backend": "cuda:nccl,cpu:gloo"}


@pytest.mark.parametrize("there_is_one", [False, True])
def test_what_training_asks_accelerate_for(there_is_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never Apple's GPU; and an evaluation in the same program may wait longer than NCCL's ten minutes."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is_one)
    monkeypatch.setattr(training, "Accelerator", lambda **options: asked.update(options))
    training.start_accelerator()
    assert asked["cpu"] is not there_is_one
    assert [handler.timeout for handler in asked["kwargs_handlers"]] == [timedelta(days=7)]


def test_a_step_does_not_wait_for_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Tensor] = []
    item = Tensor.item

    def noted(self: Tensor) -> Any:
        read.append(self)
        return item(self)

    monkeypatch.setattr(Tensor, "item", noted)
    losses = training.fit(toy_net(), toy(), plain_loss, RECIPE)
    assert len(losses) == RECIPE.nb_epochs
    assert read == []


# ---- memory and pickles


def test_a_chunk_that_fails_leaves_nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a chunk that was out of memory would take the next ones with it."""
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def hungry(target: Target, model: DefendedModel) -> Tensor:
        alive.append(sum(ref() is not None for ref in made))
        big = torch.zeros(1000)
        made.append(weakref.ref(big))
        if len(made) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return target.x

    monkeypatch.setattr(runs.logger, "disabled", True)  # pytest keeps what is logged, with its traceback
    model = DefendedModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), None)
    result = evaluate(model, X, Y, [Attack("hungry", hungry)], THREAT, chunk_size=5)
    assert "OutOfMemoryError" in result.attacks[0].problem
    assert alive == [0] * len(alive)
    assert len(alive) > 1


def test_private_generators_are_not_pickled() -> None:
    """One of a GPU can't be read where there is none."""
    for private in (True, False):
        generator = None if private else seeded(3)
        g = LLPGDTransform(conv_net(), generator=generator)
        defence = AdversarialTransform(conv_net(), generator=generator, device_type="cpu")
        for held in (g.__getstate__(), defence.__getstate__()):
            assert any(isinstance(value, torch.Generator) for value in held.values()) is not private
            assert not any(isinstance(value, LLPGDTransform) for value in held.values())
        x = images(2)
        again = pickle.loads(pickle.dumps(defence))
        assert torch.equal(again.transform(x, start_for(x)), g(x, start_for(x)))
        assert again.transform.generator is again.generator
