"""L5: attacks of Foolbox, each on the view of the defended model that its entry names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack, Kind, Target, View, settings
from art_advtransform.defended import DefendedModel
from art_advtransform.randomness import global_seed

# Noise images to start HopSkipJump from, where all other images are of one class.
_NOISE_STARTS = 20
_RUNNER_UP_DRAWS = 10
# Evaluations of the two searches in a step of HopSkipJump: about 10 and 25.
_SEARCHES = 35


def foolbox_attack(
    name: str,
    method: str,
    view: View | None = None,
    *,
    kind: Kind = "white box",
    cost: int = 0,
    continues: bool = False,
    **options: Any,
) -> Attack:
    """Any attack of ``foolbox.attacks`` that takes a budget in L-inf.

    Args:
        name: of the entry.
        method: name of the class.
        view: how it sees the model; ``None``: f_a(g(.)), BPDA-I, one draw a call.
        kind: what the attacker knows.
        cost: evaluations that it spends on an image, at most.
        continues: only the images that others left; the toolkit's attack begins where it always does.
        options: of the class; a value that depends on the budget is a function of the threat model.

    Example:
        >>> foolbox_attack("noise", "LinfAdditiveUniformNoiseAttack", kind="black box", cost=1).toolkit
        'foolbox'
    """

    def generate(target: Target, model: DefendedModel) -> Tensor:
        from foolbox import attacks
        from foolbox.criteria import Misclassification

        attack = getattr(attacks, method)(**settings(options, target.threat))
        with global_seed(target.global_seed):
            _, attacked, _ = attack(
                _foolbox_model(model, target), target.x, Misclassification(target.y), epsilons=target.threat.eps
            )
        return torch.as_tensor(attacked)

    return Attack(name, generate, kind, View() if view is None else view, "foolbox", method, cost, continues)


def gen_attack(steps: int = 100, population: int = 10) -> Attack:
    """GenAttack (Alzantot et al. 2019, arXiv 1805.11090) towards the class that the model finds second most likely.

    Foolbox ends it as soon as the fittest of every image is in that class: in one draw, where the model is randomised, which with
    few images happens at once. There all steps are run.
    """

    def generate(target: Target, model: DefendedModel) -> Tensor:
        from foolbox.attacks.gen_attack import GenAttack
        from foolbox.criteria import TargetedMisclassification

        x, classes, queried = target.x, _runner_up(target), _foolbox_model(model, target)
        if model.randomized:
            x, classes = torch.cat([x, x[:1]]), torch.cat([classes, torch.ones_like(classes[:1])])
            queried = _BesideOneThatHolds(queried)
        with global_seed(target.global_seed):
            attack = GenAttack(steps=steps, population=population)
            _, attacked, _ = attack(queried, x, TargetedMisclassification(classes), epsilons=target.threat.eps)
        return torch.as_tensor(attacked)[: len(target.y)]

    name, cost = f"GenAttack: {steps} steps, population {population}", (steps + 1) * population + _RUNNER_UP_DRAWS
    return Attack(name, generate, "black box", View(), "foolbox", "GenAttack", cost)


class _BesideOneThatHolds:
    """A Foolbox model, and for a last image beside the others class 0 whatever comes, without asking the model."""

    data_format = "channels_first"

    def __init__(self, model: Any) -> None:
        self.model, self.bounds = model, model.bounds

    def __call__(self, x: Any) -> Any:
        import eagerpy

        found = self.model(x[:-1]).raw
        held = torch.full_like(found[:1], -100.0)
        held[0, 0] = 0.0
        return eagerpy.astensor(torch.cat([found, held]))


def hop_skip_jump(steps: int = 8, initial_gradient_eval_steps: int = 50, max_gradient_eval_steps: int = 200) -> Attack:
    """HopSkipJump (Chen et al. 2020, arXiv 1904.02144) with the L-inf distance.

    It assumes a deterministic model, so that the draw of D is frozen while it runs. It starts from other images or noise, blended
    until they are as near as the decision allows; where the result is outside the budget it is projected. What the frozen model
    takes for another class already stays as it is: from afar, and projected, it might become right. A replication of the paper's
    attack rather than evidence: nothing ties the frozen draw to those that are scored.
    """

    def generate(target: Target, model: DefendedModel) -> Tensor:
        from foolbox.attacks.hop_skip_jump import HopSkipJumpAttack

        attack = HopSkipJumpAttack(
            steps=steps,
            initial_gradient_eval_steps=initial_gradient_eval_steps,
            max_gradient_eval_steps=max_gradient_eval_steps,
            constraint="linf",
        )
        with global_seed(target.global_seed):
            attacked, right = target.x.clone(), _right(model, target)
            if len(right) == 0:
                return attacked
            chosen, starts = _starting_points(model, target, right)
            if len(chosen) == 0:
                raise RuntimeError("no image has a start: the model takes all others, and noise, for the same class")
            images, labels = target.x[chosen], target.y[chosen]
            raw, _, _ = attack(_foolbox_model(model, target), images, labels, epsilons=None, starting_points=starts)
            attacked[chosen] = raw.to(attacked)
        return attacked

    queries = f"{initial_gradient_eval_steps} to {max_gradient_eval_steps} queries"
    name = f"HopSkipJump: {steps} steps of {queries}, frozen draw"
    # a step: its queries, a search for the step size, one for the boundary; their lengths depend on the image
    cost = steps * (max_gradient_eval_steps + _SEARCHES)
    return Attack(name, generate, "black box", View(frozen=True), "foolbox", "HopSkipJumpAttack", cost)


def _foolbox_model(view: DefendedModel, target: Target) -> Any:
    from art_advtransform.adapters.foolbox_model import FoolboxDefendedModel

    return FoolboxDefendedModel(view, None, bounds=target.threat.clip_values, device=target.x.device)


def _right(view: DefendedModel, target: Target) -> Tensor:
    """Indices of the images that are classified right."""
    with torch.no_grad():
        return torch.nonzero(view(target.x).argmax(1) == target.y).flatten()


def _starting_points(view: DefendedModel, target: Target, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of those of ``rows`` that have a start, and that start: another image that isn't taken for its class, else noise.

    Foolbox refuses starts that aren't adversarial, and looks at them within this very batch.
    """
    pool = target.x if target.others is None else target.others
    low, high = target.threat.clip_values
    noise = torch.rand(_NOISE_STARTS, *pool.shape[1:], generator=target.generator(len(target.y)))
    pools = [pool, (low + (high - low) * noise).to(pool)]
    with torch.no_grad():
        taken_for = [view(images).argmax(1) for images in pools]
    starts = torch.empty_like(target.x)
    found = torch.zeros(len(target.x), dtype=torch.bool, device=target.x.device)
    for i in rows.tolist():
        label = target.y[i]
        for images, classes in zip(pools, taken_for, strict=True):
            candidates = torch.nonzero(classes != label).flatten()
            if len(candidates):
                pick = int(torch.randint(len(candidates), (1,), generator=target.generator(i)))
                starts[i], found[i] = images[candidates[pick]], True
                break
    chosen = torch.nonzero(found).flatten()
    while len(chosen):
        with torch.no_grad():
            holds = view(starts[chosen]).argmax(1) != target.y[chosen]
        if bool(holds.all()):
            break
        chosen = chosen[holds]  # in another batch sums have another order, and g may go another way
    return chosen, starts[chosen]


def _runner_up(target: Target) -> Tensor:
    """The most likely wrong class by mean logits."""
    with torch.no_grad():
        logits: Tensor = target.view(eot_samples=_RUNNER_UP_DRAWS)(target.x)
    return logits.scatter(1, target.y[:, None], -torch.inf).argmax(1)
