"""L6: the strongest results so far: what continuing attacks start from, and what is left after every attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from art_advtransform.attacks.base import SURVIVES
from art_advtransform.counting import choose
from art_advtransform.store import Chunk, tensors_sha256


class Strength(NamedTuple):
    """How bad results are, as in a :class:`~art_advtransform.store.Chunk`."""

    share: Tensor
    lead: Tensor
    confirmed: Tensor

    def beats(self, other: Strength) -> Tensor:
        """For which images this is stronger: right less often, or as often by less.

        What is confirmed was right in no more than one of the draws that choose, and what isn't in two of the same draws at
        least: shares over these and over the draws that confirm are not compared.
        """
        share, lead, confirmed = (mine - theirs for mine, theirs in zip(self._order(), other._order(), strict=True))
        return (confirmed > 0) | ((confirmed == 0) & ((share < 0) | ((share == 0) & (lead > 0))))

    def _order(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.share, self.lead, self.confirmed.double()


@dataclass(frozen=True)
class Pool:
    """For every image of a chunk the strongest result so far.

    Attributes:
        attacked: images (n, C, H, W).
        strength: of each.
        scoring: its predicted classes (n, draws).
    """

    attacked: Tensor
    strength: Strength
    scoring: Tensor

    @property
    def share(self) -> Tensor:
        """Of the draws that choose or, where they were asked, confirm, in which each image is right, (n,)."""
        return self.strength.share

    @classmethod
    def joined(cls, pool: Pool | None, chunk: Chunk) -> Pool:
        """``pool`` with what ``chunk`` does better; of equals the older stays."""
        found = cls(chunk.attacked, Strength(chunk.share, chunk.lead, chunk.confirmed), chunk.scoring)
        if pool is None:
            return found
        better = found.strength.beats(pool.strength)
        return cls(
            torch.where(better.view(-1, 1, 1, 1), found.attacked, pool.attacked),
            Strength(*(torch.where(better, *pair) for pair in zip(found.strength, pool.strength, strict=True))),
            # clean images may have been scored by more draws than attacked ones; the first are the same
            torch.where(better[:, None], found.scoring, pool.scoring[:, : found.scoring.shape[1]]),
        )

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
