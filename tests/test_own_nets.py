"""Nets that are no preset's: another g, an untrained f_b."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from art_advtransform.config import TransformConfig
from art_advtransform.datasets import digits
from art_advtransform.networks import NETWORKS
from art_advtransform.pretrained import load_pretrained, read_card
from art_advtransform.randomness import derived_seed, global_seed
from art_advtransform.recipes import Net
from art_advtransform.train_nets import Options, train_nets
from tests.models import same_weights, tiny_nets


def test_nets_of_one_s_own_with_another_g_and_without_an_epoch(tmp_path: Path) -> None:
    tiny = tiny_nets()
    data, recipe = digits("train").sample(160), tiny["f_b-adversarial"].recipe
    untrained = replace(
        tiny["f_b-adversarial"], role="plain", threat=None, recipe=replace(recipe, nb_epochs=0, warmup=0)
    )
    behind = replace(tiny["f_a-defended"], f_b="untrained", transform=TransformConfig(eps=0.1, max_iter=3))
    mine = {"untrained": untrained, "behind": behind}
    folders = train_nets("digits", data, data, tmp_path, options=Options(nets=mine))
    assert list(folders) == ["untrained", "behind"]
    with global_seed(derived_seed(recipe.seed)):
        fresh = NETWORKS[untrained.architecture](**untrained.arguments)
    assert same_weights(load_pretrained(folders["untrained"]), fresh)
    assert Net.from_json(read_card(folders["behind"])["net"]) == behind
    # another g is another training
    assert train_nets("digits", data, data, tmp_path, options=Options(nets=mine)) == folders
    before = load_pretrained(folders["behind"])
    other = {**mine, "behind": replace(behind, transform=TransformConfig(eps=0.2, max_iter=3))}
    train_nets("digits", data, data, tmp_path, ["behind"], Options(nets=other))
    assert not same_weights(load_pretrained(folders["behind"]), before)
    with pytest.raises(ValueError, match="unknown net 'undefended'; known: untrained, behind"):
        train_nets("digits", data, data, tmp_path, ["undefended"], Options(nets=mine))
