"""L6: how an evaluation runs: every attack on every chunk of images, in any number of processes."""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from art_advtransform import __version__
from art_advtransform.attacks.base import Attack, Target
from art_advtransform.config import ThreatModel
from art_advtransform.counting import SCORING, SELECTION, count, predictions
from art_advtransform.defended import DefendedModel
from art_advtransform.pool import Pool, chosen_attacks, progress_of_worst
from art_advtransform.randomness import derived_seed, global_seed
from art_advtransform.records import AttackResult
from art_advtransform.shards import Shards
from art_advtransform.store import Chunk, RunFolder, tensors_sha256

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
CLEAN = Attack("no attack", lambda target, model: target.x)
WORST = "per-image worst case"
# What random numbers are for, beside SELECTION and SCORING.
_ATTACK, _FIXED_DRAW = 2, 4


@dataclass(frozen=True)
class Plan:
    """The arguments of :func:`~art_advtransform.evaluation.evaluate`, checked."""

    defended: DefendedModel
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int
    nb_draws: int
    nb_selection_draws: int
    nb_attack_draws: int
    fixed_draw: bool
    surrogates: Mapping[str, nn.Module]
    imitation: nn.Module | None
    twin: nn.Module | None
    chunk_size: int

    def settings(self) -> dict[str, Any]:
        """All that a result depends on; networks and data by their sha256."""
        transform = self.defended.transform
        return {
            "version": __version__,
            "threat": asdict(self.threat),
            "transform": None if transform is None else asdict(transform.config),
            "nb_images": len(self.x),
            "nb_draws": self.nb_draws,
            "nb_selection_draws": self.nb_selection_draws,
            "nb_attack_draws": self.nb_attack_draws,
            "fixed_draw": self.fixed_draw,
            "seed": self.seed,
            "chunk_size": self.chunk_size,
            "surrogates": sorted(self.surrogates),
            "sha256": {
                "images": tensors_sha256([self.x]),
                "labels": tensors_sha256([self.y]),
                **{name: tensors_sha256(net.state_dict().values()) for name, net in self.networks().items()},
            },
        }

    def networks(self) -> dict[str, nn.Module]:
        """All nets by what they are for."""
        named: dict[str, nn.Module | None] = {
            "f_a": self.defended.classifier,
            "f_b": self.defended.transform,
            **{f"surrogate {name}": self.surrogates[name] for name in sorted(self.surrogates)},
            "imitation": self.imitation,
            "twin": self.twin,
        }
        return {name: net for name, net in named.items() if net is not None}

    def firsts(self) -> list[int]:
        """Number of the first image of every chunk."""
        return list(range(0, len(self.x), self.chunk_size))

    def target(self, attack: Attack, first: int, pool: Pool | None = None) -> Target:
        """What ``attack`` is given of the chunk that begins with image ``first``; ``pool``: what was found before."""
        rows = slice(first, first + self.chunk_size)
        # by its name: an attack draws the same whatever else is in the preset
        seed = derived_seed(self.seed, _ATTACK, zlib.crc32(attack.name.encode()), first)
        # copies: what an attack writes into must neither be what it is judged by nor the caller's
        x, y, others = self.x[rows].clone(), self.y[rows].clone(), self.x.clone()
        best, alive = (None, None) if pool is None else (pool.attacked.to(x), pool.alive.to(x.device))
        return Target(
            self.defended,
            x,
            y,
            self.threat,
            seed,
            self.surrogates,
            others,
            self.imitation,
            self.twin,
            best,
            alive,
        )

    def draws_to_score(self, attack: Attack) -> int:
        """No attack is scored like the worst case; what single attacks do may be told by fewer draws."""
        return self.nb_draws if attack.name == CLEAN.name else self.nb_attack_draws

    @contextmanager
    def draws(self, first: int) -> Iterator[None]:
        """Fresh draws of D, or the one that the attacker of this chunk knows."""
        if not self.fixed_draw:
            yield
            return
        with self.defended.frozen(derived_seed(self.seed, _FIXED_DRAW, first)):
            yield


def run_all(
    plan: Plan, attacks: list[Attack], folder: RunFolder, progress: Progress | None, shards: Shards
) -> tuple[list[AttackResult], dict[str, list[Chunk]]]:
    """Every attack on every chunk; results in order, and the chunks of those that have numbers."""
    results: list[AttackResult] = []
    chunks: dict[str, list[Chunk]] = {}
    reasons = [attack.missing(plan.target(attack, 0)) for attack in attacks]
    total, done = len(plan.x) * reasons.count(None), 0
    pools: dict[int, Pool] = {}  # of this process's chunks
    for attack, reason in zip(attacks, reasons, strict=True):
        if reason is not None:
            results.append(AttackResult(attack.name, attack.kind, attack.toolkit, f"not run: {reason}"))
            continue
        report = None if progress is None else partial(_report, progress, attack.name, done, total)
        made = shards.everyones(_my_chunks(plan, attack, folder, report, shards, pools))
        failures = [f"failed: {outcome}" for _, outcome in sorted(made, key=_first) if isinstance(outcome, str)]
        if failures:
            results.append(AttackResult(attack.name, attack.kind, attack.toolkit, failures[0]))
        else:
            chunks[attack.name] = [outcome for _, outcome in sorted(made, key=_first) if isinstance(outcome, Chunk)]
            results.append(_result(plan, attack, chunks[attack.name]))
        done += len(plan.x)
        if progress is not None:
            progress(attack.name, done, total)
    return _with_progress(plan, attacks, results, chunks), chunks


def _with_progress(
    plan: Plan, attacks: list[Attack], results: list[AttackResult], chunks: dict[str, list[Chunk]]
) -> list[AttackResult]:
    """``results``, each with what was left before it and after it."""
    told, filled = progress_of_worst(chunks, plan.y), []
    for attack, result in zip(attacks, results, strict=True):
        if attack.name in told and attack is not CLEAN:
            before, remaining = told[attack.name]
            attacked = before if attack.continues else len(plan.x)
            result = replace(result, stage=attack.stage, nb_attacked=attacked, remaining=remaining)
        filled.append(result)
    return filled


def _my_chunks(
    plan: Plan,
    attack: Attack,
    folder: RunFolder,
    report: Callable[[int], None] | None,
    shards: Shards,
    pools: dict[int, Pool],
) -> list[tuple[int, Chunk | str]]:
    """This process's share, which joins the pools; where the attack fails, the error for the chunk, and no further."""
    made: list[tuple[int, Chunk | str]] = []
    for first in shards.mine(plan.firsts()):
        if report is not None:
            report(first)
        pool = pools.get(first) if attack.continues else None
        depends = attack_code() if pool is None else f"{attack_code()} {pool.sha256()}"
        try:
            chunk = folder.get(attack.name, first, partial(_run_chunk, plan, attack, first, pool), depends)
            made.append((first, chunk))
            pools[first] = Pool.joined(pools.get(first), chunk, plan.y[first : first + plan.chunk_size])
        except _AttackError as failure:
            error = failure.__cause__
            logger.warning("%s failed", attack.name, exc_info=error)
            return [*made, (first, f"{type(error).__name__}: {error}")]
    return made


@cache
def attack_code() -> str:
    """sha256 of the sources that an attack's result hangs on: a name does not tell that an attack was mended."""
    package = Path(__file__).parent
    below = ("transform", "frozen", "backward", "unrolled", "gradients", "smoothing", "layer", "defended")
    sources = [*sorted(package.glob("attacks/*.py")), *(package / f"{name}.py" for name in below)]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _report(progress: Progress, name: str, done: int, total: int, first: int) -> None:
    progress(name, done + first, total)


def _first(numbered: tuple[int, object]) -> int:
    return numbered[0]


class _AttackError(Exception):
    """An attack raised; anything else that goes wrong (a full disk) ends the evaluation: it must not pass for a weak attack."""


def _run_chunk(plan: Plan, attack: Attack, first: int, pool: Pool | None = None) -> Chunk:
    with plan.draws(first):
        target, begin = plan.target(attack, first, pool), time.perf_counter()
        plan.defended.eval()
        try:
            with global_seed(target.global_seed):  # a net that draws for itself does it from there
                raw = attack.run(target).detach()
            clean = plan.target(attack, first)
            if raw.shape != clean.x.shape:
                raise ValueError(f"expected attacked images of shape {tuple(clean.x.shape)}, got {tuple(raw.shape)}")
            attacked = clean.project(raw)
        except Exception as error:  # a toolkit's attack may raise anything; the others still count
            raise _AttackError from error
        seconds = time.perf_counter() - begin
        selection, scoring = _judged(plan, attacked, first, pool, plan.draws_to_score(attack))
    # like chunks that are read again, on the CPU
    return Chunk(
        attacked.cpu(), selection.cpu(), scoring.cpu(), target.queries.forward, target.queries.backward, seconds
    )


def _judged(plan: Plan, attacked: Tensor, first: int, pool: Pool | None, nb_draws: int) -> tuple[Tensor, Tensor]:
    """Classes under the draws that choose and those that score; what a continuing attack left alone is judged already."""
    numbers = torch.arange(len(attacked))
    if pool is not None:
        numbers = numbers[(attacked.cpu() != pool.attacked).flatten(1).any(1)]
        if len(numbers) == 0:
            return pool.selection, pool.scoring[:, :nb_draws]
    images, indices = attacked[numbers.to(attacked.device)], (first + numbers).tolist()
    judged = [
        predictions(plan.defended, images, draws, plan.seed, purpose, indices)
        for draws, purpose in ((plan.nb_selection_draws, SELECTION), (nb_draws, SCORING))
    ]
    if pool is None:
        return judged[0], judged[1]
    selection, scoring = pool.selection.clone(), pool.scoring[:, :nb_draws].clone()
    selection[numbers], scoring[numbers] = judged[0].cpu(), judged[1].cpu()
    return selection, scoring


def _result(plan: Plan, attack: Attack, chunks: list[Chunk]) -> AttackResult:
    scoring = torch.cat([c.scoring for c in chunks]).to(plan.y.device)
    pairs = zip(chunks, plan.x.split(plan.chunk_size), strict=True)
    return AttackResult.counted(
        attack.name,
        attack.kind,
        attack.toolkit,
        count(scoring, plan.y, plan.seed),
        forward=sum(c.forward for c in chunks) / len(plan.x),
        backward=sum(c.backward for c in chunks) / len(plan.x),
        seconds=sum(c.seconds for c in chunks),
        max_distance=max(float((c.attacked.to(x) - x).abs().max()) for c, x in pairs),
    )


def worst_case(
    plan: Plan, chunks: dict[str, list[Chunk]], folder: RunFolder, shards: Shards
) -> tuple[AttackResult, list[str]]:
    """Per image the worst attack, chosen on the selection draws, scored on all the scoring draws; and its name."""
    names = chosen_attacks(chunks, plan.y)
    made = []
    for first in shards.mine(plan.firsts()):
        rows = enumerate(names[first : first + plan.chunk_size])
        picked = [(chunks[name][first // plan.chunk_size], i) for i, name in rows]
        if plan.nb_attack_draws == plan.nb_draws:  # they have been scored by all draws
            made.append((first, torch.stack([chunk.scoring[i] for chunk, i in picked])))
            continue
        attacked = torch.stack([chunk.attacked[i] for chunk, i in picked])
        selection = torch.stack([chunk.selection[i] for chunk, i in picked])
        make = partial(_scored, plan, attacked, selection, first)
        made.append((first, folder.get(WORST, first, make, tensors_sha256([attacked])).scoring))
    scoring = torch.cat([part for _, part in sorted(shards.everyones(made), key=_first)]).to(plan.y.device)
    return AttackResult.counted(WORST, "worst case", "all", count(scoring, plan.y, plan.seed)), names


def _scored(plan: Plan, attacked: Tensor, selection: Tensor, first: int) -> Chunk:
    begin = time.perf_counter()
    with plan.draws(first):
        scoring = predictions(plan.defended, attacked.to(plan.x), plan.nb_draws, plan.seed, SCORING, first)
    return Chunk(attacked, selection, scoring.cpu(), 0, 0, time.perf_counter() - begin)
