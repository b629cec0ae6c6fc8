"""The nets that the paper's tables share: trained once, alike, by scale."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from art_advtransform.attacks.base import from_function
from art_advtransform.attacks.identity import network_identity
from art_advtransform.datasets import ImageSet, load_dataset
from art_advtransform.expectation import expected_g
from art_advtransform.layer import LLPGDTransform
from art_advtransform.pretrained import BUNDLED, load_pretrained, read_card
from art_advtransform.recipes import Net, preset_nets
from benchmarks.keeping import copy_net, means_of_g
from benchmarks.scales import SCALES
from benchmarks.table2_black_box import another_seed
from benchmarks.workshop import NB_MEASURED, Workshop


def test_nets_that_ship_replace_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    folder = shop.home / "nets" / "f_b-adversarial"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text('{"net": {}}')  # of a training of long ago
    shop.nets({"f_b-adversarial": shop.recipe("f_b-adversarial")})
    assert read_card(folder) == read_card("digits/f_b-adversarial")


def test_a_net_that_another_table_trained_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    untrained = shop.recipe("undefended", nb_epochs=0)
    first = shop.nets({"one": untrained})["one"]

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.workshop.train_nets", never)
        again = shop.nets({"one": untrained, "other": untrained})
        assert network_identity(again["other"]) == network_identity(first)
        with pytest.raises(AssertionError, match="trained again"):  # of another recipe, under a name that is taken
            shop.nets({"other": shop.recipe("undefended", nb_epochs=0, about="another")})


def test_nets_that_come_with_the_repository_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.workshop.COMMITTED", tmp_path / "committed")
    shop, larger = (
        Workshop("digits", replace(SCALES["digits"], train_images=images), None, 0, "cpu") for images in (64, 65)
    )
    untrained = shop.recipe("undefended", nb_epochs=0)
    first = shop.nets({"one": untrained})["one"]
    nets = shop.home / "nets"
    (nets / "other.checkpoint.safetensors").write_bytes(b"half way")
    (tmp_path / "committed").mkdir()
    nets.rename(tmp_path / "committed" / shop.home.name)
    (nets / "one").mkdir(parents=True)
    (nets / "one" / "card.json").write_text('{"net": {}}')  # of a training of long ago

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("benchmarks.workshop.train_nets", never)
    for name in ("one", "by another name"):
        assert network_identity(shop.nets({name: untrained})[name]) == network_identity(first)
    assert shop.kept("other.checkpoint.safetensors").read_bytes() == b"half way"
    (nets / "other.checkpoint.safetensors").write_bytes(b"further")  # what has been done here since
    assert shop.kept("other.checkpoint.safetensors").read_bytes() == b"further"
    for other, recipe in ((shop, replace(untrained, about="of another recipe")), (larger, untrained)):
        with pytest.raises(AssertionError, match="trained again"):
            other.nets({"one": recipe})


def test_a_net_of_the_repository_is_taken_behind_its_own_f_b_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.workshop.COMMITTED", tmp_path / "committed")
    shop = Workshop("digits", replace(SCALES["digits"], train_images=64, shipped=()), None, 0, "cpu")
    defended = shop.recipe("f_a-defended", nb_epochs=0)
    f_bs = [shop.recipe("f_b-adversarial", nb_epochs=0, recipe=replace(defended.recipe, seed=seed)) for seed in (0, 1)]
    shop.nets({"f_b-adversarial": f_bs[0], "f_a-defended": defended})
    (tmp_path / "committed").mkdir()
    (shop.home / "nets").rename(tmp_path / "committed" / shop.home.name)
    for f_b, trained in ((f_bs[0], []), (f_bs[1], ["f_b-adversarial", "f_a-defended"])):
        seen: list[str] = []
        monkeypatch.setattr("benchmarks.workshop.told", lambda name, *_, seen=seen: seen.append(name))
        shop.nets({"f_b-adversarial": f_b, "f_a-defended": defended})
        assert list(dict.fromkeys(seen)) == trained


def test_nets_of_other_training_images_are_trained_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train, untrained = load_dataset("digits", "train"), preset_nets("digits")["undefended"]
    untrained = replace(untrained, recipe=replace(untrained.recipe, nb_epochs=0, warmup=0))
    for encode in (None, lambda x: 1 - x):
        cards = []
        for images in (train.sample(100), train.sample(100), train.sample(120), train.sample(120, 5)):
            shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
            vars(shop)["train"] = images
            shop.nets({"one": untrained, "same": untrained}, encode)
            cards.append(read_card(shop.home / "nets" / "one"))
            assert read_card(shop.home / "nets" / "same") == cards[-1]
        assert [card["train_images"] for card in cards] == [100, 100, 120, 120]
        # of encoded images the number alone is compared: to encode them takes longer than to train
        assert (cards[2]["train_sha256"] == cards[3]["train_sha256"]) == (encode is not None)
        untrained = replace(untrained, about="on encoded images")


def test_a_kill_while_a_net_trains_does_not_lose_its_encoded_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shop = Workshop("digits", replace(SCALES["digits"], train_images=64), None, 0, "cpu")
    untrained, seen = shop.recipe("undefended", nb_epochs=0, about="on encoded images"), []

    def encode(x: Tensor) -> Tensor:
        seen.append(len(x))
        return 1 - x

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.workshop.train_nets", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.nets({"one": untrained}, encode)
    nb_test = min(NB_MEASURED, len(shop.test))
    shop.nets({"one": untrained}, encode)
    assert seen == [64, nb_test]
    expected = replace(shop.train, x=1 - shop.train.x)
    assert read_card(shop.home / "nets" / "one")["train_sha256"] == expected.sha256()
    assert not list((shop.home / "nets").glob("*.safetensors"))
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.workshop.train_nets", killed)
        shop.nets({"two": untrained}, encode)  # another name for what is there: nothing is trained
        with pytest.raises(KeyboardInterrupt):
            shop.nets({"two": replace(untrained, about="on images encoded otherwise")}, encode)
    shop.nets({"two": replace(untrained, about="encoded in a third way")}, encode)
    assert seen[2:] == [64, nb_test] * 2


def test_nets_that_ship_need_no_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def not_there(dataset: str, split: str, root: Path | None) -> ImageSet:
        raise FileNotFoundError(split)

    monkeypatch.setattr("benchmarks.workshop.load_dataset", not_there)
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    assert list(shop.nets({"f_b-adversarial": shop.recipe("f_b-adversarial")})) == ["f_b-adversarial"]


def test_a_kill_while_a_net_is_copied_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    untrained = shop.recipe("undefended", nb_epochs=0)
    first = shop.nets({"one": untrained})["one"]

    def killed(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "card.json").write_bytes((Path(source) / "card.json").read_bytes())
        raise KeyboardInterrupt

    for recipe in (untrained, shop.recipe("f_b-adversarial")):  # copied from another table's, and from the package
        with monkeypatch.context() as patch:
            patch.setattr("shutil.copytree", killed)
            with pytest.raises(KeyboardInterrupt):
                shop.nets({"other": recipe})
        assert not (shop.home / "nets" / "other").exists()
        shop.nets({"other": recipe})
        (shop.home / "nets" / "other").rename(tmp_path / recipe.role)
    assert network_identity(shop.nets({"one": untrained})["one"]) == network_identity(first)


def test_two_tables_may_copy_a_net_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, copytree = BUNDLED / "digits" / "undefended", shutil.copytree

    def beside_another(source: Path, target: Path) -> Path:
        made = copytree(source, target)
        monkeypatch.setattr("shutil.copytree", copytree)
        copy_net(net, tmp_path / "undefended")  # the other one, from begin to end
        return made

    monkeypatch.setattr("shutil.copytree", beside_another)
    copy_net(net, tmp_path / "undefended")
    assert [path.name for path in tmp_path.iterdir()] == ["undefended"]

    rmtree = shutil.rmtree

    def between(folder: Path, ignore_errors: bool) -> None:
        rmtree(folder, ignore_errors=ignore_errors)
        monkeypatch.setattr("shutil.rmtree", rmtree)
        copy_net(net, tmp_path / "undefended")  # where the first one has made room for its own

    monkeypatch.setattr("shutil.rmtree", between)
    copy_net(net, tmp_path / "undefended")
    assert [path.name for path in tmp_path.iterdir()] == ["undefended"]
    assert read_card(tmp_path / "undefended") == read_card("digits/undefended")


def test_what_stands_side_by_side_is_trained_alike() -> None:
    shop = Workshop("digits", SCALES["digits"], None, 0, "cpu")
    epochs = {shop.recipe("undefended").recipe.nb_epochs, shop.adversarial("trades").recipe.nb_epochs}
    assert epochs == {shop.recipe("f_a-defended").recipe.nb_epochs}
    assert shop.adversarial("trades").attack_steps == shop.adversarial("adversarial").attack_steps == 3
    # a net that ships was trained for longer: a scale takes it where it says so, and no other
    assert "undefended" not in shop.bundled
    assert shop.recipe("undefended").to_json() != read_card("digits/undefended")["net"]


def test_a_scale_with_small_nets_and_few_images_trains_all_of_them_so() -> None:
    shop = Workshop("cpu", SCALES["cpu"], None, 0, "cpu")
    nets = [shop.recipe(name) for name in ("f_a-defended", "undefended")]
    nets += [shop.adversarial(role) for role in ("adversarial", "trades", "metric")]
    assert {net.arguments["width"] for net in nets} == {12}
    assert {net.recipe.nb_epochs for net in nets} == {10}
    # f_b and a black-box attacker's net are those that ship
    assert (
        shop.recipe("f_b-adversarial").to_json() == Net.from_json(read_card("cifar10/f_b-adversarial")["net"]).to_json()
    )
    assert shop.surrogate().to_json() == Net.from_json(read_card("cifar10/f_b-standard")["net"]).to_json()
    # an f_b for Table 1 is none of them, and has no width
    plain = shop.recipe("f_b-adversarial", role="plain", threat=None, nb_epochs=5)
    assert (plain.recipe.nb_epochs, plain.arguments) == (5, shop.recipe("f_b-adversarial").arguments)


def test_a_table_whose_nets_all_ship_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["table2", "--scale", "cpu"])
    shop, trained_here = (Workshop.from_command_line("", all_ship=all_ship) for all_ship in (True, False))
    for name in ("f_b-adversarial", "f_b-standard", "f_a-defended", "undefended", "adversarial"):
        shipped = Net.from_json(read_card(f"cifar10/{name}")["net"]).to_json()
        assert shop.recipe(name).to_json() == shipped
        assert name.startswith("f_b") or trained_here.recipe(name).to_json() != shipped
    assert shop.adversarial("adversarial").to_json() == shop.recipe("adversarial").to_json()
    assert another_seed(shop) == {}
    assert list(another_seed(trained_here)) == ["surrogate-2"]
    # nets of the same names, trained at this scale, are another folder's
    assert shop.home != trained_here.home


def test_nets_of_fewer_images_are_kept_apart() -> None:
    shop = Workshop("digits", replace(SCALES["digits"], train_images=100), None, 0, "cpu")
    assert len(shop.train) == 100
    assert shop.home != Workshop("digits", SCALES["digits"], None, 0, "cpu").home
    # a data set that has fewer keeps them all
    assert len(Workshop("digits", replace(SCALES["digits"], train_images=10**6), None, 0, "cpu").train) == 1200


@pytest.mark.parametrize(("scale", "found"), [("digits", ("digits", 10)), ("cpu", ("tiny_imagenet", None))])
def test_another_data_set_has_its_own_numbers(
    scale: str, found: tuple[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["table6", "--scale", scale])
    shop = Workshop.from_command_line("", dataset="tiny_imagenet")
    assert (shop.scale.dataset, shop.scale.nb_epochs) == found
    if scale == "cpu":
        assert set(shop.bundled) == {"f_b-adversarial", "f_a-defended", "undefended"}
        for name, shipped in shop.bundled.items():
            assert shop.recipe(name).to_json() == shipped == preset_nets("tiny_imagenet")[name].to_json()
        # those of the preset's own recipe that don't ship are trained by it
        rivals = {role: shop.adversarial(role).to_json() for role in ("adversarial", "trades", "metric")}
        assert rivals == {role: preset_nets("tiny_imagenet")[role].to_json() for role in rivals}
        assert [rivals[role]["role"] for role in rivals] == list(rivals)
        assert {net["recipe"]["nb_epochs"] for net in rivals.values()} == {shop.recipe("f_a-defended").recipe.nb_epochs}
        assert shop.surrogate() == preset_nets("tiny_imagenet")["f_b-standard"]


def test_another_seed_s_results_stand_beside() -> None:
    shop, other = (Workshop("digits", SCALES["digits"], None, seed, "cpu") for seed in (0, 1))
    assert shop.named("table1") == "table1"
    assert other.named("table1") == "table1-seed1"
    assert shop.home == other.home  # nets have seeds of their own


def test_an_evaluation_of_other_packages_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shop, f_a = Workshop("digits", SCALES["digits"], None, 0, "cpu"), load_pretrained("digits/undefended")
    calls: list[int] = []

    def darker(x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(x))
        return x - 0.125

    def run(python: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("art_advtransform.records.platform.python_version", lambda: python)
            found = shop.evaluate("any", f_a, None, [from_function("darker", darker)])
        return str(found.settings["fingerprint"])[:8]

    first = run("3.98")
    assert run("3.98") == first
    assert len(calls) == 1
    made = {path.name: path.read_bytes() for path in (shop.home / "any" / "chunks").iterdir()}
    second, third = run("3.99"), run("3.100")
    assert len(calls) == 3
    aside = {folder.name for folder in shop.home.glob("any.before-*")}
    assert aside == {f"any.before-{first}", f"any.before-{second}"}
    kept = shop.home / f"any.before-{first}" / "chunks"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == made
    # it is taken again, whichever was there in between
    for python in ("3.98", "3.99", "3.100"):
        run(python)
    assert len(calls) == 3
    assert {folder.name for folder in shop.home.glob("any*")} == aside | {"any"}
    assert run("3.100") == third


def test_the_mean_of_g_is_taken_from_file_once_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f_b, x = load_pretrained("digits/f_b-adversarial"), load_dataset("digits").sample(3).x
    told: list[tuple[int, int]] = []
    found = means_of_g(f_b, x, 4, 0, tmp_path, lambda done, total: told.append((done, total)))
    halves = [expected_g(LLPGDTransform(f_b), x, 2, draws) for draws in (0, 1)]
    assert not torch.equal(*halves)
    torch.testing.assert_close(found, torch.stack(halves), rtol=0, atol=0)
    assert told == [(done, 4) for done in (1, 2, 3, 4)]

    def made_again(*arguments: object) -> None:
        raise InterruptedError

    monkeypatch.setattr("benchmarks.keeping.expected_g", made_again)
    assert torch.equal(means_of_g(f_b, x, 4, 0, tmp_path, made_again), found)
    others = [(load_pretrained("digits/undefended"), x, 4, 0), (f_b, x[:2], 4, 0), (f_b, x, 6, 0), (f_b, x, 4, 1)]
    for other in others:
        with pytest.raises(InterruptedError):
            means_of_g(*other, tmp_path, made_again)
    monkeypatch.setattr("benchmarks.keeping._code_of_g", lambda: "mended")
    with pytest.raises(InterruptedError):
        means_of_g(f_b, x, 4, 0, tmp_path, made_again)
    with pytest.raises(ValueError, match="expected an even nb_draws, got 5"):
        means_of_g(f_b, x, 5, 0, tmp_path, made_again)
