"""Private, keyed and temporarily seeded generators."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from art_advtransform.randomness import derived_seed, global_seed, keyed_generator, private_generator


def draws(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(4, generator=generator)


def test_private_generator() -> None:
    mine = torch.Generator().manual_seed(0)
    assert private_generator(mine) is mine
    before = torch.get_rng_state()
    torch.manual_seed(0)
    first = draws(private_generator(None))
    torch.manual_seed(0)
    # seeded by the operating system, not by the global seed: nobody can guess the defence's draws
    assert not torch.equal(first, draws(private_generator(None)))
    torch.set_rng_state(before)


def test_derived_seeds_of_different_keys_differ() -> None:
    # also those that only differ in trailing zeros, which numpy's SeedSequence alone takes for the same
    keys = [(0,), (0, 0), (0, 0, 0), (1,), (1, 0), (0, 1), (1, 1), (0, 2), (2**40, 3), (3, 2**40), (3, 0, 2**8)]
    seeds = [derived_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # the same on every machine and in every version: records are replayed from it
    assert derived_seed(0, 1) == 5623719847981781756
    with pytest.raises(ValueError, match="non-negative"):
        derived_seed(-1)


def test_keyed_generators() -> None:
    assert torch.equal(draws(keyed_generator(0, 1)), draws(keyed_generator(0, 1)))
    assert not torch.equal(draws(keyed_generator(0, 1)), draws(keyed_generator(1, 0)))


def global_draws() -> tuple[float, float, float]:
    return float(torch.rand(1)), float(np.random.rand()), random.random()


def test_global_seed_is_temporary() -> None:
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()
    with global_seed(5):
        first = global_draws()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]
    assert random.getstate() == states[2]
    with global_seed(5):
        assert global_draws() == first
        with global_seed(6):
            assert not set(global_draws()) & set(first)
    with global_seed(2**40):  # numpy takes 32 bits only
        assert not set(global_draws()) & set(first)


def test_every_test_begins_with_the_same_global_state() -> None:
    found = float(torch.rand(1)), float(np.random.rand()), random.random()
    with global_seed(0):
        assert found == (float(torch.rand(1)), float(np.random.rand()), random.random())


def test_global_seed_ends_after_an_exception() -> None:
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()

    def fail() -> None:
        with global_seed(5):
            global_draws()
            raise KeyError("attack")

    with pytest.raises(KeyError, match="attack"):
        fail()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]
    assert random.getstate() == states[2]
