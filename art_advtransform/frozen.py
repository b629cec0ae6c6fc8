"""L1: the frozen, fast copy of f_b. Everything that is done for speed is done here and nowhere else."""

from __future__ import annotations

import copy
import logging
import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

logger = logging.getLogger(__name__)

_HALF = (torch.float16, torch.bfloat16)
_RELU_FUNCTIONS = (F.relu, torch.relu)
_POOL_FUNCTIONS = (F.max_pool2d, torch.max_pool2d)


class FrozenModel(nn.Module):
    """f_b, fixed for ever: a copy in eval mode (whatever ``train()`` is called) without parameter gradients.

    Args:
        model: any nn.Module, images (n, C, H, W) to logits (n, K), in float32 or float64. It is copied, never changed.
        optimise: fold batch norm into convolutions, move ReLU behind max pooling (same value and gradient, a quarter of
            the elements) and use channels_last. Where that can't be done (a model that torch.fx can't trace, say), a
            plain copy serves; ``optimised`` tells which.
        autocast: compute f_b in ``torch.bfloat16`` or ``torch.float16`` (mixed precision, for GPUs), logits and gradients come
            back in f_b's own precision. Off by default: it flips signs of the gradient, so that g is another transformation
            (benchmarks/precision.py measures how many).
        compile: run LL-PGD's steps through ``torch.compile`` (for GPUs). The
            derivative rules that differentiate f_b twice keep the uncompiled net.

    Raises:
        TypeError: if ``model`` is not an nn.Module.
        ValueError: if it has parameters in half precision: sign(u) of a rounded gradient is another transformation; if
            ``autocast`` is not a half precision.

    Example:
        >>> frozen = FrozenModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10)))
        Traceback (most recent call last):
        ...
        ValueError: f_b has lazy parameters: run it once on an image before it is frozen
    """

    _like: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        optimise: bool = True,
        autocast: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected f_b to be a torch.nn.Module, got {type(model).__name__}")
        check_precision(model)
        if autocast not in (None, *_HALF):
            raise ValueError(f"expected autocast to be one of {', '.join(map(str, _HALF))} or None, got {autocast}")
        self.autocast, self.compile_steps = autocast, compile
        with torch.inference_mode(False):  # made inside it, weights could never be differentiated through
            plain = _copied(model).eval()
            for parameter in plain.parameters():
                parameter.detach_()  # a copy of TorchScript has parameters that are no leaves
            fast = _optimised(plain) if optimise else None
            # nn.DataParallel's replicas have buffers but no parameters to read precision and device from
            like = torch.zeros(1, dtype=_dtype_of(plain), device=_device_of(plain))
        self.register_buffer("_like", like, persistent=False)
        self.optimised = fast is not None
        self.net = plain if fast is None else fast
        self.train(False)  # an nn.Module is born in train mode

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        # a caller's own autocast stays outside: in half precision g would be another transformation
        outside = self.autocast is None and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        if self.autocast is None and not outside:
            logits: Tensor = self.net(x)
            return logits
        with torch.autocast(kind, self.autocast, enabled=self.autocast is not None):
            logits = self.net(x)
        return logits.to(self.dtype) if self.autocast else logits

    @property
    def memory_format(self) -> torch.memory_format:
        """What f_b computes fastest in. Not an attribute: a memory format can't be pickled by torch.save."""
        return torch.channels_last if self.optimised else torch.contiguous_format

    @property
    def for_steps(self) -> nn.Module:
        """What LL-PGD's steps call: this module, or its compiled twin, which can be differentiated but once."""
        if not self.compile_steps:
            return self
        if "_twin" not in self.__dict__:
            self.__dict__["_twin"] = torch.compile(self)  # not a submodule: its weights would count twice
        twin: nn.Module = self.__dict__["_twin"]
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled twin, which can't be pickled and is made again on first use."""
        return {name: value for name, value in self.__dict__.items() if name != "_twin"}

    def train(self, mode: bool = True) -> FrozenModel:
        """Stay in eval mode: hosts (torchattacks) put whole models back into train mode."""
        super().train(False)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The precision that LL-PGD computes in."""
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        """Where LL-PGD computes."""
        return self._like.device


def freeze(model: nn.Module, device: torch.device | str | None = None) -> FrozenModel:
    """A :class:`FrozenModel` of ``model`` on ``device``; one that is frozen and there already is shared, not copied."""
    if not isinstance(model, FrozenModel):
        model = FrozenModel(model)
        return model if device is None else model.to(device)
    if device is None or torch.empty(0, device=device).device == model.device:
        return model
    return copy.deepcopy(model).to(device)  # its other users stay where they are


def default_batch_size(x: Tensor) -> int:
    """Images like ``x`` (n, C, H, W) that are transformed at a time.

    On a CPU what keeps the Table 4 net's activations near the cache, 32 images of 32x32, and as many pixels of other sizes:
    for 8x8 digits chunks of 512 were 3.9 times as fast as chunks of 32 (7353 against 1879 images a second).
    """
    if x.device.type != "cpu":
        return 512
    return min(max(32 * 32 * 32 // (x.shape[2] * x.shape[3]), 16), 512)


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; what hooks computed from parameters (``nn.utils.weight_norm``) refuses to be copied, so goes as constants."""
    computed = (
        v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf
    )
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})


def check_precision(model: nn.Module) -> None:
    """Raise ``ValueError`` if ``model`` has parameters in half precision, or lazy ones."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError("f_b has lazy parameters: run it once on an image before it is frozen")
        if parameter.dtype in _HALF:
            raise ValueError(
                f"expected f_b in float32 or float64, but {name} is {parameter.dtype}: call .float() first"
            )


def _optimised(plain: nn.Module) -> nn.Module | None:
    """The folded, traced, channels_last copy, or ``None`` where it can't be made. ``plain`` is left as it is."""
    if any(module._forward_pre_hooks or module._forward_hooks for module in plain.modules()):
        return None  # tracing would lose the model's own hooks, folding those of a layer
    try:
        traced = fx.symbolic_trace(copy.deepcopy(plain))
        if not _layers_run_once(traced):
            return None
        # "fuse" leaves batch norm alone where the convolution's output is used elsewhere too
        folded = fuse(traced, inplace=True, no_trace=True)
        if isinstance(folded, fx.GraphModule):
            _reshape_for_view(folded)
            _relu_behind_pool(folded)
            _first_convolution(folded)
        return folded.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    except Exception as error:  # tracing runs the user's own code: whatever it raises, the plain copy still serves
        logger.info("f_b can't be optimised (%s: %s); using a plain frozen copy", type(error).__name__, error)
        return None


def _layers_run_once(traced: fx.GraphModule) -> bool:
    """Whether no layer with weights is used twice: folding batch norm into it would change its other use."""
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    # a weight that forward() reads by itself is a use of its layer too
    read = {str(node.target).rpartition(".")[0] for node in traced.graph.nodes if node.op == "get_attr"}
    modules = dict(traced.named_modules())
    weighted = [name for name in calls if any(True for _ in modules[name].parameters())]
    return all(calls[name] == 1 and name not in read for name in weighted)


def _reshape_for_view(traced: fx.GraphModule) -> None:
    """``view``, with which many a net flattens its maps, refuses channels_last; ``reshape`` gives the same values."""
    for node in traced.graph.nodes:
        if (
            node.op == "call_method"
            and node.target == "view"
            and not any(isinstance(a, torch.dtype) for a in node.args)
        ):
            node.target = "reshape"
    traced.recompile()


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
