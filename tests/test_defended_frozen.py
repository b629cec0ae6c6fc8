"""DefendedModel.frozen: one D, the same for every image, so that the map is deterministic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from art_advtransform.config import TransformConfig
from tests.problems import SHORT, defended_model, images, start_for


@pytest.mark.parametrize("draws", [1, 3])
def test_frozen_is_deterministic_and_does_not_depend_on_the_batch(draws: int) -> None:
    model, x = defended_model(eot_samples=draws), images(5)
    with model.frozen(3):
        together = model(x)
        assert torch.equal(model(x), together)
        alone = torch.cat([model(x[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)
        torch.testing.assert_close(model(x.flip(0)), together.flip(0), rtol=0, atol=1e-12)
        # the same D for every image
        copies = model(x[:1].expand(3, 3, 8, 8))
        torch.testing.assert_close(copies, together[:1].expand(3, 5), rtol=0, atol=1e-12)


def test_frozen_seed_says_which_draw() -> None:
    x = images(3)
    first: list[Tensor] = []
    other: list[Tensor] = []
    again: list[Tensor] = []
    for model in (defended_model(seed=0), defended_model(seed=1)):  # whatever the state of the model's own generator
        for seed, found in ((3, first), (4, other), (3, again)):
            with model.frozen(seed):
                found.append(model(x))
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_frozen_draws_of_eot_differ_from_each_other() -> None:
    single, several, x = defended_model(), defended_model(eot_samples=4), images(2)
    with single.frozen(3), several.frozen(3):
        assert not torch.allclose(single(x), several(x))


def test_frozen_draw_stays_in_the_ball() -> None:
    seen: list[Tensor] = []
    model = defended_model()
    model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = images(2)
    with model.frozen(0):
        model(x)
    assert 0 < float((seen[0] - x).abs().max()) <= SHORT.eps + 1e-12


def test_frozen_ends_with_the_context() -> None:
    model, x = defended_model(), images(2)
    assert model.randomized
    with model.frozen(0) as inside:
        assert inside is model
        assert not model.randomized
        outer = model(x)
        with model.frozen(1):
            assert not torch.equal(model(x), outer)
        assert torch.equal(model(x), outer)
    assert model.randomized
    assert not torch.equal(model(x), model(x))


def test_frozen_ends_after_an_exception() -> None:
    model = defended_model()

    def fail() -> None:
        with model.frozen(0):
            raise KeyError("attack")

    with pytest.raises(KeyError, match="attack"):
        fail()
    assert model.randomized
    assert not torch.equal(model(images(2)), model(images(2)))


def test_frozen_does_not_move_the_generator() -> None:
    model, untouched, x = defended_model(), defended_model(), images(2)
    with model.frozen(0):
        model(x)
    assert torch.equal(model(x), untouched(x))


def test_frozen_without_random_start() -> None:
    model, x = defended_model(config=TransformConfig(max_iter=3, random_start=False)), images(2)
    assert not model.randomized
    with model.frozen(0):
        frozen = model(x)
    assert torch.equal(frozen, model(x))
    assert torch.equal(frozen, model(x, torch.zeros_like(x)))


def test_a_given_start_wins_over_the_frozen_one() -> None:
    model, x = defended_model(), images(2)
    expected = model(x, start_for(x))
    with model.frozen(0):
        assert torch.equal(model(x, start_for(x)), expected)
