"""AdversarialTransform in ART's classifier: predictions, gradients, other preprocessors beside it."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.classification import BlackBoxClassifier
from art.preprocessing.expectation_over_transformation import EoTGaussianNoisePyTorch
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import Tensor, nn

from art_advtransform import AdversarialTransform, DefendedModel, LLPGDTransform
from art_advtransform.backward import Draw, GradientEstimator
from tests.integration.art_setup import art_classifier, as_tensor, defence, eot_defence, one_hot
from tests.integration.nets import (
    CLASSES,
    CONFIG,
    Problem,
    class_gradient_at,
    logits_at,
    loss_gradient_at,
    problem,
    query_limit,
    starts,
    transformed,
)

MEAN, STD = 0.4, 0.25


@pytest.fixture
def task() -> Problem:
    return problem(n=7)


class ThroughStart(GradientEstimator):
    """J = diag(D): a backward rule that shows which draw it was given."""

    def pullback(self, draw: Draw, v: Tensor) -> Tensor:
        return v * draw.start


class Detached(AdversarialTransform):
    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        g, y = super().forward(x, y)
        return g.detach(), y


def assert_close(actual: Any, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(as_tensor(actual), expected, rtol=1e-4, atol=atol)


def test_predict_sends_the_whole_array_in_one_call_under_no_grad(
    task: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = defence(task.f_b, batch_size=3)
    calls: list[tuple[int, bool]] = []
    forward = g.forward

    def recorded(x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        calls.append((len(x), torch.is_grad_enabled()))
        return forward(x, y)

    monkeypatch.setattr(g, "forward", recorded)
    with query_limit(g.model, 1000) as seen_by_f_b:
        logits = art_classifier(task.f_a, g).predict(task.x.numpy(), batch_size=2)
    assert calls == [(7, False)]
    assert max(len(z) for z in seen_by_f_b) == 3, "the defence has to cut the array into chunks itself"
    assert_close(logits, logits_at(task.f_a, transformed(task.f_b, task.x, starts(task.x, 0)[0])))


def test_loss_gradient_differentiates_through_forward(task: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def unused(*_: Any) -> None:
        raise AssertionError("ART does not come here when every preprocessor is a PyTorch one")

    g = defence(task.f_b, gradient=ThroughStart())
    monkeypatch.setattr(g, "estimate_forward", unused)
    monkeypatch.setattr(g, "estimate_gradient", unused)
    start = starts(task.x, 0)[0]
    expected = start * loss_gradient_at(task.f_a, transformed(task.f_b, task.x, start), task.y) / len(task.x)
    assert_close(art_classifier(task.f_a, g).loss_gradient(task.x.numpy(), one_hot(task.y)), expected, 1e-7)


def test_a_detached_forward_has_no_gradient(task: Problem) -> None:
    with pytest.raises(ValueError, match="Gradient term in PyTorch model is `None`"):
        art_classifier(task.f_a, Detached(task.f_b)).loss_gradient(task.x.numpy(), one_hot(task.y))


def test_numpy_preprocessor_in_chain_gradient_and_value_share_the_draw(task: Problem) -> None:
    g = defence(task.f_b, gradient=ThroughStart())
    classifier = art_classifier(task.f_a, g, preprocessing=StandardisationMeanStd(MEAN, STD))
    assert not classifier.all_framework_preprocessing
    for start in starts(task.x, 0, calls=2):
        z = (transformed(task.f_b, task.x, start) - MEAN) / STD
        expected = start * loss_gradient_at(task.f_a, z, task.y) / STD / len(task.x)
        assert_close(classifier.loss_gradient(task.x.numpy(), one_hot(task.y)), expected, 1e-6)


def test_numpy_preprocessor_in_chain_class_gradients_share_one_draw(task: Problem) -> None:
    classifier = art_classifier(
        task.f_a, defence(task.f_b, gradient=ThroughStart()), preprocessing=StandardisationMeanStd(MEAN, STD)
    )
    start = starts(task.x, 0)[0]
    z = (transformed(task.f_b, task.x, start) - MEAN) / STD
    assert_close(classifier.class_gradient(task.x.numpy()), start[:, None] * class_gradient_at(task.f_a, z) / STD)


def test_going_back_to_a_draw_does_not_repeat_the_ones_that_came_after(task: Problem) -> None:
    g = defence(task.f_b, gradient=ThroughStart())
    draws = starts(task.x, 0, calls=3)
    g(task.x.numpy())
    second, _ = g.forward(task.x)
    assert_close(g.estimate_gradient(task.x.numpy(), np.ones_like(task.x.numpy())), draws[0])
    assert_close(second, transformed(task.f_b, task.x, draws[1]))
    assert_close(g.forward(task.x)[0], transformed(task.f_b, task.x, draws[2]))


def test_estimate_gradient_of_images_that_were_not_transformed_draws_anew(task: Problem) -> None:
    g = defence(task.f_b, gradient=ThroughStart())
    ones = np.ones_like(task.x.numpy())
    for start in starts(task.x, 0, calls=2):
        assert_close(g.estimate_gradient(task.x.numpy(), ones), start)


def test_defences_come_before_standardisation_f_b_sees_raw_pixels(task: Problem) -> None:
    g = defence(task.f_b)
    classifier = art_classifier(task.f_a, g, preprocessing=(MEAN, STD))
    with query_limit(g.model, 1000) as seen_by_f_b:
        logits = classifier.predict(task.x.numpy())
    assert any(torch.equal(z, task.x) for z in seen_by_f_b), "the label is found at the raw image"
    start = starts(task.x, 0)[0]
    z = (transformed(task.f_b, task.x, start) - MEAN) / STD
    assert_close(logits, logits_at(task.f_a, z))
    classifier = art_classifier(task.f_a, defence(task.f_b), preprocessing=(MEAN, STD))
    expected = loss_gradient_at(task.f_a, z, task.y) / STD / len(task.x)
    assert_close(classifier.loss_gradient(task.x.numpy(), one_hot(task.y)), expected, 1e-6)


@pytest.mark.parametrize("first", ["scaling", "transform"])
def test_chained_with_another_torch_preprocessor(task: Problem, first: str) -> None:
    scaling = StandardisationMeanStdPyTorch(mean=0.1, std=0.8, device_type="cpu")
    start = starts(task.x, 0)[0]
    if first == "scaling":
        chain = [scaling, defence(task.f_b)]
        z = transformed(task.f_b, (task.x - 0.1) / 0.8, start)
    else:
        chain = [defence(task.f_b), scaling]
        z = (transformed(task.f_b, task.x, start) - 0.1) / 0.8
    classifier = art_classifier(task.f_a, *chain)
    assert_close(classifier.predict(task.x.numpy()), logits_at(task.f_a, z))


def test_gradient_of_a_torch_chain(task: Problem) -> None:
    scaling = StandardisationMeanStdPyTorch(mean=0.1, std=0.8, device_type="cpu")
    start = starts(task.x, 0)[0]
    z = transformed(task.f_b, (task.x - 0.1) / 0.8, start)
    expected = start * loss_gradient_at(task.f_a, z, task.y) / 0.8 / len(task.x)
    classifier = art_classifier(task.f_a, scaling, defence(task.f_b, gradient=ThroughStart()))
    assert_close(classifier.loss_gradient(task.x.numpy(), one_hot(task.y)), expected, 1e-7)


def test_art_refuses_numpy_defences_beside_torch_ones_in_a_torch_classifier(task: Problem) -> None:
    squeezing = FeatureSqueezing(clip_values=(0, 1), bit_depth=3, apply_predict=True)
    classifier = art_classifier(task.f_a, squeezing, defence(task.f_b))
    with pytest.raises(NotImplementedError, match="combination of preprocessing types"):
        classifier.predict(task.x.numpy())


def test_numpy_defence_before_the_transform_in_a_black_box_classifier(task: Problem) -> None:
    squeezing = FeatureSqueezing(clip_values=(0, 1), bit_depth=3, apply_predict=True)
    classifier = BlackBoxClassifier(
        lambda x: logits_at(task.f_a, torch.from_numpy(x)).numpy(),
        tuple(task.x.shape[1:]),
        CLASSES,
        preprocessing_defences=[squeezing, defence(task.f_b)],
    )
    squeezed = torch.from_numpy(squeezing(task.x.numpy())[0]).float()
    start = starts(task.x, 0)[0]
    assert_close(classifier.predict(task.x.numpy()), logits_at(task.f_a, transformed(task.f_b, squeezed, start)))


@pytest.mark.parametrize("label", [None, 2, "array"])
@pytest.mark.parametrize("nb_samples", [1, 3])
def test_class_gradient_is_the_mean_over_the_draws(task: Problem, label: Any, nb_samples: int) -> None:
    g = defence(task.f_b) if nb_samples == 1 else eot_defence(task.f_b, nb_samples)
    labels = task.y.numpy() if label == "array" else label
    actual = art_classifier(task.f_a, g).class_gradient(task.x.numpy(), label=labels)
    rows = task.x.repeat_interleave(nb_samples, 0)
    every = class_gradient_at(task.f_a, transformed(task.f_b, rows, starts(rows, 0)[0]))
    mean = every.view(len(task.x), nb_samples, *every.shape[1:]).mean(1)
    chosen = task.y if label == "array" else torch.full_like(task.y, label or 0)
    expected = mean if label is None else mean[torch.arange(len(task.x)), chosen][:, None]
    assert_close(actual, expected)


def test_class_gradient_makes_one_backward_pass_for_every_class(task: Problem) -> None:
    model = DefendedModel(task.f_a, LLPGDTransform(task.f_b, CONFIG))
    classifier = art_classifier(model)
    classifier.class_gradient(task.x.numpy(), label=1)
    assert (model.queries.forward, model.queries.backward) == (len(task.x), len(task.x))
    classifier.class_gradient(task.x.numpy())
    assert (model.queries.forward, model.queries.backward) == (2 * len(task.x), (1 + CLASSES) * len(task.x))


def test_eot_loss_gradient_is_the_mean_over_the_draws(task: Problem) -> None:
    rows = task.x.repeat_interleave(5, 0)
    z = transformed(task.f_b, rows, starts(rows, 0)[0])
    each = loss_gradient_at(task.f_a, z, task.y.repeat_interleave(5))
    expected = each.view(len(task.x), 5, *task.x.shape[1:]).mean(1) / len(task.x)
    classifier = art_classifier(task.f_a, eot_defence(task.f_b, 5))
    assert_close(classifier.loss_gradient(task.x.numpy(), one_hot(task.y)), expected, 1e-7)


def test_eot_predict_keeps_rows(task: Problem) -> None:
    """ART's own EoT classes multiply the rows of predictions (ART issue 1267)."""
    noise = EoTGaussianNoisePyTorch(nb_samples=3, std=0.1, clip_values=(0.0, 1.0))
    assert len(art_classifier(task.f_a, noise).predict(task.x.numpy())) == 3 * len(task.x)
    logits = art_classifier(task.f_a, eot_defence(task.f_b, 3)).predict(task.x.numpy())
    assert_close(logits, logits_at(task.f_a, transformed(task.f_b, task.x, starts(task.x, 0)[0])))


def test_eot_behind_a_numpy_preprocessor_is_a_single_draw(task: Problem) -> None:
    classifier = art_classifier(task.f_a, eot_defence(task.f_b, 4), preprocessing=StandardisationMeanStd(MEAN, STD))
    z = (transformed(task.f_b, task.x, starts(task.x, 0)[0]) - MEAN) / STD
    expected = loss_gradient_at(task.f_a, z, task.y) / STD / len(task.x)
    assert_close(classifier.loss_gradient(task.x.numpy(), one_hot(task.y)), expected, 1e-6)


def test_set_params_takes_effect_in_the_classifier(task: Problem) -> None:
    g = eot_defence(task.f_b, 2)
    classifier = art_classifier(task.f_a, g)
    g.set_params(eps=0.05, max_iter=2, random_start=False, nb_samples=3)
    config = g.transform.config
    assert (config.eps, config.step, config.max_iter) == (0.05, 0.005, 2)
    z = transformed(task.f_b, task.x, torch.zeros_like(task.x), config)
    assert 0 < (z - task.x).abs().max() <= 0.0101
    assert_close(classifier.predict(task.x.numpy()), logits_at(task.f_a, z))
    assert len(g.forward(task.x.clone().requires_grad_())[0]) == 3 * len(task.x)


@pytest.mark.parametrize(
    "params", [{"eps": -0.1}, {"max_iter": 0}, {"objective": "other"}, {"gradient": "other"}, {"batch_size": 0}]
)
def test_set_params_refuses_bad_values(task: Problem, params: dict[str, Any]) -> None:
    g = defence(task.f_b)
    with pytest.raises(ValueError, match=r"expected|unknown"):
        g.set_params(**params)
    assert g.transform.config == CONFIG, "the g in use is the old one"
    g.set_params(max_iter=2)  # what was refused has left nothing behind
    assert g.transform.config == replace(CONFIG, max_iter=2)


@pytest.mark.parametrize("host", ["reset", "set_dropout", "clone_for_refitting"])
def test_hosts_reset_f_a_and_leave_f_b_alone(task: Problem, host: str) -> None:
    """ART resets what the layers of a whole model have learned, and switches their dropout on."""
    f_b = nn.Sequential(nn.Dropout(0.5), copy.deepcopy(task.f_b))
    g = LLPGDTransform(f_b, replace(CONFIG, random_start=False))
    model = DefendedModel(copy.deepcopy(task.f_a), g)
    classifier = art_classifier(model)
    before, weights = g(task.x), [p.clone() for p in model.classifier.parameters()]
    if host == "clone_for_refitting":
        model = classifier.clone_for_refitting().model
    else:
        getattr(classifier, host)(*([True] if host == "set_dropout" else []))
    assert isinstance(model.transform, LLPGDTransform)
    assert torch.equal(model.transform(task.x), before)
    if host != "set_dropout":
        assert not all(torch.equal(*pair) for pair in zip(weights, model.classifier.parameters(), strict=True))


def test_apply_predict_off_leaves_predictions_and_gradients_to_f_a(task: Problem) -> None:
    classifier = art_classifier(task.f_a, defence(task.f_b, apply_predict=False))
    assert_close(classifier.predict(task.x.numpy()), logits_at(task.f_a, task.x))
    expected = loss_gradient_at(task.f_a, task.x, task.y) / len(task.x)
    assert_close(classifier.loss_gradient(task.x.numpy(), one_hot(task.y)), expected, 1e-7)


def test_copies_draw_for_themselves(task: Problem) -> None:
    """Worker processes get pickles: with one D for all of them, N workers would score one draw N times."""
    g, x = AdversarialTransform(task.f_b, device_type="cpu"), task.x.numpy()
    copies = [copy.deepcopy(g), pickle.loads(pickle.dumps(g))]
    values = [each(x)[0] for each in (g, *copies)]
    assert not any(np.array_equal(a, b) for a, b in combinations(values, 2))
    classifier = art_classifier(task.f_a, g)
    assert not np.array_equal(classifier.predict(x), copy.deepcopy(classifier).predict(x))
    # a given generator is the user's: a copy goes on where it stands
    g = AdversarialTransform(task.f_b, generator=torch.Generator().manual_seed(3), device_type="cpu")
    assert np.array_equal(copy.deepcopy(g)(x)[0], g(x)[0])


def test_images_of_another_scale_are_refused(task: Problem) -> None:
    """Behind ``preprocessing=(0, 255)`` the defence would see [0, 255], where it moves nothing."""
    classifier = art_classifier(task.f_a, defence(task.f_b), clip_values=(0, 255), preprocessing=(0, 255))
    with pytest.raises(ValueError, match=r"expected images in \[0, 1\], got pixels in "):
        classifier.predict(255 * task.x.numpy())


def test_f_b_in_double_precision_under_a_float32_classifier(task: Problem) -> None:
    """ART's arrays are float32, whatever precision LL-PGD computes in."""
    f_b = task.f_b.double()
    g = AdversarialTransform(f_b, max_iter=CONFIG.max_iter, random_start=False)
    z = transformed(f_b, task.x, torch.zeros_like(task.x))
    for x in (task.x.numpy(), task.x.double().numpy()):
        assert_close(art_classifier(task.f_a, g).predict(x), logits_at(task.f_a, z))
