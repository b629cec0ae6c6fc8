"""Rules made of others: a share of a smoothed Jacobian, and f_b with softplus for ReLU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.backward import Draw, GradientEstimator
from art_advtransform.config import TransformConfig
from art_advtransform.frozen import FrozenModel
from art_advtransform.gradients import Identity
from art_advtransform.layer import LLPGDTransform
from art_advtransform.smoothing import Blended, SoftplusModel, softplus_copy
from art_advtransform.unrolled import Tanh
from tests.problems import conv_net, images, make_draw, smooth_net, start_for

CONFIG = TransformConfig(eps=0.1, eps_step=0.06, max_iter=4)
RULE = Tanh(0.05, normalize=True)


def draw_on(net: nn.Module, shape: tuple[int, int, int] = (2, 4, 4)) -> Draw:
    x = images(3, shape)
    return make_draw(net, x, start_for(x, CONFIG.eps), CONFIG)


def v_for(draw: Draw) -> Tensor:
    return images(len(draw.x), (draw.x.shape[1], *draw.x.shape[2:]), seed=11) - 0.5


class Times(GradientEstimator):
    """J = factor I."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        return self.factor * v


def test_blended_is_the_identity_and_a_share_of_what_the_rule_adds() -> None:
    draw = draw_on(smooth_net())
    v = v_for(draw)
    added = RULE.pullback(draw, v) - v
    assert float(added.abs().max()) > 0.1
    torch.testing.assert_close(Blended(RULE, 0.3, clip=1e9).pullback(draw, v), v + 0.3 * added)
    torch.testing.assert_close(Blended(Identity(), 0.3).pullback(draw, v), v)
    # 3v adds 2v, which is cut to v
    torch.testing.assert_close(Blended(Times(3.0), 0.5).pullback(draw, v), 1.5 * v)
    torch.testing.assert_close(Blended(Times(3.0), 0.5, clip=5.0).pullback(draw, v), 2 * v)


def test_what_is_added_is_cut_for_each_draw_on_its_own() -> None:
    draw = draw_on(smooth_net())
    v = v_for(draw) * torch.tensor([1e-3, 1.0, 0.0], dtype=torch.float64).view(3, 1, 1, 1)
    added = Blended(Times(101.0), 1.0, clip=2.0).pullback(draw, v) - v
    lengths = added.flatten(1).norm(dim=1) / v.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths[:2], torch.full((2,), 2.0, dtype=torch.float64))
    assert not bool(added[2].any())  # nothing in, nothing out, no NaN


def test_what_overflows_is_cut_like_the_rest() -> None:
    draw = draw_on(smooth_net())
    v = v_for(draw).float()

    class Huge(GradientEstimator):
        def pullback(self, draw: Draw, v: Tensor) -> Tensor:
            return v + 3e38 * torch.sign(v)  # its length overflows

    found = Blended(Huge(), 1.0).pullback(draw, v)
    lengths = (found - v).flatten(1).norm(dim=1) / v.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(3))


def relu_net() -> nn.Sequential:
    # max pooling and ReLU as a module
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 3),
    ).double()  # fmt: skip


def test_softplus_is_the_rule_on_the_smooth_net_along_the_true_iterates() -> None:
    torch.manual_seed(0)
    net = relu_net()
    by_hand = copy.deepcopy(net)
    by_hand[1], by_hand[4] = nn.Softplus(4.0), nn.Softplus(4.0)
    draw = draw_on(net)
    v = v_for(draw)
    expected = RULE.pullback(Draw(by_hand, draw.x, draw.y, draw.start, CONFIG, 64, draw.trajectory), v)
    found = SoftplusModel(RULE, beta=4.0).pullback(draw, v)
    torch.testing.assert_close(found, expected)
    assert float((found - RULE.pullback(draw, v)).abs().max()) > 1e-3
    assert isinstance(net[1], nn.ReLU)  # f_b itself is left alone


def test_the_copy_goes_where_f_b_goes() -> None:
    g = LLPGDTransform(relu_net(), CONFIG, gradient=SoftplusModel(RULE))
    for moved in (g, g.float(), g.double()):  # as .to("cuda") would
        x = images(2, (2, 4, 4)).to(moved.model.dtype).requires_grad_()
        moved(x, torch.zeros_like(x)).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == moved.model.dtype


def test_the_copy_is_made_once_and_goes_with_its_model() -> None:
    rule = SoftplusModel(RULE)
    draw = draw_on(relu_net())
    rule.pullback(draw, v_for(draw))
    first = dict(rule._copies)
    rule.pullback(draw, v_for(draw))
    assert list(rule._copies.values()) == list(first.values())
    del first, draw
    assert len(rule._copies) == 0


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.relu(self.conv(x))).mean((2, 3))


@pytest.mark.parametrize("net", [conv_net(), Functional().double()])
def test_an_optimised_f_b_is_smoothed_too(net: nn.Module) -> None:
    frozen, x = FrozenModel(net), images(5)
    assert frozen.optimised
    before = frozen(x)
    errors = [float((softplus_copy(frozen, beta)(x) - before).abs().max()) for beta in (3.0, 1e4)]
    assert errors[0] > 1e-2
    assert errors[1] < 1e-2 * errors[0]
    assert torch.equal(frozen(x), before)


def test_what_has_no_relu_is_refused() -> None:
    with pytest.raises(ValueError, match="expected f_b with ReLUs"):
        softplus_copy(smooth_net(), 1.0)


def test_bad_options() -> None:
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"expected weight > 0, got {bad}"):
            Blended(RULE, bad)
        with pytest.raises(ValueError, match=f"expected clip > 0, got {bad}"):
            Blended(RULE, clip=bad)
        with pytest.raises(ValueError, match=f"expected beta > 0, got {bad}"):
            SoftplusModel(RULE, bad)
    for make in (Blended, SoftplusModel):
        with pytest.raises(TypeError, match="expected rule to be a GradientEstimator, got str"):
            make("tanh")  # type: ignore[arg-type]


def test_in_the_layer_the_value_is_exact_and_no_weight_has_a_gradient() -> None:
    net, x = conv_net(), images(4).requires_grad_()
    g = LLPGDTransform(net, CONFIG, gradient=Blended(SoftplusModel(RULE)))
    start = start_for(x.detach(), CONFIG.eps)
    value = g(x, start)
    torch.testing.assert_close(value, LLPGDTransform(net, CONFIG)(x.detach(), start), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert float((gradient - 1).abs().max()) > 1e-4
    assert all(p.grad is None for p in [*net.parameters(), *g.parameters()])
