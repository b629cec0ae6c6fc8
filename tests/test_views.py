"""Views: the same networks as an attacker sees them, and as they were given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from art_advtransform.attacks.art_attacks import small_n_transfer
from art_advtransform.attacks.base import Seen, Target, View
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.defended import DefendedModel
from art_advtransform.gradients import GRADIENTS
from art_advtransform.layer import LLPGDTransform
from art_advtransform.unrolled import Tanh
from tests.problems import SHORT, classifier, conv_net, defended_model, images, seeded, start_for


def test_view_shares_the_networks_and_counts_by_itself() -> None:
    model, x = defended_model(eot_samples=2), images(3)
    view = model.view(gradient="tanh", eot_samples=4, eot_average="probabilities", generator=seeded(8))
    assert view.classifier is model.classifier
    assert model.transform is not None
    assert view.transform is not None
    assert view.transform.model is model.transform.model
    assert isinstance(view.transform.gradient, GRADIENTS["tanh"])
    assert isinstance(model.transform.gradient, GRADIENTS["identity"])
    assert (view.eot_samples, view.eot_average, view.training) == (4, "probabilities", False)
    view(x)
    assert (view.queries.forward, model.queries.forward) == (12, 0)
    expected = defended_model()(x)  # the view's draws did not move the defence's generator
    assert torch.equal(DefendedModel(model.classifier, model.transform)(x), expected)
    same = model.view(generator=seeded(8)), model.view(generator=seeded(8))
    assert torch.equal(same[0](x), same[1](x))


class Negated(DefendedModel):
    """Its least likely class first."""

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        return -super().forward(x, start)


class Black(LLPGDTransform):
    """No image is left."""

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        return torch.zeros_like(super().forward(x, start))


def test_views_of_subclasses_and_hooks_are_of_what_was_given() -> None:
    f_a, g, x = classifier(), LLPGDTransform(conv_net(), SHORT), images(3)
    start = start_for(x)
    usual = DefendedModel(f_a, g).eval()
    negated = Negated(f_a, g).eval()
    assert torch.equal(negated.view()(x, start), -usual(x, start))
    assert type(negated.view().view(gradient="tanh")) is Negated
    black = DefendedModel(f_a, Black(conv_net(), SHORT)).eval()
    assert torch.equal(black.view(gradient="tanh", max_iter=1)(x), f_a(torch.zeros_like(x)))
    handle = usual.register_forward_hook(lambda module, inputs, outputs: outputs + 1)
    assert torch.equal(usual.view()(x, start), usual(x, start))
    hooked = usual.view()(x, start)
    handle.remove()
    assert torch.equal(hooked, usual(x, start) + 1)
    # what is put into a view is not put into the model
    usual.view().register_forward_hook(lambda module, inputs, outputs: outputs + 1)
    assert not usual._forward_hooks
    other = classifier(3)
    assert usual.view(classifier=other, eot_samples=2).classifier is other
    assert (usual.classifier is f_a, usual.transform is g, usual.eot_samples) == (True, True, 1)


def test_views_of_a_compiled_model_are_views() -> None:
    """What ``compile`` leaves on the object calls the original, whatever is put into the copy."""
    f_a, g, x, start = classifier(), LLPGDTransform(conv_net(), SHORT), images(3), start_for(images(3))
    model, other = DefendedModel(f_a, g).eval(), classifier(3)
    expected = model.view(classifier=other)(x, start)
    near = g.with_gradient("identity", max_iter=1)(x, start)
    model.compile(backend="eager")
    g.compile(backend="eager")
    seen = model.view(classifier=other)
    torch.testing.assert_close(seen(x, start), expected)
    assert (seen.queries.forward, model.queries.forward) == (3, 0)
    torch.testing.assert_close(g.with_gradient("identity", max_iter=1)(x, start), near)


def test_a_forward_on_the_object_is_refused() -> None:
    model = DefendedModel(classifier(), None)
    model.forward = lambda x, start=None: x.flatten(1)  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="expected a DefendedModel whose forward is its class's"):
        model.view()


def test_view_of_a_deterministic_model_has_one_draw() -> None:
    assert DefendedModel(classifier(), None).view(eot_samples=9).eot_samples == 1
    assert defended_model(config=TransformConfig(random_start=False)).view(eot_samples=9).eot_samples == 1


def test_a_view_of_a_frozen_model_is_frozen() -> None:
    model, x = defended_model().eval(), images(4)
    with model.frozen(5):
        one, eight, expected = model.view(), model.view(eot_samples=8), model(x)
        assert model.is_frozen
    assert not model.is_frozen
    assert one.is_frozen
    assert not one.randomized
    assert torch.equal(one(x), expected)
    assert eight.eot_samples == 8
    assert torch.equal(eight(x), eight(x))
    assert not torch.equal(eight(x), expected)
    assert not torch.equal(model(x), model(x))


# ---- fewer steps of g


def of_steps(max_iter: int | None) -> LLPGDTransform:
    """g of so many steps, as large as those of the one in question."""
    return LLPGDTransform(conv_net(), SHORT if max_iter is None else replace(SHORT, max_iter=max_iter))


@pytest.mark.parametrize("max_iter", [None, 1, 2])
def test_fewer_steps_of_g_are_those_of_a_g_that_has_no_more(max_iter: int | None) -> None:
    x, start, g = images(3), start_for(images(3)), LLPGDTransform(conv_net(), SHORT)
    seen = g.with_gradient("identity", max_iter=max_iter)
    assert seen.config == of_steps(max_iter).config
    assert torch.equal(seen(x, start), of_steps(max_iter)(x, start))
    assert torch.equal(seen(x, start), g(x, start)) == (max_iter is None)
    assert g.config == SHORT


@pytest.mark.parametrize("max_iter", [None, 1, 2])
@pytest.mark.parametrize("model", ["defended", "twin"])
def test_an_attack_sees_g_of_as_many_steps_as_its_view_says(model: Seen, max_iter: int | None) -> None:
    x, start, y = images(3), start_for(images(3)), torch.arange(3)
    target = Target(defended_model().eval(), x, y, ThreatModel(), 0, twin=classifier(3))
    expected = DefendedModel(classifier(3 if model == "twin" else 7), of_steps(max_iter)).eval()(x, start)
    with target.seen(View(model, max_iter=max_iter)) as seen:
        assert torch.equal(seen(x, start), expected)
    if model == "defended":
        assert torch.equal(target.view(max_iter=max_iter)(x, start), expected)
        assert torch.equal(target.defended.view(max_iter=max_iter)(x, start), expected)


def test_a_small_n_transfer_goes_through_so_few_steps() -> None:
    rule = Tanh()
    assert small_n_transfer(rule, 2).view == View(gradient=rule, eot_samples=2, max_iter=2)
