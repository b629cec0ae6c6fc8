"""A classifier that is random by itself, without a transform or behind g: counted by many draws like the defence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.attacks.base import Target
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.config import TransformConfig
from art_advtransform.counting import SCORING, SELECTION, predictions
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from tests.evaluations import THREAT, X, Y, run, timeless
from tests.models import global_state_untouched
from tests.problems import linear_net


class Noisy(nn.Module):
    """Whether the image is brighter than its surroundings, plus noise from global state, of its own for every row."""

    randomized = True

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3)) - 0.5 + self.scale * (torch.rand(len(x)) - 0.5)
        return torch.stack([-level, level], 1)


MODEL = DefendedModel(Noisy(), None).eval()


def test_it_is_random_and_averaged_like_the_defence() -> None:
    assert MODEL.randomized
    assert not DefendedModel(nn.Flatten(), None).randomized
    view = MODEL.view(eot_samples=64)
    assert view.eot_samples == 64
    alone, averaged = (torch.stack([model(X[:1])[0, 0].detach() for _ in range(40)]).std() for model in (MODEL, view))
    assert float(averaged) < float(alone) / 2
    assert MODEL.view(eot_samples=3)(X).shape == (10, 2)


def test_draws_are_keyed_and_independent_of_batch_and_number() -> None:
    with global_state_untouched():
        found = predictions(MODEL, X, 12, 0, SCORING)
    assert float(found.float().std(1).mean()) > 0
    assert torch.equal(predictions(MODEL, X[4:], 5, 0, SCORING, 4), found[4:, :5])
    assert not torch.equal(predictions(MODEL, X, 12, 0, SELECTION), found)
    assert not torch.equal(predictions(MODEL, X, 12, 1, SCORING), found)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_evaluation_of_it_can_be_repeated(seed: int) -> None:
    attack = expectation_pgd(5, 4, continues=False)
    results = []
    for k in range(2):
        torch.manual_seed(k)
        results.append(timeless(run(MODEL, X, Y, preset=[attack], threat=THREAT, seed=seed)))
    assert results[0] == results[1]
    assert (results[0].attacks[0].forward, results[0].attacks[0].backward) == (5 * 4 + 16, 5 * 4)  # a look at its end


# ---- behind g


def behind_g() -> DefendedModel:
    """Two kinds of draws: D, and the classifier's own."""
    f_b = linear_net(torch.zeros(2, 4))
    return DefendedModel(Noisy(0.3), LLPGDTransform(f_b, TransformConfig(eps=0.1, max_iter=2))).eval()


def test_both_kinds_of_draws_are_keyed() -> None:
    model = behind_g()
    found = []
    for k in range(2):
        torch.manual_seed(k)
        with global_state_untouched():
            found.append(predictions(model, X, 12, 0, SCORING))
    assert torch.equal(*found)
    assert torch.equal(predictions(model, X[4:], 5, 0, SCORING, 4), found[0][4:, :5])
    assert float(found[0].float().std(1).mean()) > 0


def test_a_known_d_is_the_one_that_is_scored() -> None:
    # without its own noise the class is decided by D alone, which is the same for every draw
    model = behind_g()
    quiet = DefendedModel(Noisy(0.0), model.transform).eval()
    with quiet.frozen(3):
        found = predictions(quiet, X, 12, 0, SCORING)
        with torch.no_grad():
            expected = quiet(X).argmax(1)
    assert torch.equal(found, expected[:, None].expand(-1, 12))
    with model.frozen(3):
        again = predictions(model, X, 12, 0, SCORING)
    assert float(again.float().std(1).mean()) > 0  # its own draws stay


def test_of_a_known_d_its_own_draws_are_averaged() -> None:
    model = behind_g()
    target = Target(model, X, Y, THREAT, 0)
    with model.frozen(3), torch.no_grad():
        view = target.view(eot_samples=400)
        assert view.eot_samples == 400
        mean, other = view(X), target.view(eot_samples=400)(X)
        # the one D that scores, not as many as there are draws
        expected = DefendedModel(Noisy(0.0), model.transform).eval()
        with expected.frozen(3):
            assert float((mean - expected(X)).abs().max()) < 0.03 < float(model(X).sub(expected(X)).abs().max())
        assert not torch.equal(mean, other)
        # D is all that is drawn of another net: one draw is as good as many
        quiet = Target(DefendedModel(Undeclared(0.0), model.transform), X, Y, THREAT, 0)
        with quiet.defended.frozen(3):
            assert quiet.view(eot_samples=400).eot_samples == 1


class Undeclared(Noisy):
    """The same, which does not say so."""

    randomized = False


@pytest.mark.parametrize(
    "transform", [None, LLPGDTransform(linear_net(torch.zeros(2, 4)), TransformConfig(max_iter=1))]
)
def test_a_net_that_draws_without_saying_so_is_refused(transform: LLPGDTransform | None) -> None:
    # it would be judged by one draw, another one every time
    with global_state_untouched(), pytest.raises(ValueError, match=r"set classifier\.randomized = True"):
        run(DefendedModel(Undeclared(), transform), preset=[])
    quiet = run(DefendedModel(Undeclared(0.0), transform), preset=[])
    assert quiet.settings["randomized"] == (transform is not None)
