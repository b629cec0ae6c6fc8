"""What benchmarks of speed are of: their variants differ, and their files say where they ran."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from art_advtransform.layer import LLPGDTransform
from benchmarks import harness, variants


def test_a_file_says_where_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # nets and images of the timings are on the CPU, on a machine with a GPU, too
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rows = [{"seconds": 1.0}]
    assert harness.write_csv("speed", rows).name.startswith("speed-cpu-torch")
    assert harness.write_csv("training", rows, "cuda").name.startswith("training-cuda-torch")


def test_variants_lack_what_they_say() -> None:
    made = variants.transforms(compiled=False)
    graphs = {name: str(transform.model.net) for name, transform in made.items()}
    usual = graphs["as it is"]
    assert "_FirstConvolution" in usual
    assert "_FirstConvolution" not in graphs["without blocked first gradient"]
    names = ("as it is", "without blocked first gradient", "without ReLU behind pooling")
    order = [_ops(made[name].model.net) for name in names]
    assert order[0] == order[1] != order[2]
    # what was switched off is on again
    assert str(LLPGDTransform(harness.table4_net()).model.net) == usual
    assert not made["without all of it: plain copy, chunks of 32"].model.optimised


def _ops(net: torch.nn.Module) -> list[str]:
    """The layers in the order in which they run."""
    assert isinstance(net, torch.fx.GraphModule)
    modules = dict(net.named_modules())
    kinds = [type(modules[str(node.target)]).__name__ for node in net.graph.nodes if node.op == "call_module"]
    return [kind for kind in kinds if kind in ("ReLU", "MaxPool2d")]
