"""What nets are trained for: clean images, PGD examples, g(x), and the imitation of g."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.datasets import ImageSet
from art_advtransform.gradients import Reparameterized
from art_advtransform.layer import LLPGDTransform
from art_advtransform.losses import adversarial_loss, defended_loss, imitation_loss, plain_loss, trades_loss
from art_advtransform.networks import FCN
from art_advtransform.training import Recipe, fit, fit_surrogate
from art_advtransform.transform import random_start
from tests.models import RECIPE, Spy, global_state_untouched, same_weights, toy, toy_net
from tests.problems import linear_net, seeded

THREAT = ThreatModel(eps=0.1)


def trained_net() -> nn.Module:
    net = toy_net()
    fit(net, toy(), plain_loss, RECIPE)
    return net


def no_dropout(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


def test_plain_loss() -> None:
    net, data = toy_net(), toy(8)
    assert torch.equal(plain_loss(net, data.x, data.y, seeded(0)), F.cross_entropy(net(data.x), data.y))


# ---- PGD examples


def test_adversarial_examples_are_within_the_budget_and_hurt() -> None:
    spy, data = Spy(no_dropout(trained_net())), toy(24, seed=1)
    with global_state_untouched():
        adversarial_loss(THREAT)(spy, data.x, data.y, seeded(0))
    (attacked,) = spy.seen
    assert float((attacked - data.x).abs().max()) <= THREAT.eps + 1e-6
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    spy.eval()
    with torch.no_grad():
        random = (data.x + random_start(data.x, THREAT.eps, seeded(1)).sign() * THREAT.eps).clamp(0, 1)
        losses = [float(F.cross_entropy(spy(x), data.y)) for x in (data.x, random, attacked)]
    assert losses[2] > 1.5 * max(losses[:2])


def test_the_attack_leaves_batch_statistics_and_gradients_alone() -> None:
    spy, data = Spy(no_dropout(toy_net())), toy(24)
    reference = copy.deepcopy(spy)
    loss = adversarial_loss(THREAT)(spy, data.x, data.y, seeded(0))
    assert all(module.training for module in spy.modules())
    assert all(p.grad is None for p in spy.parameters())
    reference.train()
    expected = F.cross_entropy(reference(spy.seen[0]), data.y)
    assert torch.equal(loss, expected)
    assert same_weights(spy, reference)  # buffers: those of one pass over the attacked batch
    assert int(spy.state_dict()["net.1.num_batches_tracked"]) == 1
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in spy.parameters())


def test_steps_of_the_attack() -> None:
    spy, data = Spy(toy_net()), toy(24)
    adversarial_loss(THREAT, max_iter=5)(spy, data.x, data.y, seeded(0))
    assert spy.calls == 5 + 1
    # one step of 1.25 eps from anywhere in [-eps, eps]: to the edge from 1.25 / 2 of the places, but for the clip
    adversarial_loss(THREAT, max_iter=1)(spy, data.x, data.y, seeded(0))
    change = (spy.seen[-1] - data.x).abs()
    assert 0.5 < float((change > THREAT.eps - 1e-6).float().mean()) < 0.65
    adversarial_loss(THREAT, max_iter=1, eps_step=2.5 * THREAT.eps)(spy, data.x, data.y, seeded(0))
    assert float(((spy.seen[-1] - data.x).abs() > THREAT.eps - 1e-6).float().mean()) > 0.8
    # one short step stays near the start
    adversarial_loss(THREAT, max_iter=1, eps_step=1e-4)(spy, data.x, data.y, seeded(0))
    start = random_start(data.x, THREAT.eps, seeded(0))
    near = (spy.seen[-1] - (data.x + start).clamp(0, 1)).abs()
    assert 0 < float(near.max()) <= 1.1e-4


# ---- g(x)


def transform(config: TransformConfig | None = None) -> LLPGDTransform:
    return LLPGDTransform(toy_net(5), config or TransformConfig(max_iter=3), generator=seeded(9))


def test_every_batch_gets_a_fresh_draw() -> None:
    g, spy, data = transform(), Spy(no_dropout(toy_net())).train(), toy(24)
    before, generator = g.generator.get_state(), seeded(0)
    losses = [defended_loss(g)(spy, data.x, data.y, generator) for _ in range(3)]
    assert torch.equal(g.generator.get_state(), before)  # an epoch's randomness is the epoch's own: it can be resumed
    replayed = seeded(0)
    for seen, loss in zip(spy.seen, losses, strict=True):
        start = random_start(data.x, 0.2, replayed)
        assert torch.equal(seen, g(data.x, start))
        reference = no_dropout(toy_net()).train()
        assert torch.equal(loss, F.cross_entropy(reference(g(data.x, start)), data.y))
    assert not torch.equal(spy.seen[0], spy.seen[1])
    assert not torch.equal(spy.seen[1], spy.seen[2])


def test_draws_of_an_epoch_differ_while_training() -> None:
    data, spy = toy(64), Spy(toy_net())
    one = ImageSet("one", data.x[:1].expand(64, -1, -1, -1), data.y[:1].expand(64), ())
    fit(spy, one, defended_loss(transform()), Recipe(2, 32, crop_padding=0, flip=False))
    assert len(spy.seen) == 4
    # one image, four batches of 32: no two are transformed alike
    assert len({tuple(image.flatten().tolist()) for batch in spy.seen for image in batch}) == 128


def test_without_a_random_start_there_is_none_in_training_either() -> None:
    g, spy, data = transform(TransformConfig(max_iter=3, random_start=False)), Spy(toy_net()).train(), toy(24)
    defended_loss(g)(spy, data.x, data.y, seeded(0))
    assert torch.equal(spy.seen[0], g(data.x))


# ---- imitation of g


class Still(nn.Module):
    """h(x, D) = x."""

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        return x


def bright_or_dark(n: int) -> ImageSet:
    x = torch.rand(n, 1, 6, 6, generator=seeded(0)) * 0.5
    x[::2] += 0.5
    return ImageSet("bright or dark", x, torch.zeros(n).long(), ())


def bright_or_dark_transform() -> LLPGDTransform:
    """f_b(z) = (sum z - 18, 0), and steps enough for any D to end in the corner x - eps sign(sum x - 18)."""
    f_b = linear_net(torch.stack([torch.ones(36), torch.zeros(36)]), torch.tensor([-18.0, 0.0]))
    return LLPGDTransform(f_b, TransformConfig(max_iter=21))


def test_imitation_is_measured_in_units_of_eps() -> None:
    data = bright_or_dark(16)
    loss = imitation_loss(bright_or_dark_transform())(Still(), data.x, data.y, seeded(0))
    assert float(loss) == pytest.approx(1.0, rel=1e-5)  # every pixel of g(x) is eps away


def test_imitation_gives_h_the_draw() -> None:
    g, x = transform(), toy(8).x

    class Exact(nn.Module):
        def forward(self, x: Tensor, start: Tensor) -> Tensor:
            return g(x, start)  # type: ignore[no-any-return]

    assert float(imitation_loss(g)(Exact(), x, torch.zeros(8), seeded(0))) == 0.0
    assert float(imitation_loss(g)(Still(), x, torch.zeros(8), seeded(0))) > 0.1


def test_surrogate_learns_to_imitate() -> None:
    g, data = bright_or_dark_transform(), bright_or_dark(96)
    recipe = Recipe(10, 16, 0.05, decay="cosine", crop_padding=0, flip=False)
    with global_state_untouched():
        h = fit_surrogate(g, data, recipe, width=8, depth=3)
    assert isinstance(h, FCN)
    assert not h.training
    with torch.no_grad():
        error = float(imitation_loss(g)(h, data.x, data.y, seeded(5)))
    assert error < 0.2  # h = identity has 1
    assert same_weights(h, fit_surrogate(g, data, recipe, width=8, depth=3))
    _works_as_a_backward_rule(h, data.x[:4])


def _works_as_a_backward_rule(h: FCN, x: Tensor) -> None:
    f_b = bright_or_dark_transform().model
    g = LLPGDTransform(f_b, TransformConfig(max_iter=21), gradient=Reparameterized(h))
    start, v = random_start(x, 0.2, seeded(1)), torch.randn(x.shape, generator=seeded(2))
    x = x.clone().requires_grad_()
    value = g(x, start)
    assert torch.equal(value, bright_or_dark_transform()(x.detach(), start))
    (gradient,) = torch.autograd.grad(value, x, v)
    (expected,) = torch.autograd.grad(h(x, start), x, v)
    torch.testing.assert_close(gradient, expected)
    assert not torch.equal(gradient, v)


# ---- TRADES


def test_trades_is_its_formula() -> None:
    spy, data = Spy(no_dropout(trained_net())).train(), toy(24, seed=1)
    with global_state_untouched():
        value = trades_loss(THREAT, max_iter=3, beta=2.0)(spy, data.x, data.y, seeded(0))
    (both,) = spy.seen
    x, attacked = both.chunk(2)
    assert torch.equal(x, data.x)
    assert float((attacked - x).abs().max()) <= THREAT.eps + 1e-6
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    reference = no_dropout(trained_net()).train()
    p, q = reference(both).softmax(1).chunk(2)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = F.nll_loss(p.log(), data.y) + 2 * divergence
    torch.testing.assert_close(value, expected)
    assert spy.training
    assert all(parameter.grad is None for parameter in spy.parameters())
    value.backward()
    assert all(parameter.grad is not None for parameter in spy.parameters())


def test_trades_ascends_the_divergence() -> None:
    net, data = no_dropout(trained_net()), toy(24, seed=1)
    values = []
    for max_iter, eps_step in ((1, 1e-6), (10, None)):
        spy = Spy(copy.deepcopy(net)).train()
        trades_loss(THREAT, max_iter, eps_step)(spy, data.x, data.y, seeded(0))
        with torch.no_grad():
            p, q = net.eval()(spy.seen[0]).softmax(1).chunk(2)
        values.append(float((p * (p / q).log()).sum()))
    assert values[1] > 3 * values[0]


def test_trades_without_the_divergence_is_plain() -> None:
    net, data = toy_net().eval(), toy(24)
    net.train = lambda mode=True: net  # type: ignore[method-assign]  # batch norm sees the pair: not what this test is of
    value = trades_loss(THREAT, beta=0.0)(net, data.x, data.y, seeded(0))
    torch.testing.assert_close(value, plain_loss(net, data.x, data.y, seeded(0)))
