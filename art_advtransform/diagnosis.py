"""L7: the record of ``diagnose``: verdicts are kept as they come, and those of the same settings are gone on from."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from art_advtransform.attacks.identity import network_identity
from art_advtransform.diagnostics import CHECKS, CRASHED, Case, Verdict, checks_code, diagnose
from art_advtransform.diagnostics.paths import eot_pgd, margin_pgd
from art_advtransform.plan import changed_model
from art_advtransform.records import environment
from art_advtransform.runs import attack_code
from art_advtransform.shards import Shards
from art_advtransform.store import tensors_sha256, write_json

logger = logging.getLogger(__name__)

DIAGNOSIS = "diagnosis.json"
# What a verdict does not hang on.
_TOLD_ONLY = ("command",)


def run_checks(
    case: Case,
    about: Mapping[str, Any],
    folder: Path,
    numbers: Collection[int] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[int, Verdict], dict[str, Any], Path]:
    """The verdicts of ``numbers`` (``None``: all), those that ``folder`` has by the same settings first; settings; the record.

    Raises:
        ValueError: if a number is unknown.
    """
    settings, wanted = settings_of(case, about), sorted(CHECKS) if numbers is None else sorted(numbers)
    kept = kept_verdicts(folder, settings)
    if not kept and (folder / DIAGNOSIS).exists():
        logger.warning("%s is damaged or of other settings: its verdicts are replaced", folder / DIAGNOSIS)
    verdicts = {n: verdict for n, verdict in kept.items() if n in wanted}
    left = [n for n in wanted if n not in verdicts]
    verdicts |= diagnose(case, left, progress, lambda n, verdict: keep(folder, settings, {n: verdict}))
    return verdicts, settings, keep(folder, settings, verdicts)


def settings_of(case: Case, about: Mapping[str, Any]) -> dict[str, Any]:
    """All that the verdicts hang on, networks and images by their sha256; ``about``: what else the record should say."""
    transform = case.defended.transform
    networks = {"f_a": case.defended.classifier, "f_b": None if transform is None else transform.model}
    undefended = case.undefended
    numbers = ("seed", "nb_draws", "max_iter", "eot_samples", "nb_corners", "nb_queries")
    settings = {
        **about,
        "nb_images": len(case.x),
        "eps": case.threat.eps,
        "clip_values": case.threat.clip_values,
        **{name: getattr(case, name) for name in numbers},
        "attack": getattr(case.attack, "__name__", type(case.attack).__name__),
        "attack_code": attack_code(),
        "checks_code": checks_code(),
        **environment(case.x.device),
        "images": tensors_sha256([case.x, case.y]),
        "found": None if case.found is None else tensors_sha256([case.found]),
        "found_by": case.made_by,
        # of the positive controls, and of no evaluation
        "undefended": None if undefended is None else network_identity(undefended),
        "sha256": {name: network_identity(net) for name, net in networks.items() if net is not None}
        | changed_model(case.defended),
    }
    found: dict[str, Any] = json.loads(json.dumps(settings))  # as a record that is read again has them
    return found


def attack_told(settings: Mapping[str, Any]) -> str:
    """What the checks of a path were of, as captions have it."""
    named = {eot_pgd.__name__: "", margin_pgd.__name__: " on the mean margin"}
    attack = settings.get("attack", eot_pgd.__name__)  # older records have but that one
    return f"PGD-{settings['max_iter']}{named.get(attack, f' ({attack})')}, EOT {settings['eot_samples']}"


def read_diagnosis(folder: Path) -> dict[str, Any] | None:
    """What ``diagnose`` wrote, if it did.

    Raises:
        ValueError: if it is damaged.
    """
    path = folder / DIAGNOSIS
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        _ = found["verdicts"], found["settings"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"damaged record {path}: {error}") from error
    return found


def kept_verdicts(folder: Path, settings: Mapping[str, Any]) -> dict[int, Verdict]:
    """Verdicts in ``folder`` by the same settings, by number; none where it has others, or a damaged record."""
    try:
        found = read_diagnosis(folder)
        if found is None or not same_settings(found["settings"], settings):
            return {}
        return {
            int(n): Verdict(v["status"], v["reason"], v["figures"], v["curves"])
            for n, v in found["verdicts"].items()
            if not v["reason"].startswith(CRASHED)
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether verdicts of the two may stand side by side."""
    return all(one.get(key) == other.get(key) for key in {*one, *other}.difference(_TOLD_ONLY))


def keep(folder: Path, settings: Mapping[str, Any], verdicts: Mapping[int, Verdict]) -> Path:
    """Add ``verdicts`` to the record in ``folder``, in place of one of other settings; of several processes one writes."""
    path = folder / DIAGNOSIS
    if Shards().is_main:
        every = {**kept_verdicts(folder, settings), **verdicts}
        named = {str(n): {"name": CHECKS[n][0], **asdict(every[n])} for n in sorted(every)}
        write_json(path, {"settings": dict(settings), "verdicts": named})
    return path
