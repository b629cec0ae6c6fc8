"""The layers of the package: imports go downwards only, hosts stay at the edge, nothing heavy at import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import art_advtransform

PACKAGE = Path(art_advtransform.__file__).parent
HOSTS = {"art", "foolbox", "torchattacks"}

# first match counts; a module that is not here fails the test, so that a newcomer must be given a place
LAYERS = {
    "config": 0,
    "randomness": 0,
    "transform": 1,
    "arithmetic": 1,
    "folding": 1,
    "frozen": 1,
    "backward": 2,
    "unrolled": 2,
    "gradients": 2,
    "smoothing": 2,
    "layer": 3,
    "defended": 3,
    "networks": 3,
    "pretrained": 3,
    "image_tree": 3,
    "datasets": 3,
    "adapters": 4,
    "adapters.*": 4,
    "losses": 4,
    "checkpoint": 4,
    "bank": 4,
    "training": 4,
    "recipes": 4,
    "train_nets": 4,
    "measuring": 4,
    "attacks": 5,
    "attacks.*": 5,
    "evaluation": 6,
    "runs": 6,
    "judging": 6,
    "plan": 6,
    "pool": 6,
    "pooling": 6,
    "store": 6,
    "shards": 6,
    "counting": 6,
    "records": 6,
    "diagnostics*": 6,
    "expectation": 6,
    "report": 7,
    "diagnosis": 7,
    "figures": 7,
    "page": 7,
    "evaluate_nets": 7,
    "terminal": 8,
    "cli": 8,
    "options": 8,
    "__main__": 8,
}


def layer_of(module: str) -> int:
    for pattern, layer in LAYERS.items():
        if fnmatch(module, pattern):
            return layer
    pytest.fail(f"{module} has no layer: give it one in the table of this test")


def modules() -> dict[str, Path]:
    """Every module but the package's own ``__init__``, by its name below the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


MODULES = modules()


def runtime_imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports anywhere in the file, inside functions too, but not under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.orelse:
                yield from runtime_imports(statement)
        elif isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        else:
            yield from runtime_imports(child)


def imported(path: Path) -> set[str]:
    """Dotted names that the file imports; ``from a import b`` counts as a.b where that is a module of the package."""
    names: set[str] = set()
    for node in runtime_imports(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
        module = node.module or ""
        for alias in node.names:
            below = f"{module}.{alias.name}"
            names.add(below if below.removeprefix("art_advtransform.") in MODULES else module)
            if module == "art_advtransform" and alias.name in art_advtransform._HOME:
                names.add(f"art_advtransform.{art_advtransform._HOME[alias.name]}")
    return names


def own_imports(path: Path) -> set[str]:
    prefix = "art_advtransform."
    return {name.removeprefix(prefix) for name in imported(path) if name.startswith(prefix)}


def test_walker_sees_imports_in_functions_but_not_those_for_types(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from art_advtransform.cli import main\n"
        "def f():\n    try:\n        from art_advtransform import layer\n    finally:\n        import art.attacks\n"
        "from art_advtransform import DefendedModel\n"
    )
    assert own_imports(source) == {"layer", "defended"}
    assert "art.attacks" in imported(source)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_downwards(name: str) -> None:
    too_high = {other for other in own_imports(MODULES[name]) if layer_of(other) > layer_of(name)}
    assert not too_high, f"{name} (L{layer_of(name)}) imports {', '.join(sorted(too_high))}"


@pytest.mark.parametrize("name", [name for name in MODULES if fnmatch(name, "adapters.*")])
def test_adapters_do_not_know_each_other(name: str) -> None:
    assert not {other for other in own_imports(MODULES[name]) if other.startswith("adapters")}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_says_the_layer(name: str) -> None:
    docstring = ast.get_docstring(ast.parse(MODULES[name].read_text())) or ""
    assert re.match(rf"L{layer_of(name)}: \S", docstring), f"{name} starts with {docstring[:40]!r}"


@pytest.mark.parametrize("name", [name for name in MODULES if layer_of(name) <= 3])
def test_core_knows_no_host(name: str) -> None:
    assert not {other.split(".")[0] for other in imported(MODULES[name])} & HOSTS


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that are loaded in a fresh interpreter after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_of_the_package_is_light() -> None:
    loaded = loaded_by("import art_advtransform")
    assert "art_advtransform" in loaded
    assert not loaded & (HOSTS | {"torch", "matplotlib", "pandas"})


def test_use_of_the_core_loads_no_host() -> None:
    loaded = loaded_by("from art_advtransform import LLPGDTransform, DefendedModel, SmallVGG, GRADIENTS")
    assert "torch" in loaded
    assert not loaded & (HOSTS | {"matplotlib", "pandas"})


@pytest.mark.parametrize("name", art_advtransform.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(art_advtransform, name) is not None
    assert name in dir(art_advtransform)


def test_public_names_are_those_with_a_home() -> None:
    assert sorted(art_advtransform.__all__) == sorted(art_advtransform._HOME)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'art_advtransform' has no attribute 'nothing'"):
        art_advtransform.nothing  # noqa: B018
