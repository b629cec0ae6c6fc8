"""The paper's tables and figures: what they are made of, what their columns say, what a failure or a kill leaves of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from art_advtransform.attacks.base import from_function
from art_advtransform.attacks.identity import network_identity
from art_advtransform.config import TransformConfig
from art_advtransform.counting import SCORING, Interval, predictions
from art_advtransform.datasets import load_dataset
from art_advtransform.defended import DefendedModel
from art_advtransform.layer import LLPGDTransform
from art_advtransform.pretrained import load_pretrained, read_card
from art_advtransform.records import AttackResult
from art_advtransform.store import write_json
from benchmarks import (
    figure5_steps,
    figure8_reparameterisation,
    paper,
    table1_external_models,
)
from benchmarks.columns import called, known, point, trained, up_to, with_interval
from benchmarks.figure5_steps import STEPS
from benchmarks.scales import SCALES
from benchmarks.table1_external_models import (
    PAPER,
    classifiers,
    draw_gradients,
    external_models,
    kinds,
    plain_kinds,
)
from benchmarks.workshop import Workshop
from tests.evaluations import by_hand

DARKER = from_function("darker", lambda x, y: x - 0.125)


def test_every_table_and_figure_is_made_by_the_one_command() -> None:
    files = {path.stem for kind in ("table", "figure") for path in Path(paper.__file__).parent.glob(f"{kind}*.py")}
    assert set(paper.NAMES) == files


def test_a_failed_attack_leaves_the_others_and_ends_the_command_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shop, ran = Workshop("digits", SCALES["digits"], None, 0, "cpu"), []

    def fails(x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("no")

    def run(name: str, run_name: str) -> None:
        ran.append(name)
        if len(ran) == 1:
            shop.evaluate("any", load_pretrained("digits/undefended"), None, [from_function("fails", fails), DARKER])

    monkeypatch.setattr("benchmarks.paper.runpy.run_module", run)
    with pytest.raises(SystemExit, match="failed: any: fails failed on 1 of 1 chunks of images: RuntimeError: no"):
        paper.main()
    assert len(ran) == len(paper.NAMES)
    monkeypatch.setattr(paper, "NAMES", paper.NAMES[1:2])
    paper.main()  # nothing of it is left


def test_examples_for_one_number_of_steps_meet_a_defence_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figure5_steps, "attacks", lambda shop: [DARKER])
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    f_a, f_b = load_pretrained("digits/f_a-defended"), load_pretrained("digits/f_b-adversarial")
    made = shop.evaluate("figure5-3", f_a, f_b, [DARKER], TransformConfig(max_iter=3))
    defence = DefendedModel(f_a, LLPGDTransform(f_b, TransformConfig(max_iter=7))).eval()
    found = figure5_steps.transferred(shop, 3, defence, made.settings["chunk_size"])
    attacked = (shop.attacked.x - shop.threat.eps).clamp(0, 1)
    right = predictions(defence, attacked, 10, 0, SCORING) == shop.attacked.y[:, None]
    assert found.value == pytest.approx(float(right.double().mean()))
    assert found.low < found.value <= found.high
    clean = predictions(defence, shop.attacked.x, 10, 0, SCORING) == shop.attacked.y[:, None]
    assert float(clean.double().mean()) > found.value


def test_examples_that_could_not_be_made_are_no_reason_to_lose_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    for name, value in {"STEPS": (1, 3, 5), "SOURCES": (3, 5)}.items():
        monkeypatch.setattr(figure5_steps, name, value)
    monkeypatch.setattr(Workshop, "card", lambda self, name: read_card("digits/f_a-defended"))
    monkeypatch.setattr(figure5_steps, "transferred", lambda shop, source, *rest: Interval(0.5, 0.4, 0.6))
    nets = dict.fromkeys(("f_b-adversarial", "f_a-N3", "f_a-N5"), load_pretrained("digits/f_b-adversarial"))
    made = by_hand()["behind g"]
    made.settings["chunk_size"] = 10
    failed = replace(
        made, attacks=[replace(made.attacks[0], problem="failed on 1 of 4 chunks of images"), *made.attacks[1:]]
    )
    rows = figure5_steps.table5(shop, nets, {3: failed, 5: made})
    assert [(row["examples_of_N3"], row["examples_of_N5"]) for row in rows[:2]] == [("-", 50.0), ("-", 50.0)]
    assert len(rows) == 2 + len(figure5_steps.PAPER_TABLE5)


def test_table_1_has_an_f_a_for_every_f_b() -> None:
    for name in SCALES:
        shop = Workshop(name, SCALES[name], None, 0, "cpu")
        f_bs, f_as = external_models(shop), classifiers(shop)
        assert [net.f_b for net in f_as.values()] == list(f_bs)
        standard = f_bs.pop("f_b-standard")
        epochs = [net.recipe.nb_epochs for net in f_bs.values() if net.role == "plain"]
        assert (epochs[0], epochs[-1]) == (0, 20)
        usual = f_bs["f_b-adversarial"]  # what differs is what they were trained on
        assert (standard.role, standard.recipe.nb_epochs) == ("plain", usual.recipe.nb_epochs)
        assert standard.architecture == usual.architecture
        assert f_bs["f_b-adversarial-20"].recipe.nb_epochs == 20
        assert all(kind in PAPER for kind in kinds(shop))


def test_fig_9_has_fewer_epochs_where_an_epoch_takes_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["figure9", "--scale", "cpu"])
    tiny, cifar = (Workshop.from_command_line("", dataset=dataset) for dataset in ("tiny_imagenet", None))
    assert plain_kinds(tiny) == ["0", "1", "5"]
    assert plain_kinds(cifar) == ["0", "1", "5", "20"]
    # the last one is that which ships
    assert external_models(tiny)["f_b-adversarial"].to_json() in tiny.bundled.values()


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_kill_before_a_measurement_of_h_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    monkeypatch.setattr(figure8_reparameterisation, "NB_STEPS", {"digits": 4})
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    g = LLPGDTransform(load_pretrained("digits/f_b-adversarial"))
    few = shop.train.sample(64)
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()

    def killed(path: Path, rows: list[dict[str, object]]) -> None:
        if rows[-1]["epochs"] == epoch:
            raise KeyboardInterrupt
        write_json(path, rows)

    monkeypatch.chdir(tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.figure8_reparameterisation.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            figure8_reparameterisation.imitation(shop, g, few)
    h, rows = figure8_reparameterisation.imitation(shop, g, few)
    assert [row["epochs"] for row in rows] == [1, 2, 3, 4]
    assert not h.training
    monkeypatch.chdir(tmp_path / "whole")
    assert figure8_reparameterisation.imitation(shop, g, few)[1] == rows
    begun, (untrained,) = figure8_reparameterisation.untrained(shop, g)
    assert untrained["steps"] == 0
    assert network_identity(begun) != network_identity(h)


def test_fig_8_tells_apart_what_h_and_f_a_were_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figure8_reparameterisation, "NB_STEPS", {"digits": 4})
    monkeypatch.setattr(figure8_reparameterisation, "NB_IMAGES", {"digits": (64, 128)})
    small = replace(SCALES["digits"], images=2, draws=2, selection_draws=2, confirmation_draws=2, max_iter=2, climb=2)
    shop = Workshop("digits", replace(small, shipped=("f_b-adversarial", "f_a-defended")), None, 0, "cpu")
    rows = figure8_reparameterisation.measured(shop)
    h = [(row["training_images"], row["epochs"], row["steps"]) for row in rows]
    assert h == [(0, 0, 0), (64, 1, 1), (64, 2, 2), (64, 3, 3), (64, 4, 4), (128, 1, 2), (128, 2, 4)]
    f_a = read_card("digits/f_a-defended")
    assert {row["f_a_epochs"] for row in rows} == {f_a["net"]["recipe"]["nb_epochs"]}
    assert {row["f_a_training_images"] for row in rows} == {f_a["train_images"]}
    # the attack stands in the last row of each h, and the paper's number beside no h that has learned nothing
    assert [row["attacked"] == "-" for row in rows] == [False, True, True, True, False, True, False]
    assert [row["paper_attacked"] for row in rows if row["attacked"] != "-"] == ["-", 81.1, 81.1]


def test_the_columns_tell_what_a_net_was_made_of() -> None:
    card, f_b = read_card("cifar10/f_a-defended"), read_card("cifar10/f_b-adversarial")
    found = trained(card, f_b)
    assert (found["width"], found["epochs"], found["redraw_every"], found["training_images"]) == (20, 30, 4, 50000)
    assert (found["epochs_of_f_b"], found["training_images_of_f_b"]) == (30, 50000)
    assert (found["steps"], found["steps_of_f_b"]) == (30 * 390, 30 * 390)  # batches of 128; the last has 80
    assert found["test_accuracy"] == pytest.approx(75.5, abs=0.05)
    assert trained(read_card("digits/undefended"))["redraw_every"] == "-"
    assert called("TRADES", f_b) == "TRADES, FGSM from a random start"
    assert called("none", read_card("digits/undefended")) == "none"


def test_the_worst_of_the_first_attacks_is_no_single_one_of_them() -> None:
    second = replace(by_hand()["behind g"].attacks[0], remaining=0.15)
    assert up_to("bpda", second) == {"bpda": 15.0, "bpda_low": "-", "bpda_high": "-"}
    assert up_to("bpda", replace(second, remaining=None))["bpda"] == "-"


def test_an_attack_that_failed_leaves_a_dash_and_a_gap() -> None:
    made = by_hand()["plain"]
    failed = replace(made, attacks=[AttackResult("A", "white box", "art", "failed: no")])
    assert with_interval("worst", failed.attacks[0]) == {"worst": "-", "worst_low": "-", "worst_high": "-"}
    assert point(13, with_interval("failed", failed.attacks[0]), "failed") == (13, None, None, None)
    clean = with_interval("clean", failed.clean)
    assert clean["clean"] == pytest.approx(80)
    assert point(13, clean, "clean") == (13, clean["clean"], clean["clean_low"], clean["clean_high"])


def test_pictures_of_two_seeds_and_of_two_devices_stand_side_by_side() -> None:
    shops = [Workshop("digits", SCALES["digits"], None, *made) for made in ((0, "cpu"), (1, "cpu"), (0, "cuda"))]
    names = ["figure5-digits.png", "figure5-digits-seed1.png", "figure5-digits-cuda.png"]
    assert [shop.picture("figure5").name for shop in shops] == names


def test_fig_10_shows_two_f_b_that_differ_in_their_examples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shop, drawn = Workshop("cpu", SCALES["cpu"], None, 0, "cpu"), {}
    monkeypatch.setattr(Workshop, "attacked", load_dataset("digits").sample(4))
    monkeypatch.setattr(table1_external_models, "grid_figure", lambda columns, path: drawn.update(columns))
    recipes = external_models(shop)
    net = load_pretrained("digits/f_b-adversarial")
    draw_gradients(shop, dict.fromkeys(recipes, net), dict.fromkeys(kinds(shop), torch.zeros(4, 1, 8, 8)))
    shown = {name.split(":")[0] for name in drawn if ":" in name}
    standard, adversarial = (recipes[f"f_b-{kind}"] for kind in ("standard", "adversarial"))
    assert shown == {"standard", "adversarial"}
    alike = replace(standard, role="adversarial", threat=adversarial.threat, about=adversarial.about)
    assert replace(alike, attack_steps=adversarial.attack_steps) == adversarial


def test_the_noise_of_a_mean_is_half_of_what_its_halves_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    x = shop.attacked.x
    monkeypatch.setattr(table1_external_models, "means_of_g", lambda *_: torch.stack([x + 0.25, x + 0.75]))
    shown, found = table1_external_models.difference(shop, load_pretrained("digits/f_b-adversarial"))
    torch.testing.assert_close(shown, torch.full_like(x[:4], 0.5))
    assert (found["distance_rms"], found["distance_noise"]) == pytest.approx((0.5, 0.25), abs=1e-6)


def test_an_accuracy_of_the_paper_stands_in_no_column_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    monkeypatch.setattr(Workshop, "card", lambda self, name: read_card("digits/f_a-defended"))
    monkeypatch.setattr(figure5_steps, "transferred", lambda shop, source, *rest: Interval(0.5, 0.4, 0.6))
    made = by_hand()["behind g"]
    made.settings["chunk_size"] = 10
    nets = dict.fromkeys(("f_b-adversarial", *(f"f_a-N{n}" for n in STEPS)), load_pretrained("digits/f_b-adversarial"))
    rows = figure5_steps.table5(shop, nets, dict.fromkeys(STEPS, made))
    ours, papers = rows[: len(STEPS) - 1], rows[len(STEPS) - 1 :]
    assert {row["standard"] for row in papers} == {"-"}
    assert [row["paper_standard"] for row in papers] == [81.7, 82.4, 83.1, 82.7, 82.9]
    assert [row["paper_standard"] for row in ours] == ["-", "-", "-", "-", 82.9]
    assert all(known(row["standard"]) is not None and row["eot_draws"] == 1 for row in ours)


def test_the_picture_of_h_has_one_that_learned_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, drawn = Workshop("digits", SCALES["digits"], None, 0, "cpu"), {}
    monkeypatch.setattr(figure8_reparameterisation, "curve_figure", lambda curves, title, path: drawn.update(curves))
    monkeypatch.setattr(figure8_reparameterisation, "NB_IMAGES", {"digits": (64, 1200)})
    begun = {"training_images": 0, "steps": 0, "train_error": 0.16, "test_error": 0.17}
    rows = [begun, *({"training_images": n, "steps": 400, "train_error": 0.1, "test_error": 0.2} for n in (64, 1200))]
    figure8_reparameterisation.draw_errors(shop, rows)
    assert drawn["nothing learned"] == [(0, 0.17), (400, 0.17)]
    assert drawn["train error, 64 images"] == [(400, 0.1)]
    assert len(drawn) == 5
