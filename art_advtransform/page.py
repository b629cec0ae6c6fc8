"""L7: the report of a run: tables, figures, and one HTML page that holds all of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from art_advtransform.counting import Interval
from art_advtransform.diagnosis import DIAGNOSIS, attack_told, read_diagnosis
from art_advtransform.diagnostics import CHECKS
from art_advtransform.records import AttackResult, Evaluation
from art_advtransform.report import (
    PUBLISHED,
    caption,
    cell,
    has_published,
    is_randomized,
    label,
    problems,
    published,
    rows,
    save_tables,
)

# What a run's folder may hold beside its records and the diagnosis.
EXAMPLES = "examples.safetensors"
_REMEDY = 'pip install "art-advtransform[report]"'


def save_report(evaluations: Mapping[str, Evaluation], title: str, folder: Path) -> dict[str, list[Path | str]]:
    """Write tables, figures and ``report.html`` into ``folder``.

    The checks of ``diagnose`` and example images are in it where the folder has them.

    Args:
        evaluations: by the name of the model.
        title: of the page.
        folder: where to.

    Returns:
        What was written, by kind; where a package is missing, how to get it.
    """
    written: dict[str, list[Path | str]] = {"tables": [*save_tables(evaluations, folder)]}
    diagnosis = read_diagnosis(folder)
    if diagnosis is not None and not _is_of(diagnosis, evaluations):
        written["checks"] = [
            f"left out: {folder / DIAGNOSIS} is of other nets, another budget or an earlier evaluation"
        ]
        diagnosis = None
    try:
        pictures = _figures(evaluations, diagnosis, folder)
        page = folder / "report.html"
        page.write_text(html(evaluations, title, pictures, diagnosis))
    except ModuleNotFoundError as error:
        return {**written, "figures": [f"not drawn: needs {error.name}: {_REMEDY}"]}
    return {**written, "figures": [*pictures.values()], "report": [page]}


def _is_of(diagnosis: dict[str, Any], evaluations: Mapping[str, Evaluation]) -> bool:
    """Whether one of the models was checked, at the evaluation's budget, and of the evaluation (or of a part of it)."""
    checked = diagnosis["settings"]
    return any(
        checked.get("eps") == e.settings["threat"]["eps"]
        and checked.get("evaluation") in (None, *e.identities)
        and all(e.settings["sha256"].get(net) == sha for net, sha in checked.get("sha256", {"": "unknown"}).items())
        for e in evaluations.values()
    )


def _figures(evaluations: Mapping[str, Evaluation], diagnosis: dict[str, Any] | None, folder: Path) -> dict[str, Path]:
    """The pictures, by the heading that they get."""
    from art_advtransform.figures import accuracy_figure, cost_figure, curve_figure, examples_figure

    pictures = {"Accuracy under each attack": accuracy_figure(evaluations, folder / "accuracy.png")}
    if any(result.remaining is not None for e in evaluations.values() for result in e.attacks):
        pictures["What the attacks leave, against what they spend"] = cost_figure(evaluations, folder / "cost.png")
    for verdict in (diagnosis or {"verdicts": {}})["verdicts"].values():
        for name, points in verdict["curves"].items():
            path = folder / f"{name.replace(' ', '-')}.png"
            pictures[name[0].upper() + name[1:]] = curve_figure({name: points}, name, path)
    if (folder / EXAMPLES).exists():
        pictures["Images, attacked, and what g makes of both"] = examples_figure(
            folder / EXAMPLES, folder / "examples.png"
        )
    return pictures


def html(
    evaluations: Mapping[str, Evaluation],
    title: str,
    pictures: Mapping[str, Path],
    diagnosis: dict[str, Any] | None = None,
) -> str:
    """One page with everything in it: no script, no other file.

    Raises:
        ModuleNotFoundError: without jinja2 (the extra ``report``).
    """
    from jinja2 import Environment

    template = (files("art_advtransform") / "page.html").read_text()
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return page.render(
        title=title,
        models=list(evaluations),
        randomized=[name for name, e in evaluations.items() if is_randomized(e)],
        rows=[
            (label(name, evaluations), {m: _cells(r) for m, r in results.items()}, published(results))
            for name, results in rows(evaluations)
        ],
        beside=PUBLISHED if has_published(evaluations) else "",
        caption=caption(evaluations),
        problems=problems(evaluations),
        pictures={heading: base64.b64encode(path.read_bytes()).decode() for heading, path in pictures.items()},
        verdicts=(diagnosis or {"verdicts": {}})["verdicts"],
        not_run=", ".join(_not_run(diagnosis)),
        diagnosed=(diagnosis or {"settings": {}})["settings"],
        diagnosed_by="" if diagnosis is None else attack_told(diagnosis["settings"]),
        costs=_costs(evaluations),
        settings={name: json.dumps(e.settings, indent=1) for name, e in evaluations.items()},
    )


def _not_run(diagnosis: dict[str, Any] | None) -> list[str]:
    """The checks that a diagnosis lacks."""
    return (
        []
        if diagnosis is None
        else [f"{n}. {name}" for n, (name, _) in CHECKS.items() if str(n) not in diagnosis["verdicts"]]
    )


def _cells(result: AttackResult) -> dict[str, str]:
    return {"mean": cell(result), "vote": _share(result.majority), "any": _share(result.any)}


def _share(interval: Interval | None) -> str:
    return "-" if interval is None else f"{100 * interval.value:.1f}"


def _costs(evaluations: Mapping[str, Evaluation]) -> list[dict[str, str]]:
    """Passes and time of every attack on every model, how many images it ran on, and what is left after it."""
    return [
        {
            "model": model,
            "attack": result.name,
            "forward": f"{result.forward:,.0f}",
            "backward": f"{result.backward:,.0f}",
            "seconds": f"{result.seconds:,.1f}",
            "met": str(result.nb_attacked or "-"),
            "left": "-" if result.remaining is None else f"{100 * result.remaining:.1f}",
        }
        for model, evaluation in evaluations.items()
        for result in evaluation.attacks
        if result.mean is not None
    ]
