"""Stock attacks of ART, unmodified, on defended classifiers; and the habits of theirs that a defence has to survive."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    HopSkipJump,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_advtransform import DefendedModel, LLPGDTransform, ThreatModel, evaluate
from art_advtransform.attacks.art_attacks import art_attack
from art_advtransform.attacks.base import View
from art_advtransform.records import AttackResult
from tests.integration.art_setup import art_classifier, as_tensor, defence, eot_defence, one_hot
from tests.integration.nets import (
    CLASSES,
    CONFIG,
    Problem,
    TooManyQueriesError,
    inside,
    logits_at,
    loss_gradient_at,
    problem,
    query_limit,
    starts,
    transformed,
)

EPS = 0.1
QUERIES = 4000
"""More than any run below needs; HopSkipJump's search for a step has no bound of its own."""


@pytest.fixture
def task() -> Problem:
    return problem(n=4)


def accuracy(classifier: Any, x: Any, y: Tensor) -> float:
    return float((classifier.predict(x).argmax(1) == y.numpy()).mean())


def pgd(classifier: Any, task: Problem) -> Any:
    attack = ProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 4, max_iter=10, verbose=False)
    return attack.generate(task.x.numpy(), one_hot(task.y))


def hop_skip_jump(classifier: Any, **options: Any) -> Any:
    settings = {"max_iter": 2, "init_eval": 10, "max_eval": 20, "init_size": 50, "norm": np.inf, "verbose": False}
    return HopSkipJump(classifier, **{**settings, **options})


def deterministic(task: Problem) -> Any:
    return art_classifier(task.f_a, defence(task.f_b, random_start=False))


def test_pgd_lowers_the_accuracy_of_the_control_and_that_of_a_fixed_draw(task: Problem) -> None:
    control = art_classifier(DefendedModel(task.f_a, None))
    attacked = pgd(control, task)
    assert inside(as_tensor(attacked), task.x, EPS)
    assert accuracy(control, task.x.numpy(), task.y) == 1
    assert accuracy(control, attacked, task.y) <= 0.25
    defended = deterministic(task)
    attacked = pgd(defended, task)
    assert inside(as_tensor(attacked), task.x, EPS)
    losses = [defended.compute_loss(x, one_hot(task.y)).mean() for x in (task.x.numpy(), attacked)]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("nb_samples", [1, 4])
@pytest.mark.parametrize("loss_type", [None, "cross_entropy", "difference_logits_ratio"])
def test_auto_pgd(task: Problem, loss_type: str | None, nb_samples: int) -> None:
    g = defence(task.f_b) if nb_samples == 1 else eot_defence(task.f_b, nb_samples)
    for classifier, is_control in ((art_classifier(task.f_a), True), (art_classifier(task.f_a, g), False)):
        attack = AutoProjectedGradientDescent(
            classifier, eps=EPS, eps_step=EPS / 2, max_iter=8, nb_random_init=2, loss_type=loss_type, verbose=False
        )
        # labels as the defended classifier predicts them: the attack leaves alone what is already misclassified
        y = torch.from_numpy(classifier.predict(task.x.numpy()).argmax(1))
        attacked = attack.generate(task.x.numpy(), one_hot(y))
        assert inside(as_tensor(attacked), task.x, EPS)
        if is_control:
            assert accuracy(classifier, attacked, y) <= 0.25


@pytest.mark.parametrize("loss_type", ["cross_entropy", "difference_logits_ratio"])
def test_auto_pgd_with_a_loss_rebuilds_the_classifier_but_not_without_the_defence(
    task: Problem, loss_type: str
) -> None:
    class Subclass(PyTorchClassifier):  # type: ignore[misc]
        """Its overrides are lost: a defence that lived in them would be attacked in its absence."""

    g = defence(task.f_b)
    plain = art_classifier(task.f_a, g)
    classifier = Subclass(
        task.f_a, plain.loss, plain.input_shape, plain.nb_classes, preprocessing_defences=[g], device_type="cpu"
    )
    rebuilt = AutoProjectedGradientDescent(classifier, loss_type=loss_type, verbose=False).estimator
    assert type(rebuilt) is PyTorchClassifier
    assert rebuilt.preprocessing_defences == [g]
    # the probabilities check of the constructor has used up a draw of one image: start over
    g.generator.manual_seed(0)
    first, second = starts(task.x, 0, calls=2)
    z = transformed(task.f_b, task.x, first)
    torch.testing.assert_close(as_tensor(rebuilt.predict(task.x.numpy())), logits_at(task.f_a, z), rtol=1e-4, atol=1e-4)
    if loss_type == "cross_entropy":
        z = transformed(task.f_b, task.x, second)
        expected = loss_gradient_at(task.f_a, z, task.y) / len(task.x)
        actual = as_tensor(rebuilt.loss_gradient(task.x.numpy(), one_hot(task.y)))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_auto_attack_of_art_needs_a_package_that_art_does_not_require() -> None:
    """So that nothing here may depend on it."""
    if importlib.util.find_spec("multiprocess") is not None:
        pytest.skip("multiprocess is installed")
    task = problem(n=1)
    with pytest.raises(ImportError, match="multiprocess"):
        AutoAttack(art_classifier(task.f_a), eps=EPS).generate(task.x.numpy(), one_hot(task.y))


@pytest.mark.parametrize("nb_samples", [1, 3])
def test_square_attack(task: Problem, nb_samples: int) -> None:
    g = defence(task.f_b) if nb_samples == 1 else eot_defence(task.f_b, nb_samples)
    for classifier in (art_classifier(task.f_a), art_classifier(task.f_a, g)):
        y = torch.from_numpy(classifier.predict(task.x.numpy()).argmax(1))
        attacked = SquareAttack(classifier, eps=EPS, max_iter=60, verbose=False).generate(task.x.numpy(), one_hot(y))
        assert inside(as_tensor(attacked), task.x, EPS)
        if classifier.preprocessing_defences is None:
            assert accuracy(classifier, attacked, y) < 1


def test_hop_skip_jump_on_a_deterministic_defence(task: Problem) -> None:
    classifier = deterministic(task)
    with query_limit(task.f_a, QUERIES):
        before = classifier.predict(task.x.numpy()).argmax(1)
        attacked = hop_skip_jump(classifier).generate(task.x.numpy())
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    moved = np.abs(attacked - task.x.numpy()).max((1, 2, 3)) > 0
    assert moved.any(), "no image had a starting point"
    assert (classifier.predict(attacked).argmax(1) != before)[moved].all()


def test_hop_skip_jump_on_a_frozen_model(task: Problem) -> None:
    model = DefendedModel(task.f_a, LLPGDTransform(task.f_b, CONFIG))
    classifier = art_classifier(model)
    with model.frozen(seed=1), query_limit(model, QUERIES):
        before = classifier.predict(task.x.numpy()).argmax(1)
        attacked = hop_skip_jump(classifier).generate(task.x.numpy())
        moved = np.abs(attacked - task.x.numpy()).max((1, 2, 3)) > 0
        assert moved.any()
        assert (classifier.predict(attacked).argmax(1) != before)[moved].all()


class OnlyOnce(nn.Module):
    """Another class for the first image it is shown that is not ``x``, as in an unlucky draw, and for none after."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.seen, self.scale = x, 0, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += not torch.equal(x, self.x)
        label = torch.tensor(int(self.seen == 1 and not torch.equal(x, self.x)))
        return self.scale * nn.functional.one_hot(label, CLASSES).float().expand(len(x), -1)


def test_hop_skip_jump_need_not_end_where_a_draw_decides(task: Problem) -> None:
    """Its ``while not success`` has no bound: from a start that was adversarial in one draw alone it asks for ever."""
    x, limit = task.x[:1], 1000
    with query_limit(task.f_a, limit) as seen:
        attacked = hop_skip_jump(deterministic(task)).generate(x.numpy())
    assert not np.array_equal(attacked, x.numpy()), "no starting point"
    assert 20 < len(seen) < 200
    unlucky = OnlyOnce(x)
    with query_limit(unlucky, limit) as seen, pytest.raises(TooManyQueriesError):
        hop_skip_jump(art_classifier(unlucky)).generate(x.numpy())
    assert len(seen) == limit + 1
    assert all(torch.equal(asked, seen[-1]) for asked in seen[-100:]), "it has come to the end of its search"


def test_hop_skip_jump_on_a_randomised_model_is_stopped_by_a_query_limit(task: Problem) -> None:
    """Through the defence, whose draws are counted like any other call."""
    classifier = art_classifier(task.f_a, defence(task.f_b))
    with query_limit(task.f_a, 20) as seen, pytest.raises(TooManyQueriesError):
        hop_skip_jump(classifier, max_iter=50).generate(task.x.numpy())
    assert len(seen) == 21


def test_an_entry_of_hop_skip_jump_ends(task: Problem) -> None:
    """Of its own accord, or stopped: what draws needs a frozen draw, or a cost at twice of which that is the end."""
    options: dict[str, Any] = {"max_iter": 2, "init_eval": 10, "max_eval": 20, "init_size": 50, "norm": np.inf}
    model = DefendedModel(task.f_a, LLPGDTransform(task.f_b, CONFIG)).eval()

    def found(view: View | None, cost: int = 0) -> AttackResult:
        entry = art_attack("HopSkipJump", "HopSkipJump", view, kind="black box", cost=cost, **options)
        return evaluate(model, task.x, task.y, [entry], ThreatModel(EPS), nb_draws=10).attacks[0]

    assert found(None).problem == "failed on 1 of 1 chunks of images: " + (
        "ValueError: HopSkipJump need not end on a model that draws: give it View(frozen=True), or a cost"
    )
    stopped = found(None, cost=5)
    assert "RuntimeError: stopped after" in stopped.problem
    assert "evaluations, twice what it should take" in stopped.problem
    assert found(None, cost=1000).problem == found(View(frozen=True)).problem == ""


def test_hop_skip_jump_float64_images(task: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numpy 2 it hands float64 images to ``predict`` (ART issue 2475); f_a's own weights are float32."""
    bare = art_classifier(task.f_a)
    with pytest.raises(RuntimeError, match="double"), query_limit(task.f_a, QUERIES):
        hop_skip_jump(bare).generate(task.x.numpy())
    baseline = art_classifier(DefendedModel(task.f_a, None))
    for classifier in (baseline, deterministic(task)):
        kinds: set[str] = set()
        predict = classifier.predict

        def recorded(x: Any, *args: Any, _predict: Any = predict, _kinds: set[str] = kinds, **options: Any) -> Any:
            _kinds.add(str(x.dtype))
            return _predict(x, *args, **options)

        monkeypatch.setattr(classifier, "predict", recorded)
        with query_limit(task.f_a, QUERIES):
            hop_skip_jump(classifier).generate(task.x.numpy())
        assert kinds == {"float32", "float64"}, "the attack no longer promotes: the cast can go"
        double = predict(task.x.double().numpy())
        np.testing.assert_allclose(double, predict(task.x.numpy()), rtol=1e-5, atol=1e-5)


def test_untargeted_hop_skip_jump_ignores_labels(task: Problem) -> None:
    """Its label is one prediction of its own: on a randomised model, one draw decides what counts as success."""
    classifier = deterministic(task)
    predicted = classifier.predict(task.x.numpy()).argmax(1)
    wrong = one_hot(torch.from_numpy((predicted + 1) % 4))
    with query_limit(task.f_a, QUERIES):
        attacked = hop_skip_jump(classifier).generate(task.x.numpy(), wrong)
    moved = np.abs(attacked - task.x.numpy()).max((1, 2, 3)) > 0
    assert moved.any(), "had it believed the labels, every clean image would have been a success"
    assert (classifier.predict(attacked).argmax(1) != predicted)[moved].all()


def test_hop_skip_jump_cannot_be_seeded(task: Problem) -> None:
    """It makes a RandomState of its own, so that records of it can't be reproduced bit for bit."""
    classifier = deterministic(task)
    results = []
    for _ in range(2):
        np.random.seed(0)
        with query_limit(task.f_a, QUERIES):
            results.append(hop_skip_jump(classifier).generate(task.x.numpy()))
    assert not np.array_equal(*results)


def test_pgd_stays_in_torch_and_the_others_go_through_numpy(task: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = deterministic(task)
    kinds: list[type] = []
    gradient = classifier.loss_gradient

    def recorded(x: Any, *args: Any, **options: Any) -> Any:
        kinds.append(type(x))
        return gradient(x, *args, **options)

    monkeypatch.setattr(classifier, "loss_gradient", recorded)
    pgd(classifier, task)
    assert set(kinds) == {torch.Tensor}
    kinds.clear()
    y = torch.from_numpy(classifier.predict(task.x.numpy()).argmax(1))
    attack = AutoProjectedGradientDescent(classifier, eps=EPS, max_iter=2, nb_random_init=1, verbose=False)
    attack.generate(task.x.numpy(), one_hot(y))
    assert set(kinds) == {np.ndarray}
