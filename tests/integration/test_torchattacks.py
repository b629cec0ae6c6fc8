"""DefendedModel under torchattacks' stock attacks, unmodified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_advtransform import DefendedModel, LLPGDTransform, TransformConfig
from art_advtransform.randomness import global_seed
from art_advtransform.transform import random_start
from tests.integration.nets import (
    CONFIG,
    Problem,
    inside,
    logits_at,
    loss_gradient_at,
    problem,
    seeded,
    starts,
    transformed,
)

ta = pytest.importorskip("torchattacks", reason="torchattacks is an extra: pip install art-advtransform[torchattacks]")

EPS = 0.1
ATTACKS: dict[str, Callable[[nn.Module], Any]] = {
    "PGD": lambda model: ta.PGD(model, eps=EPS, alpha=EPS / 4, steps=8),
    "EOTPGD": lambda model: ta.EOTPGD(model, eps=EPS, alpha=EPS / 4, steps=8, eot_iter=3),
    "MIFGSM": lambda model: ta.MIFGSM(model, eps=EPS, alpha=EPS / 4, steps=8),
    "APGD-CE": lambda model: ta.APGD(model, eps=EPS, steps=8, loss="ce", eot_iter=2),
    "APGD-DLR": lambda model: ta.APGD(model, eps=EPS, steps=8, loss="dlr"),
    "Square": lambda model: ta.Square(model, eps=EPS, n_queries=100),
}
RESEEDING = ["APGD-CE", "Square"]


@pytest.fixture
def task() -> Problem:
    return problem(n=4)


@pytest.fixture(params=sorted(ATTACKS))
def attack(request: pytest.FixtureRequest) -> Callable[[nn.Module], Any]:
    return ATTACKS[request.param]


def defended(task: Problem, seed: int | None = 0, config: TransformConfig = CONFIG) -> DefendedModel:
    generator = None if seed is None else seeded(seed)
    return DefendedModel(task.f_a, LLPGDTransform(task.f_b, config, generator=generator)).eval()


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        classes: Tensor = model(x).argmax(1)
    return classes


def test_stock_attacks_run_and_stay_inside(task: Problem, attack: Callable[[nn.Module], Any]) -> None:
    control = DefendedModel(task.f_a, None).eval()
    with global_seed(0):
        attacked = attack(control)(task.x, task.y)
    assert inside(attacked, task.x, EPS)
    assert (predicted(control, attacked) == task.y).float().mean() <= 0.5
    model = defended(task)
    y = predicted(model, task.x)
    with global_seed(0):
        attacked = attack(model)(task.x, y)
    assert inside(attacked, task.x, EPS)
    assert attacked.dtype == task.x.dtype


def test_an_attacked_image_is_worse_than_a_clean_one_on_common_draws(
    task: Problem, attack: Callable[[nn.Module], Any]
) -> None:
    """With D = 0 the defence is deterministic, and its gradient right almost everywhere: every attack must find a way down."""
    model = defended(task, config=TransformConfig(max_iter=4, random_start=False))
    y = predicted(model, task.x)
    with global_seed(0):
        attacked = attack(model)(task.x, y)
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(model(x), y) for x in (task.x, attacked)]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_but_f_b_stays_in_eval(
    task: Problem, attack: Callable[[nn.Module], Any], training: bool
) -> None:
    model = defended(task).train(training)
    assert model.transform is not None
    modes: list[bool] = []
    model.transform.model.register_forward_pre_hook(lambda f_b, _: modes.append(any(m.training for m in f_b.modules())))
    attack(model)(task.x, task.y)
    assert model.training == model.classifier.training == training
    assert set(modes) == {False}
    assert not any(module.training for module in model.transform.model.modules())


def test_model_training_mode_of_torchattacks_does_not_reach_f_b(task: Problem) -> None:
    """``set_model_training_mode`` (for nets with an RNN) differentiates f_a in train mode."""
    attack = ATTACKS["PGD"](defended(task))
    attack.set_model_training_mode(model_training=True, batchnorm_training=True, dropout_training=True)
    model = attack.model
    seen: list[bool] = []
    model.transform.model.register_forward_pre_hook(lambda f_b, _: seen.append(any(m.training for m in f_b.modules())))
    before = model.transform.model.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    attack(task.x, task.y)
    assert model.classifier.training
    assert seen
    assert not any(seen)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.transform.model.state_dict().items())


def test_the_device_is_that_of_the_first_parameter_f_as(task: Problem) -> None:
    model = defended(task)
    assert next(model.parameters()) is next(task.f_a.parameters())
    assert ATTACKS["PGD"](model).device == torch.device("cpu")
    model.classifier.to("meta")
    assert ATTACKS["PGD"](model).device == torch.device("meta"), "not that of f_b"


def test_one_pgd_step_is_along_the_gradient_at_g_d(task: Problem) -> None:
    attack = ta.PGD(defended(task), eps=EPS, alpha=EPS / 2, steps=1, random_start=False)
    gradient = loss_gradient_at(task.f_a, transformed(task.f_b, task.x, starts(task.x, 0)[0]), task.y)
    expected = (task.x + EPS / 2 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(attack(task.x, task.y), expected)


def test_one_eot_pgd_step_is_along_the_mean_over_fresh_draws(task: Problem) -> None:
    attack = ta.EOTPGD(defended(task), eps=EPS, alpha=EPS / 2, steps=1, eot_iter=4, random_start=False)
    draws = starts(task.x, 0, calls=4)
    total = torch.stack([loss_gradient_at(task.f_a, transformed(task.f_b, task.x, d), task.y) for d in draws]).sum(0)
    expected = (task.x + EPS / 2 * total.sign()).clamp(0, 1)
    assert (attack(task.x, task.y) != expected).float().mean() < 0.01, "a sum near zero may round to another sign"


def test_apgd_returns_images_that_still_hang_on_the_graph(task: Problem) -> None:
    """A habit of torchattacks', for an undefended model too: whoever keeps the images has to detach them."""
    for model in (DefendedModel(task.f_a, None).eval(), defended(task)):
        attacked = ATTACKS["APGD-CE"](model)(task.x, predicted(model, task.x))
        assert attacked.requires_grad
        assert not ATTACKS["PGD"](model)(task.x, task.y).requires_grad


def test_range_and_type_are_checked_by_the_model_since_torchattacks_does_not(task: Problem) -> None:
    attack = ATTACKS["PGD"](defended(task))
    with pytest.raises(ValueError, match="finite"):
        attack(task.x * torch.nan, task.y)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        attack.get_logits((task.x * 255).long())
    attacked = attack(task.x.double(), task.y)
    assert inside(attacked, task.x, EPS)


@pytest.mark.parametrize("name", RESEEDING)
def test_attacks_that_reseed_the_global_generator_do_not_reseed_the_draws(task: Problem, name: str) -> None:
    deterministic = defended(task, config=TransformConfig(max_iter=4, random_start=False))
    runs, states, draws = [], [], []
    y = predicted(deterministic, task.x)
    for seed in (1, 1, 2):
        with global_seed(seed):
            runs.append(ATTACKS[name](deterministic)(task.x, y))
            states.append(torch.get_rng_state())
            randomised = defended(task, seed=None)
            draws.append(_first_draw(randomised))
            ATTACKS[name](randomised)(task.x, y)
    assert all(torch.equal(runs[0], other) for other in runs[1:]), "seeds of their own: the same under every global one"
    assert torch.equal(states[0], states[2]), "the global generator was reseeded"
    assert not torch.equal(draws[0][0], draws[1][0]), "and still the draws of D were fresh"


def _first_draw(model: DefendedModel) -> list[Tensor]:
    """Filled with what the model draws from now on."""
    transform = model.transform
    assert transform is not None
    drawn: list[Tensor] = []
    original = transform.draw_start

    def recorded(x: Tensor) -> Tensor:
        drawn.append(original(x))
        return drawn[-1]

    transform.draw_start = recorded  # type: ignore[method-assign]
    return drawn


def test_a_global_seed_does_not_predict_the_draws(task: Problem) -> None:
    """An attacker who knows the seed of an evaluation must not know D."""
    model = defended(task, seed=None)
    with global_seed(0), torch.no_grad():
        logits = model(task.x)
    guess = random_start(task.x, CONFIG.eps, seeded(0))
    guessed = logits_at(task.f_a, transformed(task.f_b, task.x, guess))
    assert not torch.allclose(logits, guessed, atol=1e-3)
    known = defended(task, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(known(task.x), guessed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RESEEDING)
def test_draws_of_a_given_generator_go_on_through_a_reseeding_attack(task: Problem, name: str) -> None:
    """A reproducible run: the state of the generator depends on how much was drawn, not on who reseeded what."""
    after = []
    for global_ in (0, 1):
        model = defended(task, seed=3)
        assert model.transform is not None
        with global_seed(global_):
            ATTACKS[name](model)(task.x, task.y)
        after.append(model.transform.generator.get_state())
    assert torch.equal(*after)
    assert not torch.equal(after[0], seeded(3).get_state())
