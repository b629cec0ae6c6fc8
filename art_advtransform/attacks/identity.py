"""L5: what tells an attack, or a network, from a changed one of the same name: its code, and the values that it holds."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import sys
from collections.abc import Mapping
from dis import get_instructions
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from art_advtransform.defended import Queries
from art_advtransform.folding import hooks_of

# Where an object lies in memory says nothing of it.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)
# Nor in which line a scripted net was written, and which of its name it is.
_WHERE = re.compile(r"___torch_mangle_\d+\.| *#.*")
_HELD = re.compile(r'prim::GetAttr\[name="(\w+)"\]')
_PLAIN = (str, bytes, int, float, complex, ModuleType, BuiltinFunctionType, torch.dtype, torch.device)
_GENERATORS = (torch.Generator, np.random.Generator, random.Random)
# What of an object's own says how often it was used.
_USED = (*_GENERATORS, Queries)
# What every module keeps of itself: its parts are looked at one by one, its mode is not.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# What a function that calls these of a list, set or dict keeps there, it has met itself.
_WRITES = {"append", "extend", "insert", "add", "update", "clear", "pop", "setdefault"}
_KINDS = ("read", "written", "filled")


def identity(thing: object) -> str:
    """sha256 of a function or an object with functions: of bytecode, constants, defaults, closures, and globals.

    What it calls of the standard library and of installed packages is not in it, nor what it writes itself (counters, lists of
    what it met). The same function may have another identity under another version of Python.

    Example:
        >>> def attack_of(eps):
        ...     return lambda x, y: x + eps
        >>> identity(attack_of(0.1)) == identity(attack_of(0.1))
        True
        >>> identity(attack_of(0.1)) == identity(attack_of(0.2))
        False
    """
    return _digest(thing, {})


def network_identity(net: nn.Module) -> str:
    """sha256 of a network: structure as ``repr`` shows it, all parameters and buffers, code and attributes of its modules.

    Its hooks are code of it, too. Not the mode it is in, the state of its generators, nor what it writes into itself while it
    runs; of attributes with an underscore only numbers, strings, tensors and the like, not what may be a cache. Of modules of
    installed packages numbers and strings are in it, but not the code, unless that was traced or scripted.
    """
    return _digest(net, {})


def _digest(thing: object, seen: dict[int, object]) -> str:
    digest = hashlib.sha256()
    _add(digest, thing, seen)
    return digest.hexdigest()


def _add(digest: Any, thing: object, seen: dict[int, object]) -> None:
    """Feed ``thing``; what refers to itself is fed once."""
    if isinstance(thing, Tensor):
        digest.update(str((thing.shape, thing.dtype)).encode())
        # as bytes: numpy has no bfloat16
        digest.update(thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(thing, np.ndarray):
        digest.update(str((thing.shape, thing.dtype)).encode())
        digest.update(thing.tobytes() if thing.dtype != object else _ADDRESS.sub("", repr(thing)).encode())
    elif thing is None or isinstance(thing, _PLAIN):
        shown = thing.__name__ if isinstance(thing, ModuleType) else _ADDRESS.sub("", repr(thing))
        digest.update(f"{type(thing).__name__} {shown};".encode())
    elif id(thing) in seen:
        digest.update(b"again;")
    else:
        seen[id(thing)] = thing  # kept, so that nothing else gets its id
        name = thing if isinstance(thing, type) else type(thing)
        digest.update(f"{name.__module__}.{name.__qualname__};".encode())
        for part in _parts(thing):
            _add(digest, part, seen)


def _parts(thing: object) -> list[Any]:
    """What an object is made of."""
    if isinstance(thing, FunctionType):
        return _of_function(thing)
    if isinstance(thing, CodeType):
        return [thing.co_code, thing.co_names, thing.co_varnames, thing.co_consts]
    if isinstance(thing, MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, partial):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, Mapping):
        keys = sorted(thing, key=lambda key: _digest(key, {}))
        return [part for key in keys for part in (key, thing[key])]
    if isinstance(thing, (set, frozenset)):
        return sorted(thing, key=lambda part: _digest(part, {}))
    if isinstance(thing, (list, tuple)):
        return list(thing)
    if isinstance(thing, _GENERATORS):
        return [_state(thing)]
    if isinstance(thing, nn.Module):
        return _of_module(thing)
    if isinstance(thing, type):
        return _methods(thing)
    if dataclasses.is_dataclass(thing):
        fields = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
        return [*_methods(type(thing)), _kept(fields, [])]
    if _is_foreign(type(thing).__module__):
        return [_ADDRESS.sub("", repr(thing)), _settings(thing)]
    methods = _methods(type(thing))
    return [*methods, _kept(vars(thing) if hasattr(thing, "__dict__") else {}, methods)]


def _of_function(function: FunctionType) -> list[Any]:
    if _is_foreign(function.__module__ or ""):
        return [f"{function.__module__}.{function.__qualname__}"]
    names = _names(function.__code__)
    cells = [_contents(cell) for cell in function.__closure__ or ()]
    held = zip(function.__code__.co_freevars, cells, strict=True)
    cells = [value for name, value in held if not _is_written(name, value, names)]
    read = {name: function.__globals__[name] for name in sorted(names["read"] & function.__globals__.keys())}
    found = {name: value for name, value in read.items() if not _is_written(name, value, names)}
    return [function.__code__, function.__defaults__, function.__kwdefaults__, cells, found]


def _of_module(net: nn.Module) -> list[Any]:
    """Of a network: every module's attributes and code beside what ``repr`` shows."""
    parts: list[Any] = [_ADDRESS.sub("", repr(net)), dict(net.named_parameters()), dict(net.named_buffers())]
    for name, module in net.named_modules():
        methods = _methods(type(module))
        attributes = {k: v for k, v in vars(module).items() if k not in _OF_EVERY_MODULE}
        own = _settings(module) if _is_foreign(type(module).__module__) else _kept(attributes, methods)
        parts += [name, type(module).__qualname__, methods, own, *hooks_of(module), *_written_code(module)]
    return parts


def _written_code(module: nn.Module) -> list[Any]:
    """Where what runs is no class's method, but was written by torch: that, and the numbers that a scripted net keeps."""
    if isinstance(module, fx.GraphModule):
        return [str(module.code)]
    if not isinstance(module, torch.jit.ScriptModule):
        return []
    graph = _WHERE.sub("", str(getattr(module, "inlined_graph", "")))  # its code leaves constants out
    held = {name: getattr(module, name, None) for name in sorted(set(_HELD.findall(graph)))}
    return [graph, {name: value for name, value in held.items() if _is_plain(value)}]


def _methods(of: type) -> list[Any]:
    """Functions of a class, where it is not an installed package's."""
    if _is_foreign(of.__module__):
        return []
    found = [vars(base) for base in of.__mro__ if not _is_foreign(base.__module__)]
    own = [_unwrapped(value) for names in found for _, value in sorted(names.items())]
    return [value for value in own if isinstance(value, FunctionType)]


def _unwrapped(value: object) -> object:
    """The function behind a static or class method, or a property."""
    if isinstance(value, (staticmethod, classmethod)):
        return value.__func__
    return value.fget if isinstance(value, property) else value


def _settings(thing: object) -> dict[str, Any]:
    """Plain attributes of a package's object, as ART's preprocessors keep their parameters, which ``repr`` may not show."""
    attributes = vars(thing) if hasattr(thing, "__dict__") else {}
    own = {k: v for k, v in attributes.items() if not k.startswith("_") and k != "training"}
    return {k: v for k, v in own.items() if _is_plain(v)}


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (*_PLAIN, Tensor, np.ndarray))


def _kept(attributes: Mapping[str, Any], methods: list[Any]) -> dict[str, Any]:
    """Attributes that are not written, nor drawn from, while the object runs; of those with an underscore the plain ones."""
    running = _running(methods)
    names = {kind: set[str]().union(*(_names(method.__code__)[kind] for method in running)) for kind in _KINDS}
    names["written"] |= {
        str(step.argval)
        for method in running
        for step in get_instructions(method.__code__)
        if step.opname in ("STORE_ATTR", "DELETE_ATTR")
    }
    own = {k: v for k, v in attributes.items() if not _is_written(k, v, names) and not isinstance(v, _USED)}
    return {k: v for k, v in own.items() if not k.startswith("_") or _is_plain(v)}


def _running(methods: list[Any]) -> list[Any]:
    """Those of an object's ``methods`` that run when it is called; where it can't be, all but ``__init__``.

    What only others call, as a user does ``set_scale``, changes the object.
    """
    left = [method for method in methods if method.__name__ != "__init__"]
    named = {"forward", "__call__"}
    if not named.intersection(method.__name__ for method in left):
        return left
    found: list[Any] = []
    while any(method.__name__ in named for method in left):
        found += [method for method in left if method.__name__ in named]
        left = [method for method in left if method.__name__ not in named]
        named = set[str]().union(*(_names(method.__code__)["read"] for method in found))
    return found


def _is_written(name: str, value: object, names: Mapping[str, set[str]]) -> bool:
    """Whether a function with these ``names`` writes what it holds by ``name``; ``add`` of a tensor only looks like it."""
    return name in names["written"] or (name in names["filled"] and not isinstance(value, Tensor))


def _names(code: CodeType) -> dict[str, set[str]]:
    """Names outside it that a function, or one inside it, reads; that it writes, as counters; and that it fills, as lists."""
    found = {"read": set(code.co_names) | set(code.co_freevars), "written": set[str](), "filled": set[str]()}
    before = ""
    for step in get_instructions(code):
        outside = step.opname == "STORE_GLOBAL" or (step.opname == "STORE_DEREF" and step.argval in code.co_freevars)
        if outside:
            found["written"].add(str(step.argval))
        if step.opname in ("LOAD_METHOD", "LOAD_ATTR") and step.argval in _WRITES:
            found["filled"].add(before)
        before = str(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            for kind, names in _names(constant).items():
                found[kind] |= names
    return found


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.getstate()


def _contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def _is_foreign(module: str) -> bool:
    """Whether it is of the standard library or of an installed package, whose versions are known, but this one."""
    top = module.partition(".")[0]
    if top in ("art_advtransform", "__main__"):
        return False
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return top in sys.stdlib_module_names or "site-packages" in file or "dist-packages" in file
