"""Counting over draws: what a draw depends on, and the numbers that are read off predictions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from art_advtransform import counting
from art_advtransform.config import TransformConfig
from art_advtransform.counting import SCORING, SELECTION, choose, count, interval, predictions, shares_and_leads
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from tests.evaluations import Coin, X, Y, drifting
from tests.models import global_state_untouched
from tests.problems import classifier, conv_net, defended_model, images, linear_net, seeded


def model() -> DefendedModel:
    """One whose classes change from draw to draw: a strong transformation of random images."""
    return defended_model(config=TransformConfig(eps=0.4, max_iter=3))


# ---- draws


def test_draws_depend_on_the_image_s_number_alone() -> None:
    defended, x = model(), images(6)
    with global_state_untouched():
        together = predictions(defended, x, 12, 0, SCORING)
    assert together.shape == (6, 12)
    assert together.dtype == torch.int64
    assert (together != together[:, :1]).any()  # fresh draws
    alone = [predictions(defended, x[i : i + 1], 12, 0, SCORING, indices=i) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))
    for batch_size in (1, 5):
        assert torch.equal(together, predictions(defended, x, 12, 0, SCORING, batch_size=batch_size))
    # more draws are further draws
    assert torch.equal(together, predictions(defended, x, 30, 0, SCORING)[:, :12])


def test_draws_depend_on_seed_and_purpose() -> None:
    defended, x = model(), images(12)
    first = predictions(defended, x, 12, 0, SCORING)
    assert not torch.equal(first, predictions(defended, x, 12, 1, SCORING))
    assert not torch.equal(first, predictions(defended, x, 12, 0, SELECTION))
    # a second set of images at the same places gets the same draws: attacks are compared on common ones
    assert torch.equal(starts_of(SCORING, x), starts_of(SCORING, images(12, seed=1)))


def starts_of(purpose: int, x: Tensor) -> Tensor:
    """Every D that f_a(g(.)) is called with."""
    defended, seen = model(), []
    original = LLPGDTransform.forward

    def forward(self: LLPGDTransform, x: Tensor, start: Tensor | None = None) -> Tensor:
        assert start is not None
        seen.append(start)
        return original(self, x, start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LLPGDTransform, "forward", forward)
        predictions(defended, x, 8, 0, purpose)
    return torch.cat(seen)


def test_draws_that_choose_never_score() -> None:
    x = images(6)
    choosing, scoring = starts_of(SELECTION, x), starts_of(SCORING, x)
    together = torch.cat([choosing, scoring]).flatten(1)
    assert len(together) == 2 * 6 * 8
    assert len({tuple(start.tolist()) for start in together}) == len(together)
    assert float(together.abs().max()) <= 0.4
    assert float(together.abs().max()) > 0.39


def test_predictions_are_those_of_f_a_behind_g() -> None:
    defended, x = model(), images(3)
    start = starts_of(SCORING, x).view(3, 8, *x.shape[1:])
    classes = predictions(defended, x, 8, 0, SCORING)
    assert defended.transform is not None
    for k in range(8):
        expected = defended.classifier(defended.transform(x, start[:, k])).argmax(1)
        assert torch.equal(classes[:, k], expected)
    assert defended.queries.forward == 0  # counting is no attack


def test_a_model_that_does_not_draw_is_asked_once() -> None:
    x, net = images(4), classifier()
    without_start = TransformConfig(max_iter=3, random_start=False)
    for defended in (DefendedModel(net, None), DefendedModel(net, LLPGDTransform(conv_net(), without_start))):
        classes = predictions(defended, x, 7, 0, SCORING)
        assert torch.equal(classes, defended(x).argmax(1)[:, None].expand(4, 7))


def test_no_images() -> None:
    assert predictions(model(), images(0), 7, 0, SCORING).shape == (0, 7)
    with pytest.raises(ValueError, match="at least one image"):
        count(torch.empty(0, 7, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


# ---- counts


def test_count_of_hand_made_predictions() -> None:
    predicted = torch.tensor(
        [
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0],  # right in the first 10, and by vote
            [2, 2, 2, 2, 0, 2, 2, 2, 2, 2, 2, 2],  # right by vote, wrong once within 10
            [0, 0, 3, 3, 3, 1, 1, 1, 1, 2, 2, 2],  # right in 3 of 12: 1 has more votes
            [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4],  # always wrong
        ]
    )
    counted = count(predicted, torch.tensor([1, 2, 3, 0]))
    assert counted.per_image.tolist() == pytest.approx([10 / 12, 11 / 12, 3 / 12, 0])
    assert counted.mean.value == pytest.approx(24 / 48)
    assert counted.majority.value == 0.5
    assert counted.any.value == 0.25
    assert counted.nb_draws == 12
    assert counted.mean.low < counted.mean.value < counted.mean.high


def test_any_looks_at_ten_draws_whatever_their_number() -> None:
    right = torch.zeros(1, 100, dtype=torch.int64)
    right[0, 10:] = 1
    assert count(right, torch.tensor([0])).any.value == 1.0
    assert count(right[:, :3], torch.tensor([0])).any.value == 1.0
    right[0, 9] = 1
    assert count(right, torch.tensor([0])).any.value == 0.0
    assert counting.DRAWS_FOR_ANY == 10


# ---- intervals


@pytest.mark.parametrize(("n", "share"), [(100, 0.5), (400, 0.2)])
def test_interval_of_a_share_is_binomial(n: int, share: float) -> None:
    values = (torch.arange(n) < share * n).double()
    found = interval(values)
    half = 1.96 * (share * (1 - share) / n) ** 0.5
    assert found.value == pytest.approx(share)
    assert found.low == pytest.approx(share - half, abs=0.15 * half)
    assert found.high == pytest.approx(share + half, abs=0.15 * half)


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [1.0, 1.0], [0.3, 0.3], [0.7]])
def test_interval_without_spread_is_a_point(values: list[float]) -> None:
    found = interval(torch.tensor(values, dtype=torch.float64))
    assert found.value == pytest.approx(values[0])
    assert found.value == found.low == found.high


def test_interval_is_reproducible() -> None:
    values = torch.rand(50, generator=seeded(0))
    with global_state_untouched():
        assert interval(values, 1) == interval(values, 1)
    assert interval(values, 1) != interval(values, 2)


# ---- the worst case


def test_choose() -> None:
    right = torch.tensor([[0.2, 0.9, 0.5, 1.0], [0.3, 0.1, 0.5, 1.0], [0.9, 0.9, 0.4, 1.0]])
    # of equals (the last image) the attack that is strongest over all: the second
    assert choose(right).tolist() == [0, 1, 2, 1]


def test_choose_takes_the_first_of_attacks_that_are_all_equal() -> None:
    assert choose(torch.tensor([[0.5, 0.0], [0.5, 0.0]])).tolist() == [0, 0]
    assert choose(torch.tensor([[0.5, 1.0]])).tolist() == [0, 0]


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_tie_of_the_vote_is_no_win_whatever_the_class(label: int) -> None:
    others = [k for k in range(3) if k != label]
    y = torch.tensor([label])
    tie = torch.tensor([[label, others[0], label, others[0]]])
    won = torch.tensor([[label, others[0], label, others[1]]])
    assert count(tie, y).majority.value == 0
    assert count(won, y).majority.value == 1
    assert count(tie, y).mean.value == count(won, y).mean.value == 0.5


# ---- shares and leads


def test_shares_and_leads_of_a_net_without_draws() -> None:
    # logits (x, 1 - x) at the mean x
    net = linear_net(torch.tensor([[0.25] * 4, [-0.25] * 4]), torch.tensor([0.0, 1.0]))
    x, y = torch.tensor([0.2, 0.9, 0.5]).view(3, 1, 1, 1).repeat(1, 1, 2, 2), torch.tensor([0, 0, 1])
    shares, leads = shares_and_leads(DefendedModel(net, None), x, y, 5, 0, SELECTION)
    assert shares.tolist()[:2] == [0.0, 1.0]
    torch.testing.assert_close(leads, torch.tensor([0.6, -0.8, 0.0]).double(), atol=1e-6, rtol=0)


def test_shares_are_those_of_the_predictions() -> None:
    model = drifting(Coin())
    shares, leads = shares_and_leads(model, X, Y, 30, 0, SELECTION, 7)
    expected = (predictions(model, X, 30, 0, SELECTION, 7) == Y[:, None]).double().mean(1)
    assert torch.equal(shares, expected)
    assert 0 < float(shares.mean()) < 1
    assert bool((leads[shares == shares.max()] < leads[shares == shares.min()]).all())
    empty = shares_and_leads(model, X[:0], Y[:0], 3, 0, SELECTION)
    assert [len(part) for part in empty] == [0, 0]


# ---- what is no prediction


class Blank(nn.Module):
    """NaN for images whose first pixel is bright, class 0 for the others."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)
        return torch.where(x[:, 0, 0, :1] > 0.5, torch.nan, logits)


@pytest.mark.parametrize("label", [0, 1])
def test_nan_is_right_for_no_label(label: int) -> None:
    net, x = DefendedModel(Blank(), None), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    y = torch.full((2,), label)
    found = predictions(net, x, 3, 0, SCORING)
    assert found.tolist() == [[0] * 3, [-1] * 3]
    counted = count(found, y)
    assert counted.per_image.tolist() == [float(label == 0), 0.0]
    assert (counted.majority.value, counted.any.value) == ((label == 0) / 2, (label == 0) / 2)
    shares, leads = shares_and_leads(net, x, y, 3, 0, SELECTION)
    assert shares.tolist() == [float(label == 0), 0.0]
    assert leads.tolist() == [-1.0 if label == 0 else 1.0, 2.0]  # as lost as can be


def test_nan_may_win_the_vote() -> None:
    votes = torch.tensor([[0, -1, -1], [0, 0, -1], [-1, -1, -1]])
    assert count(votes, torch.zeros(3, dtype=torch.int64)).majority.value == pytest.approx(1 / 3)
