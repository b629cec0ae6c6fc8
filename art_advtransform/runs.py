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
from torch import Tensor

from art_advtransform.attacks.base import Attack
from art_advtransform.counting import (
    CONFIRMATION,
    DRAWS_FOR_ANY,
    SCORING,
    SELECTION,
    count,
    predictions,
    shares_and_leads,
)
from art_advtransform.plan import CLEAN, WORST, Plan
from art_advtransform.pool import Pool, progress_of_worst
from art_advtransform.randomness import global_seed
from art_advtransform.records import AttackResult
from art_advtransform.shards import Shards
from art_advtransform.store import Chunk, RunFolder, tensors_sha256

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
# By so many a continuing attack's image must be stronger than what there is, or it costs no more.
_FEW_DRAWS = 5


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
    return made


@cache
def attack_code() -> str:
    """sha256 of the sources that an attack's result hangs on, its counting included: a name does not tell that it was mended."""
    package = Path(__file__).parent
    below = (
        *("config", "randomness", "transform", "frozen", "backward", "unrolled", "gradients", "smoothing", "layer"),
        *("defended", "adapters/foolbox_model", "counting", "plan", "pool", "runs"),
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
        attacked = attacked if pool is None else _promising(plan, attacked, first, pool)
        share, lead, scoring = _judged(plan, attacked, first, pool, plan.draws_to_score(attack))
    # like chunks that are read again, on the CPU
    return Chunk(
        attacked.cpu(),
        share,
        lead,
        scoring,
        target.queries.forward,
        target.queries.backward,
        seconds,
        int(raw.isnan().flatten(1).any(1).sum()),
    )


def _promising(plan: Plan, attacked: Tensor, first: int, pool: Pool) -> Tensor:
    """``attacked``, and the pool's image where that is as strong already by the first few of the draws that choose.

    They are the same draws for all attacks: what is no stronger in these is seldom worth the others.
    """
    kept = pool.attacked.to(attacked)
    if plan.nb_selection_draws <= _FEW_DRAWS or not plan.defended.randomized:
        return attacked
    numbers = torch.nonzero((attacked != kept).flatten(1).any(1).cpu()).flatten()
    indices = (first + numbers).tolist()
    images = attacked[numbers.to(attacked.device)]
    found = shares_and_leads(plan.defended, images, plan.y[indices], _FEW_DRAWS, plan.seed, SELECTION, indices)
    stronger = pool.beaten_by(*found, numbers)
    promising = torch.zeros(len(attacked), dtype=torch.bool)
    promising[numbers[stronger]] = True
    return torch.where(promising.to(attacked.device).view(-1, 1, 1, 1), attacked, kept)


def _judged(
    plan: Plan, attacked: Tensor, first: int, pool: Pool | None, nb_draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Shares and leads for the choice, and the classes that score, on the CPU.

    What a continuing attack left alone is judged already. Where it found nothing stronger its line tells what was there before;
    its images still stand for the worst case, which is chosen with more care and scored anew.
    """
    numbers = torch.arange(len(attacked))
    if pool is not None:
        numbers = numbers[(attacked.cpu() != pool.attacked).flatten(1).any(1)]
    images, indices = attacked[numbers.to(attacked.device)], (first + numbers).tolist()
    found, leads = _chosen_by(plan, images, indices)
    if pool is None:
        return found, leads, predictions(plan.defended, images, nb_draws, plan.seed, SCORING, indices).cpu()
    share, lead, scoring = pool.share.clone(), pool.lead.clone(), pool.scoring[:, :nb_draws].clone()
    share[numbers], lead[numbers] = found, leads
    stronger = pool.beaten_by(found, leads, numbers)
    images, indices = images[stronger.to(images.device)], (first + numbers[stronger]).tolist()
    scoring[numbers[stronger]] = predictions(plan.defended, images, nb_draws, plan.seed, SCORING, indices).cpu()
    return share, lead, scoring


def _chosen_by(plan: Plan, images: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
    """Shares and leads over a few draws; of images that are as good as won in these, over more that are independent of them."""
    y, draws = plan.y[indices], plan.nb_selection_draws
    shares, leads = shares_and_leads(plan.defended, images, y, draws, plan.seed, SELECTION, indices)
    won = torch.nonzero((shares * draws).round() <= 1).flatten()
    if len(won) and plan.defended.randomized:
        shares[won], leads[won] = _confirmed(plan, images[won.to(images.device)], [indices[i] for i in won.tolist()])
    return shares, leads


def _confirmed(plan: Plan, images: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
    """Shares and leads over the draws that confirm."""
    y, draws = plan.y[indices], plan.nb_confirmation_draws
    return shares_and_leads(plan.defended, images, y, draws, plan.seed, CONFIRMATION, indices)


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
    plan: Plan, chunks: dict[str, list[Chunk]], folder: RunFolder, shards: Shards
) -> tuple[AttackResult, list[str]]:
    """Per image the worst attack, chosen and confirmed on draws that don't score, scored on all that do; and its name."""
    names, made = list(chunks), []
    strongest_first = torch.stack([torch.cat([c.share for c in parts]) for parts in chunks.values()]).mean(1).argsort()
    for number, first in enumerate(plan.firsts()):
        if first not in shards.mine(plan.firsts()):
            continue
        candidates = [chunks[names[i]][number] for i in strongest_first.tolist()]
        depends = f"{attack_code()} {tensors_sha256([tensor for c in candidates for tensor in (c.attacked, c.share)])}"
        found = folder.get(WORST, first, partial(_worst_of, plan, candidates, first), depends)
        made.append((first, (found.scoring, _makers(found, [chunks[name][number] for name in names]))))
    parts = [part for _, part in sorted(shards.everyones(made), key=_first)]
    scoring = torch.cat([scored for scored, _ in parts]).to(plan.y.device)
    chosen = [names[i] for _, makers in parts for i in makers]
    return AttackResult.counted(WORST, "worst case", "all", count(scoring, plan.y, plan.seed)), chosen


def _makers(found: Chunk, candidates: list[Chunk]) -> list[int]:
    """For every image the number of the first candidate that made it."""
    same = torch.stack([(c.attacked == found.attacked).flatten(1).all(1) & c.share.isfinite() for c in candidates])
    makers: list[int] = same.int().argmax(0).tolist()
    return makers


def _worst_of(plan: Plan, candidates: list[Chunk], first: int) -> Chunk:
    """The candidate that is right least often for each image, among equals the first; scored by all draws."""
    begin = time.perf_counter()
    shares = torch.stack([c.share for c in candidates])
    rows = torch.arange(shares.shape[1])
    with plan.draws(first):
        if plan.defended.randomized:
            _confirm_the_least(plan, candidates, shares, first)
        best = shares.argmin(0)
        attacked, share, lead = (
            torch.stack([getattr(candidates[int(k)], name)[i] for i, k in enumerate(best)])
            for name in ("attacked", "share", "lead")
        )
        # anew: what is stronger only by more draws has not been scored, and single attacks are by fewer
        scoring = predictions(plan.defended, attacked.to(plan.x), plan.nb_draws, plan.seed, SCORING, first)
    share = shares[best, rows]
    return Chunk(attacked, share, lead, scoring.cpu(), 0, 0, time.perf_counter() - begin)


def _repeated(candidates: list[Chunk]) -> Tensor:
    """Which candidates are images that one before them has made (candidates, n): to confirm those again tells nothing."""
    repeated = torch.zeros(len(candidates), len(candidates[0].attacked), dtype=torch.bool)
    for i in range(repeated.shape[1]):
        seen: set[bytes] = set()
        for k, candidate in enumerate(candidates):
            if not candidate.share[i].isfinite():  # one whose attack failed is not judged, and stands for no other
                continue
            made = candidate.attacked[i].flatten().view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16
            repeated[k, i] = made in seen
            seen.add(made)
    return repeated


def _confirm_the_least(plan: Plan, candidates: list[Chunk], shares: Tensor, first: int) -> None:
    """Replace shares over a few draws by those over many, until for every image the least is one over many.

    Among many attacks the least share over a few draws is that of the luckiest.
    """
    few = plan.nb_selection_draws
    confirmed = (shares * few).round() <= 1  # when they were judged
    shares[_repeated(candidates)] = torch.inf
    while True:
        best = shares.argmin(0)
        rows = torch.nonzero(~confirmed[best, torch.arange(len(best))]).flatten()
        if len(rows) == 0:
            return
        images = torch.stack([candidates[int(best[i])].attacked[i] for i in rows]).to(plan.x)
        shares[best[rows], rows] = _confirmed(plan, images, [first + i for i in rows.tolist()])[0]
        confirmed[best[rows], rows] = True
