"""L4: where a training goes on after a kill: one safetensors file, replaced whole after every epoch, and never a pickle."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

logger = logging.getLogger(__name__)


class Checkpoint:
    """Model, momentum, loss scale and history.

    Args:
        path: the file; its folder is made when needed.
        recipe: what the training is done with; a file of another one is not gone on from.
    """

    def __init__(self, path: Path, recipe: dict[str, Any]) -> None:
        self.path, self.recipe = path, recipe

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        losses: list[float],
    ) -> None:
        """Replace the file, whole or not at all."""
        tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
        for i, state in optimizer.state_dict()["state"].items():
            if state.get("momentum_buffer") is not None:
                tensors[f"momentum.{i}"] = state["momentum_buffer"].contiguous()
        history = {"losses": losses, "scaler": None if scaler is None else scaler.state_dict()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".partial")
        save_file(tensors, scratch, metadata={"recipe": json.dumps(self.recipe), "history": json.dumps(history)})
        scratch.replace(self.path)

    def load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None
    ) -> list[float]:
        """Put everything where the file left it; the losses of the epochs done.

        Raises:
            ValueError: if the file is damaged, of another recipe or of another network.
        """
        if not self.path.is_file():
            return []
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"damaged checkpoint {self.path}: {error}; delete it to start anew") from error
        if json.loads(metadata.get("recipe", "null")) != self.recipe:
            raise ValueError(f"checkpoint {self.path} was made with another recipe; delete it to start anew")
        try:
            model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        except RuntimeError as error:
            raise ValueError(f"checkpoint {self.path} is of another network; delete it to start anew") from error
        state = optimizer.state_dict()
        state["state"] = {
            int(k.removeprefix("momentum.")): {"momentum_buffer": v}
            for k, v in tensors.items()
            if k.startswith("momentum.")
        }
        optimizer.load_state_dict(state)
        history = json.loads(metadata["history"])
        if scaler is not None and history["scaler"] is not None:
            scaler.load_state_dict(history["scaler"])
        losses: list[float] = history["losses"]
        logger.info("going on after epoch %d of %s", len(losses), self.path)
        return losses
