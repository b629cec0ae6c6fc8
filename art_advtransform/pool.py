"""L6: the strongest results so far: what continuing attacks start from, and what is left after every attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from art_advtransform.attacks.base import SURVIVES
from art_advtransform.counting import choose
from art_advtransform.store import Chunk, tensors_sha256


@dataclass(frozen=True)
class Pool:
    """For every image of a chunk the strongest result so far.

    Attributes:
        attacked: images (n, C, H, W).
        share: of the draws that choose, in which each is right, (n,).
        lead: mean lead of the best other class over the label in these draws, (n,).
        scoring: its predicted classes (n, draws).
    """

    attacked: Tensor
    share: Tensor
    lead: Tensor
    scoring: Tensor

    @classmethod
    def joined(cls, pool: Pool | None, chunk: Chunk) -> Pool:
        """``pool`` with what ``chunk`` does better; of equals the older stays."""
        found = cls(chunk.attacked, chunk.share, chunk.lead, chunk.scoring)
        if pool is None:
            return found
        better = pool.beaten_by(found.share, found.lead)
        return cls(
            torch.where(better.view(-1, 1, 1, 1), found.attacked, pool.attacked),
            torch.where(better, found.share, pool.share),
            torch.where(better, found.lead, pool.lead),
            # clean images may have been scored by more draws than attacked ones; the first are the same
            torch.where(better[:, None], found.scoring, pool.scoring[:, : found.scoring.shape[1]]),
        )

    def beaten_by(self, share: Tensor, lead: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """For which of these results of the images ``rows`` is stronger: right less often, or as often by less."""
        return (share < self.share[rows]) | ((share == self.share[rows]) & (lead > self.lead[rows]))

    def sha256(self) -> str:
        """Of the images that a continuing attack starts from."""
        return tensors_sha256([self.attacked, self.share])


def progress_of_worst(chunks: Mapping[str, Sequence[Chunk]], y: Tensor) -> dict[str, tuple[int, float]]:
    """By attack: how many images survived those before it, and the accuracy under the worst case up to it.

    By the draws of single attacks, and without the confirmation of the final choice.
    """
    told: dict[str, tuple[int, float]] = {}
    shares: list[Tensor] = []
    scored: list[Tensor] = []
    for name, parts in chunks.items():
        least = torch.stack(shares).amin(0) if shares else torch.ones(len(y), dtype=torch.float64)
        shares.append(torch.cat([c.share for c in parts]))
        scored.append((torch.cat([c.scoring for c in parts]) == y.cpu()[:, None]).double().mean(1))
        picked = choose(torch.stack(shares))
        left = torch.stack(scored)[picked, torch.arange(len(y))].mean()
        told[name] = (int((least > SURVIVES).sum()), float(left))
    return told
