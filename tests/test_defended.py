"""DefendedModel: EOT, frozen draws, query counts, and no trace on f_a."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from art_advtransform.defended import DefendedModel, Queries
from art_advtransform.layer import LLPGDTransform
from tests.problems import SHORT, classifier, conv_net, defended_model, images, start_for


def test_value_is_f_a_of_g() -> None:
    model, x = defended_model(), images(4)
    start = start_for(x)
    assert model.transform is not None
    torch.testing.assert_close(model(x, start), model.classifier(model.transform(x, start)), rtol=0, atol=1e-14)
    assert not torch.equal(model(x), model(x))


def test_without_a_transform_it_is_f_a() -> None:
    model, x = DefendedModel(classifier(), None, eot_samples=3), images(4)
    assert torch.equal(model(x), classifier()(x))
    assert not model.randomized
    with model.frozen(0):
        assert torch.equal(model(x), classifier()(x))
    assert model.queries.forward == 8  # EOT of a deterministic map is one draw


# ---- EOT


@pytest.mark.parametrize("n", [1, 4])
def test_eot_keeps_the_shape(n: int) -> None:
    assert defended_model(eot_samples=5)(images(n)).shape == (n, 5)


def test_many_draws_keep_few_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    # 500 draws of 50 images would keep a ResNet18's activations for all 25,000
    def gradient() -> tuple[Tensor, int]:
        model, x, seen = defended_model(eot_samples=20), images(3).requires_grad_(), 0

        def count(module: nn.Module, inputs: Any) -> None:
            nonlocal seen
            seen += len(inputs[0])

        model.classifier.register_forward_pre_hook(count)
        model(x)[:, 0].sum().backward()
        assert x.grad is not None
        return x.grad, seen

    kept, once = gradient()
    monkeypatch.setattr("art_advtransform.defended._KEPT", 59 * images(1)[0, 0].numel())
    again, twice = gradient()
    assert (once, twice) == (60, 120)  # f_a's forward pass is made again, in the backward pass
    assert torch.equal(kept, again)
    assert float(kept.abs().max()) > 0


def logits_of_each_draw(x: Tensor, draws: int, seed: int = 0) -> Tensor:
    """(draws, n, K): the same draws, in the same order, as an EOT model with this seed makes."""
    model = defended_model(seed)
    repeated = x.repeat_interleave(draws, 0)
    logits: Tensor = model(repeated)
    return logits.view(len(x), draws, -1).transpose(0, 1)


def test_eot_of_logits_is_their_mean() -> None:
    x = images(3)
    expected = logits_of_each_draw(x, 4)
    torch.testing.assert_close(defended_model(eot_samples=4)(x), expected.mean(0), rtol=0, atol=1e-12)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3


def test_eot_of_probabilities_is_the_log_of_their_mean() -> None:
    x = images(3)
    expected = logits_of_each_draw(x, 4).softmax(2).mean(0).log()
    found = defended_model(eot_samples=4, eot_average="probabilities")(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(3, dtype=torch.float64))


def test_eot_gradient_is_the_mean_over_draws() -> None:
    x = images(2)
    z, repeated = x.clone().requires_grad_(), x.repeat_interleave(4, 0).requires_grad_()
    defended_model(eot_samples=4)(z)[:, 0].sum().backward()
    defended_model()(repeated)[:, 0].sum().backward()
    assert z.grad is not None
    assert repeated.grad is not None
    torch.testing.assert_close(z.grad, repeated.grad.view(2, 4, 3, 8, 8).mean(1))


# ---- queries


def test_queries_are_counted() -> None:
    model, x = defended_model(eot_samples=3), images(4).requires_grad_()
    model(x)
    assert model.queries == Queries(forward=12, backward=0)
    model(x).sum().backward()
    assert model.queries == Queries(forward=24, backward=12)
    with torch.no_grad():
        model(x)
    with torch.inference_mode():
        model(x.detach())
    assert model.queries == Queries(forward=48, backward=12)
    logits = model(x[:1])
    for k in range(2):  # a gradient for each of two classes
        torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)
    assert model.queries == Queries(forward=51, backward=18)
    model.queries.reset()
    assert model.queries == Queries(0, 0)


# ---- f_a: trace and mode


@pytest.mark.parametrize("transform", [True, False])
def test_eval_leaves_no_gradient_on_f_a_and_train_does(transform: bool) -> None:
    f_a = classifier()
    model = DefendedModel(f_a, LLPGDTransform(conv_net(), SHORT) if transform else None)
    x = images(2).requires_grad_()
    model.eval()(x).sum().backward()
    assert all(p.grad is None and p.requires_grad for p in f_a.parameters())
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0
    model.train()(images(2)).sum().backward()
    assert all(p.grad is not None for p in f_a.parameters())


def test_logits_of_eval_need_no_gradient_unless_the_images_do() -> None:
    model = defended_model()
    assert not model(images(2)).requires_grad
    assert model(images(2).requires_grad_()).requires_grad


def test_train_switches_f_a_and_never_f_b() -> None:
    """torchattacks puts a whole model back by model.train()."""
    model, x = defended_model(), images(3)
    assert model.transform is not None
    start = start_for(x)
    expected = model(x, start)
    model.train()
    assert model.classifier.training
    assert not any(module.training for module in model.transform.model.modules())
    statistics = copy.deepcopy(model.classifier.state_dict())
    model(x, start)
    changed = [key for key, value in model.classifier.state_dict().items() if not torch.equal(value, statistics[key])]
    assert changed  # batch norm of f_a learns in train mode
    model.classifier.load_state_dict(statistics)
    assert torch.equal(model.eval()(x, start), expected)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_taken_from_f_a(training: bool) -> None:
    model = DefendedModel(classifier().train(training), LLPGDTransform(conv_net()))
    assert model.training == training


@pytest.mark.parametrize(("of_f_a", "of_images"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_images_are_cast_to_f_as_precision(of_f_a: torch.dtype, of_images: torch.dtype) -> None:
    f_a = classifier(dtype=of_f_a)
    for transform in (None, LLPGDTransform(conv_net(dtype=torch.float32), SHORT)):
        model, x = DefendedModel(f_a, transform), images(2, dtype=of_images).requires_grad_()
        out = model(x)
        assert out.dtype == of_f_a
        out.sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == of_images


# ---- views and copies


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_pickle_and_deepcopy(clone: Callable[[DefendedModel], DefendedModel]) -> None:
    model, x = defended_model(eot_samples=2), images(3)
    model(x)
    copied = clone(model)
    assert copied.queries == Queries(6, 0)
    assert torch.equal(copied(x), model(x))
    assert copied.queries is not model.queries
    with copied.frozen(1):
        assert not copied.randomized
        assert model.randomized


# ---- errors


def test_start_needs_one_draw() -> None:
    x = images(2)
    for model in (defended_model(eot_samples=2), DefendedModel(classifier(), None)):
        with pytest.raises(ValueError, match=r"^expected no start: it needs a transform and eot_samples=1$"):
            model(x, start_for(x))


@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 8, 8), ValueError, "expected images of shape"),
        (torch.full((1, 3, 8, 8), float("nan")), ValueError, "expected finite images"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "expected floating-point images"),
        ("image", TypeError, "expected images as a torch.Tensor, got str"),
    ],
)
def test_bad_images(transform: bool, x: Any, error: type[Exception], message: str) -> None:
    model = defended_model() if transform else DefendedModel(classifier(), None)
    with pytest.raises(error, match=message):
        model(x)
    assert model.queries == Queries(0, 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eot_samples": 0}, ValueError, "expected eot_samples >= 1, got 0"),
        ({"eot_samples": 1.0}, TypeError, "expected eot_samples to be an int, got float"),
        ({"eot_average": "votes"}, ValueError, "unknown eot_average 'votes'; known: logits, probabilities"),
        ({"classifier": "net"}, TypeError, "expected classifier to be a torch.nn.Module, got str"),
        ({"transform": nn.ReLU()}, TypeError, "expected transform to be an LLPGDTransform or None, got ReLU"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {"classifier": classifier(), "transform": None}
    with pytest.raises(error, match=f"^{message}$"):
        DefendedModel(**{**good, **options})


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_no_images_with_eot(average: Any) -> None:
    transform = defended_model().transform
    model = DefendedModel(classifier(), transform, eot_samples=4, eot_average=average).eval()
    nb_classes = classifier()(images(1)).shape[1]
    assert model(images(4)[:0]).shape == (0, nb_classes)
    with model.frozen(0):
        assert model(images(4)[:0]).shape == (0, nb_classes)
