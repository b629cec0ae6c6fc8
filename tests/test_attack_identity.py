"""What tells a changed attack from the one whose results are kept: code, closures, options, networks."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.defences.preprocessor import JpegCompression
from torch import Tensor, nn

from art_advtransform.attacks.adaptive import momentum_pgd
from art_advtransform.attacks.art_attacks import art_attack
from art_advtransform.attacks.base import Attack, View, from_function
from art_advtransform.attacks.identity import identity, network_identity
from art_advtransform.frozen import FrozenModel
from art_advtransform.unrolled import Tanh
from tests.evaluations import run
from tests.models import toy_net

Function = Callable[[Tensor, Tensor], Tensor]
_STEP = 0.03


def by(size: float) -> Function:
    return lambda x, y: x + size


def with_default(x: Tensor, y: Tensor, size: float = 0.03) -> Tensor:
    return x + size


def with_global(x: Tensor, y: Tensor) -> Tensor:
    return x + _STEP


def through(inner: Function) -> Function:
    return lambda x, y: inner(x, y)


class Brighter:
    """An attack as an object."""

    def __init__(self, size: float) -> None:
        self.size = size

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.size

    def run(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.size


def patch_of(size: float) -> Function:
    patch = torch.full((2, 2), size)
    return lambda x, y: x + patch


def through_net(seed: int) -> Function:
    net = toy_net(seed)
    return lambda x, y: net(x)


# what makes one from a number: the same number must give the same identity, another number another
MAKERS: dict[str, Callable[[float], object]] = {
    "a closure": by,
    "a function inside": lambda size: through(by(size)),
    "a partial": lambda size: partial(with_default, size=size),
    "a callable object": Brighter,
    "a method": lambda size: Brighter(size).run,
    "a tensor": patch_of,
    "a net": lambda size: through_net(int(size * 100)),
    "a view": lambda size: Attack("a", lambda target, model: target.x, view=View(gradient=Tanh(size))).identity(),
    "options of a toolkit's": lambda size: art_attack("a", "ProjectedGradientDescent", eps_step=size).identity(),
    "steps": lambda size: momentum_pgd(int(size * 100)).generate,
}


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_that_of_what_it_does(name: str) -> None:
    make = MAKERS[name]
    assert identity(make(0.03)) == identity(make(0.03))
    assert identity(make(0.03)) != identity(make(0.04))


def test_other_code_is_another() -> None:
    functions: list[Any] = [with_default, with_global, by(0.03), lambda x, y: x - 0.03, lambda x, y: y]
    assert len({identity(f) for f in functions}) == len(functions)


def test_globals_and_defaults_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(with_global), identity(with_default)
    monkeypatch.setattr(f"{__name__}._STEP", 0.05)
    monkeypatch.setattr(with_default, "__defaults__", (0.05,))
    assert identity(with_global) != before[0]
    assert identity(with_default) != before[1]


_calls = 0


def test_what_it_writes_down_itself_does_not() -> None:
    seen: list[Tensor] = []
    count = 0

    def counting(x: Tensor, y: Tensor) -> Tensor:
        global _calls
        nonlocal count
        _calls, count = _calls + 1, count + 1
        seen.append(x)
        return x

    before = identity(counting)
    counting(torch.rand(2), torch.rand(2))
    assert (identity(counting), _calls, count, len(seen)) == (before, 1, 1, 1)


def test_what_refers_to_itself_ends() -> None:
    def again(x: Tensor, y: Tensor) -> Tensor:
        return again(x, y)

    assert len(identity(again)) == 64


def test_networks_by_structure_and_values() -> None:
    net = toy_net()
    base = network_identity(net)
    assert base == network_identity(toy_net())
    others = [toy_net(1), nn.Sequential(net, nn.ReLU()), nn.Sequential(net)]
    swapped = toy_net()
    assert isinstance(swapped, nn.Sequential)
    swapped.add_module("2", nn.Sigmoid())  # of no parameters
    assert len({base, *(network_identity(other) for other in [*others, swapped])}) == 5


def test_a_changed_attack_of_the_same_name_is_run_again(tmp_path: Any) -> None:
    first = run(preset=[from_function("mine", by(0.03))], out=tmp_path)
    other = run(preset=[from_function("mine", by(-0.03))], out=tmp_path)
    assert other.attacks[0].per_image == run(preset=[from_function("mine", by(-0.03))]).attacks[0].per_image
    assert other.attacks[0].per_image != first.attacks[0].per_image


# ---- what a look at the code alone would miss


def add_one(x: Any) -> Any:
    return x + 1


def add_two(x: Any) -> Any:
    return x + 2


def over(things: object) -> Function:
    return lambda x, y: x + len(str(things))


NET, TABLE = toy_net(), {"size": 0.03}


def with_global_net(x: Tensor, y: Tensor) -> Tensor:
    logits: Tensor = NET(x)
    return logits + TABLE["size"]


class Shifted(nn.Module):
    """Structure and weights don't tell its attributes."""

    def __init__(self, by: object) -> None:
        super().__init__()
        self.net, self.by, self.calls = toy_net(), by, 0
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x)
        logits: Tensor = self.net(x)
        return logits + float(str(self.by) == "1")


class Other(Shifted):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


HELD: dict[str, tuple[object, object]] = {
    "nets in a list": ([toy_net()], [toy_net(1)]),
    "tensors in a list": ([torch.zeros(2)], [torch.ones(2)]),
    "a dict in a list": ([{"a": 1}], [{"a": 2}]),
    "a large array": (np.arange(5000), np.arange(5000) + (np.arange(5000) == 2500)),
    "the ninth digit": (np.array([0.123456789]), np.array([0.123456788])),
    "a generator": (np.random.default_rng(0), np.random.default_rng(1)),
    "a generator of torch": (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)),
    "a set": ({"a", "b"}, {"a", "c"}),
}


@pytest.mark.parametrize("name", HELD)
def test_what_a_closure_holds_counts(name: str) -> None:
    one, other = HELD[name]
    assert identity(over(one)) == identity(over(copy.deepcopy(one)))
    assert identity(over(one)) != identity(over(other))


def test_nets_and_tables_among_the_globals_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {identity(with_global_net)}
    monkeypatch.setitem(TABLE, "size", 0.04)
    found.add(identity(with_global_net))
    monkeypatch.setattr(f"{__name__}.NET", toy_net(1))
    found.add(identity(with_global_net))
    assert len(found) == 3


def test_attributes_and_code_of_networks_count() -> None:
    made = [Shifted(1), Shifted(2), Shifted(by(1)), Shifted(by(2)), Other(1)]
    assert len({network_identity(net) for net in made}) == len(made)
    net = Shifted(1)
    before = network_identity(net)
    net.train(not net.training)
    net(torch.rand(2, 2, 6, 6))
    net.net.zero_grad()
    assert net.calls == len(net.seen) == 1
    net.net.train(not net.net.training)
    assert identity(net) == network_identity(net) == network_identity(net) != network_identity(Shifted(3))
    quiet = Shifted(1).eval()
    before = network_identity(quiet)
    quiet(torch.rand(2, 2, 6, 6))
    assert network_identity(quiet) == before
    quiet.register_buffer("mean", torch.zeros(1), persistent=False)
    buffered = network_identity(quiet)
    quiet.get_buffer("mean").add_(1)
    assert len({before, buffered, network_identity(quiet)}) == 3


class Scaled(nn.Module):
    """What makes it another net has an underscore, or a setter."""

    def __init__(self, k: float = 1.0, mean: float = 0.0, sizes: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        self.net, self.scale, self._k, self._mean, self._sizes = toy_net(), 1.0, k, torch.tensor(mean), list(sizes)
        self._met: dict[tuple[int, ...], int] = {}
        self._last: Tensor | None = None

    def set_scale(self, scale: float) -> None:
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        self._met[x.shape] = 1
        self._last = x
        return self.answer(x)

    def answer(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return self.scale * self._k * logits + self._mean * sum(self._sizes)


def test_private_attributes_of_networks_count_but_not_what_they_remember() -> None:
    made = [Scaled(), Scaled(k=-1.0), Scaled(mean=1.0), Scaled(sizes=(2,)), Scaled()]
    made[-1].set_scale(-1.0)
    assert len({network_identity(net) for net in made}) == len(made)
    net = Scaled()
    net(torch.rand(2, 2, 6, 6))
    assert net._met
    assert network_identity(net) == network_identity(Scaled())


def test_numbers_of_a_package_s_layer_count() -> None:
    # repr does not show how many heads there are
    heads = [nn.MultiheadAttention(8, n) for n in (2, 4)]
    heads[1].load_state_dict(heads[0].state_dict())
    assert network_identity(heads[0]) == network_identity(copy.deepcopy(heads[0])) != network_identity(heads[1])
    assert network_identity(heads[0]) == network_identity(heads[0].eval())


class Times(nn.Module):
    """One layer, and what is done before it."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.net, self.k = toy_net(), k

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x * self.k)
        return logits


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_code_that_torch_wrote_counts() -> None:
    # of f_b's fast copy there is no class to look at, nor of a scripted net
    makers: list[Callable[[float], nn.Module]] = [
        lambda k: FrozenModel(Times(k)),
        lambda k: torch.jit.trace(Times(k), torch.rand(1, 2, 6, 6)),
        lambda k: torch.jit.script(Times(k)),
    ]
    for made in makers:
        assert network_identity(made(1.0)) == network_identity(made(1.0)) != network_identity(made(2.0))
    assert FrozenModel(Times(1.0)).optimised


def test_adding_a_tensor_writes_nothing() -> None:
    def adding(size: float) -> Function:
        delta = torch.tensor(size)
        return lambda x, y: delta.add(x)

    assert identity(adding(0.1)) == identity(adding(0.1)) != identity(adding(0.2))


def test_parameters_of_a_package_s_object_count() -> None:
    # repr shows nothing of ART's preprocessors but where they lie
    made = [JpegCompression((0, 1), quality=quality) for quality in (50, 90)]
    assert identity(made[0]) == identity(JpegCompression((0, 1), quality=50)) != identity(made[1])


def test_static_methods_and_properties_count() -> None:
    def with_static(shift: int) -> type:
        return type("Made", (), {"__module__": __name__, "f": staticmethod(add_one if shift == 1 else add_two)})

    def with_property(shift: int) -> type:
        return type("Made", (), {"__module__": __name__, "f": property(add_one if shift == 1 else add_two)})

    for make in (with_static, with_property):
        assert identity(make(1)) == identity(make(1)) != identity(make(2))


def test_it_is_the_same_in_another_process(tmp_path: Any) -> None:
    script = tmp_path / "one.py"
    script.write_text(
        "import numpy as np, torch\n"
        "from art_advtransform.attacks.identity import identity\n"
        "from art_advtransform.attacks.presets import PRESETS\n"
        "rng, names = np.random.default_rng(0), {'a', 'b', 'c', (1, 2), 'long name'}\n"
        "def attack(x, y):\n"
        "    return x + rng.normal() + len(names)\n"
        "print(identity(attack), *(a.identity() for make in PRESETS.values() for a in make()))\n"
    )
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1
