"""L6: the strongest results so far: what continuing attacks start from, and what is left after every attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from art_advtransform.counting import choose
from art_advtransform.store import Chunk, tensors_sha256


@dataclass(frozen=True)
class Pool:
    """For every image of a chunk the strongest result so far.

    Attributes:
        attacked: images (n, C, H, W).
        alive: share of the selection draws in which each is right, (n,).
        selection, scoring: its predicted classes (n, draws).
    """

    attacked: Tensor
    alive: Tensor
    selection: Tensor
    scoring: Tensor

    @classmethod
    def joined(cls, pool: Pool | None, chunk: Chunk, y: Tensor) -> Pool:
        """``pool`` with what ``chunk`` does better; of equals the older stays."""
        alive = (chunk.selection == y.cpu()[:, None]).double().mean(1)
        found = cls(chunk.attacked, alive, chunk.selection, chunk.scoring)
        if pool is None:
            return found
        better = alive < pool.alive
        return cls(
            torch.where(better.view(-1, 1, 1, 1), found.attacked, pool.attacked),
            torch.where(better, alive, pool.alive),
            torch.where(better[:, None], found.selection, pool.selection),
            # clean images may have been scored by more draws than attacked ones; the first are the same
            torch.where(better[:, None], found.scoring, pool.scoring[:, : found.scoring.shape[1]]),
        )

    def sha256(self) -> str:
        """Of the images that a continuing attack starts from."""
        return tensors_sha256([self.attacked, self.alive])


def chosen_attacks(chunks: Mapping[str, Sequence[Chunk]], y: Tensor) -> list[str]:
    """For every image the name of the attack that the selection draws choose."""
    names = list(chunks)
    picked = choose(torch.stack([_right(chunks[name], y) for name in names]))
    return [names[i] for i in picked.tolist()]


def progress_of_worst(chunks: Mapping[str, Sequence[Chunk]], y: Tensor) -> dict[str, tuple[int, float]]:
    """By attack: how many images were right in some draw before it, and the accuracy under the worst case up to it."""
    told: dict[str, tuple[int, float]] = {}
    alive, right = torch.ones(2, len(y), dtype=torch.float64)
    for name, parts in chunks.items():
        before = int((alive > 0).sum())
        found, better = _right(parts, y), _right(parts, y) < alive
        if not told:
            better = torch.ones_like(better)
        scored = (torch.cat([c.scoring for c in parts]) == y.cpu()[:, None]).double().mean(1)
        alive, right = torch.where(better, found, alive), torch.where(better, scored, right)
        told[name] = (before, float(right.mean()))
    return told


def _right(parts: Sequence[Chunk], y: Tensor) -> Tensor:
    """Share of the selection draws in which each image is right, (n,)."""
    return (torch.cat([c.selection for c in parts]) == y.cpu()[:, None]).double().mean(1)
