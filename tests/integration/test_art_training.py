"""Training an ART classifier with the defence: what ``fit`` does, what it skips, and what the trainer repairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from art.data_generators import PyTorchDataGenerator
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.classification import PyTorchClassifier
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from art_advtransform import (
    AdversarialTransform,
    AdversarialTransformTrainer,
    DefendedModel,
    LLPGDTransform,
    ResNet18,
    load_pretrained,
)
from art_advtransform.datasets import digits
from art_advtransform.losses import defended_loss
from art_advtransform.randomness import global_seed
from art_advtransform.training import Recipe, fit
from tests.integration.art_setup import art_classifier, defence, one_hot
from tests.integration.nets import CONFIG, Problem, images, problem, query_limit, seeded, starts, transformed

N = 4


@pytest.fixture
def task() -> Problem:
    return problem(n=N)


def sorted_rows(batch: Tensor) -> Tensor:
    """The images of a batch in an order of their own: ``fit`` shuffles, and the transformation moves pixels by up to eps."""
    rows = batch.flatten(1)
    return rows[rows[:, 0].argsort()]


def batches_seen(task: Problem, fit: Any) -> list[Tensor]:
    with query_limit(task.f_a, 1000) as seen:
        fit()
    return seen


def test_fit_transforms_once_but_the_trainer_redraws_every_batch(task: Problem) -> None:
    classifier = art_classifier(task.f_a, defence(task.f_b))
    x, y = task.x.numpy(), one_hot(task.y)
    frozen = batches_seen(task, lambda: classifier.fit(x, y, batch_size=N, nb_epochs=3))
    assert len(frozen) == 3
    assert all(torch.equal(sorted_rows(batch), sorted_rows(frozen[0])) for batch in frozen)
    trainer = AdversarialTransformTrainer(classifier, nb_epochs=3, batch_size=N)
    fresh = batches_seen(task, lambda: trainer.fit(x, y))
    assert len(fresh) == 3
    for i, batch in enumerate(fresh):
        assert all((sorted_rows(batch) - sorted_rows(other)).abs().max() > 1e-2 for other in fresh[:i])


def test_trainer_trains_on_g_of_every_image_once_an_epoch(task: Problem) -> None:
    """With one image a batch and a known generator, what f_a sees is known exactly."""
    classifier = art_classifier(task.f_a, defence(task.f_b))
    trainer = AdversarialTransformTrainer(classifier, nb_epochs=1, batch_size=1, seed=5)
    seen = batches_seen(task, lambda: trainer.fit(task.x.numpy(), task.y.numpy()))
    order = np.random.default_rng(5).permutation(N)
    for batch, i, draw in zip(seen, order, starts(task.x[:1], 0, calls=N), strict=True):
        torch.testing.assert_close(batch, transformed(task.f_b, task.x[i : i + 1], draw))


def test_trainer_lowers_the_loss_of_the_defended_classifier(task: Problem) -> None:
    labels = torch.arange(24) % 2
    x = (0.4 * images(24) + 0.6 * labels[:, None, None, None]).numpy()  # dark and bright: more apart than eps
    y = one_hot(labels)
    classifier = art_classifier(task.f_a, defence(task.f_b))

    def loss() -> float:
        return float(np.mean([classifier.compute_loss(x, y).mean() for _ in range(4)]))

    before = loss()
    f_b = {name: tensor.clone() for name, tensor in classifier.preprocessing_defences[0].model.state_dict().items()}
    with global_seed(0):  # dropout
        AdversarialTransformTrainer(classifier, nb_epochs=8, batch_size=8).fit(x, y)
    assert loss() < 0.5 * before
    after = classifier.preprocessing_defences[0].model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in f_b.items()), "f_b is fixed for ever"


def test_trainer_steps_the_scheduler_once_an_epoch_and_hands_options_on(task: Problem) -> None:
    classifier = art_classifier(task.f_a, defence(task.f_b), learning_rate=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(classifier.optimizer, step_size=1, gamma=0.5)
    trainer = AdversarialTransformTrainer(classifier, nb_epochs=9, batch_size=9)
    seen = batches_seen(
        task,
        lambda: trainer.fit(
            task.x.numpy(), one_hot(task.y), batch_size=2, nb_epochs=2, scheduler=scheduler, training_mode=False
        ),
    )
    assert [len(batch) for batch in seen] == [2, 2, 2, 2]
    assert classifier.optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    assert not task.f_a.training, "training_mode=False reached classifier.fit"


def test_trainer_refuses_what_would_train_undefended(task: Problem) -> None:
    other = FeatureSqueezing(clip_values=(0, 1), apply_fit=True)  # some defence that is applied is not enough
    for defences in ([], [defence(task.f_b, apply_fit=False)], [defence(task.f_b, apply_fit=False), other]):
        with pytest.raises(ValueError, match="apply_fit=True"):
            AdversarialTransformTrainer(art_classifier(task.f_a, *defences))


@pytest.mark.parametrize(
    ("options", "error"),
    [({"nb_epochs": 0}, ValueError), ({"batch_size": 0}, ValueError), ({"nb_epochs": 1.5}, TypeError)],
)
def test_trainer_refuses_bad_numbers(task: Problem, options: dict[str, Any], error: type[Exception]) -> None:
    classifier = art_classifier(task.f_a, defence(task.f_b))
    with pytest.raises(error, match=next(iter(options))):
        AdversarialTransformTrainer(classifier, **options)
    trainer = AdversarialTransformTrainer(classifier, nb_epochs=1)
    with pytest.raises(error, match=next(iter(options))):
        trainer.fit(task.x.numpy(), one_hot(task.y), **options)
    with pytest.raises(ValueError, match="as many labels as images, got 3 and 4"):
        trainer.fit(task.x.numpy(), one_hot(task.y)[:3])
    with pytest.raises(ValueError, match="at least one image"):
        trainer.fit(task.x.numpy()[:0], one_hot(task.y)[:0])
    with pytest.raises(ValueError, match=r"expected labels in \[0, \d\], got \[0, 12\]"):
        trainer.fit(task.x.numpy(), np.array([0, 1, 2, 12]))


def test_apply_fit_off_trains_on_the_raw_images(task: Problem) -> None:
    classifier = art_classifier(task.f_a, defence(task.f_b, apply_fit=False))
    (seen,) = batches_seen(task, lambda: classifier.fit(task.x.numpy(), one_hot(task.y), batch_size=N, nb_epochs=1))
    assert torch.equal(sorted_rows(seen), sorted_rows(task.x))
    assert not torch.equal(batches_seen(task, lambda: classifier.predict(task.x.numpy()))[0], task.x)


@pytest.mark.parametrize("preprocessing", [None, (0.0, 1.0), (0.5, 1.0)])
def test_fit_generator_skips_the_defences_unless_there_is_standardisation(task: Problem, preprocessing: Any) -> None:
    """A trap of ART's: ``fit_generator`` takes a short cut past the defences. The trainer never calls it."""
    g = defence(task.f_b)
    classifier = art_classifier(task.f_a, g, preprocessing=preprocessing)
    loader = DataLoader(TensorDataset(task.x, torch.from_numpy(one_hot(task.y))), batch_size=N)
    generator = PyTorchDataGenerator(loader, size=N, batch_size=N)
    with query_limit(g.model, 1000) as seen_by_f_b:
        classifier.fit_generator(generator, nb_epochs=2)
        skipped = not seen_by_f_b
        AdversarialTransformTrainer(classifier, nb_epochs=1, batch_size=N).fit(task.x.numpy(), one_hot(task.y))
    assert skipped == (preprocessing != (0.5, 1.0))
    assert len(seen_by_f_b) > CONFIG.max_iter, "the trainer is not affected"


def test_training_through_art_is_as_good_as_the_loop() -> None:
    """Digits, the same net, optimiser, rate and epochs; three per cent is two standard errors of 597 test images."""
    train, test = digits("train"), digits("test")
    recipe = Recipe(20, 64, learning_rate=0.05, weight_decay=5e-4, decay="cosine", crop_padding=0, flip=False)
    f_b = load_pretrained("digits/f_b-adversarial")
    accuracies = []
    for through_art in (False, True):
        with global_seed(3):
            f_a = ResNet18(nb_classes=10, in_channels=1, width=8)
        if through_art:
            optimizer = torch.optim.SGD(f_a.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
            classifier = PyTorchClassifier(
                f_a,
                loss=torch.nn.CrossEntropyLoss(),
                optimizer=optimizer,
                input_shape=(1, 8, 8),
                nb_classes=10,
                clip_values=(0, 1),
                preprocessing_defences=[AdversarialTransform(f_b, generator=seeded(1), device_type="cpu")],
                device_type="cpu",
            )
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.nb_epochs)
            trainer = AdversarialTransformTrainer(classifier, recipe.nb_epochs, recipe.batch_size)
            with global_seed(0):
                trainer.fit(train.x.numpy(), train.y.numpy(), scheduler=scheduler)
            predicted = torch.from_numpy(classifier.predict(test.x.numpy())).argmax(1)
        else:
            g = LLPGDTransform(f_b, generator=seeded(2))
            fit(f_a, train, defended_loss(g), recipe)
            with torch.no_grad():
                predicted = DefendedModel(f_a, g).eval()(test.x).argmax(1)
        accuracies.append(float((predicted == test.y).float().mean()))
    assert min(accuracies) > 0.9
    assert abs(accuracies[0] - accuracies[1]) < 0.03
