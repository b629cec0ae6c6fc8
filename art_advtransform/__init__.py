"""Defend an image classifier by adversarial transformation, in ART, Foolbox and torchattacks, and find out what it is worth.

The defence is Xiao & Zheng, "One Man's Trash is Another Man's Treasure: Resisting Adversarial Examples by Adversarial
Examples", CVPR 2020, arXiv 1911.11219. Public names are imported on first use: ``import art_advtransform`` loads neither
torch nor a toolkit.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from art_advtransform.adapters.art_defence import AdversarialTransform, EoTAdversarialTransform
    from art_advtransform.adapters.art_trainer import AdversarialTransformTrainer
    from art_advtransform.adapters.foolbox_model import FoolboxDefendedModel
    from art_advtransform.config import ThreatModel, TransformConfig
    from art_advtransform.defended import DefendedModel
    from art_advtransform.evaluation import Evaluation, evaluate
    from art_advtransform.gradients import GRADIENTS
    from art_advtransform.layer import LLPGDTransform
    from art_advtransform.networks import ResNet18, SmallVGG
    from art_advtransform.pretrained import load_pretrained, load_reference_checkpoint

__version__ = "0.1.0"

_HOME = {
    "AdversarialTransform": "adapters.art_defence",
    "AdversarialTransformTrainer": "adapters.art_trainer",
    "DefendedModel": "defended",
    "EoTAdversarialTransform": "adapters.art_defence",
    "Evaluation": "evaluation",
    "FoolboxDefendedModel": "adapters.foolbox_model",
    "GRADIENTS": "gradients",
    "LLPGDTransform": "layer",
    "ResNet18": "networks",
    "SmallVGG": "networks",
    "ThreatModel": "config",
    "TransformConfig": "config",
    "evaluate": "evaluation",
    "load_pretrained": "pretrained",
    "load_reference_checkpoint": "pretrained",
}

# Toolkits that are extras of the same name.
_EXTRAS = ("foolbox", "torchattacks")

__all__ = [
    "GRADIENTS",
    "AdversarialTransform",
    "AdversarialTransformTrainer",
    "DefendedModel",
    "EoTAdversarialTransform",
    "Evaluation",
    "FoolboxDefendedModel",
    "LLPGDTransform",
    "ResNet18",
    "SmallVGG",
    "ThreatModel",
    "TransformConfig",
    "evaluate",
    "load_pretrained",
    "load_reference_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        remedy = f'{name} needs {error.name}: pip install "art-advtransform[{error.name}]"'
        raise ModuleNotFoundError(remedy, name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
