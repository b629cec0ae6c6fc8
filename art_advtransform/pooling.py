"""L6: evaluations of one model on several parts of the images, put together as if they had been one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
# What parts of one evaluation may have of their own; all the rest must be the same, whatever settings there will be. ``nets`` are
# told by their hashes.
_OF_A_PART = ("skip", "nb_images", "command", "threads", "fingerprint", "nets")
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

    Accuracies are means over images, and intervals are drawn again over all of them. What differs from a single run: of attacks
    that are as strong on an image the one that is strongest over its part stands for it; draws of D, known ones too, are numbered
    in every part from its first image; an attack that learns from the other images has those of its part.

    Args:
        parts: records of the same model, attacks and settings, of images that follow each other: ``evaluate --skip`` makes them.
            In any order.

    Returns:
        The whole, without a path; its settings have an entry ``parts``.

    Raises:
        ValueError: if there are fewer than two, if they differ in anything but their images, share images, leave some out
            between them, lack numbers, or are put together already.
    """
    if len(parts) < 2:
        raise ValueError(f"expected at least two parts, got {len(parts)}")
    parts = sorted(parts, key=_span)
    for part in parts:
        _check_whole(part)
        _check_same_model(parts[0], part)
    _check_adjacent(parts)
    every = range(len(parts[0].attacks))
    return Evaluation(
        _settings(parts),
        _joined(parts, [p.clean for p in parts]),
        [_joined(parts, [p.attacks[i] for p in parts]) for i in every],
        _joined(parts, [p.worst for p in parts]),
        [name for p in parts for name in p.chosen],
    )


def _span(part: Evaluation) -> tuple[int, int]:
    """Numbers of its first image, and of the first one behind it."""
    begin = int(part.settings.get("skip", 0))
    return begin, begin + int(part.settings["nb_images"])


def _images(part: Evaluation) -> str:
    begin, end = _span(part)
    return f"{begin} to {end - 1}"


def _check_whole(part: Evaluation) -> None:
    """That it has numbers of all its images, and that they are its own."""
    if "parts" in part.settings:
        raise ValueError("expected parts as they were evaluated, all at once; got some that are put together already")
    nb_images = part.settings["nb_images"]
    counted = {r.name: len(r.per_image) for r in (part.clean, *part.attacks, part.worst) if not r.problem}
    for name, found in {**counted, "chosen attacks": len(part.chosen)}.items():
        if found != nb_images:
            raise ValueError(f"expected numbers of {nb_images} images, got {found}: {name}, images {_images(part)}")


def _check_same_model(first: Evaluation, other: Evaluation) -> None:
    one, two = first.settings, other.settings
    told = differences(first, other)
    rest = {*one, *two}.difference(SHARED, _OF_A_PART, ("sha256", "attacks"))
    told += [_told(one, two, key) for key in sorted(rest) if one.get(key) != two.get(key)]
    nets, others = ({name: sha for name, sha in s["sha256"].items() if name not in _OF_IMAGES} for s in (one, two))
    told += [f"other {name}" for name in sorted({*nets, *others}) if nets.get(name) != others.get(name)]
    if [a.name for a in first.attacks] != [a.name for a in other.attacks]:
        told.append("other attacks")
    if told:
        about = f"images {_images(first)} and {_images(other)}"
        raise ValueError(f"expected parts of one evaluation, got others for {about}: {', '.join(told)}")


def _check_adjacent(parts: Sequence[Evaluation]) -> None:
    """An image that counts twice makes an interval narrower than it is; one left out may be one that counts against somebody."""
    if any(_span(one)[1] != _span(two)[0] for one, two in pairwise(parts)):
        raise ValueError(f"expected parts that follow each other, got images {', '.join(map(_images, parts))}")
    hashes = [part.settings["sha256"]["images"] for part in parts]
    if len({*hashes}) < len(hashes):
        raise ValueError("expected parts of different images, got the same images twice")


def _told(one: dict[str, Any], two: dict[str, Any], key: str) -> str:
    return f"{key}: {one[key]!r} and {two.get(key)!r}" if key in one else f"other {key}"


def _settings(parts: Sequence[Evaluation]) -> dict[str, Any]:
    first = parts[0].settings
    listed = [{key: p.settings[key] for key in _OF_A_PART if key in p.settings} for p in parts]
    hashes = {key: fingerprint({key: [p.settings["sha256"][key] for p in parts]}) for key in _OF_IMAGES}
    threads = {p.settings.get("threads") for p in parts}
    return {
        **{key: value for key, value in first.items() if key != "threads" or len(threads) == 1},
        "skip": _span(parts[0])[0],
        "nb_images": sum(p.settings["nb_images"] for p in parts),
        "sha256": {**first["sha256"], **hashes},
        "command": "; ".join(str(p.settings.get("command", "")) for p in parts),
        "fingerprint": fingerprint({"parts": [p.settings["fingerprint"] for p in parts]}),
        "parts": listed,
    }


def _joined(parts: Sequence[Evaluation], results: Sequence[AttackResult]) -> AttackResult:
    """One attack on all images; where it has no numbers on some of them, it has none."""
    first, seed = results[0], int(parts[0].settings["seed"])
    if any(r.problem for r in results):
        return AttackResult(first.name, first.kind, first.toolkit, _problem(parts, results))
    sizes = [len(r.per_image) for r in results]

    def mean_of(number: Callable[[AttackResult], float]) -> float:
        return sum(number(r) * n for r, n in zip(results, sizes, strict=True)) / sum(sizes)

    left = [r.remaining for r in results]
    per_image = [share for r in results for share in r.per_image]
    return replace(
        first,
        mean=interval(torch.tensor(per_image, dtype=torch.float64), seed),
        majority=_votes([r.majority for r in results], sizes, seed),
        any=_votes([r.any for r in results], sizes, seed),
        per_image=per_image,
        forward=mean_of(lambda r: r.forward),
        backward=mean_of(lambda r: r.backward),
        seconds=sum(r.seconds for r in results),
        max_distance=max(r.max_distance for r in results),
        nb_nan=sum(r.nb_nan for r in results),
        nb_attacked=sum(r.nb_attacked for r in results),
        remaining=None if None in left else mean_of(lambda r: r.remaining or 0.0),
    )


def _problem(parts: Sequence[Evaluation], results: Sequence[AttackResult]) -> str:
    """Why there are no numbers: that of all parts, or the first one, and on which images; a failure before what was not run."""
    told = [(r.problem, part) for part, r in zip(parts, results, strict=True) if r.problem]
    if len(told) == len(parts) and len({problem for problem, _ in told}) == 1:
        return told[0][0]
    problem, part = next(((p, part) for p, part in told if p.startswith("failed")), told[0])
    return f"{problem} (images {_images(part)})"


def _votes(shares: Sequence[Interval | None], sizes: Sequence[int], seed: int) -> Interval | None:
    """The share of images that are right, of yes and no: how many are is all that there is to know."""
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    right = sum(round(share.value * n) for share, n in zip(known, sizes, strict=True))
    return interval((torch.arange(sum(sizes)) < right).double(), seed)
