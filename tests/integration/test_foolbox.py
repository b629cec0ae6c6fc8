"""FoolboxDefendedModel under Foolbox's stock attacks, unmodified."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform import DefendedModel, LLPGDTransform, TransformConfig
from art_advtransform.gradients import Evolution
from art_advtransform.randomness import global_seed
from tests.integration.nets import (
    CLASSES,
    CONFIG,
    SHAPE,
    Problem,
    TooManyQueriesError,
    images,
    inside,
    logits_at,
    problem,
    query_limit,
    seeded,
    starts,
    transformed,
)

fb = pytest.importorskip("foolbox", reason="foolbox is an extra: pip install art-advtransform[foolbox]")

import eagerpy as ep  # noqa: E402

from art_advtransform import FoolboxDefendedModel  # noqa: E402

EPS = 0.1
QUERIES = 4000


@pytest.fixture
def task() -> Problem:
    return problem(n=4)


def defended(task: Problem, seed: int = 0, **options: Any) -> FoolboxDefendedModel:
    transform = LLPGDTransform(task.f_b, CONFIG, generator=seeded(seed))
    return FoolboxDefendedModel(task.f_a, transform, device="cpu", **options)


class Scaled(nn.Module):
    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x) * self.factor
        return logits


class Normalised(nn.Module):
    """A net with its standardisation inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((x - 0.5) / 0.25)
        return logits


def test_outputs_are_log_probabilities_of_the_defended_model(task: Problem) -> None:
    outputs = defended(task)(task.x)
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(len(task.x)))
    expected = logits_at(task.f_a, transformed(task.f_b, task.x, starts(task.x, 0)[0]))
    torch.testing.assert_close(outputs, expected.log_softmax(1), rtol=1e-4, atol=1e-5)


def test_gradients_are_off_for_black_box_attacks_and_on_for_the_others(task: Problem) -> None:
    model = defended(task)
    assert model.data_format == "channels_first"
    assert model.bounds == (0, 1)
    enabled = []
    model.defended.register_forward_pre_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    assert not model(task.x).requires_grad
    assert model(task.x.clone().requires_grad_()).requires_grad
    assert enabled == [False, True]
    assert model.defended.queries.forward == 2 * len(task.x)


def test_preprocessing_of_foolbox_would_show_normalised_pixels_to_f_b(task: Problem) -> None:
    """Hence the adapter has no such option: it goes inside f_a, and f_b sees raw pixels."""
    with pytest.raises(TypeError, match="preprocessing"):
        FoolboxDefendedModel(task.f_a, None, preprocessing={"mean": 0.5, "std": 0.25})  # type: ignore[call-arg]
    transform = LLPGDTransform(task.f_b, CONFIG, generator=seeded(0))
    for std in (0.25, 0.5):  # pixels in [-2, 2], and in [-1, 1]
        wrapped = fb.PyTorchModel(
            DefendedModel(task.f_a, transform), bounds=(0, 1), device="cpu", preprocessing={"mean": 0.5, "std": std}
        )
        with query_limit(transform.model, QUERIES) as seen:
            if std == 0.25:
                with pytest.raises(ValueError, match=r"expected images in \[0, 1\], got pixels in \[-"):
                    wrapped(task.x)
            else:
                wrapped(task.x)
                assert seen
        assert not any(torch.equal(z, task.x) for z in seen)
    model = FoolboxDefendedModel(Normalised(task.f_a).eval(), transform, device="cpu")
    transform.generator.manual_seed(0)
    with query_limit(transform.model, QUERIES) as seen:
        outputs = model(task.x)
    assert any(torch.equal(z, task.x) for z in seen), "the label is found at the raw image"
    z = transformed(task.f_b, task.x, starts(task.x, 0)[0])
    torch.testing.assert_close(outputs, logits_at(task.f_a, (z - 0.5) / 0.25).log_softmax(1), rtol=1e-4, atol=1e-5)


def test_loss_backward_leaves_no_gradient_on_parameters(task: Problem) -> None:
    x = task.x.clone().requires_grad_()
    plain = fb.PyTorchModel(task.f_a, bounds=(0, 1), device="cpu")
    F.cross_entropy(plain(x), task.y).backward()
    assert any(p.grad is not None for p in task.f_a.parameters()), "Foolbox's own model fills them"
    task.f_a.zero_grad(set_to_none=True)
    model = defended(task)
    x = task.x.clone().requires_grad_()
    F.cross_entropy(model(x), task.y).backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert all(p.grad is None for net in (model.defended, task.f_b) for p in net.parameters())


@pytest.mark.parametrize("eot_samples", [1, 3])
def test_linf_pgd(task: Problem, eot_samples: int) -> None:
    control = FoolboxDefendedModel(task.f_a, None, device="cpu")
    attack = fb.attacks.LinfPGD(steps=10, rel_stepsize=0.25)
    _, attacked, success = attack(control, task.x, task.y, epsilons=EPS)
    assert inside(attacked, task.x, EPS)
    assert success.float().mean() >= 0.75
    model = defended(task, eot_samples=eot_samples)
    _, attacked, success = attack(model, task.x, task.y, epsilons=EPS)
    assert inside(attacked, task.x, EPS)
    assert success.shape == (len(task.x),)
    assert model.defended.queries.backward == 10 * eot_samples * len(task.x)


def test_bounds_are_asserted_without_tolerance(task: Problem) -> None:
    """One rounding above 1 is refused: clamp before the call."""
    above = task.x.clone()
    above[0, 0, 0, 0] = 1 + 1.2e-7
    assert above.max() > 1
    attack = fb.attacks.LinfPGD(steps=1)
    with pytest.raises(AssertionError):
        attack(defended(task), above, task.y, epsilons=EPS)
    _, attacked, _ = attack(defended(task), above.clamp(0, 1), task.y, epsilons=EPS)
    assert inside(attacked, task.x, EPS + 1)


def test_double_precision_images(task: Problem) -> None:
    expected = defended(task)(task.x)
    outputs = defended(task)(task.x.double())
    torch.testing.assert_close(outputs.float(), expected)
    _, attacked, _ = fb.attacks.LinfPGD(steps=2)(defended(task), task.x.double(), task.y, epsilons=EPS)
    assert attacked.dtype == torch.float64
    assert inside(attacked, task.x, EPS)


def hop_skip_jump(model: FoolboxDefendedModel, task: Problem) -> tuple[Tensor, Tensor]:
    """Attack the model's own predictions from images of another class; gives the attacked images and what they started from."""
    pool = images(64, seed=8)
    labels, candidates = model(task.x).argmax(1), model(pool).argmax(1)
    chosen = torch.stack([pool[(candidates != label).nonzero()[0, 0]] for label in labels])
    attack = fb.attacks.HopSkipJumpAttack(
        steps=2, initial_gradient_eval_steps=10, max_gradient_eval_steps=20, constraint="linf"
    )
    with global_seed(0):
        raw, _, _ = attack(model, task.x, labels, epsilons=None, starting_points=chosen)
    return raw, chosen


def test_hop_skip_jump_on_a_frozen_draw_is_deterministic(task: Problem) -> None:
    model = defended(task)
    results: list[Tensor] = []
    with query_limit(model.defended, QUERIES):
        for _ in range(2):
            with model.defended.frozen(seed=4):
                attacked, began = hop_skip_jump(model, task)
                assert (model(attacked).argmax(1) != model(task.x).argmax(1)).all()
                results.append(attacked)
    assert torch.equal(*results)
    assert (results[0] - task.x).abs().amax((1, 2, 3)).lt((began - task.x).abs().amax((1, 2, 3))).all()
    assert not torch.equal(model(task.x), model(task.x)), "scored with fresh draws"


@pytest.mark.parametrize(("frozen", "failures"), [(True, range(1)), (False, range(4, 7))])
def test_hop_skip_jump_asserts_what_fresh_draws_do_not_keep(task: Problem, frozen: bool, failures: range) -> None:
    """Why the draw is frozen: what was adversarial when it was found need not be so when the attack looks again."""
    model, failed = defended(task), 0
    for seed in range(6):
        freeze = model.defended.frozen(seed) if frozen else nullcontext()
        try:
            with freeze, query_limit(model.defended, QUERIES):
                hop_skip_jump(model, task)
        except (AssertionError, ValueError, TooManyQueriesError):
            failed += 1
    assert failed in failures


def test_gen_attack_is_targeted_and_stays_inside(task: Problem) -> None:
    model = defended(task)
    attack = fb.attacks.GenAttack(steps=8, population=6)
    targets = (task.y + 1) % CLASSES
    with pytest.raises(ValueError, match="unsupported criterion"):
        attack(model, task.x, fb.criteria.Misclassification(task.y), epsilons=EPS)

    def towards(images_: Tensor) -> Tensor:
        """Mean log-probability of the targets over common draws."""
        draws = starts(task.x, seed=6, calls=10)
        scores = [logits_at(task.f_a, transformed(task.f_b, images_, d)).log_softmax(1) for d in draws]
        return torch.stack(scores).mean(0)[torch.arange(len(targets)), targets]

    with global_seed(1):
        _, attacked, _ = attack(model, task.x, fb.criteria.TargetedMisclassification(targets), epsilons=EPS)
    assert inside(attacked, task.x, EPS)
    assert not model.defended.queries.backward
    assert towards(attacked).mean() > towards(task.x).mean() + 0.1


def test_gen_attack_of_large_logits_is_nan_without_the_adapter(task: Problem) -> None:
    large = Scaled(task.f_a, 1e3).eval()
    attack = fb.attacks.GenAttack(steps=3, population=4)
    criterion = fb.criteria.TargetedMisclassification((task.y + 1) % CLASSES)
    with global_seed(0), pytest.raises(ValueError, match="NaN"):
        attack(fb.PyTorchModel(large, bounds=(0, 1), device="cpu"), task.x, criterion, epsilons=EPS)
    for transform in (None, LLPGDTransform(task.f_b, CONFIG)):
        model = FoolboxDefendedModel(large, transform, device="cpu")
        with global_seed(0):
            _, attacked, _ = attack(model, task.x, criterion, epsilons=EPS)
        assert inside(attacked, task.x, EPS)


def share_along(estimate: Tensor, slope: Tensor) -> float:
    return float((estimate * slope).sum() / slope.square().sum())


def test_evolution_of_foolbox_is_four_times_too_small_and_ours_is_not() -> None:
    slope = torch.arange(1.0, 5.0).view(1, 1, 2, 2)
    x = torch.full_like(slope, 0.5)
    kind = fb.gradient_estimators.es_gradient_estimator(
        fb.attacks.LinfPGD, samples=4000, sigma=0.01, bounds=(0, 1), clip=False
    )
    with global_seed(0):
        _, theirs = kind().value_and_grad(lambda z: (z * ep.astensor(slope)).sum(), ep.astensor(x))
    assert share_along(theirs.raw, slope) == pytest.approx(0.25, abs=0.02), "the loss is linear: it should be 1"
    # this g takes every pixel to 0 or 1, wherever it was: J = 0, the identity part and the estimated one cancel
    config = TransformConfig(eps=1.0, eps_step=1.0, max_iter=1, clip_values=(0.0, 1.0))
    rule = Evolution(sigma=0.01, nb_samples=500, generator=seeded(0))
    with global_seed(0):
        f_b = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x.requires_grad_()
    (LLPGDTransform(f_b, config, gradient=rule)(x, torch.zeros_like(slope)) * slope).sum().backward()
    assert x.grad is not None
    assert share_along(x.grad, slope) == pytest.approx(0, abs=0.2), "0.75 with Foolbox's factor"


def test_a_whole_defended_model_is_taken_as_it_is(task: Problem) -> None:
    whole = DefendedModel(task.f_a, LLPGDTransform(task.f_b, CONFIG, generator=seeded(0)))
    model = FoolboxDefendedModel(whole, None, device="cpu")
    assert model.defended is whole
    torch.testing.assert_close(model(task.x), defended(task)(task.x))
    assert whole.queries.forward == len(task.x)
    with pytest.raises(ValueError, match="brings its own"):
        FoolboxDefendedModel(whole, whole.transform, device="cpu")
    assert model(torch.zeros(2, *SHAPE)).shape == (2, CLASSES)
    assert np.isfinite(model(task.x).numpy()).all()


def test_a_classifier_in_train_mode_is_reported(task: Problem) -> None:
    """Foolbox warns of it; the wrapper must not hide the mode of what it wraps."""
    with pytest.warns(UserWarning, match="training mode"):
        FoolboxDefendedModel(task.f_a.train(), None, device="cpu")


@pytest.mark.parametrize("bounds", [(0, 255), (-1, 1)])
def test_bounds_in_which_eps_means_something_else_are_refused(task: Problem, bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"expected bounds=\(0, 1\)"):
        FoolboxDefendedModel(task.f_a, None, bounds=bounds)


def test_eot_belongs_to_the_defended_model_where_one_is_given(task: Problem) -> None:
    model = DefendedModel(task.f_a, LLPGDTransform(task.f_b))
    with pytest.raises(ValueError, match="expected transform=None and eot_samples=1: the DefendedModel brings its own"):
        FoolboxDefendedModel(model, None, eot_samples=8)
