"""L5: what tells an attack from a changed one of the same name: its code, and the values that its functions hold."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dis import get_instructions
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# Where an object lies in memory says nothing of it.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def identity(thing: object) -> str:
    """sha256 of a function or an object with functions: of bytecode, constants, defaults, closures, and globals of the same module.

    What it calls of other modules is not in it, nor what it writes itself (counters, lists of what it met). Two functions of the
    same identity do the same; the same function may have another under another version of Python.

    Example:
        >>> def attack_of(eps):
        ...     return lambda x, y: x + eps
        >>> identity(attack_of(0.1)) == identity(attack_of(0.1))
        True
        >>> identity(attack_of(0.1)) == identity(attack_of(0.2))
        False
    """
    digest = hashlib.sha256()
    _add(digest, thing, {})
    return digest.hexdigest()


def network_identity(net: nn.Module) -> str:
    """sha256 of a network: its structure as ``repr`` shows it, names, shapes, types and values of parameters and buffers."""
    digest = hashlib.sha256(_ADDRESS.sub("", repr(net)).encode())
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, Tensor):
            _add_tensor(digest, tensor)
    return digest.hexdigest()


def _add(digest: Any, thing: object, seen: dict[int, object]) -> None:
    """Feed ``thing``; what refers to itself is fed once."""
    if isinstance(thing, Tensor):
        _add_tensor(digest, thing)
    elif thing is None or isinstance(thing, (str, bytes, int, float, complex, type, ModuleType, torch.dtype)):
        digest.update(f"{type(thing).__name__} {thing!r};".encode())
    elif id(thing) in seen:
        digest.update(b"again;")
    else:
        seen[id(thing)] = thing  # kept, so that nothing else gets its id
        digest.update(type(thing).__qualname__.encode())
        if isinstance(thing, nn.Module):
            digest.update(network_identity(thing).encode())
        else:
            for part in _parts(thing):
                _add(digest, part, seen)


def _parts(thing: object) -> list[Any]:
    """What an object is made of."""
    if isinstance(thing, FunctionType):
        written = _names(thing.__code__)["written"]
        held = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        cells = tuple(_contents(cell) for name, cell in held if name not in written)
        return [thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells, _globals(thing)]
    if isinstance(thing, CodeType):
        return [thing.co_code, thing.co_names, thing.co_varnames, thing.co_consts]
    if isinstance(thing, MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, partial):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, Mapping):
        return [part for key in sorted(thing, key=repr) for part in (key, thing[key])]
    if isinstance(thing, (set, frozenset)):
        return sorted(thing, key=repr)
    if isinstance(thing, tuple):
        return list(thing)
    if isinstance(thing, list):  # where a function writes down what it meets, it stays the same
        return [part for part in thing if _stays(part)]
    if dataclasses.is_dataclass(thing):
        return [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    called = [type(thing).__call__] if callable(thing) else []
    state = getattr(thing, "__dict__", None)
    return [*called, dict(state) if state else _ADDRESS.sub("", repr(thing))]


def _stays(part: object) -> bool:
    parameters = getattr(type(part), "__dataclass_params__", None)
    return (
        getattr(parameters, "frozen", False)
        or part is None
        or isinstance(part, (str, bytes, int, float, tuple, FunctionType))
    )


def _globals(function: FunctionType) -> dict[str, Any]:
    """Functions and plain values of its own module that it names; other modules have versions."""
    found = {}
    names = _names(function.__code__)
    for name in sorted(names["read"] - names["written"] & function.__globals__.keys()):
        value = function.__globals__[name]
        own = isinstance(value, FunctionType) and value.__module__ == function.__module__
        if own or isinstance(value, (str, bytes, int, float, tuple, list, Tensor)):
            found[name] = value
    return found


def _names(code: CodeType) -> dict[str, set[str]]:
    """Names outside it that a function, or one inside it, reads; and those that it writes, which are counters and the like."""
    found = {"read": set(code.co_names) | set(code.co_freevars), "written": set[str]()}
    for step in get_instructions(code):
        if step.opname == "STORE_GLOBAL" or (step.opname == "STORE_DEREF" and step.argval in code.co_freevars):
            found["written"].add(str(step.argval))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            for kind, names in _names(constant).items():
                found[kind] |= names
    return found


def _contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def _add_tensor(digest: Any, tensor: Tensor) -> None:
    digest.update(str((tensor.shape, tensor.dtype)).encode())
    # as bytes: numpy has no bfloat16
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
