"""What the columns of the paper's tables hold: accuracies with intervals, how a net was trained, and what was not measured here."""

from __future__ import annotations

from typing import Any

from art_advtransform.recipes import Net
from art_advtransform.records import AttackResult, Evaluation

# What a row says of itself that was not measured here.
NOT_MEASURED = dict.fromkeys(("dataset", "eps", "scale", "training_images", "images", "draws", "seed"), "-")


def trained(net: Net) -> dict[str, Any]:
    """Columns that say how a net was made: what is compared should be alike in these."""
    return {
        "width": net.arguments.get("width", "-"),
        "epochs": net.recipe.nb_epochs,
        "attack_steps": "-" if net.threat is None else net.attack_steps,
    }


def with_interval(name: str, found: AttackResult) -> dict[str, float]:
    """Mean accuracy in per cent and its 95 % interval, as three columns."""
    assert found.mean is not None, found.problem
    mean = found.mean
    return {name: 100 * mean.value, f"{name}_low": 100 * mean.low, f"{name}_high": 100 * mean.high}


def per_cent(evaluation: Evaluation, attack: int | None = None) -> float:
    """Mean accuracy without an attack, or under the one of that number."""
    result = evaluation.clean if attack is None else evaluation.attacks[attack]
    assert result.mean is not None, result.problem
    return 100 * result.mean.value
