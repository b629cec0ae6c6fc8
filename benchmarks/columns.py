"""What the columns of the paper's tables hold: accuracies with intervals, how a net was trained, and what was not measured here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from art_advtransform.counting import Interval, interval
from art_advtransform.recipes import Net
from art_advtransform.records import AttackResult, Evaluation

# Whose numbers the paper's are, but for those that it takes from others.
MEASURED = "the paper"
# What a row says of itself that was not measured here.
NOT_MEASURED = dict.fromkeys(("dataset", "eps", "scale", "images", "draws", "seed"), "-")


def trained(card: dict[str, Any], f_b: dict[str, Any] | None = None) -> dict[str, Any]:
    """Columns that say how a net was made, by its card: what is compared should be alike in these.

    Args:
        card: of the net.
        f_b: of the f_b that its g works on.
    """
    net = Net.from_json(card["net"])
    accuracy = card.get("test_accuracy")
    return {
        "width": net.arguments.get("width", "-"),
        "epochs": net.recipe.nb_epochs,
        "training_images": card["train_images"],
        "steps": _steps(net, card),
        "attack_steps": "-" if net.threat is None else net.attack_steps,
        "redraw_every": net.redraw_every if net.role == "defended" else "-",
        "test_accuracy": "-" if accuracy is None else 100 * accuracy,
        "test_images": card["test_images"],
        **_trained_f_b(f_b),
    }


def _trained_f_b(card: dict[str, Any] | None) -> dict[str, Any]:
    """The same of the f_b that a net's g works on, as far as it matters; "-" where it has none."""
    names = ("epochs", "training_images", "steps", "attack_steps", "test_accuracy")
    of_f_b = dict.fromkeys(names, "-") if card is None else trained(card)
    return {f"{name}_of_f_b": of_f_b[name] for name in names}


def _steps(net: Net, card: dict[str, Any]) -> int:
    """Of SGD: an epoch of few images is not one of many; the last batch, where it isn't full, is left out."""
    steps: int = net.recipe.nb_epochs * (card["train_images"] // net.recipe.batch_size)
    return steps


def called(method: str, card: dict[str, Any]) -> str:
    """``method`` with the attack that made the examples it was trained on: PGD of one step is FGSM."""
    net = Net.from_json(card["net"])
    if net.threat is None:
        return method
    return f"{method}, {f'PGD-{net.attack_steps}' if net.attack_steps > 1 else 'FGSM from a random start'}"


def with_interval(name: str, found: AttackResult | None) -> dict[str, Any]:
    """Mean accuracy in per cent and its 95 % interval, as three columns; "-" where nothing was measured: one failed attack is no
    reason to lose a table.
    """
    return in_per_cent(name, None if found is None else found.mean)


def of_models(results: Mapping[str, AttackResult | None]) -> dict[str, Any]:
    """Every model's accuracy with its interval, in columns named after it."""
    return {
        key: value for model, found in results.items() for key, value in with_interval(column(model), found).items()
    }


def column(model: str) -> str:
    """Of that model's accuracy."""
    return model.replace(" ", "_")


def beside(name: str, found: AttackResult, other: AttackResult, seed: int) -> dict[str, Any]:
    """How many points more is left than by ``other``, with the 95 % interval over the same images; "-" where there is none."""
    if not found.per_image or not other.per_image:
        return in_per_cent(name, None)
    return in_per_cent(
        name, interval(torch.tensor(found.per_image).double() - torch.tensor(other.per_image).double(), seed)
    )


def more_than_adversarial(found: Evaluation, adversarial: Evaluation | None, seed: int) -> dict[str, Any]:
    """How many points more the worst case leaves than that of the adversarially trained net, image by image, as three columns."""
    name = "more_than_adversarial"
    if adversarial is None or adversarial is found:
        return in_per_cent(name, None)
    return beside(name, found.worst, adversarial.worst, seed)


def in_per_cent(name: str, found: Interval | None) -> dict[str, Any]:
    """``found``, of shares, as three columns; "-" where there is none."""
    value, low, high = ("-", "-", "-") if found is None else (100 * found.value, 100 * found.low, 100 * found.high)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def point(x: float, row: Mapping[str, Any], name: str) -> tuple[float | None, ...]:
    """What a line of a figure goes through: x, a column's value, and the ends of its interval."""
    return x, *(known(row.get(column)) for column in (name, f"{name}_low", f"{name}_high"))


def known(value: Any) -> float | None:
    """What a figure draws: nothing where a column has "-"."""
    return float(value) if isinstance(value, int | float) else None


# What a net's attacks follow: its own gradient; one that takes the identity for what stands before or in it; or another stand-in.
OWN_GRADIENT, IDENTITY, STAND_IN = "", "BPDA-I: ", "BPDA: "


def worst(evaluation: Evaluation, along: str) -> dict[str, Any]:
    """The per-image worst case, of which attacks, which single one leaves least, and what could not be run: that it lacks.

    Args:
        evaluation: under all attacks.
        along: see :func:`named`.
    """
    return {
        **with_interval("worst", evaluation.worst),
        "attacks_run": run(evaluation),
        "best_attack": best_named(evaluation, along),
        **missing(evaluation),
    }


def run(evaluation: Evaluation) -> str:
    """How many attacks of each kind, in the order of their first: "3 PGD, 2 APGD, transfer, Square"; those alone that had an image
    to attack.
    """
    kinds = Counter(_kind(attack.name) for attack in evaluation.attacks if attack.nb_attacked)
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in kinds.items())


def _kind(attack: str) -> str:
    """Of an attack's name."""
    return next((kind for kind in ("transfer", "APGD", "PGD") if kind in attack), attack.split(":")[0])


def best_named(evaluation: Evaluation, along: str) -> str:
    """The name of :func:`best`, and how many others leave as little that had an image to attack."""
    first = best(evaluation)
    left = [attack.mean.value for attack in evaluation.attacks if attack.nb_attacked and attack.mean is not None]
    ties = 0 if first.mean is None else left.count(first.mean.value) - 1
    return named(first.name, evaluation, along) + (f", and {ties} more" if ties > 0 else "")


def named(attack: str, evaluation: Evaluation, along: str) -> str:
    """An attack's name, without what means nothing here.

    Args:
        attack: its name in the catalogue.
        evaluation: that it is of; a model that does not draw has nothing to take a mean over.
        along: ``OWN_GRADIENT``, of which BPDA-I is PGD; ``IDENTITY``; or ``STAND_IN``.
    """
    if not evaluation.settings["randomized"]:
        attack = re.sub(r", (EOT \d+|\d+ draws?)", "", attack)
    return attack.replace(IDENTITY, along)


def up_to(name: str, found: AttackResult) -> dict[str, Any]:
    """The per-image worst of the attacks up to this one, chosen by other draws than score it, as three columns; no interval is
    kept of it.
    """
    left = "-" if found.remaining is None else 100 * found.remaining
    return {name: left, f"{name}_low": "-", f"{name}_high": "-"}


def missing(evaluation: Evaluation) -> dict[str, str]:
    """Attacks that could not be run."""
    return {"attacks_missing": ", ".join(evaluation.missing) or "-"}


def best(evaluation: Evaluation) -> AttackResult:
    """The attack that leaves least, of those that had an image to attack."""
    attacks = [attack for attack in evaluation.attacks if attack.nb_attacked] or evaluation.attacks
    return min(attacks, key=lambda attack: 1.0 if attack.mean is None else attack.mean.value)


def each_attack(system: str, evaluation: Evaluation, along: str) -> list[dict[str, Any]]:
    """A row for every attack on ``system``: what it left, its evaluations an image, and its seconds for all of them; ``along``: see
    :func:`named`.
    """
    rows: list[dict[str, Any]] = []
    for found in (evaluation.clean, *evaluation.attacks):
        measured: dict[str, Any] = {"accuracy": "-", "low": "-", "high": "-"}
        if found.mean is not None:
            mean = found.mean
            measured = {"accuracy": 100 * mean.value, "low": 100 * mean.low, "high": 100 * mean.high}
        costs = {"evaluations": found.forward, "differentiated": found.backward, "seconds": found.seconds}
        name = named(found.name, evaluation, along)
        rows.append({"system": system, "attack": name, "problem": found.problem, **measured, **costs})
    return rows
