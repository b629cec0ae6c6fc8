"""The frozen copy of f_b: fast and plain give the same transformation, and the user's model is left alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from art_advtransform.config import TransformConfig
from art_advtransform.frozen import FrozenModel, default_batch_size, freeze
from art_advtransform.networks import ResNet18, SmallVGG
from art_advtransform.transform import ll_pgd, loss_gradient, target_class
from tests.problems import Jumpy, conv_net, images, randomised, start_for


class Functional(nn.Module):
    """ReLU and pooling as functions; normalisation by buffers of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.4))
        self.register_buffer("scale", torch.full((1, 3, 1, 1), 0.3))
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(96, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.get_buffer("mean")) / self.get_buffer("scale")
        logits: Tensor = self.head(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1))
        return logits


class Branches(nn.Module):
    """A convolution whose output is used twice, beside batch norm: folding would change the other use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        logits: Tensor = self.head((F.relu(self.norm(features)) + features).mean((2, 3)))
        return logits


class SharedReLU(nn.Module):
    """One in-place ReLU, called twice; what goes into the first is used again behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.relu, self.pool, self.head = nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        logits: Tensor = self.head(
            (self.pool(self.relu(features)) + F.avg_pool2d(features, 2))
            .mul(self.pool(self.relu(self.second(x))))
            .flatten(1)
        )
        return logits


class SharedConv(nn.Module):
    """One convolution called twice, once before batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.norm(self.conv(self.conv(x).tanh()))).mean((2, 3)))
        return logits


class ReadWeight(SharedConv):
    """A convolution before batch norm, whose weight is read elsewhere too."""

    def forward(self, x: Tensor) -> Tensor:
        bare = F.conv2d(x, self.conv.weight, padding=1).tanh()
        logits: Tensor = self.head(F.relu(self.norm(self.conv(x)) + bare).mean((2, 3)))
        return logits


class Indices(nn.Module):
    """Pooling that also returns where the maxima were, behind ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 5)
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x: Tensor) -> Tensor:
        pooled, indices = self.pool(F.relu(self.conv(x)))
        logits: Tensor = self.head((pooled + indices / 64).flatten(1))
        return logits


def hooked() -> nn.Module:
    """Normalisation as a hook of the whole model: fx, which traces ``forward``, would not see it."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    net.register_forward_pre_hook(lambda module, inputs: ((inputs[0] - 0.5) * 4,))
    return net


OPTIMISED: dict[str, Callable[[], nn.Module]] = {
    "conv_net": conv_net,
    "resnet18": lambda: ResNet18(nb_classes=5, width=4),
    "small_vgg": lambda: SmallVGG(5, input_size=8, widths=(4, 4, 6, 6), hidden=8),
    "functional": Functional,
    "branches": Branches,
    "shared_relu": SharedReLU,
    "indices": Indices,
}
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "untraceable": Jumpy,
    "shared_conv": SharedConv,
    "read_weight": ReadWeight,
    "hooked": hooked,
}


def make(name: str) -> nn.Module:
    return randomised((OPTIMISED | PLAIN)[name](), seed=3)


@pytest.mark.parametrize("name", [*OPTIMISED, *PLAIN])
def test_same_transformation_as_the_model_itself(name: str) -> None:
    net = make(name)
    frozen, x = FrozenModel(net), images(6)
    assert frozen.optimised == (name in OPTIMISED)
    torch.testing.assert_close(frozen(x), net(x), rtol=0, atol=1e-12)
    start, y = start_for(x), target_class(net, x)
    assert torch.equal(target_class(frozen, x), y)
    torch.testing.assert_close(loss_gradient(frozen, x, y), loss_gradient(net, x, y), rtol=0, atol=1e-12)
    config = TransformConfig()
    assert torch.equal(ll_pgd(frozen, x, y, start, config), ll_pgd(net, x, y, start, config))


def test_optimise_false_is_a_plain_copy() -> None:
    net = conv_net()
    frozen = FrozenModel(net, optimise=False)
    assert not frozen.optimised
    assert torch.equal(frozen(images(3)), net(images(3)))
    assert any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())


def operations(frozen: FrozenModel) -> list[str]:
    """Names of the layers and functions, in the order they run."""
    assert isinstance(frozen.net, fx.GraphModule)
    names = []
    for node in frozen.net.graph.nodes:
        if node.op == "call_module":
            names.append(type(frozen.net.get_submodule(str(node.target))).__name__)
        elif node.op == "call_function":
            names.append("MaxPool2d" if node.target is F.max_pool2d else getattr(node.target, "__name__", "?"))
    return names


def test_batch_norm_is_folded_and_relu_runs_behind_pooling() -> None:
    block = ["Conv2d", "MaxPool2d", "ReLU"]
    assert operations(FrozenModel(conv_net())) == [
        "_FirstConvolution",
        *block[1:],
        *block,
        "Flatten",
        "Dropout",
        "Linear",
    ]
    functional = [name for name in operations(FrozenModel(make("functional"))) if name in ("MaxPool2d", "relu")]
    assert functional == ["MaxPool2d", "relu"]


@pytest.mark.parametrize("name", ["indices", "shared_relu"])
def test_relu_stays_where_moving_it_would_matter(name: str) -> None:
    order = [op for op in operations(FrozenModel(make(name))) if op in ("MaxPool2d", "ReLU", "relu")]
    assert order[0] in ("ReLU", "relu")


def test_channels_last_only_where_optimised() -> None:
    fast, plain = FrozenModel(conv_net()), FrozenModel(make("untraceable"))
    assert fast.memory_format == torch.channels_last
    assert plain.memory_format == torch.contiguous_format
    kernels = [p for p in fast.parameters() if p.ndim == 4]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


@pytest.mark.parametrize("name", [*OPTIMISED, *PLAIN])
def test_the_original_is_left_as_it_was(name: str) -> None:
    net = make(name).train()
    next(net.parameters()).grad = torch.ones_like(next(net.parameters()))
    before = copy.deepcopy(net.state_dict())
    strides = [p.stride() for p in net.parameters()]
    frozen = FrozenModel(net)
    frozen(images(2))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert list(before) == list(net.state_dict())
    assert [p.stride() for p in net.parameters()] == strides
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert next(net.parameters()).grad is not None


def test_later_training_of_the_original_changes_nothing() -> None:
    net, x = conv_net(), images(2)
    frozen = FrozenModel(net)
    before = frozen(x)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    assert torch.equal(frozen(x), before)


@pytest.mark.parametrize("optimise", [True, False])
def test_eval_for_ever(optimise: bool) -> None:
    """A net in train mode has dropout and batch statistics: the same input would give other outputs."""
    frozen, x = FrozenModel(conv_net().train(), optimise=optimise), images(4)
    expected = conv_net()(x)
    torch.testing.assert_close(frozen(x), expected, rtol=0, atol=1e-12)
    assert frozen.train() is frozen
    nn.Sequential(frozen).train()
    assert not any(module.training for module in frozen.modules())
    torch.testing.assert_close(frozen(x), expected, rtol=0, atol=1e-12)
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    message = rf"expected f_b in float32 or float64, but 0.weight is {dtype}: call .float\(\) first"
    with pytest.raises(ValueError, match=message):
        FrozenModel(conv_net().to(dtype))


def test_lazy_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="f_b has lazy parameters: run it once on an image before it is frozen"):
        FrozenModel(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))


@pytest.mark.parametrize("wrong", [lambda x: x, None, "net", nn.Linear])
def test_not_a_module(wrong: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"expected f_b to be a torch.nn.Module, got \w+"):
        FrozenModel(wrong)


@pytest.mark.parametrize("name", ["conv_net", "resnet18", "small_vgg", "functional", "untraceable"])
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda frozen: pickle.loads(pickle.dumps(frozen))])
def test_pickle_and_deepcopy(name: str, clone: Callable[[FrozenModel], FrozenModel]) -> None:
    frozen, x = FrozenModel(make(name)), images(3)
    copied = clone(frozen)
    assert torch.equal(copied(x), frozen(x))
    assert (copied.optimised, copied.memory_format) == (frozen.optimised, frozen.memory_format)
    assert not copied.train().training
    assert next(copied.parameters()).data_ptr() != next(frozen.parameters()).data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device(dtype: torch.dtype) -> None:
    frozen = FrozenModel(conv_net(dtype=dtype))
    assert frozen.dtype == dtype
    assert frozen.device == torch.device("cpu")
    bare = FrozenModel(nn.Flatten())  # no parameter to ask
    assert (bare.dtype, bare.device) == (torch.float32, torch.device("cpu"))


def test_freeze_shares_what_is_frozen() -> None:
    frozen = freeze(conv_net())
    assert freeze(frozen) is frozen
    assert freeze(conv_net()) is not frozen


@pytest.mark.parametrize(("size", "expected"), [(32, 32), (64, 16), (8, 512), (4, 512), (224, 16), (16, 128)])
def test_default_batch_size_on_a_cpu(size: int, expected: int) -> None:
    assert default_batch_size(torch.empty(1, 3, size, size)) == expected


@pytest.mark.parametrize(("size", "expected"), [(32, 512), (64, 128), (8, 512), (224, 16)])
def test_default_batch_size_elsewhere(size: int, expected: int) -> None:
    assert default_batch_size(torch.empty(1, 3, size, size, device="meta")) == expected
