"""ART around the tiny nets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from art_advtransform import AdversarialTransform, EoTAdversarialTransform
from tests.integration.nets import CLASSES, CONFIG, SHAPE, seeded


def art_classifier(model: nn.Module, *defences: Any, learning_rate: float = 0.05, **options: Any) -> Any:
    settings = {
        "loss": nn.CrossEntropyLoss(),
        "input_shape": SHAPE,
        "nb_classes": CLASSES,
        "clip_values": (0.0, 1.0),
        "preprocessing_defences": list(defences) or None,
        "optimizer": torch.optim.SGD(model.parameters(), lr=learning_rate),
        "device_type": "cpu",
    }
    return PyTorchClassifier(model, **{**settings, **options})


def defence(f_b: nn.Module, seed: int = 0, **options: Any) -> AdversarialTransform:
    return AdversarialTransform(f_b, **{"max_iter": CONFIG.max_iter, "generator": seeded(seed), **options})


def eot_defence(f_b: nn.Module, nb_samples: int, seed: int = 0) -> EoTAdversarialTransform:
    return EoTAdversarialTransform(f_b, nb_samples, max_iter=CONFIG.max_iter, generator=seeded(seed))


def one_hot(y: Tensor) -> Any:
    return np.eye(CLASSES, dtype=np.float32)[y.numpy()]


def as_tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array))
