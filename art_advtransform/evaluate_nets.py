"""L7: evaluation of named nets side by side: undefended, adversarially trained, defended, and defended with a known D."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from art_advtransform.attacks.base import Attack
from art_advtransform.attacks.identity import network_identity
from art_advtransform.config import ThreatModel
from art_advtransform.datasets import ImageSet
from art_advtransform.defended import DefendedModel
from art_advtransform.diagnosis import DIAGNOSIS
from art_advtransform.evaluation import evaluate
from art_advtransform.layer import LLPGDTransform
from art_advtransform.page import EXAMPLES
from art_advtransform.plan import CLEAN, WORST
from art_advtransform.pooling import differences, pooled
from art_advtransform.pretrained import load_network, read_card
from art_advtransform.records import Evaluation
from art_advtransform.report import BASELINE
from art_advtransform.runs import Progress
from art_advtransform.shards import Shards
from art_advtransform.store import MANIFEST, read_attacked

logger = logging.getLogger(__name__)

# Nets that a run takes along where they exist; the attacks that need one say so where it doesn't.
_OPTIONAL = ("adversarial", "surrogate", "imitation", "f_a-defended-2")
UNDEFENDED, ADVERSARIAL, DEFENDED = "undefended", BASELINE, "defended"
BARE, FIXED = "f_a without g", "defended, known D"
_ORDER = (UNDEFENDED, ADVERSARIAL, BARE, DEFENDED, FIXED)


@dataclass(frozen=True)
class Nets:
    """The nets of an evaluation.

    Attributes:
        undefended, f_a, f_b: what stands beside one another: a net alone, and f_a(g(.)).
        names: where each came from, for the record.
        adversarial: an adversarially trained net; ``None`` where there is none.
        surrogate: a net of a black-box attacker, of another architecture; where none was trained for that, a plain f_b.
        imitation: h(x, D).
        twin: f_a trained once more, from another seed.
    """

    undefended: nn.Module
    f_a: nn.Module
    f_b: nn.Module
    names: dict[str, str]
    adversarial: nn.Module | None = None
    surrogate: nn.Module | None = None
    imitation: nn.Module | None = None
    twin: nn.Module | None = None

    @classmethod
    def load(cls, home: str, f_b: str | None = None, device: torch.device | str = "cpu") -> Nets:
        """The nets in ``home``: a data set with bundled nets, or a folder that ``train`` wrote.

        Args:
            home: data set or folder.
            f_b: another f_b, as :func:`~art_advtransform.pretrained.load_network` takes it.
            device: where to.

        Raises:
            FileNotFoundError: if a net that is needed is not there.
        """
        names = {role: f"{home}/{role}" for role in ("undefended", "f_a-defended")}
        names["f_b"] = f_b or f"{home}/f_b-adversarial"
        names |= {role: f"{home}/{role}" for role in _OPTIONAL if _exists(f"{home}/{role}")}
        plain = f"{home}/f_b-standard"
        if "surrogate" not in names and names["f_b"] != plain and _exists(plain):
            names["surrogate"] = plain
        loaded = {role: load_network(name, device) for role, name in names.items()}
        return cls(
            loaded["undefended"],
            loaded["f_a-defended"],
            loaded["f_b"],
            names,
            loaded.get("adversarial"),
            loaded.get("surrogate"),
            loaded.get("imitation"),
            loaded.get("f_a-defended-2"),
        )

    def models(self) -> dict[str, DefendedModel]:
        """What can be evaluated, by name, in the order of tables; with a known D, ``FIXED``, the defended one is."""
        models = {UNDEFENDED: DefendedModel(self.undefended, None)}
        if self.adversarial is not None:
            models[ADVERSARIAL] = DefendedModel(self.adversarial, None)
        models[BARE] = DefendedModel(self.f_a, None)
        models[DEFENDED] = models[FIXED] = DefendedModel(self.f_a, LLPGDTransform(self.f_b))
        return models

    def surrogates(self, model: str) -> dict[str, nn.Module]:
        """Nets that a black-box attacker of ``model`` may have trained for himself: all without g but the model's own."""
        nets = {"surrogate": self.surrogate, UNDEFENDED: self.undefended, ADVERSARIAL: self.adversarial}
        return {name: net for name, net in nets.items() if net is not None and name != model}


def evaluate_nets(
    nets: Nets,
    data: ImageSet,
    threat: ThreatModel,
    out: Path,
    *,
    preset: str | Sequence[Attack] = "quick",
    models: Sequence[str] | None = None,
    progress: Callable[[str], Progress] | None = None,
    about: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> dict[str, Evaluation]:
    """Every model of ``nets`` under the attacks of ``preset``; a killed run goes on.

    Args:
        nets: see :class:`Nets`.
        data: images to attack.
        threat: budget.
        out: folder; every model has a folder of its own there.
        preset: of attacks, or the attacks themselves.
        models: which, as :meth:`Nets.models` names them; ``None``: all but f_a without g.
        progress: called with the name of a model, gives the callback for its evaluation.
        about: for the record.
        device: where to compute.
        options: of :func:`~art_advtransform.evaluation.evaluate`.

    Returns:
        An evaluation for every model, by name.

    Raises:
        TypeError, ValueError: before any work; if a model is unknown.
    """
    x, y = data.x.to(device), data.y.to(device)
    chosen = _chosen(nets.models(), models)
    for name, model in chosen.items():
        try:
            model(x[:1])  # of another data set: refused before any is attacked
        except RuntimeError as error:
            raise ValueError(f"{name} does not take images of shape {tuple(x.shape[1:])}: {error}") from error
    evaluations: dict[str, Evaluation] = {}
    for name, model in chosen.items():
        evaluations[name] = evaluate(
            model,
            x,
            y,
            preset,
            threat,
            out=_folder(out, name),
            fixed_draw=name == FIXED,
            surrogates=nets.surrogates(name),
            imitation=nets.imitation,
            twin=nets.twin,
            progress=None if progress is None else progress(name),
            about={**(about or {}), "model": name, "nets": nets.names},
            **options,
        )
    if options.get("restart") and Shards().is_main and DEFENDED in chosen:
        (out / DIAGNOSIS).unlink(missing_ok=True)  # of what was thrown away
    if Shards().is_main and DEFENDED in chosen:
        _save_examples(chosen[DEFENDED], evaluations[DEFENDED], x, out)
    return evaluations


def worst_images(
    folder: Path, defended: DefendedModel, x: Tensor, threat: ThreatModel
) -> tuple[Tensor, Evaluation] | None:
    """What the evaluation of the defended net in ``folder`` found to be worst for ``x``, shape of ``x``, and that evaluation.

    ``None`` where there is none, or, with a warning, where it is of another defended net or budget, of images that do not begin
    with these, or a record without its images.
    """
    run = folder / DEFENDED
    if not (run / "evaluation.json").exists() or defended.transform is None:
        return None
    evaluation = Evaluation.load(run / "evaluation.json")
    settings = evaluation.settings
    nets = {"f_a": defended.classifier, "f_b": defended.transform.model}
    same = all(settings["sha256"].get(name) == network_identity(net) for name, net in nets.items())
    same = same and settings["transform"] == json.loads(json.dumps(asdict(defended.transform.config)))
    if not same or settings["threat"]["eps"] != threat.eps or settings["nb_images"] < len(x):
        logger.warning("%s: another defended net, budget or fewer images; its worst images are not checked", run)
        return None
    try:
        clean, worst = (
            torch.stack([read_attacked(run, name, settings["chunk_size"], i) for i in range(len(x))]).to(x)
            for name in (CLEAN.name, WORST)
        )
    except FileNotFoundError:  # a record without its images, as under benchmarks/results
        logger.warning("%s: a record without its images; they are not checked", run)
        return None
    if not torch.equal(clean, x):
        logger.warning("%s: other images; its worst ones are not checked", run)
        return None
    return worst, evaluation


def _chosen(models: dict[str, DefendedModel], names: Sequence[str] | None) -> dict[str, DefendedModel]:
    if names is None:
        return {name: model for name, model in models.items() if name != BARE}
    for name in names:
        if name not in models:
            raise ValueError(f"unknown model {name!r}; known: {', '.join(models)}")
    return {name: model for name, model in models.items() if name in names}


def _save_examples(model: DefendedModel, evaluation: Evaluation, x: Tensor, out: Path, n: int = 6) -> None:
    """The first images, what the worst attack makes of each, and g of both under one D, for the report."""
    assert model.transform is not None
    assert evaluation.path is not None
    folder = evaluation.path.parent
    attacked = torch.stack(
        [
            read_attacked(folder, name, evaluation.settings["chunk_size"], i)
            for i, name in enumerate(evaluation.chosen[:n])
        ]
    ).to(x)
    with torch.no_grad(), model.frozen(evaluation.settings["seed"]):
        g, g_attacked = model.transformed(x[: len(attacked)]), model.transformed(attacked)
    tensors = {"x": x[: len(attacked)], "attacked": attacked, "g": g, "g_attacked": g_attacked}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, out / EXAMPLES)


def load_evaluations(*folders: Path) -> dict[str, Evaluation]:
    """The records that :func:`evaluate_nets` wrote into ``folders``, by the model's name, in the order of tables.

    Of several folders a name that two of them have gets its folder's beside it.

    Raises:
        FileNotFoundError: if a folder has none.
        ValueError: if one is damaged, or two are of different images, budgets, draws, seeds or presets: side by side they would
            be compared.
    """
    found: list[tuple[Path, str, Evaluation]] = []
    for folder in folders:
        paths = sorted(folder.glob("*/evaluation.json"))
        if not paths:
            raise FileNotFoundError(f"no records: looked for */evaluation.json in {folder}")
        for path in paths:
            evaluation = Evaluation.load(path)
            found.append((folder, str(evaluation.settings.get("model", path.parent.name)), evaluation))
    first = found[0][2]
    for folder, name, evaluation in found:
        _check_same(first, evaluation, f"{name} in {folder}")
    names = [name for _, name, _ in found]
    named = {name if names.count(name) == 1 else f"{name} ({folder})": e for folder, name, e in found}
    return {name: named[name] for name in sorted(named, key=_order)}


def pool_evaluations(*folders: Path, out: Path) -> dict[str, Evaluation]:
    """Records that :func:`evaluate_nets` wrote of several parts of the images, put together and written into ``out``, by model.

    Raises:
        FileNotFoundError: if a folder has none.
        ValueError: if there are fewer than two; if ``out`` is one of them, or another run's folder; if they are not of the same
            models and settings, or their images don't follow each other. Nothing is written then.
    """
    if len(folders) < 2:
        raise ValueError(f"expected at least two parts, got {len(folders)}")
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise ValueError(f"expected a folder of its own for what is put together, got {out}, which is a part")
    parts = [load_evaluations(folder) for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        if list(part) != list(parts[0]):
            raise ValueError(
                f"expected parts of the same models, got {', '.join(part)} in {folder} and {', '.join(parts[0])}"
            )
    whole = {name: pooled([part[name] for part in parts]) for name in parts[0]}
    if any(path.exists() for path in (out / EXAMPLES, *(_folder(out, name) / MANIFEST for name in whole))):
        raise ValueError(f"expected a folder of its own for what is put together, got {out}, which a run has written")
    return {name: evaluation.save(_folder(out, name) / "evaluation.json") for name, evaluation in whole.items()}


def _check_same(first: Evaluation, other: Evaluation, name: str) -> None:
    told = differences(first, other)
    told += [
        f"other {key}" for key in ("images", "labels") if first.settings["sha256"][key] != other.settings["sha256"][key]
    ]
    if told:
        raise ValueError(f"expected records of the same settings, got others for {name}: {', '.join(told)}")


def _folder(out: Path, model: str) -> Path:
    """Where the evaluation of ``model`` is."""
    return out / model.replace(", ", "-").replace(" ", "-")


def _order(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def _exists(net: str) -> bool:
    try:
        read_card(net)
    except FileNotFoundError:
        return False
    return True
