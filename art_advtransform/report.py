"""L7: tables from records: for the terminal, as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from art_advtransform.counting import DRAWS_FOR_ANY, Interval
from art_advtransform.records import AttackResult, Evaluation

if TYPE_CHECKING:
    import pandas as pd

Evaluations = Mapping[str, Evaluation]


def rows(evaluations: Evaluations) -> list[tuple[str, dict[str, AttackResult]]]:
    """One row for no attack, each attack and the worst case: its name, and the result of every model by the model's name."""
    if not evaluations:
        raise ValueError("expected at least one evaluation")
    named: dict[str, dict[str, AttackResult]] = {}
    for model, evaluation in evaluations.items():
        for result in (evaluation.clean, *evaluation.attacks, evaluation.worst):
            named.setdefault(result.name, {})[model] = result
    worst = next(iter(evaluations.values())).worst.name
    return [*((name, results) for name, results in named.items() if name != worst), (worst, named[worst])]


# The net that a defence is measured by.
BASELINE = "adversarial"
# Head of the column with the paper's numbers, all of them for CIFAR-10 and a ResNet18 of width 64.
PUBLISHED = "the paper's, defended"
# Columns of a table in characters.
_NAME, _MEAN, _VOTE_AND_ANY = 24, 23, 14


def terminal_table(evaluations: Evaluations, title: str, width: int = 160) -> Table:
    """Accuracies in per cent, one column of means with intervals for each model, vote and any for randomised ones.

    Where ``width`` is too narrow for that, intervals go below the means, and vote and any are left to the other tables.
    """
    all_rows = rows(evaluations)
    randomized = [model for model, e in evaluations.items() if is_randomized(e)]
    narrow = width < _NAME + _MEAN * len(evaluations) + _VOTE_AND_ANY * len(randomized)
    randomized = [] if narrow else randomized
    table = Table(title=escape(title), caption=escape(caption(evaluations)), caption_justify="left")
    table.add_column("attack", overflow="fold", min_width=min(_NAME, width // 4))
    for model in evaluations:
        table.add_column(f"{escape(model)}\nmean [95 %]", justify="right", no_wrap=not narrow)
        if model in randomized:
            table.add_column("vote", justify="right")
            table.add_column("any", justify="right")
    beside = PUBLISHED if has_published(evaluations) else ""
    if beside:
        table.add_column(beside, justify="right")
    for i, (name, results) in enumerate(all_rows):
        cells = []
        for model in evaluations:
            result = results.get(model)
            cells.append(cell(result).replace(" [", "\n[") if narrow else cell(result))
            if model in randomized:
                cells += [_per_cent(result.majority if result else None), _per_cent(result.any if result else None)]
        if beside:
            cells.append(published(results))
        table.add_row(
            escape(label(name, evaluations)),
            *cells,
            end_section=i == len(all_rows) - 2,
            style="bold" if i == len(all_rows) - 1 else "",
        )
    return table


def is_randomized(evaluation: Evaluation) -> bool:
    """Whether its draws differ, so that vote and any say something new."""
    return bool(evaluation.settings["randomized"])


def has_published(evaluations: Evaluations) -> bool:
    """Whether the paper gives a number for one of the attacks, and this is its data set and budget."""
    settings = [e.settings for e in evaluations.values()]
    if not all(s.get("dataset") == "cifar10" and abs(s["threat"]["eps"] - 8 / 255) < 1e-6 for s in settings):
        return False
    return any(attack.published is not None for e in evaluations.values() for attack in e.attacks)


def published(results: Mapping[str, AttackResult]) -> str:
    """The paper's number for an attack on the defence, in per cent; a dash where it gives none."""
    found = [r.published for r in results.values() if r.published is not None]
    return f"{100 * found[0]:.1f}" if found else "-"


def label(name: str, evaluations: Evaluations) -> str:
    """``name`` as tables show it: of a worst case that lacks attacks they say so."""
    most = max(len(e.missing) for e in evaluations.values())
    is_worst = name == next(iter(evaluations.values())).worst.name
    return f"{name}, but for {most} {'attack' if most == 1 else 'attacks'}" if is_worst and most else name


def problems(evaluations: Evaluations) -> list[str]:
    """A line for every attack without numbers, with the reason, and for every one that left NaN.

    Those that a model has nothing of (no g to see through) share a line where they are many.
    """
    told: dict[tuple[str, str], list[str]] = {}
    for name, results in rows(evaluations):
        for model, result in results.items():
            problem = result.problem
            if result.nb_nan and not problem:
                problem = f"NaN in {result.nb_nan} images, counted with their clean pixels"
            if problem:
                told.setdefault((model, problem if not result.is_missing else f"{problem}\n{name}"), []).append(name)
    return [
        f"{model}: {names[0] if len(names) == 1 else f'{len(names)} attacks'}: {problem.partition(chr(10))[0]}"
        for (model, problem), names in told.items()
    ]


def numbers(evaluations: Evaluations) -> list[dict[str, Any]]:
    """All numbers, one entry for each model and attack, as JSON has them; accuracies in [0, 1]."""
    entries = []
    for name, results in rows(evaluations):
        for model, r in results.items():
            entry: dict[str, Any] = {"model": model, "attack": name, "kind": r.kind, "toolkit": r.toolkit}
            entry |= {"problem": r.problem, "nb_nan": r.nb_nan}
            for key, interval in (("mean", r.mean), ("majority", r.majority), ("any", r.any)):
                entry[key] = None if interval is None else interval.value
                entry[f"{key}_low"] = None if interval is None else interval.low
                entry[f"{key}_high"] = None if interval is None else interval.high
            entry |= {"forward": r.forward, "backward": r.backward, "seconds": r.seconds}
            entry["published"] = r.published
            entry |= {"stage": r.stage, "nb_attacked": r.nb_attacked, "remaining": r.remaining}
            entries.append({**entry, "max_distance": r.max_distance})
    return entries


def frame(evaluations: Evaluations) -> pd.DataFrame:
    """:func:`numbers` as a pandas frame.

    Raises:
        ModuleNotFoundError: without pandas (the extra ``report``).
    """
    import pandas as pd

    table: pd.DataFrame = pd.DataFrame(numbers(evaluations))
    return table


def markdown(evaluations: Evaluations) -> str:
    """The terminal's table as Markdown."""
    head, *body = _plain(evaluations)
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in body]
    return "\n".join([*lines, "", caption(evaluations)]) + "\n"


def latex(evaluations: Evaluations) -> str:
    """The same table for LaTeX (package booktabs), the caption as a comment.

    Raises:
        ModuleNotFoundError: without pandas and jinja2 (the extra ``report``).
    """
    import jinja2  # noqa: F401 - pandas needs it, and says so less clearly
    import pandas as pd

    head, *body = _plain(evaluations)
    table = pd.DataFrame([cells[1:] for cells in body], index=[cells[0] for cells in body], columns=head[1:])
    text: str = table.style.format_index(escape="latex").format_index(escape="latex", axis=1).to_latex(hrules=True)
    return f"% {caption(evaluations)}\n{text}"


def _plain(evaluations: Evaluations) -> list[list[str]]:
    """Head and rows of the table as text."""
    head, body = ["attack"], [[label(name, evaluations)] for name, _ in rows(evaluations)]
    for model, evaluation in evaluations.items():
        randomized = is_randomized(evaluation)
        head += [f"{model}, mean [95 %]", *((f"{model}, vote", f"{model}, any") if randomized else ())]
        for cells, (_, results) in zip(body, rows(evaluations), strict=True):
            result = results.get(model)
            cells.append(cell(result))
            if randomized:
                cells += [_per_cent(result.majority if result else None), _per_cent(result.any if result else None)]
    if has_published(evaluations):
        head.append(PUBLISHED)
        for cells, (_, results) in zip(body, rows(evaluations), strict=True):
            cells.append(published(results))
    return [head, *body]


def save_tables(evaluations: Evaluations, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``table.md``, and ``table.tex`` and ``table.csv`` where pandas is there; the paths written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "table.md"]
    written[0].write_text(markdown(evaluations))
    try:
        table, tex = frame(evaluations), latex(evaluations)
    except ModuleNotFoundError:
        return written
    written += [folder / "table.tex", folder / "table.csv"]
    written[1].write_text(tex)
    table.to_csv(written[2], index=False, float_format="%.6g")
    return written


def cell(result: AttackResult | None) -> str:
    """The mean accuracy in per cent with its interval; a dash where there is none."""
    if result is None or result.mean is None:
        return "-"
    return f"{100 * result.mean.value:.1f} [{100 * result.mean.low:.1f}, {100 * result.mean.high:.1f}]"


def _per_cent(interval: Interval | None) -> str:
    return "-" if interval is None else f"{100 * interval.value:.1f}"


def draws_told(settings: Mapping[str, Any], what: str = "draws") -> str:
    """How many draws the numbers are taken over: single attacks may have fewer."""
    single = settings.get("nb_attack_draws", settings["nb_draws"])
    return f"{settings['nb_draws']} {what}" + ("" if single == settings["nb_draws"] else f" (single attacks: {single})")


def parts_told(settings: Mapping[str, Any]) -> str:
    """Which images were evaluated apart, where some were: " in 2 parts (images 0 to 249, 250 to 374 of the sample)"."""
    parts = settings.get("parts", [])
    begins = [part.get("skip", 0) for part in parts]
    spans = [f"{begin} to {begin + part['nb_images'] - 1}" for begin, part in zip(begins, parts, strict=True)]
    return f" in {len(parts)} parts (images {', '.join(spans)} of the sample)" if parts else ""


def caption(evaluations: Evaluations) -> str:
    """What the numbers of a table are taken over."""
    s = next(iter(evaluations.values())).settings
    confirmed = f" and confirmed on {s['nb_confirmation_draws']}" if "nb_confirmation_draws" in s else ""
    known = [name for name, e in evaluations.items() if e.settings.get("fixed_draw", False)]
    again = ", the same in every part" if "parts" in s else ""
    fixed = (
        f"; {', '.join(known)}: one D for every {s.get('chunk_size')} images, and intervals for these D{again}"
        if known
        else ""
    )
    found = [attack for e in evaluations.values() for attack in e.attacks]
    # what they skip, and what they find nothing stronger for, counts as the attacks before left it
    steered = [name for name, e in evaluations.items() if e.settings.get("transform") is not None]
    dynamic = f"; dynamic, so that standard AutoAttack says little of it: {', '.join(steered)}" if steered else ""
    going_on = "; attacks of a stage: what they leave of the strongest before" if any(a.stage for a in found) else ""
    return (
        f"Accuracy in per cent over {s['nb_images']} images{parts_told(s)}, L-inf budget {s['threat']['eps']:.4g}, mean over "
        f"{draws_told(s, 'fresh draws of D')}; the worst case is chosen on {s['nb_selection_draws']} others"
        f"{confirmed}; seed {s['seed']}; vote: majority of the draws; any: right in each of "
        f"{min(s['nb_draws'], DRAWS_FOR_ANY)} draws{fixed}{dynamic}{going_on}.{too_good(evaluations)}"
    )


def too_good(evaluations: Evaluations) -> str:
    """What is to be thought of models that draw and stand above the adversarially trained net: nothing yet."""
    # of several runs side by side names have their folders in them
    kinds = {name: e.settings.get("model", name) for name, e in evaluations.items()}
    baselines = [e.worst.mean.value for name, e in evaluations.items() if kinds[name] == BASELINE and e.worst.mean]
    means = {name: e.worst.mean for name, e in evaluations.items() if is_randomized(e)}
    above = [name for name, mean in means.items() if mean and baselines and mean.value > max(baselines)]
    if not above:
        return ""
    return (
        f" In the worst case {', '.join(above)} {'stands' if len(above) == 1 else 'stand'} above the adversarially trained net: "
        "take that for an attack that failed, unless the checks of diagnose pass."
    )
