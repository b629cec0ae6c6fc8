"""L1: f_b's graph made fast, with the same values and gradients. All that is done for speed is done here and nowhere else."""

from __future__ import annotations

import copy
import logging
import operator
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from art_advtransform.randomness import global_seed

logger = logging.getLogger(__name__)

_RELU_FUNCTIONS = (F.relu, torch.relu)
_POOL_FUNCTIONS = (F.max_pool2d, torch.max_pool2d)


def folded_copy(plain: nn.Module) -> nn.Module | None:
    """The folded, traced, channels_last copy on the CPU, or ``None`` where it can't be made. ``plain`` is left as it is.

    It is folded there since a GPU's square root is another: f_b is the same net, with the same hash, wherever it was frozen.
    """
    if any(hooks_of(module) for module in plain.modules()):
        return None  # tracing would lose the model's own hooks, folding those of a layer
    try:
        traced = _traced(copy.deepcopy(plain).cpu())
        if _writes_what_others_read(traced) or not _layers_run_once(traced) or not _views_replaced(traced):
            return None
        # "fuse" leaves batch norm alone where the convolution's output is used elsewhere too
        folded = fuse(traced, inplace=True, no_trace=True)
        if isinstance(folded, fx.GraphModule):
            _relu_behind_pool(folded)
            _first_convolution(folded)
        return folded.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    except Exception as error:  # tracing runs the user's own code: whatever it raises, the plain copy still serves
        logger.info("f_b can't be optimised (%s: %s); using a plain frozen copy", type(error).__name__, error)
        return None


def hooks_of(module: nn.Module) -> list[Any]:
    """What is called before and after a module's own code, forward and backward."""
    before_and_after = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    return [hook for hooks in before_and_after for hook in hooks.values()]


# What x += y and the like are.
_AUGMENTED = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")


class _Proxy(fx.Proxy):
    """Keeps ``x += y`` what it is: torch.fx makes ``x = x + y`` of it, another net where x is read by another name."""


def _augmented(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def write(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    return write


for _written in _AUGMENTED:
    setattr(_Proxy, f"__{_written}__", _augmented(_written))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _traced(net: nn.Module) -> fx.GraphModule:
    """The graph of ``net``.

    Raises:
        ValueError: for one that draws, of which tracing would keep a single draw.
    """
    tracer = _Tracer()
    with global_seed(0):
        before = _global_state()
        graph = tracer.trace(net)
        if _global_state() != before:
            raise ValueError("it draws from global state")
    return fx.GraphModule(net, graph)


def _global_state() -> tuple[bytes, str, str]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    drawn = b"".join(state.numpy().tobytes() for state in states)
    return drawn, str(random.getstate()), str(np.random.get_state(legacy=False))


def _layers_run_once(traced: fx.GraphModule) -> bool:
    """Whether no layer with weights is used twice: folding batch norm into it would change its other use."""
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    # a weight that forward() reads by itself is a use of its layer too
    read = {str(node.target).rpartition(".")[0] for node in traced.graph.nodes if node.op == "get_attr"}
    modules = dict(traced.named_modules())
    weighted = [name for name in calls if any(True for _ in modules[name].parameters())]
    return all(calls[name] == 1 and name not in read for name in weighted)


def _views_replaced(traced: fx.GraphModule) -> bool:
    """Whether every ``view``, which refuses channels_last, could be made a ``reshape``: the same values of a shape alone."""
    for node in traced.graph.nodes:
        if node.op == "call_method" and node.target == "view":
            if node.kwargs or not all(
                isinstance(n, int) or (isinstance(n, fx.Node) and _is_size(n)) for n in node.args[1:]
            ):
                return False
            node.target = "reshape"
    traced.recompile()
    return True


# Whose result may share its input's memory, or be a copy of it: which, hangs on the memory format.
_MAY_SHARE = {
    *(
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "ravel",
        "contiguous",
        "view_as",
        "reshape_as",
        "getitem",
        "select",
        "narrow",
    ),
    *("squeeze", "unsqueeze", "transpose", "permute", "t", "expand", "expand_as", "chunk", "split", "unbind", "unfold"),
    *("detach", "to", "float", "double", "type", "type_as", "dropout"),
}
_MAY_SHARE_LAYERS = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d)


def _writes_what_others_read(traced: fx.GraphModule) -> bool:
    """Whether something is written in place that a reader has, or may have, by another name.

    In channels_last ``flatten`` and ``reshape`` are copies, which such a reader would not notice the write in.
    """
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        by, source, renamed = node, node.args[0] if _in_place(node, modules) and node.args else None, False
        while isinstance(source, fx.Node):
            others = [user for user in source.users if user is not by and not _is_size(user)]
            if others and (renamed or any(_may_share(user, modules) or _in_place(user, modules) for user in others)):
                return True
            renamed = renamed or _may_share(source, modules)
            goes_on = _may_share(source, modules) or _in_place(source, modules)
            by, source = source, source.args[0] if source.args and goes_on else None
    return False


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def _may_share(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[_name(node)], _MAY_SHARE_LAYERS)
    return node.op in ("call_method", "call_function") and _name(node) in _MAY_SHARE


def _in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[_name(node)], "inplace", False))
    if node.op not in ("call_method", "call_function"):
        return False
    name = _name(node)
    return (name.endswith("_") and not name.endswith("__")) or bool(node.kwargs.get("inplace")) or name in _AUGMENTED


def _is_size(node: fx.Node) -> bool:
    """Whether it is one of a tensor's sizes, or all of them."""
    if node.op == "call_method":
        return node.target == "size"
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return str(node.args[1]) == "shape"
    return node.target is operator.getitem and isinstance(node.args[0], fx.Node) and _is_size(node.args[0])


def _relu_behind_pool(traced: fx.GraphModule) -> None:
    """pool(relu(v)) -> relu(pool(v)): max pooling picks the same element, and ReLU runs on a quarter of them."""
    modules = dict(traced.named_modules())
    for pool in list(traced.graph.nodes):
        if not _is(pool, modules, nn.MaxPool2d, _POOL_FUNCTIONS) or _returns_indices(pool):
            continue
        relu = pool.args[0] if pool.args else None
        if not (isinstance(relu, fx.Node) and _is(relu, modules, nn.ReLU, _RELU_FUNCTIONS)):
            continue
        before = relu.args[0]
        # an in-place ReLU also changes what other users of its input see, so both must have no other user
        if not isinstance(before, fx.Node) or len(relu.users) != 1 or len(before.users) != 1:
            continue
        pool.replace_input_with(relu, before)
        pool.replace_all_uses_with(relu)
        relu.replace_input_with(before, pool)
        pool.append(relu)
    traced.graph.lint()
    traced.recompile()


class _FirstConvolution(nn.Module):
    """A 3x3 convolution of an image with up to four channels, with a faster gradient at the image; the same value.

    Kernels fill their lanes with output channels, and the gradient at an image has but three. Computed for blocks of 2x2 pixels at
    a time it is a 4x4 convolution of stride 2 with twelve: 0.74 ms instead of 1.46 for 32 images of 32x32 (Table 4 net, two cores
    with AVX-512). It is linear in what comes back, so that autograd can differentiate it again.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        weight = convolution.weight.detach()
        blocked = weight.new_zeros(weight.shape[1], 2, 2, weight.shape[0], 4, 4)
        for a in range(2):
            for b in range(2):
                # pixel (2i + a, 2j + b) takes part in outputs 2i + a + 1 - k, k = 0 .. 2; the window begins at 2i - 1
                blocked[:, a, b, :, a : a + 3, b : b + 3] = weight.flip(2, 3).transpose(0, 1)
        self.register_buffer("blocked", blocked.flatten(0, 2))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.shape[2] % 2 or x.shape[3] % 2:
            value: Tensor = self.convolution(x)
            return value
        value = _BlockedGradient.apply(x, self.convolution.weight, self.convolution.bias, self.blocked)
        return value

    @staticmethod
    def replaces(module: nn.Module) -> bool:
        """Whether ``module`` is such a convolution."""
        return (
            type(module) is nn.Conv2d
            and module.in_channels <= 4
            and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
            and (module.dilation, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
        )


class _BlockedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, blocked: Tensor) -> Tensor:
        ctx.save_for_backward(blocked)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None]:
        (blocked,) = ctx.saved_tensors
        # under autocast v comes back in half precision
        return F.pixel_shuffle(F.conv2d(v, blocked.to(v.dtype), stride=2, padding=1), 2), None, None, None


def _first_convolution(traced: fx.GraphModule) -> None:
    """Give the convolution that sees the image its faster gradient."""
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        sees_image = node.op == "call_module" and isinstance(node.args[0], fx.Node) and node.args[0].op == "placeholder"
        if sees_image and _FirstConvolution.replaces(modules[str(node.target)]):
            parent, _, name = str(node.target).rpartition(".")
            setattr(traced.get_submodule(parent), name, _FirstConvolution(modules[str(node.target)]))


def _is(node: fx.Node, modules: dict[str, nn.Module], kind: type[nn.Module], functions: tuple[object, ...]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is kind
    return node.op == "call_function" and node.target in functions


def _returns_indices(pool: fx.Node) -> bool:
    return any(user.target is operator.getitem for user in pool.users)
