"""What benchmarks of speed are of: their variants differ, and their files say where they ran."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from art_advtransform.layer import LLPGDTransform
from benchmarks import check_bundled, harness, training_cost, variants


def test_a_file_says_where_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # nets and images of the timings are on the CPU, on a machine with a GPU, too
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rows = [{"seconds": 1.0}]
    assert harness.write_csv("speed", rows).name.startswith("speed-cpu-torch")
    assert harness.write_csv("training", rows, "cuda").name.startswith("training-cuda-torch")


def test_results_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    path = harness.write_csv("speed", [{"seconds": 1.0}])
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        harness.write_csv("speed", [{"seconds": 2.0}, {"minutes": 3.0}])
    assert path.read_text() == "seconds\n1\n"


def test_results_of_another_f_b_or_of_other_images_have_names_of_their_own() -> None:
    assert harness.named("precision", None) == "precision"
    assert harness.named("precision", "reference:somewhere/vgg0_adv.pth", "cifar10") == "precision-vgg0-adv-cifar10"
    assert harness.named("agreement", "cifar10/f_b-standard") == "agreement-cifar10-f-b-standard"


def test_seconds_are_of_the_images_that_were_trained_on() -> None:
    assert [training_cost.trained_on(n) for n in (128, 200, 256, 1000)] == [128, 128, 256, 896]


def test_a_card_of_few_images_is_as_uncertain_as_they_are() -> None:
    row = {"test_images": 10_000, "card_images": 2_000, "card": 8.65, "measured": 10.4}
    assert check_bundled.agrees(row, "")  # by the 10,000 alone, 0.84 points would be the most
    assert not check_bundled.agrees({**row, "measured": 11.0}, "")
    assert not check_bundled.agrees({**row, "card_images": 10_000}, "")
    assert check_bundled.agrees({**row, "card": "-"}, "")


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
