"""Checks of attacks that were built to fail them, and of what an evaluation found."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from art_advtransform.attacks.base import Target, from_function
from art_advtransform.attacks.expectation import expectation_pgd
from art_advtransform.attacks.released import FAULTS
from art_advtransform.config import ThreatModel, TransformConfig
from art_advtransform.datasets import load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnostics import Case, diagnose, faults, paths
from art_advtransform.diagnostics.paths import eot_pgd
from art_advtransform.evaluate_nets import DEFENDED, Nets, evaluate_nets, worst_images
from art_advtransform.layer import LLPGDTransform
from art_advtransform.recipes import DIGITS_THREAT
from tests.cases import FEW, digits_case, status, without_long_ones
from tests.evaluations import Coin, drifting
from tests.models import defended, undefended

# ---- attacks built to fail


def lazy(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    """Does nothing."""
    clean = [target.x] * (max_iter + 1)
    fooled = torch.zeros(len(target.x), dtype=torch.bool)
    return paths.Path(clean, torch.ones(max_iter, len(target.x)), target.x, fooled)


def outside(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    return replace(lazy(target, max_iter, eot_samples), x_adv=target.x + 1.5 * target.threat.eps)


def with_nan(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    return replace(lazy(target, max_iter, eot_samples), x_adv=target.x * torch.nan)


def forgetful(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    """Finds what it looks for, and returns where it came from."""
    return replace(eot_pgd(target, max_iter, eot_samples), x_adv=target.x)


def slow(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    """Steps so small that it does not arrive."""
    small = replace(target, threat=replace(target.threat, eps=target.threat.eps / 10))
    first = eot_pgd(small, max_iter, eot_samples)
    rising = torch.linspace(1, 3, max_iter)[:, None].expand(max_iter, len(target.x))
    return replace(first, losses=rising)


def own_draws(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    """Thinks that it has succeeded."""
    return replace(lazy(target, max_iter, eot_samples), fooled=torch.ones(len(target.x), dtype=torch.bool))


def worse_with_effort(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    return (eot_pgd if max_iter == 1 else lazy)(target, max_iter, eot_samples)


def better_with_steps(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    return (eot_pgd if max_iter > FEW["max_iter"] else lazy)(target, max_iter, eot_samples)


def blind_to_known_draws(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    return (lazy if target.defended.is_frozen else eot_pgd)(target, max_iter, eot_samples)


def blind_to_most_known_draws(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    """That it fails now and then is no noise."""
    known = target.defended._frozen_seed
    return (lazy if known in (1, 2) else eot_pgd)(target, max_iter, eot_samples)


def worse_with_more_steps(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    return (lazy if max_iter > FEW["max_iter"] else eot_pgd)(target, max_iter, eot_samples)


FAIL_BY_ATTACK = [
    (2, outside),
    (2, with_nan),
    (6, forgetful),
    (7, slow),
    (8, own_draws),
    (9, lazy),
    (10, lazy),
    (11, lazy),
    (11, worse_with_effort),
    (11, better_with_steps),
    (11, worse_with_more_steps),
    (13, blind_to_known_draws),
    (13, blind_to_most_known_draws),
    (14, lazy),
    (15, lazy),
    (16, lazy),
    (17, lazy),
    (18, lazy),
]
# Those that a model without draws, or without a transform, has nothing of.
OF_THE_DEFENDED = (13, 18)
# Those that are of an evaluation's worst images where there are any, and say so.
OF_WORST_IMAGES = (13, 14, 15, 18)


@pytest.mark.parametrize(("number", "attack"), FAIL_BY_ATTACK)
def test_an_attack_built_to_fail(number: int, attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    without_long_ones(monkeypatch)
    model = defended() if number in OF_THE_DEFENDED else undefended()
    many = {"nb_queries": 300, "nb_corners": 2000}
    found = diagnose(digits_case(model, attack=attack, **many), [number])[number]
    assert found.status == "fail"
    if number in OF_WORST_IMAGES:
        assert "the attack in question" in found.reason


def one_image_more_with_steps(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
    path = eot_pgd(target, max_iter, eot_samples)
    spared = torch.cat([target.x[:1], path.x_adv[1:]])
    return replace(path, x_adv=path.x_adv if max_iter > FEW["max_iter"] else spared)


def test_a_gain_of_more_than_a_point_that_may_be_noise_is_no_proof_of_enough_effort() -> None:
    wide = ThreatModel(0.15)  # at which the whole attack leaves nothing
    case = replace(digits_case(undefended(), attack=one_image_more_with_steps), threat=wide)
    found = diagnose(case, [11])[11]
    assert found.status == "not applicable"
    assert "changes up to 8.3 points say nothing, so that these images are too few to tell" in found.reason
    assert found.figures["base"] == pytest.approx(1 / 12)
    assert found.figures["twice the steps"] == 0
    assert status(replace(case, attack=eot_pgd, _path=None), 11) == "pass"


@pytest.mark.parametrize("right", range(1, 11))
def test_a_gain_of_just_one_image_is_not_too_much_by_rounding(right: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 images without draws one may fall, whatever the others do."""
    case, asked = digits_case(undefended(), 10, attack=lazy), iter([right, 10, right - 1, right, right, right])

    def rights(self: Case, x: Tensor, model: Any = None, *, select: bool = False) -> Tensor:
        return torch.arange(10)[:, None].lt(right if select else next(asked, right)).double()

    monkeypatch.setattr(Case, "rights", rights)
    found = diagnose(case, [11])[11]
    assert found.figures["base"] == pytest.approx(right / 10)
    assert found.figures["twice the steps"] == pytest.approx((right - 1) / 10)
    assert found.status == ("fail" if right >= 9 else "not applicable")  # one step did as much, or nearly


def test_square_sees_through_a_lazy_attack_on_the_defence() -> None:
    assert status(digits_case(attack=lazy, nb_queries=1000), 14) == "fail"


@pytest.mark.parametrize("fault", FAULTS)
def test_what_each_fault_fakes_is_told(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def rights(case: Case, mended: list[str]) -> Tensor:
        return torch.full(
            (len(case.x), case.nb_draws), 0.1 if fault not in mended and len(mended) == len(FAULTS) - 1 else 0.6
        )

    monkeypatch.setattr(faults, "_rights", rights)
    found = diagnose(digits_case(attack=lazy), [18])[18]
    # with a fault it is stronger than the attack in question: which is then no attack to trust
    assert found.status == "fail"
    assert (found.figures[f"only {fault}"], found.figures["mended"]) == pytest.approx((0.1, 0.6))
    assert f"only {fault} 10.0" in found.reason


def with_losses(case: Case, left: int, of_left: Tensor, of_won: float) -> Case:
    """The attack leaves the first ``left`` images, whose losses are given step by step."""
    n, steps = len(case.x), len(of_left)
    losses = torch.full((steps, n), of_won)
    losses[:, :left] = of_left[:, None]
    x_adv = case.x.clone()
    x_adv[left:] = eot_pgd(case.target(0), case.max_iter, 1).x_adv[left:]

    def attack(target: Target, max_iter: int, eot_samples: int) -> paths.Path:
        return paths.Path([x_adv] * (steps + 1), losses, x_adv, torch.zeros(n, dtype=torch.bool))

    return replace(case, attack=attack, _path=None)


def test_images_that_are_won_do_not_hide_that_the_loss_of_others_still_rises() -> None:
    case = digits_case(undefended())
    won = case.shares(eot_pgd(case.target(0), case.max_iter, 1).x_adv) < 0.5
    case = replace(case, x=case.x[won], y=case.y[won])
    rising, noise = torch.linspace(0.05, 0.65, 20), 0.01 * torch.randn(20, generator=torch.Generator().manual_seed(0))
    found = diagnose(with_losses(case, 2, rising, 30.0), [7])[7]
    assert found.status == "fail"
    assert "the loss of the 2 images that are left rises by" in found.reason
    # a margin near zero moves by many times its size
    for flat in (rising.clamp(max=0.4), noise, noise + 5):
        assert status(with_losses(case, 2, flat, 30.0), 7) == "pass"
    assert status(with_losses(case, 0, rising, 30.0), 7) == "pass"


# ---- what an evaluation found


def test_what_an_evaluation_found_is_checked_instead() -> None:
    """An attack that does nothing fails them (above); images that are wrong pass, whatever attack is beside them."""
    case = digits_case(attack=lazy, nb_queries=1000, nb_corners=2000)
    # not the mended released attack: what one fault or another is left with is by luck as strong as that
    attack = expectation_pgd(100, 10, momenta=(0.0, 0.9), continues=False)
    strong = case.target(0).project(attack.run(case.target(18)))
    of_the_evaluation = diagnose(replace(case, found=strong), OF_WORST_IMAGES)
    for number, verdict in of_the_evaluation.items():
        assert number == 13 or verdict.status == "pass"
        assert "the evaluation's worst case" in verdict.reason
    assert status(replace(case, found=case.x + 1.5 * case.threat.eps), 2) == "fail"
    assert status(replace(case, attack=outside, found=strong, _path=None), 2) == "fail"
    assert status(replace(case, found=strong), 2) == "pass"
    assert status(replace(case, attack=eot_pgd, found=strong, _path=None), 17) == "pass"  # of single images
    with pytest.raises(ValueError, match=r"expected found images of shape \(12, 1, 8, 8\), got \(3, 1, 8, 8\)"):
        replace(case, found=strong[:3])


class FarFromAttacked(LLPGDTransform):
    """g leaves its ball where the image is not one of those it was shown."""

    known: Tensor

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        g: Tensor = super().forward(x, start)
        return g if torch.equal(x, self.known) else g + 1


def test_g_of_attacked_images_is_looked_at() -> None:
    case = digits_case()
    assert case.defended.transform is not None
    g = FarFromAttacked(case.defended.transform.model)
    g.known = case.x
    far = replace(case, defended=DefendedModel(case.defended.classifier, g), attack=lazy)
    assert status(far, 2) == "pass"
    assert status(replace(far, found=case.x + 0.01), 2) == "fail"


def test_worst_images_are_those_of_the_same_nets_budget_and_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nets, data = Nets.load("digits"), load_dataset("digits", "test").sample(7)
    few: dict[str, Any] = {"nb_draws": 2, "nb_selection_draws": 2, "nb_confirmation_draws": 2, "chunk_size": 3}
    darker = from_function("darker", lambda x, y: x - 0.125)
    evaluate_nets(nets, data, DIGITS_THREAT, tmp_path, models=[DEFENDED], preset=[darker], **few)
    model = nets.models()[DEFENDED]
    worst = worst_images(tmp_path, model, data.x[:5], DIGITS_THREAT)
    assert worst is not None
    found, evaluation = worst
    either = (found == data.x[:5]) | (found == (data.x[:5] - 0.125).clamp(0, 1))
    assert bool(either.all())
    assert not torch.equal(found, data.x[:5])
    assert evaluation.named_worst == "worst case of 1 attacks"
    assert worst_images(tmp_path / "none", model, data.x[:5], DIGITS_THREAT) is None
    assert caplog.text == ""
    others = load_dataset("digits", "train").sample(5).x
    assert worst_images(tmp_path, model, others, DIGITS_THREAT) is None
    assert worst_images(tmp_path, model, data.x[:5], ThreatModel(0.1)) is None
    assert worst_images(tmp_path, drifting(Coin()), data.x[:5], DIGITS_THREAT) is None
    fewer_steps = DefendedModel(nets.f_a, LLPGDTransform(nets.f_b, TransformConfig(max_iter=3)))
    assert worst_images(tmp_path, fewer_steps, data.x[:5], DIGITS_THREAT) is None
    assert caplog.text.count("not checked") == 4


# ---- noise


def test_the_noise_of_a_difference_is_that_of_its_draws() -> None:
    case = digits_case(nb_draws=4)
    n = len(case.x)
    first, second = torch.zeros(n, 4, dtype=torch.float64), torch.zeros(n, 4, dtype=torch.float64)
    first[:, :2] = second[:, :2] = 1  # the draws differ, and both in the same way
    assert case.noise(first, second) == 0
    deviation = math.sqrt(4 * 0.25 / 3)
    assert case.noise(first) == pytest.approx(3.182 * deviation / 2, rel=1e-3)  # Student's t, 3 degrees of freedom
    second[:, 0] = 0  # by 1, 0, 0, 0
    assert case.noise(first, second) == pytest.approx(3.182 * 0.5 / 2, rel=1e-3)
    assert digits_case(undefended()).noise(first, second) == 0


def test_as_many_differences_lie_beyond_it_as_there_should() -> None:
    # an image that is right in a share of the draws which hangs on its first pixel, beside one a little brighter
    model, apart = drifting(Coin()), []
    x, y = torch.full((12, 1, 2, 2), 0.5), torch.arange(12) % 2
    brighter = x + 0.02
    many = Case(model, x, y, ThreatModel(0.1), **{**FEW, "nb_draws": 2000})
    truth = many.accuracy(brighter) - many.accuracy(x)
    for seed in range(100):
        case = Case(model, x, y, ThreatModel(0.1), seed, **FEW)
        one, other = case.rights(brighter), case.rights(x)
        apart.append(abs(float((one - other).mean()) - truth) > case.noise(one, other))
    assert 0 < sum(apart) <= 12
