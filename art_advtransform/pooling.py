"""L6: evaluations of one model on several parts of the images, put together as if they had been one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from art_advtransform.counting import Interval, interval
from art_advtransform.records import AttackResult, Evaluation
from art_advtransform.store import fingerprint

# Settings that numbers must share to stand in one table, and in one number.
SHARED = (
    *("version", "attack_code", "threat", "seed", "preset", "budget"),
    *("nb_draws", "nb_selection_draws", "nb_confirmation_draws", "nb_attack_draws"),
)
# What one number must share besides.
_OF_ONE_MODEL = ("model", "dataset", "nets", "transform", "fixed_draw", "randomized", "chunk_size", "surrogates")
_OF_IMAGES = ("images", "labels")


def differences(one: Evaluation, two: Evaluation) -> list[str]:
    """What forbids two records to be compared, but for the images that they are of: ``"seed: 0 and 1"``."""
    first, second = one.settings, two.settings
    told = [_told(first, second, key) for key in SHARED if first.get(key) != second.get(key)]
    # a row of a table is one attack: of that name, and of that code and options
    attacks, others = first.get("attacks", {}), second.get("attacks", {})
    return told + [f"other attack {name!r}" for name in attacks if name in others and attacks[name] != others[name]]


def pooled(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of the images of all ``parts``: what a single run of the same attacks on them would count.

    Accuracies are means over images, and intervals are drawn again over all of them. What differs: of attacks that are as strong
    on an image the one that is strongest over its part stands for it; draws of D are numbered in every part from its first image.

    Args:
        parts: records of the same model, attacks and settings, of different images: ``evaluate --skip`` makes them.

    Returns:
        The whole, without a path; its settings have an entry ``parts``.

    Raises:
        ValueError: if there are fewer than two, if they differ in anything but their images, or share images.
    """
    if len(parts) < 2:
        raise ValueError(f"expected at least two parts, got {len(parts)}")
    first = parts[0]
    for part in parts[1:]:
        _check_same_model(first, part)
    _check_apart(parts)
    seed = int(first.settings["seed"])
    attacks = [_joined([p.attacks[i] for p in parts], seed) for i in range(len(first.attacks))]
    return Evaluation(
        _settings(parts),
        _joined([p.clean for p in parts], seed),
        attacks,
        _joined([p.worst for p in parts], seed),
        [name for p in parts for name in p.chosen],
    )


def _check_same_model(first: Evaluation, other: Evaluation) -> None:
    one, two = first.settings, other.settings
    told = differences(first, other)
    told += [_told(one, two, key) for key in _OF_ONE_MODEL if one.get(key) != two.get(key)]
    nets, others = ({name: sha for name, sha in s["sha256"].items() if name not in _OF_IMAGES} for s in (one, two))
    told += [f"other {name}" for name in sorted({*nets, *others}) if nets.get(name) != others.get(name)]
    if [a.name for a in first.attacks] != [a.name for a in other.attacks]:
        told.append("other attacks")
    if told:
        raise ValueError(f"expected parts of one evaluation, got others: {', '.join(told)}")


def _check_apart(parts: Sequence[Evaluation]) -> None:
    """An image that counts twice makes an interval narrower than it is."""
    spans = sorted((s.get("skip", 0), s.get("skip", 0) + s["nb_images"]) for s in (p.settings for p in parts))
    for (_, end), (begin, _) in pairwise(spans):
        if begin < end:
            raise ValueError(
                f"expected parts that share no images, got {', '.join(f'{a} to {b - 1}' for a, b in spans)}"
            )


def _told(one: dict[str, Any], two: dict[str, Any], key: str) -> str:
    return f"{key}: {one[key]!r} and {two.get(key)!r}" if key in one else f"other {key}"


def _settings(parts: Sequence[Evaluation]) -> dict[str, Any]:
    first = parts[0].settings
    kept = ("skip", "nb_images", "command", "fingerprint", "threads")
    listed = [{key: p.settings[key] for key in kept if key in p.settings} for p in parts]
    hashes = {key: fingerprint({key: [p.settings["sha256"][key] for p in parts]}) for key in _OF_IMAGES}
    return {
        **first,
        "skip": min(p.settings.get("skip", 0) for p in parts),
        "nb_images": sum(p.settings["nb_images"] for p in parts),
        "sha256": {**first["sha256"], **hashes},
        "command": "; ".join(str(p.settings.get("command", "")) for p in parts),
        "fingerprint": fingerprint({"parts": [p.settings["fingerprint"] for p in parts]}),
        "parts": listed,
    }


def _joined(results: Sequence[AttackResult], seed: int) -> AttackResult:
    """One attack on all images; where it has no numbers on some of them, it has none."""
    first = results[0]
    problem = next((r.problem for r in results if r.problem), "")
    if problem:
        return AttackResult(first.name, first.kind, first.toolkit, problem)
    sizes = [len(r.per_image) for r in results]
    per_image = [share for r in results for share in r.per_image]

    def mean_of(number: Callable[[AttackResult], float]) -> float:
        return sum(number(r) * n for r, n in zip(results, sizes, strict=True)) / sum(sizes)

    left = [r.remaining for r in results]
    return AttackResult(
        first.name,
        first.kind,
        first.toolkit,
        "",
        interval(torch.tensor(per_image, dtype=torch.float64), seed),
        _votes([r.majority for r in results], sizes, seed),
        _votes([r.any for r in results], sizes, seed),
        per_image,
        forward=mean_of(lambda r: r.forward),
        backward=mean_of(lambda r: r.backward),
        seconds=sum(r.seconds for r in results),
        max_distance=max(r.max_distance for r in results),
        published=first.published,
        nb_nan=sum(r.nb_nan for r in results),
        stage=first.stage,
        nb_attacked=sum(r.nb_attacked for r in results),
        remaining=None if None in left else mean_of(lambda r: r.remaining or 0.0),
    )


def _votes(shares: Sequence[Interval | None], sizes: Sequence[int], seed: int) -> Interval | None:
    """The share of images that are right, of yes and no: how many are is all that there is to know."""
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    right = sum(round(share.value * n) for share, n in zip(known, sizes, strict=True))
    return interval((torch.arange(sum(sizes)) < right).double(), seed)
