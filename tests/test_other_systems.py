"""Tables 3 and 6: what their rows say of this defence and of the systems beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from art_advtransform.counting import Interval
from art_advtransform.pretrained import load_pretrained, read_card
from art_advtransform.recipes import Net
from art_advtransform.store import slug
from art_advtransform.train_nets import is_finished
from benchmarks import table2_black_box, table3_white_box, table6_tiny_imagenet
from benchmarks.columns import IDENTITY, MEASURED, OWN_GRADIENT, STAND_IN, best_named, run
from benchmarks.other_defences import NB_ALONG_GRADIENTS, along_gradients, of_many_draws, without_draws
from benchmarks.pixel_defend import pixel_defend, tag
from benchmarks.preprocessors import OF_ATHALYE, PREPROCESSORS
from benchmarks.scales import SCALES
from benchmarks.table3_white_box import MADRY, System
from benchmarks.workshop import COMMITTED, Workshop
from tests.evaluations import by_hand


def test_table_3_has_the_worst_of_bpda_beside_that_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = replace(SCALES["digits"], images=2, draws=2, selection_draws=2, confirmation_draws=2, max_iter=2, climb=2)
    shop = Workshop("digits", small, None, 0, "cpu")
    names = ("f_a-defended", "f_b-adversarial", "undefended")
    f_a, f_b, plain = (load_pretrained(f"digits/{name}") for name in names)
    monkeypatch.setattr(Workshop, "card", lambda self, name: read_card(f"digits/{name}"))
    many = (of_many_draws(2, 3),)
    ours = System(
        f_a, "ours", shop.card("f_a-defended"), (82.9, 78.1, "transfer"), f_b=f_b, breaks=many, along=IDENTITY
    )
    none = System(plain, "our loop", shop.card("undefended"), ("-", 0.0, "BPDA"), OF_ATHALYE, breaks=without_draws(2))
    systems = {"none": none, "this defence": ours}
    rows, attacked = table3_white_box.measured(shop, systems, {"undefended": plain, "surrogate": f_b})
    assert [row["method"] for row in rows] == ["none", "this defence, the worst of BPDA-I", "this defence"]
    assert [row["paper_worst"] for row in rows] == [0.0, 80.2, 78.1]
    assert [row["paper_source"] for row in rows] == [OF_ATHALYE, MEASURED, MEASURED]
    assert {row["more_than_adversarial"] for row in rows} == {"-"}  # there is none
    with_one = {MADRY: none, "this defence": ours}
    beaten, _ = table3_white_box.measured(shop, with_one, {"undefended": plain, "surrogate": f_b})
    assert [row["more_than_adversarial"] for row in beaten[:2]] == ["-", "-"]
    assert beaten[2]["more_than_adversarial"] == pytest.approx(beaten[2]["worst"] - beaten[0]["worst"])
    (alone, *_), _ = table3_white_box.measured(shop, {"none": replace(none, paper=("-", "-", "-"))}, {})
    assert (alone["paper_worst"], alone["paper_source"]) == ("-", "-")
    by_system = {name: [row["attack"] for row in attacked if row["system"] == name] for name in systems}
    assert by_system["none"][-3:] == [
        "APGD-CE-2",
        "APGD-T-2, 9 targets",
        "black-box transfer: PGD-2 on a surrogate: surrogate",
    ]
    # a net that doesn't draw, attacked along its own gradient: neither a mean over draws nor an approximation
    assert by_system["none"][:2] == ["no attack", "PGD-2"]
    assert rows[0]["attacks_run"] == "3 PGD, 2 APGD, transfer"
    left = {row["attack"]: row["accuracy"] for row in attacked if row["system"] == "this defence"}
    assert len([name for name in left if name.startswith("BPDA-I")]) == 4
    assert len([name for name in left if "transfer" in name]) == 4  # from f_a, from f_b and from two surrogates
    assert rows[1]["best_attack"].startswith("BPDA-I")
    assert [row["attacks_run"] for row in rows[1:]] == ["4 PGD", "4 PGD, 4 transfer"]
    assert left[rows[2]["best_attack"].split(", and ")[0]] == min(left.values())
    assert rows[0]["best_attack"].startswith(("PGD-2", "momentum PGD-2", "mean margin, PGD-2", "APGD", "black-box"))


def test_the_worst_of_bpda_is_that_of_all_attacks_through_g_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workshop, "card", lambda self, name: read_card(f"digits/{name}"))
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    made = by_hand()["behind g"]
    # each attack leaves less than the one before
    falling = [replace(made.attacks[0], name=f"{k}", remaining=0.9 - k / 10) for k in range(8)]
    many = (of_many_draws(2, 3),)
    ours = System(
        nn.Identity(), "ours", shop.card("f_a-defended"), (82.9, 78.1, "transfer"), f_b=nn.Identity(), breaks=many
    )
    alone, _ = table3_white_box.rows_of(shop, "this", ours, replace(made, attacks=falling), None)
    assert alone["worst"] == pytest.approx(60)  # three of all rows, and the one of many draws
    rows = {role: replace(made, attacks=falling) for role in table6_tiny_imagenet.ROLES.values()}
    assert len(along_gradients(20, 40, 4)) == NB_ALONG_GRADIENTS == 3
    found = table6_tiny_imagenet.row(shop, "this defence", rows)
    assert (found["bpda"], found["paper_bpda"]) == (pytest.approx(70), 47.9)


def test_a_name_says_how_many_attacks_leave_as_little_and_what_gradient_they_follow() -> None:
    made = by_hand()["behind g"]
    attack = made.attacks[0]
    attacks = [
        replace(attack, name=name)
        for name in ("BPDA-I: PGD-20, EOT 4", "BPDA-I: mean ce, PGD-9, 16 draws", "Square: 9")
    ]
    attacks = [replace(one, nb_attacked=9) for one in attacks]
    idle = [*attacks[:2], replace(attacks[2], nb_attacked=0)]  # nothing was left for it
    drawing, still = (
        replace(made, attacks=attacks, settings={**made.settings, "randomized": r}) for r in (True, False)
    )
    names = [best_named(found, along) for found in (drawing, still) for along in (IDENTITY, STAND_IN, OWN_GRADIENT)]
    assert names == [
        "BPDA-I: PGD-20, EOT 4, and 2 more",
        "BPDA: PGD-20, EOT 4, and 2 more",
        "PGD-20, EOT 4, and 2 more",
        "BPDA-I: PGD-20, and 2 more",
        "BPDA: PGD-20, and 2 more",
        "PGD-20, and 2 more",
    ]
    assert best_named(replace(drawing, attacks=[attack]), IDENTITY) == attack.name
    assert run(drawing) == "2 PGD, Square"
    drawing = replace(drawing, attacks=idle)
    assert (best_named(drawing, IDENTITY), run(drawing)) == ("BPDA-I: PGD-20, EOT 4, and 1 more", "2 PGD")
    # what others have left is not to its credit
    least = replace(idle[2], mean=Interval(0.0, 0.0, 0.0))
    assert best_named(replace(drawing, attacks=[*idle[:2], least]), IDENTITY) == "BPDA-I: PGD-20, EOT 4, and 1 more"


def test_this_defence_meets_an_attack_of_more_draws_where_nets_without_g_meet_apgd() -> None:
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    for table in (table2_black_box, table6_tiny_imagenet):
        through_g, bare = (table.attacks(shop, defended=defended) for defended in (True, False))
        assert (through_g[-1].name, through_g[-1].continues) == (
            "BPDA-I: mean ce, PGD-40, 4 draws, momentum 0/0.9",
            True,
        )
        assert [attack.name.split(",")[0] for attack in bare[-2:]] == ["BPDA-I: APGD-CE-40", "BPDA-I: APGD-T-40"]
        assert not any("APGD" in attack.name for attack in through_g)


def test_what_closes_comes_last_and_goes_on_from_the_strongest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = replace(SCALES["digits"], train_images=128, nb_epochs=1)
    shop = Workshop("digits", small, None, 0, "cpu")
    for name, closes in (("JPEG (Guo)", True), ("total variation (Guo)", False)):
        system = table3_white_box.preprocessed(shop, name)
        last = table3_white_box.attacks(shop, system, ["surrogate"])[-1]
        assert (last.name == "Square: 1000 queries") == closes == last.continues
        assert system.along == IDENTITY
    assert PREPROCESSORS["thermometer encoding (Buckman)"].along == STAND_IN  # a ramp, which is no identity
    assert table6_tiny_imagenet.along("f_a-defended") == IDENTITY
    assert table6_tiny_imagenet.along("adversarial") == OWN_GRADIENT


def test_nets_that_come_with_the_repository_are_those_of_table_3_at_cpu() -> None:
    shop = Workshop("cpu", SCALES["cpu"], None, 0, "cpu")
    made, committed = table3_white_box.recipes(shop), COMMITTED / shop.home.name
    behind = {slug(name): preprocessor for name, preprocessor in PREPROCESSORS.items()}
    found = {path.parent.name: read_card(path.parent) for path in committed.glob("*/card.json")}
    assert set(found) == set(made) - {"f_b-adversarial", "surrogate"} | set(behind)  # those ship with the package
    for name, card in found.items():
        recipe = made.get(name, made["undefended"])
        if name in behind:
            about, channels = Net.from_json(card["net"]).about, 3 * behind[name].channels
            assert about.startswith(f"the classifier behind {behind[name].implementation}")
            recipe = replace(recipe, about=about, arguments={**recipe.arguments, "in_channels": channels})
        assert is_finished("cifar10", recipe, committed / name)  # by its recipe, and behind the f_b that ships
        load_pretrained(committed / name)  # the weights that the card tells of
        assert card["train_images"] == SCALES["cpu"].train_images
    assert len({card["train_sha256"] for name, card in found.items() if name not in behind}) == 1


def test_the_pixel_cnn_that_comes_with_the_repository_is_trained_to_its_end(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shop, epochs = Workshop("cpu", SCALES["cpu"], data_root, 0, "cpu"), list[str]()
    monkeypatch.setattr("benchmarks.pixel_defend.told", lambda *_: epochs.append("another"))
    defence = pixel_defend(shop)
    assert epochs == []
    about = read_card(COMMITTED / shop.home.name / "pixeldefend-song")["net"]["about"]
    assert about.endswith(f" {tag(defence)}")
