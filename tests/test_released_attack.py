"""The released attack, fault by fault: where f_a is asked, for which label, how often, by how many draws."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.attacks.base import Target
from art_advtransform.attacks.released import FAULTS, released_bpda
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from tests.evaluations import drifting
from tests.problems import images, linear_net, linear_two_classes

EPS, SHAPE = 0.1, (1, 2, 2)
W = torch.tensor([1.0, -1.0, -1.0, 1.0]).double().view(SHAPE)
# no pixel leaves the range within the budget
X = images(4, SHAPE) * 0.8 + 0.1


def f_a() -> nn.Module:
    """The lead of class 1 is <W, z> + 3: it says class 1 of every image, and less so against W."""
    return linear_net(torch.stack([torch.zeros(4).double(), W.flatten()]), torch.tensor([0.0, 3.0]))


def moving(net: nn.Module) -> tuple[DefendedModel, Tensor]:
    """Behind a g without a draw that moves every image by the same, and that."""
    problem = linear_two_classes(SHAPE, bias=9.0)
    g = LLPGDTransform(problem.net, TransformConfig(random_start=False))
    return DefendedModel(net, g), -0.2 * torch.sign(problem.w)


def asked(
    model: DefendedModel, mended: Collection[str], y: Tensor | None = None, x: Tensor = X
) -> tuple[list[Tensor], Tensor]:
    """Where f_a is differentiated, call by call, and what the attack returns; labels are f_a's own unless given."""
    seen: list[Tensor] = []

    def watch(net: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.extend(z.detach() for z in inputs if z.requires_grad)

    model.classifier.register_forward_pre_hook(watch)
    y = torch.ones(len(x), dtype=torch.int64) if y is None else y
    return seen, released_bpda(mended).run(Target(model, x, y, ThreatModel(EPS), 0))


@pytest.mark.parametrize(
    ("mended", "times", "steps", "step"),
    [
        ((), 2, 20, 3 / 31),
        (("double x",), 1, 20, 3 / 31),
        (("few steps",), 2, 100, 1 / 8),
        (("label", "clip", "division"), 2, 20, 3 / 31),
    ],
)
def test_f_a_is_differentiated_at_g_of_the_iterate_and_the_image_once_more(
    mended: Collection[str], times: int, steps: int, step: float
) -> None:
    model, moved = moving(f_a())
    seen, attacked = asked(model, mended)
    assert len(seen) == steps
    for t, z in enumerate(seen):
        torch.testing.assert_close(z, times * X + moved - EPS * min(t * step, 1) * W)
    torch.testing.assert_close(attacked, X - EPS * W)


@pytest.mark.parametrize(("mended", "draws"), [((), 1), (("one draw",), 10), (list(FAULTS), 10)])
def test_a_step_follows_draws_of_each_image_beside_the_image_itself(mended: Collection[str], draws: int) -> None:
    x, spread = X.float(), 1e-3
    seen, _ = asked(drifting(linear_net(W.float().view(1, 4) * torch.tensor([[0.0], [1.0]])), spread), mended, x=x)
    assert {len(z) for z in seen} == {draws * len(x)}
    # at the first step the iterates are the images
    start = seen[0].unflatten(0, (len(x), draws)) - (1 if "double x" in mended else 2) * x[:, None]
    assert 0 < float(start.abs().max()) <= spread + 1e-6
    assert len(start.flatten(2).unique(dim=1)[0]) == draws


@pytest.mark.parametrize("others", [(), ("clip", "double x"), ("one draw",)])
def test_what_is_attacked_is_what_f_a_says_of_the_image_not_the_label(others: Collection[str]) -> None:
    y = torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(asked(moving(f_a())[0], others, y)[1], X - EPS * W)
    # mended, it goes the other way where f_a is wrong
    way = torch.where(y == 0, 1.0, -1.0).view(4, 1, 1, 1)
    torch.testing.assert_close(asked(moving(f_a())[0], ("label", *others), y)[1], X + EPS * way * W)


@pytest.mark.parametrize("mended", [("double x",), ("double x", "clip"), ("double x", "label")])
def test_a_black_pixel_gets_darker_on_the_way(mended: Collection[str]) -> None:
    x = torch.tensor([0.0, 1.0, 0.0, 1.0]).double().view(1, *SHAPE)
    model, moved = moving(f_a())
    seen, attacked = asked(model, mended, x=x)
    # of two black pixels one gets darker, of two white ones one brighter
    beyond = -EPS if "clip" not in mended else 0.0
    expected = torch.tensor([beyond, 1 - beyond, EPS, 1 - EPS]).double().view(1, *SHAPE)
    torch.testing.assert_close(seen[-1], expected + moved)
    torch.testing.assert_close(attacked, expected)


def test_the_sum_of_many_draws_is_no_larger_step() -> None:
    once, divided = (asked(moving(f_a())[0], ("one draw", *more))[0] for more in ((), ("division",)))
    assert all(torch.equal(*pair) for pair in zip(once, divided, strict=True))
