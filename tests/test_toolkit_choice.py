"""What torchattacks' APGD and Square return: the strongest iterate, not the first lucky draw, nor the clean image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from art_advtransform.attacks.base import Attack, Target, View
from art_advtransform.attacks.torchattacks_attacks import (
    auto_pgd,
    auto_pgd_transfer,
    highest_loss,
    square,
    torchattacks_attack,
)
from art_advtransform.defended import DefendedModel
from art_advtransform.pretrained import load_pretrained
from tests.evaluations import drifting
from tests.models import defended, digits_target, undefended
from tests.problems import images, linear_net, seeded

EPS = 0.1
# the lead of class 1 is the sum of all pixels minus 2: at 0.5 both are level, every step up counts
TARGETED = auto_pgd_transfer(2, "f_a", targeted=True)
SUM = linear_net(torch.tensor([[0.0] * 4, [1.0] * 4]), torch.tensor([0.0, -2.0]))


def target(level: float, y: int = 0) -> Target:
    x = torch.full((3, 1, 2, 2), level)
    made = digits_target(undefended(), 3)
    threat = replace(made.threat, eps=EPS)
    return Target(DefendedModel(SUM, None), x, torch.full((3,), y), threat, 0, {"surrogate": SUM})


def classes_aimed_at(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What APGD-T is asked to aim at, as it is asked."""
    seen: list[Tensor] = []
    loss = torchattacks.APGDT.dlr_loss_targeted

    def watched(self: object, x: Tensor, y: Tensor, y_target: Tensor) -> Tensor:
        seen.append(y_target)
        found: Tensor = loss(self, x, y, y_target)
        return found

    monkeypatch.setattr(torchattacks.APGDT, "dlr_loss_targeted", watched)
    return seen


def test_without_g_apgd_t_goes_towards_nine_of_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    net = linear_net(torch.randn(30, 4, generator=seeded(0)))
    x, y, seen = images(3, (1, 2, 2), dtype=torch.float32), torch.tensor([0, 1, 2]), classes_aimed_at(monkeypatch)
    TARGETED.run(Target(DefendedModel(net, None), x, y, target(0.5).threat, 0))
    ranking = net(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
    for i in range(3):
        assert list(dict.fromkeys(int(y_target[i]) for y_target in seen)) == ranking[i, :9].tolist()


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize(
    ("attack", "nb_targets"),
    [(auto_pgd(2, 1, "targeted"), 3), (auto_pgd(2, 1, "targeted", nb_targets=5), 5), (TARGETED, 9)],
)
def test_apgd_t_goes_towards_the_wrong_classes_that_are_most_likely(
    rank: int, attack: Attack, nb_targets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = digits_target(undefended(), 5)
    with torch.no_grad():
        ranking = given.defended(given.x).argsort(1, descending=True)
    given.y = ranking[:, rank].clone()  # right, second, fourth
    seen = classes_aimed_at(monkeypatch)
    attack.run(given)
    for i, label in enumerate(given.y.tolist()):
        expected = [k for k in ranking[i].tolist() if k != label][:nb_targets]
        assert list(dict.fromkeys(int(y_target[i]) for y_target in seen)) == expected


def test_apgd_t_needs_four_classes() -> None:
    with pytest.raises(ValueError, match="expected at least 4 classes, got 2"):
        auto_pgd(2, 1, "targeted").run(target(0.5))


def test_apgd_t_costs_and_is_called_by_its_classes() -> None:
    few, many = (auto_pgd(10, 2, "targeted", nb_targets=n) for n in (1, 9))
    assert (few.name, many.name) == ("BPDA-I: APGD-T-10, EOT 2, 1 targets", "BPDA-I: APGD-T-10, EOT 2, 9 targets")
    assert many.cost - few.cost == 8 * 2 * 13
    with pytest.raises(ValueError, match="expected nb_targets >= 1, got 0"):
        auto_pgd(nb_targets=0)


class TwoClasses:
    """Towards the first class it finds an image that is wrong, of a low loss; towards the second a right one of a high loss."""

    model, n_target_classes, n_restarts, target_class = DefendedModel(SUM, None), 2, 1, 2

    def get_logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = self.target_class == 2
        found = torch.full_like(x, 0.6 if first else 0.4)
        return found, torch.full((len(x),), not first), torch.full((len(x),), -1.0 if first else 1.0), found


def test_an_image_that_is_wrong_is_not_given_up_for_a_higher_loss_towards_another_class() -> None:
    given = target(0.5)
    torch.testing.assert_close(highest_loss(TwoClasses(), given.x, given.y), torch.full_like(given.x, 0.6))


class HitOnce(TwoClasses):
    """Two starts: on the way from one of them a draw is wrong, at 0.6; both end at images that are right."""

    n_target_classes, n_restarts = 1, 2

    def __init__(self, model: DefendedModel, losses: list[float], hit: int) -> None:
        self.model = model.eval()
        self.runs = iter(zip((0.45, 0.35), losses, (hit == 0, hit == 1), strict=True))

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        level, loss, hit = next(self.runs)
        right = torch.full((len(x),), not hit)
        return torch.full_like(x, level), right, torch.full((len(x),), loss), torch.full_like(x, 0.6 if hit else level)


@pytest.mark.parametrize("hit", [0, 1])
@pytest.mark.parametrize(("losses", "expected"), [([-1.0, 1.0], 0.35), ([1.0, -1.0], 0.45)])
def test_of_a_model_that_draws_the_highest_loss_is_taken_not_a_hit(
    losses: list[float], expected: float, hit: int
) -> None:
    x, y = target(0.5).x, target(0.5).y
    drawn = highest_loss(HitOnce(drifting(SUM, 1e-3), losses, hit), x, y)
    torch.testing.assert_close(drawn, torch.full_like(x, expected))
    # where nothing draws a hit is one
    torch.testing.assert_close(highest_loss(HitOnce(TwoClasses.model, losses, hit), x, y), torch.full_like(x, 0.6))


def test_of_a_model_that_draws_no_class_is_preferred_for_an_image_that_was_wrong_in_a_draw() -> None:
    given, attack = target(0.5), TwoClasses()
    attack.model = drifting(SUM, 1e-3).eval()
    torch.testing.assert_close(highest_loss(attack, given.x, given.y), torch.full_like(given.x, 0.4))


# below 0.4 no step inside the budget is wrong
@pytest.mark.parametrize("level", [0.2, 0.45, 0.55])
@pytest.mark.parametrize("attack", [auto_pgd(20, 1), auto_pgd_transfer(20, "surrogates"), auto_pgd(20, 1, loss="ce")])
def test_apgd_goes_on_where_the_net_is_wrong(level: float, attack: object) -> None:
    given = target(level)
    assert hasattr(attack, "run")
    attacked = attack.run(given)
    # up as far as it goes, where the clean image is wrong already and where none will be
    torch.testing.assert_close(attacked, given.x + EPS)


def test_called_as_usual_it_returns_the_clean_image_there() -> None:
    given = target(0.55)
    plain = torchattacks_attack("plain", "APGD", View(), steps=20, loss="ce")
    torch.testing.assert_close(plain.run(given), given.x)


def test_the_targeted_one_too() -> None:
    net = load_pretrained("digits/surrogate")
    given = replace(digits_target(defended(), 12), surrogates={"surrogate": net})
    with torch.no_grad():
        wrong = net(given.x).argmax(1)
        given = replace(given, y=torch.where(torch.arange(12) < 6, wrong, (wrong + 1) % 10))
        attacked = given.project(auto_pgd_transfer(20, "surrogates", targeted=True).run(given))
        before, after = (nn.functional.cross_entropy(net(x), given.y, reduction="none") for x in (given.x, attacked))
    assert bool((after > before)[:6].all())  # further away, too, where the clean image was wrong already:
    assert bool(((attacked - given.x).abs().flatten(1).amax(1) > 0.5 * given.threat.eps).all())


def test_square_goes_on_after_a_wrong_query() -> None:
    given = digits_target(undefended(), 12)
    plain = torchattacks_attack("plain", "Square", View(), n_queries=200).run(given)
    attacked = square(200).run(given)
    lead = []
    with torch.no_grad():
        for x in (plain, attacked):
            logits = given.defended(x)
            right = logits.gather(1, given.y[:, None])[:, 0]
            lead.append(logits.scatter(1, given.y[:, None], -torch.inf).amax(1) - right)
    won = lead[0] > 0
    assert int(won.sum()) > 3
    assert float(lead[1].mean()) > float(lead[0].mean()) + 1
