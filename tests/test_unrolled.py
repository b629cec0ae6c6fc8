"""The smooth backward rules, beside an unroll of the paper's formula that is written down here anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.backward import Draw
from art_advtransform.config import TransformConfig
from art_advtransform.transform import target_class
from art_advtransform.unrolled import Autodiff, Softsign, Tanh, Unrolled, project_with_mask
from tests.problems import LinearTwoClasses, conv_net, images, linear_two_classes, make_draw, smooth_net, start_for

SHAPE = (2, 4, 4)
SOFT: dict[type[Unrolled], Callable[[Tensor], Tensor]] = {
    Softsign: lambda t: t / (1 + t.abs()),
    Tanh: lambda t: (t.exp() - (-t).exp()) / (t.exp() + (-t).exp()),
}
SLOPE: dict[type[Unrolled], Callable[[Tensor], Tensor]] = {
    Softsign: lambda t: 1 / (1 + t.abs()) ** 2,
    Tanh: lambda t: 1 - torch.tanh(t) ** 2,
}
RULES = list(SOFT)


def unroll(
    net: nn.Module, x: Tensor, y: Tensor, start: Tensor, config: TransformConfig, soft: Callable[[Tensor], Tensor]
) -> Tensor:
    """N steps with ``soft`` for the sign, differentiable in x by plain autograd."""
    z = x + start
    if not z.requires_grad:
        z = z.requires_grad_()
    for _ in range(config.max_iter):
        (u,) = torch.autograd.grad(F.cross_entropy(net(z), y, reduction="sum"), z, create_graph=True)
        z = x + (z - config.step * soft(u) - x).clamp(-config.eps, config.eps)
    return z


def draw_on(net: nn.Module, config: TransformConfig, n: int = 2, shape: tuple[int, int, int] = SHAPE) -> Draw:
    x = images(n, shape)
    return make_draw(net, x, start_for(x, config.eps), config)


def random_v(draw: Draw) -> Tensor:
    return images(len(draw.x), (draw.x.shape[1], *draw.x.shape[2:]), seed=11) - 0.5


# steps long enough for the clamp to act on some pixels and not on others
CONFIG = TransformConfig(eps=0.1, eps_step=0.06, max_iter=4)


@pytest.mark.parametrize("rule", RULES)
def test_smoothed_map_is_the_formula(rule: type[Unrolled]) -> None:
    draw = draw_on(smooth_net(), CONFIG)
    found = rule(0.05, trajectory="smooth").smoothed_map(draw, draw.x)
    expected = unroll(draw.model, draw.x, draw.y, draw.start, CONFIG, lambda u: SOFT[rule](u / 0.05))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    clamped = ((found - draw.x).abs() > CONFIG.eps * (1 - 1e-9)).double().mean()
    assert 0.1 < float(clamped) < 0.9


@pytest.mark.parametrize("rule", RULES)
def test_gradcheck_of_the_smoothed_map(rule: type[Unrolled]) -> None:
    draw = draw_on(smooth_net(), CONFIG, n=1)
    smooth = rule(0.05, trajectory="smooth")
    assert torch.autograd.gradcheck(lambda x: smooth.smoothed_map(draw, x), (draw.x.clone().requires_grad_(),))


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_pullback_is_the_gradient_of_the_unrolled_formula(rule: type[Unrolled], checkpoint: bool) -> None:
    draw = draw_on(smooth_net(), CONFIG)
    v, x = random_v(draw), draw.x.clone().requires_grad_()
    smooth = unroll(draw.model, x, draw.y, draw.start, CONFIG, lambda u: SOFT[rule](u / 0.05))
    (expected,) = torch.autograd.grad(smooth, x, v)
    found = rule(0.05, trajectory="smooth", checkpoint=checkpoint).pullback(draw, v)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    assert float((found - v).abs().max()) > 0.1  # not the identity


@pytest.mark.parametrize("rule", RULES)
def test_slopes_along_the_exact_trajectory(rule: type[Unrolled]) -> None:
    """BPDA: the value of each step is the exact one, its slope that of the smooth sign."""

    def straight_through(u: Tensor) -> Tensor:
        soft = SOFT[rule](u / 0.05)
        return soft + (u.sign() - soft).detach()

    draw = draw_on(smooth_net(), CONFIG)
    v, x = random_v(draw), draw.x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(unroll(draw.model, x, draw.y, draw.start, CONFIG, straight_through), x, v)
    found = rule(0.05).pullback(draw, v)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    other = rule(0.05, trajectory="smooth").pullback(draw, v)
    assert float((found - other).abs().max()) > 1e-3


@pytest.mark.parametrize("rule", [Softsign, Tanh, Autodiff])
@pytest.mark.parametrize("trajectory", ["exact", "smooth"])
@pytest.mark.parametrize("projection", ["exact", "mask"])
@pytest.mark.parametrize("steps", [None, 1, 3])
@pytest.mark.parametrize("clip_values", [None, (0.3, 0.7)])
@pytest.mark.parametrize("normalize", [False, True])
def test_checkpoint_changes_memory_not_the_gradient(
    rule: type[Unrolled],
    trajectory: Any,
    projection: Any,
    steps: int | None,
    clip_values: tuple[float, float] | None,
    normalize: bool,
) -> None:
    config = TransformConfig(eps=0.1, eps_step=0.06, max_iter=4, clip_values=clip_values)
    draw = draw_on(smooth_net(), config)
    found = {
        checkpoint: rule(
            0.3,
            normalize=normalize,
            projection=projection,
            steps=steps,
            trajectory=trajectory,
            checkpoint=checkpoint,
        ).pullback(draw, random_v(draw))
        for checkpoint in (True, False)
    }
    torch.testing.assert_close(found[True], found[False], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_only_the_last_steps_are_differentiated(steps: int) -> None:
    """The ones before count as the identity: a translation of x by something constant."""
    draw = draw_on(smooth_net(), CONFIG)
    v, x, soft = random_v(draw), draw.x.clone().requires_grad_(), SOFT[Tanh]
    first = replace(CONFIG, max_iter=CONFIG.max_iter - steps)
    before = unroll(draw.model, draw.x, draw.y, draw.start, first, lambda u: soft(u / 0.05)).detach()
    last = unroll(draw.model, x, draw.y, before - draw.x, replace(CONFIG, max_iter=steps), lambda u: soft(u / 0.05))
    (expected,) = torch.autograd.grad(last, x, v)
    found = Tanh(0.05, steps=steps, trajectory="smooth").pullback(draw, v)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    everything = Tanh(0.05, trajectory="smooth").pullback(draw, v)
    assert float((found - everything).abs().max()) > 1e-3
    for all_of_them in (4, 9):
        assert torch.equal(Tanh(0.05, steps=all_of_them, trajectory="smooth").pullback(draw, v), everything)


# ---- one step on a linear f_b with two classes, by hand


def one_step(eps: float = 0.2) -> tuple[LinearTwoClasses, Draw]:
    problem = linear_two_classes((2, 4, 4), bias=1.0)
    x = images(2, SHAPE)
    return problem, make_draw(problem.net, x, start_for(x, eps), TransformConfig(eps=eps, eps_step=0.1, max_iter=1))


def by_hand(problem: LinearTwoClasses, draw: Draw, rule: type[Unrolled], temperature: float, v: Tensor) -> Tensor:
    """J_z^T v of z - a s(u(z) / t), u = c p w: c = 1, p = sigmoid(s) for y = 1; c = -1, p = sigmoid(-s) for y = 0."""
    towards = (2.0 * draw.y - 1).view(-1, 1, 1, 1)
    p = torch.sigmoid(towards * problem.margin(draw.x + draw.start))
    slope = SLOPE[rule](towards * p * problem.w / temperature) / temperature
    along = (slope * problem.w * v).sum((1, 2, 3), keepdim=True)
    return v - draw.config.step * p * (1 - p) * along * problem.w


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0])
def test_one_step_by_hand(rule: type[Unrolled], temperature: float) -> None:
    problem, draw = one_step(eps=0.9)
    v = random_v(draw)
    stepped = draw.x + draw.start - 0.1 * torch.sign(problem.w) * (2.0 * draw.y - 1).view(-1, 1, 1, 1)
    inside = (stepped - draw.x).abs() <= 0.9
    masked = v * inside
    expected = by_hand(problem, draw, rule, temperature, masked) + (v - masked)
    torch.testing.assert_close(rule(temperature).pullback(draw, v), expected, rtol=1e-10, atol=1e-14)
    assert float((expected - v).abs().max()) > 1e-4


@pytest.mark.parametrize("rule", RULES)
def test_mask_is_eq_5_and_differs_where_the_clamp_acts(rule: type[Unrolled]) -> None:
    problem, draw = one_step()
    v = random_v(draw)
    stepped = draw.start - 0.1 * torch.sign(problem.w) * (2.0 * draw.y - 1).view(-1, 1, 1, 1)
    inside = stepped.abs() <= 0.2
    assert 0.1 < float(inside.double().mean()) < 0.9
    through_step = by_hand(problem, draw, rule, 0.3, v * inside)
    found = {p: rule(0.3, projection=p).pullback(draw, v) for p in ("mask", "exact")}
    torch.testing.assert_close(found["mask"], through_step, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found["exact"], through_step + v * ~inside, rtol=1e-10, atol=1e-14)
    assert float((found["mask"] - found["exact"]).abs().max()) > 0.1


def test_mask_with_clip_values() -> None:
    z = torch.tensor([0.2, 0.5, 0.75, 0.9], dtype=torch.float64).view(1, 1, 2, 2).requires_grad_()
    x = torch.tensor([0.5, 0.5, 0.65, 0.8], dtype=torch.float64).view(1, 1, 2, 2).requires_grad_()
    config = TransformConfig(clip_values=(0.0, 0.85))
    out = project_with_mask(z, x, config)
    torch.testing.assert_close(out.flatten(), torch.tensor([0.3, 0.5, 0.75, 0.85], dtype=torch.float64))
    out.sum().backward()
    assert z.grad is not None
    assert z.grad.flatten().tolist() == [0.0, 1.0, 1.0, 0.0]
    assert x.grad is None or not x.grad.any()


# ---- limits


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("temperature", [1e-12, 1e12])
def test_both_ends_of_the_temperature_are_the_identity(rule: type[Unrolled], temperature: float) -> None:
    """Towards 0 the smooth sign is flat at u, towards infinity flat everywhere."""
    draw = draw_on(smooth_net(), CONFIG)
    v = random_v(draw)
    torch.testing.assert_close(rule(temperature).pullback(draw, v), v, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_cold_smoothed_map_is_g(rule: type[Unrolled]) -> None:
    problem = linear_two_classes(SHAPE, bias=1.0)
    draw = draw_on(problem.net, TransformConfig())
    cold = rule(1e-10, trajectory="smooth").smoothed_map(draw, draw.x)
    torch.testing.assert_close(cold, problem.answer(draw.x, draw.start, draw.config), rtol=0, atol=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_normalized_rule_does_not_feel_the_scale_of_the_loss_gradient(rule: type[Unrolled]) -> None:
    """Far from the decision u is tiny; divided by its mean it is w / mean |w| for the linear net, wherever x is."""
    problem, draw = one_step()
    v = random_v(draw)
    scaled = rule(0.5, normalize=True)
    # u / mean |u| does not change with x on this net: its derivative is zero
    torch.testing.assert_close(scaled.pullback(draw, v), v, rtol=0, atol=1e-10)
    assert float((rule(0.5).pullback(draw, v) - v).abs().max()) > 1e-4
    smooth = rule(0.5, normalize=True, trajectory="smooth").smoothed_map(draw, draw.x)
    direction = problem.w / problem.w.abs().mean() * (2.0 * draw.y - 1).view(-1, 1, 1, 1)
    expected = draw.x + (draw.start - 0.1 * SOFT[rule](direction / 0.5)).clamp(-0.2, 0.2)
    torch.testing.assert_close(smooth, expected)


def test_normalize_survives_a_vanishing_gradient() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 3).double())
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    draw = draw_on(net, CONFIG)
    v = random_v(draw)
    assert torch.equal(Tanh(normalize=True).pullback(draw, v), v)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_autodiff_is_exactly_the_identity(checkpoint: bool) -> None:
    draw = draw_on(conv_net(), TransformConfig(), shape=(3, 8, 8))
    v = random_v(draw)
    found = Autodiff(checkpoint=checkpoint).pullback(draw, v)
    assert torch.equal(found, v) if checkpoint else torch.allclose(found, v, rtol=0, atol=1e-15)


def test_one_image_does_not_feel_the_others() -> None:
    config = TransformConfig(max_iter=3)
    draw = draw_on(smooth_net(), config, n=4)
    v = random_v(draw)
    for rule in (Tanh(0.05), Softsign(0.05, normalize=True), Tanh(0.1, trajectory="smooth", checkpoint=False)):
        alone = [
            rule.pullback(make_draw(draw.model, draw.x[i : i + 1], draw.start[i : i + 1], config), v[i : i + 1])
            for i in range(4)
        ]
        torch.testing.assert_close(rule.pullback(draw, v), torch.cat(alone), rtol=1e-10, atol=1e-13)


def test_the_label_is_that_of_the_draw() -> None:
    draw = draw_on(smooth_net(), CONFIG)
    flipped = Draw(**{**vars(draw), "y": (draw.y + 1) % 3})
    assert torch.equal(draw.y, target_class(draw.model, draw.x))
    v = random_v(draw)
    assert not torch.equal(Tanh(0.05).pullback(draw, v), Tanh(0.05).pullback(flipped, v))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0}, ValueError, "expected temperature > 0, got 0"),
        ({"temperature": "1"}, TypeError, "expected temperature to be a number, got str"),
        ({"steps": 0}, ValueError, "expected steps >= 1, got 0"),
        ({"projection": "soft"}, ValueError, "unknown projection 'soft'; known: exact, mask"),
        ({"trajectory": "both"}, ValueError, "unknown trajectory 'both'; known: exact, smooth"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        Softsign(**options)
