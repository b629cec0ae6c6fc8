"""L6: the nineteen checks of an evaluation, each a function of a :class:`Case` that returns a :class:`Verdict`.

To add one, decorate a function with :func:`~art_advtransform.diagnostics.case.check` in a module that is imported here.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from art_advtransform.diagnostics import (  # noqa: F401 - they register their checks
    attack,
    binarisation,
    comparisons,
    faults,
    gradients,
    transformation,
)
from art_advtransform.diagnostics.case import CHECK, CHECKS, Case, Check, Verdict
from art_advtransform.evaluation import left_as_found
from art_advtransform.randomness import derived_seed, global_seed, usual_device

__all__ = ["CHECKS", "CRASHED", "Case", "Verdict", "checks_code", "diagnose"]

logger = logging.getLogger(__name__)

# How the reason of a verdict begins that is no more than an error: it is asked for again.
CRASHED = "could not be run: "


@cache
def checks_code() -> str:
    """sha256 of the sources of the checks and of the attack that they are about: verdicts of others are not added to."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _verdict(function: Check, case: Case) -> Verdict:
    try:
        return function(case)
    except Exception as error:  # the others still say something
        logger.warning("a check could not be run", exc_info=error)
        return Verdict("fail", f"{CRASHED}{type(error).__name__}: {error}")


@usual_device()
def diagnose(
    case: Case,
    numbers: Collection[int] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    on_verdict: Callable[[int, Verdict], object] | None = None,
) -> dict[int, Verdict]:
    """Run the checks, in order.

    Args:
        case: what is checked; its networks are left in the mode they came in.
        numbers: which; ``None``: all.
        progress: called with (what is checked, checks done, all checks).
        on_verdict: called with every number and its verdict as soon as it is there.

    Returns:
        A verdict for every number; of a check that ended in an error, "fail", and which.

    Raises:
        ValueError: if a number is unknown.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from art_advtransform import DefendedModel
        >>> from art_advtransform.config import ThreatModel
        >>> blind = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> _ = nn.init.zeros_(blind[1].weight)
        >>> x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
        >>> case = Case(DefendedModel(blind, None), x, y, ThreatModel(), max_iter=5)
        >>> diagnose(case, [4])[4].status
        'fail'
    """
    wanted = sorted(CHECKS) if numbers is None else sorted(numbers)
    unknown = [number for number in wanted if number not in CHECKS]
    if unknown:
        raise ValueError(f"unknown check {unknown[0]}; known: {', '.join(map(str, sorted(CHECKS)))}")
    networks = [case.defended, *([] if case.undefended is None else [case.undefended])]
    found: dict[int, Verdict] = {}
    with left_as_found(*networks):
        for done, number in enumerate(wanted):
            name, function = CHECKS[number]
            if progress is not None:
                progress(f"{number}. {name}", done, len(wanted))
            with global_seed(derived_seed(case.seed, CHECK, number)):  # nets and toolkits may draw from global state
                found[number] = _verdict(function, case)
            if on_verdict is not None:
                on_verdict(number, found[number])
        if progress is not None:
            progress("done", len(wanted), len(wanted))
    return found
