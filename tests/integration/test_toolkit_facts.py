"""Habits of the toolkits that this package has to live with: each is shown, and that the package copes where it has to."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import eagerpy as ep
import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import (
    BasicIterativeMethod,
    BoundaryAttack,
    CarliniLInfMethod,
    DeepFool,
    MomentumIterativeMethod,
)
from art.preprocessing.expectation_over_transformation.pytorch import EoTPyTorch
from foolbox.criteria import TargetedMisclassification
from foolbox.gradient_estimators import es_gradient_estimator
from torch import Tensor

from art_advtransform import DefendedModel, LLPGDTransform, TransformConfig, pretrained
from art_advtransform.gradients import Evolution
from art_advtransform.randomness import global_seed
from art_advtransform.transform import target_class
from tests.integration.art_setup import art_classifier, defence, eot_defence, one_hot
from tests.integration.nets import CLASSES, CONFIG, Problem, problem, query_limit, seeded

EPS = 0.1

fb: Any = pytest.importorskip("foolbox")


@pytest.fixture
def task() -> Problem:
    return problem(n=4)


# ---- ART


@pytest.mark.parametrize("attack", [BasicIterativeMethod, MomentumIterativeMethod])
def test_bim_and_mim_stay_in_torch(attack: Any, task: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, kinds = art_classifier(task.f_a, defence(task.f_b)), _kinds_given_to_gradients(monkeypatch)
    attacked = attack(classifier, eps=EPS, eps_step=EPS / 2, max_iter=3, verbose=False).generate(
        task.x.numpy(), one_hot(task.y)
    )
    assert kinds == {torch.Tensor}
    assert float(np.abs(attacked - task.x.numpy()).max()) == pytest.approx(EPS, abs=1e-6)


@pytest.mark.parametrize("attack", [DeepFool, CarliniLInfMethod])
def test_deep_fool_and_carlini_wagner_go_through_numpy(
    attack: Any, task: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, kinds = art_classifier(task.f_a, defence(task.f_b)), _kinds_given_to_gradients(monkeypatch)
    attacked = attack(classifier, max_iter=2, verbose=False).generate(task.x.numpy())
    assert kinds == {np.ndarray}
    assert attacked.shape == task.x.shape


def _kinds_given_to_gradients(monkeypatch: pytest.MonkeyPatch) -> set[type]:
    """What ART's loss_gradient and class_gradient are called with from now on."""
    from art.estimators.classification import PyTorchClassifier

    kinds: set[type] = set()
    for name in ("loss_gradient", "class_gradient"):
        original = getattr(PyTorchClassifier, name)

        def recorded(self: Any, x: Any, *args: Any, original: Any = original, **options: Any) -> Any:
            kinds.add(type(x))
            return original(self, x, *args, **options)

        monkeypatch.setattr(PyTorchClassifier, name, recorded)
    return kinds


def test_boundary_attack_promotes_to_float64_and_the_undefended_baseline_copes_too(task: Problem) -> None:
    config = TransformConfig(max_iter=2, random_start=False)
    options = {"max_iter": 3, "num_trial": 5, "sample_size": 5, "init_size": 50, "targeted": False, "verbose": False}
    for model in (DefendedModel(task.f_a, LLPGDTransform(task.f_b, config)), DefendedModel(task.f_a, None)):
        seen: set[torch.dtype] = set()
        handle = model.register_forward_pre_hook(lambda _, args, seen=seen: seen.add(args[0].dtype))
        with global_seed(0):
            attacked = BoundaryAttack(art_classifier(model.eval()), **options).generate(task.x.numpy())
        handle.remove()
        assert torch.float64 in seen
        assert attacked.shape == task.x.shape
    with pytest.raises(RuntimeError, match="should be the same"), global_seed(0):
        BoundaryAttack(art_classifier(task.f_a), **options).generate(task.x.numpy())


def test_arts_own_eot_multiplies_rows_in_predict_and_ours_does_not(task: Problem) -> None:
    class Eot(EoTPyTorch):  # type: ignore[misc]
        def _transform(self, x: Tensor, y: Any, **options: Any) -> tuple[Tensor, Any]:
            return LLPGDTransform(task.f_b, CONFIG)(x), y

    theirs = art_classifier(task.f_a, Eot(3, (0.0, 1.0)))
    ours = art_classifier(task.f_a, eot_defence(task.f_b, 3))
    assert len(theirs.predict(task.x.numpy())) == 3 * len(task.x)
    assert len(ours.predict(task.x.numpy())) == len(task.x)


# ---- Foolbox


def test_gen_attack_stops_early_only_when_the_whole_batch_has_succeeded(task: Problem) -> None:
    model = fb.PyTorchModel(DefendedModel(task.f_a, None).eval(), bounds=(0, 1), device="cpu")
    there, elsewhere = task.y, (task.y + 1) % CLASSES
    calls = []
    for targets in (there, torch.cat([there[:3], elsewhere[3:]])):
        attack = fb.attacks.GenAttack(steps=15, population=4)
        with query_limit(task.f_a, 10**6) as seen, global_seed(0):
            attack(model, task.x, TargetedMisclassification(targets), epsilons=1e-4)
        calls.append(len(seen))
    assert calls[0] <= 5
    assert calls[1] > 15


def test_foolboxs_evolution_gradients_leak_between_images_and_ours_do_not(task: Problem) -> None:
    transform = LLPGDTransform(task.f_b, CONFIG, gradient=Evolution(nb_samples=2, generator=seeded(1)))
    other = torch.cat([task.x[:1], task.x[1:].flip(3)])
    estimator: Any = es_gradient_estimator(fb.attacks.LinfPGD, samples=4, sigma=0.1, bounds=(0, 1), clip=False)
    plain = fb.PyTorchModel(DefendedModel(task.f_a, None).eval(), bounds=(0, 1), device="cpu")
    theirs, ours = [], []
    for x in (task.x, other):
        attack = estimator(steps=1)
        loss = attack.get_loss_fn(plain, ep.astensor(task.y))
        with global_seed(0):
            theirs.append(attack.value_and_grad(loss, ep.astensor(x))[1].raw[0])
        transform.gradient = Evolution(nb_samples=2, generator=seeded(1))
        leaf = x.clone().requires_grad_()
        transform(leaf, torch.zeros_like(x)).square().sum().backward()
        assert leaf.grad is not None
        ours.append(leaf.grad[0])
    assert not torch.allclose(theirs[0], theirs[1])
    torch.testing.assert_close(ours[0], ours[1])


# ---- torchattacks


def test_torchattacks_pins_an_old_requests_so_that_it_is_an_extra_of_ours() -> None:
    theirs = importlib.metadata.requires("torchattacks") or []
    assert any(line.startswith("requests") and "2.25" in line for line in theirs)
    ours = [line for line in importlib.metadata.requires("art-advtransform") or [] if line.startswith("torchattacks")]
    assert ours
    assert all("extra ==" in line for line in ours)


def test_fab_reseeds_the_global_generator_and_the_draws_stay_fresh(task: Problem) -> None:
    def fab(model: DefendedModel) -> None:
        torchattacks.FAB(model, eps=EPS, steps=1, n_restarts=1, n_classes=CLASSES, seed=0)(task.x, task.y)

    after, starts = [], []
    for seed in (1, 2):
        with global_seed(seed):
            fab(DefendedModel(task.f_a, None).eval())
            after.append(torch.rand(3))
            defended = DefendedModel(task.f_a, LLPGDTransform(task.f_b, CONFIG)).eval()
            assert defended.transform is not None
            fab(defended)
            starts.append(defended.transform.draw_start(task.x))
    assert torch.equal(*after)
    assert not torch.equal(*starts)


# ---- everywhere


def test_the_authors_checkpoint_needs_map_location_and_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def load(path: Path, **options: Any) -> Any:
        seen.append(options)
        return {}

    (tmp_path / "vgg0_adv.pth").write_bytes(b"")
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(ValueError, match="is not the authors' f_b checkpoint"):
        pretrained.load_reference_checkpoint(tmp_path / "vgg0_adv.pth")
    assert seen == [{"map_location": "cpu", "weights_only": True}]


def test_accelerate_launch_gives_one_process_on_a_cpu_where_torchrun_gives_two(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text("from accelerate import Accelerator; print(Accelerator(cpu=True).num_processes)")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    ended = subprocess.run([*launch, str(tmp_path / "count.py")], capture_output=True, text=True, check=True)
    # tests/test_processes.py starts ours by torchrun, and sees two
    assert ended.stdout.split() == ["1"]


def test_the_label_is_chosen_within_inference_mode(task: Problem) -> None:
    with torch.inference_mode():
        y = target_class(task.f_b.eval(), task.x)
    assert torch.equal(y, task.f_b(task.x).argmin(1))
