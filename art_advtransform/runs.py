"""L6: how an evaluation runs: every attack on every chunk of images, in any number of processes."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from art_advtransform.attacks.base import Attack
from art_advtransform.counting import DRAWS_FOR_ANY, count
from art_advtransform.judging import judged, promising, worst_of
from art_advtransform.plan import CLEAN, WORST, Plan
from art_advtransform.pool import Pool, progress_of_worst
from art_advtransform.randomness import global_seed
from art_advtransform.records import AttackResult
from art_advtransform.shards import Shards
from art_advtransform.store import Chunk, RunFolder, tensors_sha256

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


def run_all(
    plan: Plan, attacks: list[Attack], folder: RunFolder, progress: Progress | None, shards: Shards
) -> tuple[list[AttackResult], dict[str, list[Chunk]]]:
    """Every attack on every chunk; results in order, and the chunks of those that have numbers."""
    results: list[AttackResult] = []
    chunks: dict[str, list[Chunk]] = {}
    reasons = [attack.missing(plan.target(attack, 0)) for attack in attacks]
    for attack, reason in zip(attacks, reasons, strict=True):
        if shards.is_main and reason is not None and reason.startswith("needs"):  # told now: hours later it is too late
            logger.warning("%s will not be run: %s; the worst case will lack it", attack.name, reason)
    total, done = len(plan.x) * (reasons.count(None) + 1), 0  # and the worst case
    pools: dict[int, Pool] = {}  # of this process's chunks
    for attack, reason in zip(attacks, reasons, strict=True):
        if reason is not None:
            results.append(AttackResult(attack.name, attack.kind, attack.toolkit, f"not run: {reason}"))
            continue
        report = None if progress is None else partial(_report, progress, attack.name, done, total)
        made = shards.everyones(_my_chunks(plan, attack, folder, report, shards, pools))
        failures = [str(outcome) for _, outcome in sorted(made, key=_first) if not isinstance(outcome, Chunk)]
        chunks[attack.name] = _filled(made, chunks.get(CLEAN.name, []), plan)
        if failures:
            problem = f"failed on {len(failures)} of {len(made)} chunks of images: {failures[0]}"
            results.append(AttackResult(attack.name, attack.kind, attack.toolkit, problem))
        else:
            results.append(_result(plan, attack, chunks[attack.name]))
        done += len(plan.x)
        if progress is not None:
            progress(attack.name, done, total)
    return _with_progress(plan, attacks, results, chunks), chunks


def _filled(made: list[tuple[int, Chunk | str]], clean: list[Chunk], plan: Plan) -> list[Chunk]:
    """The chunks in order; where the attack failed, the clean images as the worst choice, since elsewhere it still counts."""
    whole = []
    for number, (_, outcome) in enumerate(sorted(made, key=_first)):
        if isinstance(outcome, str):
            found = clean[number]
            scoring, never = found.scoring[:, : plan.nb_attack_draws], torch.full_like(found.share, torch.inf)
            outcome = replace(found, scoring=scoring, share=never)
        whole.append(outcome)
    return whole


def _with_progress(
    plan: Plan, attacks: list[Attack], results: list[AttackResult], chunks: dict[str, list[Chunk]]
) -> list[AttackResult]:
    """``results``, each with what was left before it and after it."""
    told, filled = progress_of_worst(chunks, plan.y), []
    for attack, result in zip(attacks, results, strict=True):
        if not result.problem and attack is not CLEAN:
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
    """This process's share, which joins the pools; where the attack fails, the error instead of a chunk."""
    made: list[tuple[int, Chunk | str]] = []
    identity = attack.identity()  # before it runs: what it runs with may change it
    for first in shards.mine(plan.firsts()):
        if report is not None:
            report(first)
        pool = pools.get(first) if attack.continues else None
        depends = " ".join([attack_code(), identity, "" if pool is None else pool.sha256()])
        try:
            chunk = folder.get(attack.name, first, partial(_run_chunk, plan, attack, first, pool), depends)
            made.append((first, chunk))
            pools[first] = Pool.joined(pools.get(first), chunk)
        except _AttackError as failure:
            error = failure.__cause__
            logger.warning("%s failed", attack.name, exc_info=error)
            made.append((first, f"{type(error).__name__}: {error}"))
            # its traceback holds the failed attack's graph: one chunk out of memory would take the next with it
            del error
    return made


@cache
def attack_code() -> str:
    """sha256 of the sources that an attack's result hangs on, its counting included: a name does not tell that it was mended."""
    package = Path(__file__).parent
    below = (
        *(
            "arithmetic",
            "config",
            "randomness",
            "transform",
            "folding",
            "frozen",
            "backward",
            "unrolled",
            "gradients",
            "smoothing",
            "layer",
        ),
        *("defended", "adapters/foolbox_model", "counting", "judging", "plan", "pool", "runs"),
    )
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
        attacked = attacked if pool is None else promising(plan, attack, attacked, first, pool)
        strength, scoring = judged(plan, attacked, first, pool, plan.draws_to_score(attack))
    # like chunks that are read again, on the CPU
    return Chunk(
        attacked.cpu(),
        *strength,
        scoring,
        target.queries.forward,
        target.queries.backward,
        seconds,
        int(raw.isnan().flatten(1).any(1).sum()),
    )


def _result(plan: Plan, attack: Attack, chunks: list[Chunk]) -> AttackResult:
    scoring = torch.cat([c.scoring for c in chunks]).to(plan.y.device)
    pairs = zip(chunks, plan.x.split(plan.chunk_size), strict=True)
    result = AttackResult.counted(
        attack.name,
        attack.kind,
        attack.toolkit,
        count(scoring, plan.y, plan.seed),
        forward=sum(c.forward for c in chunks) / len(plan.x),
        backward=sum(c.backward for c in chunks) / len(plan.x),
        seconds=sum(c.seconds for c in chunks),
        published=attack.published,
        nb_nan=sum(c.nb_nan for c in chunks),
        max_distance=max(float((c.attacked.to(x) - x).abs().max()) for c, x in pairs),
    )
    if scoring.shape[1] < min(
        plan.nb_draws, DRAWS_FOR_ANY
    ):  # "any" over fewer draws than that of the others is no such number
        result = replace(result, any=None)
    return result


def worst_case(
    plan: Plan, chunks: dict[str, list[Chunk]], folder: RunFolder, progress: Progress | None, shards: Shards
) -> tuple[AttackResult, list[str]]:
    """Per image the worst attack, chosen and confirmed on draws that don't score, scored on all that do; and its name."""
    names, made, done = list(chunks), [], len(plan.x) * len(chunks)
    strongest_first = torch.stack([torch.cat([c.share for c in parts]) for parts in chunks.values()]).mean(1).argsort()
    for number, first in enumerate(plan.firsts()):
        if first not in shards.mine(plan.firsts()):
            continue
        if progress is not None:
            progress(WORST, done + first, done + len(plan.x))
        candidates = [chunks[names[i]][number] for i in strongest_first.tolist()]
        depends = f"{attack_code()} {tensors_sha256([tensor for c in candidates for tensor in (c.attacked, c.share)])}"
        found = folder.get(WORST, first, partial(worst_of, plan, candidates, first), depends)
        made.append((first, (found.scoring, _makers(found, [chunks[name][number] for name in names]))))
    if progress is not None:
        progress(WORST, done + len(plan.x), done + len(plan.x))
    parts = [part for _, part in sorted(shards.everyones(made), key=_first)]
    scoring = torch.cat([scored for scored, _ in parts]).to(plan.y.device)
    chosen = [names[i] for _, makers in parts for i in makers]
    return AttackResult.counted(WORST, "worst case", "all", count(scoring, plan.y, plan.seed)), chosen


def _makers(found: Chunk, candidates: list[Chunk]) -> list[int]:
    """For every image the number of the first candidate that made it."""
    same = torch.stack([(c.attacked == found.attacked).flatten(1).all(1) & c.share.isfinite() for c in candidates])
    makers: list[int] = same.int().argmax(0).tolist()
    return makers
