"""L6: how attacked images are judged: by few draws whether they are worth more, by more which is the worst, by others how bad."""

from __future__ import annotations

import time
import zlib

import torch
from torch import Tensor

from art_advtransform.attacks.base import Attack
from art_advtransform.counting import CONFIRMATION, PRESELECTION, SCORING, SELECTION, predictions, shares_and_leads
from art_advtransform.plan import Plan
from art_advtransform.pool import Pool, Strength
from art_advtransform.randomness import derived_seed
from art_advtransform.store import Chunk

# A continuing attack's image that is right in more of these than what there is, and by more than one, costs no more draws.
_FEW_DRAWS = 5


def promising(plan: Plan, attack: Attack, attacked: Tensor, first: int, pool: Pool) -> Tensor:
    """``attacked``, and the pool's image where that is right less often, by more than one draw, in a few draws.

    Both are asked in the same few draws, which have chosen neither: against its share over all of them, or in those that found it
    the strongest, a better image would fail by luck alone. Hence draws of its own for every attack: in those of the one before the
    pool's image has had its luck already.
    """
    kept = pool.attacked.to(attacked)
    if plan.nb_selection_draws <= _FEW_DRAWS or not plan.defended.randomized:
        return attacked
    numbers = torch.nonzero((attacked != kept).flatten(1).any(1).cpu()).flatten()
    indices = (first + numbers).tolist()
    seed = derived_seed(plan.seed, PRESELECTION, zlib.crc32(attack.name.encode()))
    new, old = (
        shares_and_leads(
            plan.defended,
            images[numbers.to(images.device)],
            plan.y[indices],
            _FEW_DRAWS,
            seed,
            PRESELECTION,
            indices,
        )[0]
        for images in (attacked, kept)
    )
    worth = torch.zeros(len(attacked), dtype=torch.bool)
    worth[numbers[((new - old) * _FEW_DRAWS).round() <= 1]] = True
    return torch.where(worth.to(attacked.device).view(-1, 1, 1, 1), attacked, kept)


def judged(plan: Plan, attacked: Tensor, first: int, pool: Pool | None, nb_draws: int) -> tuple[Strength, Tensor]:
    """What the choice goes by, and the classes that score, on the CPU.

    What a continuing attack left alone is judged already. Where it found nothing stronger its line tells what was there before;
    its images still stand for the worst case, which is chosen with more care and scored anew.
    """
    numbers = torch.arange(len(attacked))
    if pool is not None:
        numbers = numbers[(attacked.cpu() != pool.attacked).flatten(1).any(1)]
    images, indices = attacked[numbers.to(attacked.device)], (first + numbers).tolist()
    found = _chosen_by(plan, images, indices)
    if pool is None:
        return found, predictions(plan.defended, images, nb_draws, plan.seed, SCORING, indices).cpu()
    strength, scoring = Strength(*(part.clone() for part in pool.strength)), pool.scoring[:, :nb_draws].clone()
    for part, new in zip(strength, found, strict=True):
        part[numbers] = new
    stronger = found.beats(Strength(*(part[numbers] for part in pool.strength)))
    images, indices = images[stronger.to(images.device)], (first + numbers[stronger]).tolist()
    scoring[numbers[stronger]] = predictions(plan.defended, images, nb_draws, plan.seed, SCORING, indices).cpu()
    return strength, scoring


def _chosen_by(plan: Plan, images: Tensor, indices: list[int]) -> Strength:
    """Shares and leads over a few draws; of images that are as good as won in these, over more that are independent of them."""
    y, draws = plan.y[indices], plan.nb_selection_draws
    shares, leads = shares_and_leads(plan.defended, images, y, draws, plan.seed, SELECTION, indices)
    confirmed = ((shares * draws).round() <= 1) & plan.defended.randomized
    won = torch.nonzero(confirmed).flatten()
    if len(won):
        shares[won], leads[won] = _confirmed(plan, images[won.to(images.device)], [indices[i] for i in won.tolist()])
    return Strength(shares, leads, confirmed)


def _confirmed(plan: Plan, images: Tensor, indices: list[int]) -> tuple[Tensor, Tensor]:
    """Shares and leads over the draws that confirm."""
    y, draws = plan.y[indices], plan.nb_confirmation_draws
    return shares_and_leads(plan.defended, images, y, draws, plan.seed, CONFIRMATION, indices)


def worst_of(plan: Plan, candidates: list[Chunk], first: int) -> Chunk:
    """The candidate that is right least often for each image, among equals the first; scored by all draws."""
    begin = time.perf_counter()
    shares, confirmed = (torch.stack([getattr(c, name) for c in candidates]) for name in ("share", "confirmed"))
    rows = torch.arange(shares.shape[1])
    with plan.draws(first):
        if plan.defended.randomized:
            _confirm_the_least(plan, candidates, shares, confirmed, first)
        best = shares.argmin(0)
        attacked, share, lead = (
            torch.stack([getattr(candidates[int(k)], name)[i] for i, k in enumerate(best)])
            for name in ("attacked", "share", "lead")
        )
        # anew: what is stronger only by more draws has not been scored, and single attacks are by fewer
        scoring = predictions(plan.defended, attacked.to(plan.x), plan.nb_draws, plan.seed, SCORING, first)
    share = shares[best, rows]
    return Chunk(attacked, share, lead, confirmed[best, rows], scoring.cpu(), 0, 0, time.perf_counter() - begin)


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


def _confirm_the_least(plan: Plan, candidates: list[Chunk], shares: Tensor, confirmed: Tensor, first: int) -> None:
    """Replace shares over a few draws by those over many, until for every image the least is ``confirmed``, one over many.

    Among many attacks the least share over a few draws is that of the luckiest.
    """
    shares[_repeated(candidates)] = torch.inf
    while True:
        best = shares.argmin(0)
        rows = torch.nonzero(~confirmed[best, torch.arange(len(best))]).flatten()
        if len(rows) == 0:
            return
        images = torch.stack([candidates[int(best[i])].attacked[i] for i in rows]).to(plan.x)
        shares[best[rows], rows] = _confirmed(plan, images, [first + i for i in rows.tolist()])[0]
        confirmed[best[rows], rows] = True
