"""L6: evaluate, which runs a preset of attacks on a model and counts honestly."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform import __version__
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.attacks.presets import preset_attacks
from art_advtransform.config import ThreatModel, check_count
from art_advtransform.counting import SCORING, SELECTION, choose, count, predictions
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import check_images
from art_advtransform.randomness import derived_seed
from art_advtransform.records import AttackResult, Chunk, ChunkStore, Evaluation, environment, fingerprint

logger = logging.getLogger(__name__)

__all__ = ["Evaluation", "evaluate"]

Progress = Callable[[str, int, int], None]
CLEAN = Attack("no attack", lambda target: target.x, "white box")
WORST = "per-image worst case"


def evaluate(
    defended: DefendedModel,
    images: Tensor,
    labels: Tensor,
    preset: str = "quick",
    threat: ThreatModel | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    nb_draws: int = 100,
    nb_selection_draws: int = 20,
    surrogates: Mapping[str, nn.Module] | None = None,
    chunk_size: int = 50,
    progress: Progress | None = None,
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Attack ``defended`` with every attack of ``preset``, and count over fresh draws of D.

    An undefended net goes through the same code as ``DefendedModel(net, None)``. Every attacked image is projected on the
    budget, then classified under ``nb_selection_draws`` draws, which choose the worst attack for each image, and under ``nb_draws``
    others, which alone score. With ``out``, finished chunks are kept there: a run that was killed goes on where it was.

    Args:
        defended: the model, with one draw for each prediction (what it is attacked with is the attack's business), not frozen;
            its networks are left in the mode they came in.
        images: (n, C, H, W) inside ``threat.clip_values``.
        labels: true classes (n,), int64.
        preset: a key of ``art_advtransform.attacks.presets.PRESETS``.
        threat: budget; ``None``: L-inf 8/255 on [0, 1].
        out: folder for the JSON record and the finished chunks; ``None`` writes nothing.
        seed: of every draw; results depend on it, not on the batch or the number of draws.
        nb_draws: K, draws that score each attacked image.
        nb_selection_draws: K_sel, draws that choose.
        surrogates: nets of a black-box attacker.
        chunk_size: images that are attacked at a time.
        progress: called with (attack, images done by all attacks, images in all).
        about: what else the record should say, such as the names of data set and nets; values that JSON has.

    Returns:
        The evaluation; its ``path`` is the JSON record.

    Raises:
        TypeError, ValueError: for bad images, labels, options, before any work.

    Example:
        >>> from art_advtransform import LLPGDTransform
        >>> f_a = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        >>> model = DefendedModel(f_a, LLPGDTransform(f_a))
        >>> x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
        >>> result = evaluate(model, x, y, preset="smoke", nb_draws=10)
        >>> result.worst.mean.value <= result.clean.mean.value
        True
    """
    threat = ThreatModel() if threat is None else threat
    attacks = preset_attacks(preset)
    for name, value in (("nb_draws", nb_draws), ("nb_selection_draws", nb_selection_draws), ("chunk_size", chunk_size)):
        check_count(name, value)
    check_count("seed", seed, minimum=0)
    surrogates = {} if surrogates is None else surrogates
    _check_model(defended, threat, surrogates)
    _check_data(defended, images, labels, threat)
    plan = _Plan(defended, images, labels, threat, seed, nb_draws, nb_selection_draws, surrogates, chunk_size)
    settings = plan.settings(preset)
    identity = fingerprint(settings, plan.tensors())
    store = ChunkStore(None if out is None else Path(out) / "chunks", identity)
    settings = {**(about or {}), **settings, **environment(images.device), "fingerprint": identity}
    settings = json.loads(json.dumps(settings))  # as a record that is read again has them
    with _left_as_found(defended, *plan.surrogates.values()):
        results, chunks = _run_all(plan, [CLEAN, *attacks], store, progress)
    evaluation = _summary(plan, settings, results, chunks)
    return evaluation if out is None else evaluation.save(Path(out) / "evaluation.json")


@dataclass(frozen=True)
class _Plan:
    """The arguments of an evaluation."""

    defended: DefendedModel
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int
    nb_draws: int
    nb_selection_draws: int
    surrogates: Mapping[str, nn.Module]
    chunk_size: int

    def settings(self, preset: str) -> dict[str, Any]:
        transform = self.defended.transform
        return {
            "version": __version__,
            "preset": preset,
            "threat": asdict(self.threat),
            "transform": None if transform is None else asdict(transform.config),
            "nb_images": len(self.x),
            "nb_draws": self.nb_draws,
            "nb_selection_draws": self.nb_selection_draws,
            "seed": self.seed,
            "chunk_size": self.chunk_size,
            "surrogates": sorted(self.surrogates),
        }

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.x, self.y)
        for model in (self.defended, *(self.surrogates[name] for name in sorted(self.surrogates))):
            yield from model.state_dict().values()

    def target(self, attack_index: int, first: int) -> Target:
        rows = slice(first, first + self.chunk_size)
        seed = derived_seed(self.seed, 2, attack_index, first)
        # copies: what an attack writes into must neither be what it is judged by nor the caller's
        x, y, others = self.x[rows].clone(), self.y[rows].clone(), self.x.clone()
        return Target(self.defended, x, y, self.threat, seed, self.surrogates, others)


def _run_all(
    plan: _Plan, attacks: list[Attack], store: ChunkStore, progress: Progress | None
) -> tuple[list[AttackResult], dict[str, list[Chunk]]]:
    """Every attack on every chunk; results in order, and the chunks of those that have numbers."""
    results: list[AttackResult] = []
    chunks: dict[str, list[Chunk]] = {}
    reasons = [attack.missing(plan.target(0, 0)) for attack in attacks]
    total, done = len(plan.x) * reasons.count(None), 0
    for index, (attack, reason) in enumerate(zip(attacks, reasons, strict=True)):
        if reason is not None:
            results.append(AttackResult(attack.name, attack.kind, attack.toolkit, f"not run: {reason}"))
            continue
        made: list[Chunk] = []
        try:
            for first in range(0, len(plan.x), plan.chunk_size):
                if progress is not None:
                    progress(attack.name, done + first, total)
                made.append(store.get(attack.name, first, partial(_run_chunk, plan, attack, index, first)))
        except _AttackError as failure:
            error = failure.__cause__
            logger.warning("%s failed", attack.name, exc_info=error)
            problem = f"failed: {type(error).__name__}: {error}"
            results.append(AttackResult(attack.name, attack.kind, attack.toolkit, problem))
        else:
            chunks[attack.name] = made
            results.append(_result(plan, attack, made))
        done += len(plan.x)
        if progress is not None:
            progress(attack.name, done, total)
    return results, chunks


class _AttackError(Exception):
    """An attack raised; anything else that goes wrong (a full disk) ends the evaluation: it must not pass for a weak attack."""


def _run_chunk(plan: _Plan, attack: Attack, index: int, first: int) -> Chunk:
    target, begin = plan.target(index, first), time.perf_counter()
    plan.defended.eval()
    try:
        raw = attack.run(target).detach()
        clean = plan.target(index, first)
        if raw.shape != clean.x.shape:
            raise ValueError(f"expected attacked images of shape {tuple(clean.x.shape)}, got {tuple(raw.shape)}")
        attacked = clean.project(raw)
    except Exception as error:  # a toolkit's attack may raise anything; the others still count
        raise _AttackError from error
    seconds = time.perf_counter() - begin
    selection = predictions(plan.defended, attacked, plan.nb_selection_draws, plan.seed, SELECTION, first)
    scoring = predictions(plan.defended, attacked, plan.nb_draws, plan.seed, SCORING, first)
    # like chunks that are read again, on the CPU
    return Chunk(
        attacked.cpu(), selection.cpu(), scoring.cpu(), target.queries.forward, target.queries.backward, seconds
    )


def _result(plan: _Plan, attack: Attack, chunks: list[Chunk]) -> AttackResult:
    scoring = torch.cat([c.scoring for c in chunks]).to(plan.y.device)
    distance = max(float((c.attacked.to(x) - x).abs().max()) for c, x in _pairs(plan, chunks))
    return AttackResult.counted(
        attack.name,
        attack.kind,
        attack.toolkit,
        count(scoring, plan.y, plan.seed),
        forward=sum(c.forward for c in chunks) / len(plan.x),
        backward=sum(c.backward for c in chunks) / len(plan.x),
        seconds=sum(c.seconds for c in chunks),
        max_distance=distance,
    )


def _pairs(plan: _Plan, chunks: list[Chunk]) -> Iterator[tuple[Chunk, Tensor]]:
    yield from zip(chunks, plan.x.split(plan.chunk_size), strict=True)


def _summary(
    plan: _Plan, settings: dict[str, Any], results: list[AttackResult], chunks: dict[str, list[Chunk]]
) -> Evaluation:
    """The worst case per image: chosen on the selection draws, scored on the scoring draws."""
    names = list(chunks)
    right = [
        (torch.cat([c.selection for c in chunks[n]]).to(plan.y) == plan.y[:, None]).double().mean(1) for n in names
    ]
    best = choose(torch.stack(right))
    scoring = torch.stack([torch.cat([c.scoring for c in chunks[n]]) for n in names]).to(plan.y.device)
    picked = scoring[best, torch.arange(len(best), device=best.device)]
    worst = AttackResult.counted(WORST, "worst case", "all", count(picked, plan.y, plan.seed))
    chosen = [names[i] for i in best.tolist()]
    return Evaluation(settings, results[0], results[1:], worst, chosen)


def _check_model(defended: DefendedModel, threat: ThreatModel, surrogates: Mapping[str, nn.Module]) -> None:
    if not isinstance(defended, DefendedModel):
        raise TypeError(f"expected a DefendedModel (DefendedModel(net, None) for none), got {type(defended).__name__}")
    if defended.eot_samples != 1:
        # a prediction that averages draws is another model; nor is it silently judged by single ones
        raise ValueError(f"expected a model with eot_samples=1, got {defended.eot_samples}: attacks have their own EOT")
    if defended.is_frozen:
        raise ValueError("expected a model with fresh draws, got one inside its frozen() context")
    if not isinstance(threat, ThreatModel):
        raise TypeError(f"expected threat to be a ThreatModel, got {type(threat).__name__}")
    if not isinstance(surrogates, Mapping) or not all(isinstance(net, nn.Module) for net in surrogates.values()):
        raise TypeError("expected surrogates as a mapping of names to networks")


def _check_data(defended: DefendedModel, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
    check_images(x)
    if len(x) == 0:
        raise ValueError("expected at least one image")
    low, high = threat.clip_values
    if x.min() < low or x.max() > high:
        raise ValueError(f"expected images in [{low}, {high}], got [{float(x.min())}, {float(x.max())}]")
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != (len(x),):
        raise ValueError(f"expected labels as an int64 tensor of shape ({len(x)},)")
    with torch.no_grad(), _left_as_found(defended):
        nb_classes = defended.view().eval()(x[:1]).shape[1]
    if y.min() < 0 or y.max() >= nb_classes:
        raise ValueError(f"expected labels in [0, {nb_classes - 1}], got [{int(y.min())}, {int(y.max())}]")


@contextmanager
def _left_as_found(*models: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has its mode back, and every parameter its ``.grad``, which ART clears."""
    before = [(module, module.training) for model in models for module in model.modules()]
    gradients = [(p, p.grad) for model in models for p in model.parameters()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in before:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient
