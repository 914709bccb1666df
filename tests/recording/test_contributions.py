from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pairlens_server.models import families
from pairlens_server.recording.cells import CellSums
from pairlens_server.recording.contributions import contributions, refusal
from pairlens_server.recording.windows import Windows, window_hooks
from tests.zoo import Entry, wild, zoo

ZOO = zoo()
EVERY = pytest.mark.parametrize("name", list(ZOO))


def pictures(size: tuple[int, int], count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)


def scorer(network: Any) -> Callable[[Tensor], Tensor]:
    """A fixed mix of the outputs of each picture."""

    def score(features: Tensor) -> Tensor:
        outputs = families.forward_head(network, features)
        mix = torch.randn(outputs.shape[1], generator=torch.Generator().manual_seed(7))
        return outputs @ mix.to(outputs)

    return score


def recorded(
    network: Any,
    pixels: Tensor,
    grid: tuple[int, int],
    *,
    libra: bool = True,
    absolute: bool = False,
    seen: tuple[int, int] | None = None,
) -> Tensor:
    return contributions(
        lambda given: families.forward_features(network, given),
        scorer(network),
        network,
        pixels,
        libra=libra,
        absolute=absolute,
        rows=grid[0],
        columns=grid[1],
        size=seen or (pixels.shape[2], pixels.shape[3]),
    )


def of(entry: Entry, dtype: torch.dtype = torch.float64) -> tuple[Any, Tensor]:
    return entry.network().to(dtype), pictures(entry.size).to(dtype)


@EVERY
def test_cells_and_rest_sum_to_the_score(name: str) -> None:
    network, pixels = of(ZOO[name])
    assert refusal(network) == ""
    found = recorded(network, pixels, ZOO[name].grid)
    scale = recorded(network, pixels, ZOO[name].grid, absolute=True)[:, :-1].sum(1)
    with torch.no_grad():
        score = scorer(network)(families.forward_features(network, pixels))
    assert torch.equal(found[:, -1], score)
    assert ((found[:, :-1].sum(1) - score).abs() <= 1e-12 * scale).all()


@EVERY
def test_the_sum_holds_to_single_precision(name: str) -> None:
    network, pixels = of(ZOO[name], torch.float32)
    found = recorded(network, pixels, ZOO[name].grid)
    scale = recorded(network, pixels, ZOO[name].grid, absolute=True)[:, :-1].sum(1)
    assert found.dtype == torch.float32
    assert ((found[:, :-1].sum(1) - found[:, -1]).abs() <= 1e-6 * scale).all()


@EVERY
@pytest.mark.parametrize("libra", [True, False])
def test_each_picture_of_a_batch_has_its_own(name: str, libra: bool) -> None:
    network, pixels = of(ZOO[name])
    together = recorded(network, pixels, ZOO[name].grid, libra=libra)
    alone = [recorded(network, one[None], ZOO[name].grid, libra=libra) for one in pixels]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-11, atol=1e-11)


@EVERY
def test_absolute_values_are_taken_before_layers_are_added(name: str) -> None:
    network, pixels = of(ZOO[name])
    signed = recorded(network, pixels, ZOO[name].grid)
    absolute = recorded(network, pixels, ZOO[name].grid, absolute=True)
    assert torch.equal(signed[:, -1], absolute[:, -1])
    assert (absolute[:, :-1] >= signed[:, :-1].abs() - 1e-9).all()
    assert absolute[:, :-2].sum() > 1.1 * signed[:, :-2].abs().sum()


@pytest.mark.parametrize(
    ("architecture", "options", "size", "grid", "seen"),
    [
        # Cells that reach beyond the picture, and padded windows of both kinds.
        ("swin_tiny_patch4_window7_224", "swin", (36, 52), (5, 7), (40, 56)),
        ("swinv2_tiny_window8_256", "swinv2", (36, 52), (5, 7), (40, 56)),
        ("twins_svt_small", "twins-svt", (32, 48), (4, 6), (32, 48)),
        # An edge that no cell covers.
        ("convnext_zepto_rms_ols", "convnext", (70, 100), (2, 3), (64, 96)),
        ("vit_tiny_patch16_224", "siglip", (34, 50), (4, 6), (32, 48)),
        ("resnet50_gn", "resnetv2", (65, 97), (3, 4), (65, 97)),
        ("resnetv2_50d_evos", "resnetv2", (64, 64), (2, 2), (64, 64)),
        ("resnest14d", "", (65, 97), (3, 4), (65, 97)),
    ],
)
def test_odd_sizes_and_other_layers_keep_the_sum(
    architecture: str,
    options: str,
    size: tuple[int, int],
    grid: tuple[int, int],
    seen: tuple[int, int],
) -> None:
    arguments = dict(ZOO[options].options) if options else {}
    if options and ZOO[options].takes_size:
        arguments["img_size"] = size
    if "wss" in arguments:
        arguments["wss"] = [3, 3]
    if options == "siglip":
        arguments["global_pool"] = "map"
    network = wild(timm.create_model(architecture, num_classes=5, **arguments))
    network = network.double().eval().requires_grad_(False)
    found = recorded(network, pictures(size), grid, seen=seen)
    scale = recorded(network, pictures(size), grid, seen=seen, absolute=True)[:, :-1].sum(1)
    assert ((found[:, :-1].sum(1) - found[:, -1]).abs() <= 1e-12 * scale).all()


class Small(nn.Module):
    """Two convolutions with ReLU, a batch norm, mean pooling and a class head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 2, stride=2)
        self.head = nn.Linear(5, 2)

    def features(self, pixels: Tensor) -> Tensor:
        return self.second(self.norm(self.first(pixels)).relu()).relu()

    def score(self, features: Tensor) -> Tensor:
        return self.head(features.mean((2, 3)))[:, 1]


def of_small(pixels: Tensor, absolute: bool) -> tuple[Small, Tensor]:
    network = wild(Small()).double().eval().requires_grad_(False)
    assert isinstance(network, Small)
    found = contributions(
        network.features,
        network.score,
        network,
        pixels,
        libra=False,
        absolute=absolute,
        rows=2,
        columns=3,
        size=(4, 6),
    )
    return network, found


def test_a_relu_network_by_the_gradients_of_its_parameters() -> None:
    pixels = pictures((4, 6), 1)
    network, found = of_small(pixels, absolute=False)
    parameters = dict(network.requires_grad_().named_parameters())
    inputs = pixels.clone().requires_grad_()
    score = network.score(network.features(inputs))
    slopes = torch.autograd.grad(score.sum(), [inputs, *parameters.values()])
    slope = dict(zip(["inputs", *parameters], slopes, strict=True))
    scale = network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()
    total = (inputs * slope["inputs"]).sum()
    for name in ("first", "second"):
        total = total + (parameters[f"{name}.bias"] * slope[f"{name}.bias"]).sum()
    shift = network.norm.bias - network.norm.running_mean * scale
    total = total + (shift * slope["norm.bias"]).sum()
    assert found[0, :6].sum().item() == pytest.approx(total.item(), rel=1e-12)
    assert found[0, 6].item() == pytest.approx(network.head.bias[1].item(), rel=1e-12)
    assert found[0, 7].item() == pytest.approx(score.item(), rel=1e-12)
    assert found[0, :7].sum().item() == pytest.approx(score.item(), rel=1e-12)


@pytest.mark.parametrize("absolute", [False, True])
def test_places_of_a_relu_network_written_out(absolute: bool) -> None:
    pixels = pictures((4, 6), 1)
    network, found = of_small(pixels, absolute)
    inputs = pixels.clone().requires_grad_()
    first = network.first(inputs)
    normed = network.norm(first)
    second = network.second(normed.relu())
    score = network.score(second.relu())
    slopes = torch.autograd.grad(score.sum(), [inputs, first, normed, second])
    scale = network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()
    factors = [
        pixels,
        network.first.bias[:, None, None],
        (network.norm.bias - network.norm.running_mean * scale)[:, None, None],
        network.second.bias[:, None, None],
    ]
    cells = torch.zeros(2, 3, dtype=torch.float64)
    for factor, slope in zip(factors, slopes, strict=True):
        places = (factor * slope).sum(1)[0]
        places = places.abs() if absolute else places
        step = 1 if places.shape == (2, 3) else 2  # cells are 2 x 2 pixels
        for row in range(places.shape[0]):
            for column in range(places.shape[1]):
                cells[row // step, column // step] += places[row, column]
    torch.testing.assert_close(found[0, :6].view(2, 3), cells, rtol=1e-12, atol=1e-12)


def test_a_vit_by_hooks_on_its_modules() -> None:
    network, pixels = of(ZOO["vit-registers"])
    grid, prefix = ZOO["vit-registers"].grid, ZOO["vit-registers"].prefix
    outputs: list[tuple[Tensor, Tensor]] = []

    def keep(module: Any, _inputs: object, output: Tensor) -> None:
        if getattr(module, "bias", None) is not None:
            outputs.append((output, module.bias))

    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and name != "head":
            module.register_forward_hook(keep)
    inputs = pixels[:1].clone().requires_grad_()
    embedded: list[Tensor] = []
    handle = network.blocks[0].register_forward_pre_hook(lambda _, given: embedded.append(given[0]))
    score = scorer(network)(families.forward_features(network, inputs))
    handle.remove()
    slopes = torch.autograd.grad(score.sum(), [inputs, embedded[0], *(o for o, _ in outputs)])
    tokens = sum(slope[0] @ bias for slope, (_, bias) in zip(slopes[2:], outputs, strict=True))
    standing = torch.cat((network.cls_token, network.reg_token), dim=1)[0]
    positions = network.pos_embed[0]
    patches = (positions[prefix:] + network.patch_embed.proj.bias) * slopes[1][0, prefix:]
    tokens[prefix:] += patches.sum(1)
    tokens[:prefix] += ((standing + positions[:prefix]) * slopes[1][0, :prefix]).sum(1)
    pixel = (inputs * slopes[0]).sum(1)
    by_patch = F.avg_pool2d(pixel, 8)[0].flatten() * 64
    found = recorded(network, pixels[:1], grid, libra=False)[0]
    torch.testing.assert_close(found[:24], tokens[prefix:] + by_patch, rtol=1e-10, atol=1e-11)
    # The head's bias lies on no patch either.
    mix = torch.randn(5, generator=torch.Generator().manual_seed(7)).double()
    rest = tokens[:prefix].sum() + network.head.bias @ mix
    torch.testing.assert_close(found[24], rest, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["swin", "swinv2"])
@pytest.mark.parametrize("size", [(9, 10), (8, 12)])
def test_windows_of_swin_lie_where_its_blocks_cut_them(name: str, size: tuple[int, int]) -> None:
    network = ZOO[name].network()
    announced: list[Windows | None] = []
    handles = list(window_hooks(network, announced.append))
    for block in network.layers[0].blocks:
        block.norm1 = nn.Identity()
        block.dynamic_mask = True
        seen: list[Tensor] = []
        block.attn.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        announced.clear()
        numbers = torch.arange(1.0, 1 + size[0] * size[1]).view(1, *size, 1)
        block(numbers.expand(2, -1, -1, 16).contiguous())
        windows, ended = announced
        assert windows is not None
        assert ended is None
        rows = seen[0][..., 0].reshape(2, -1)
        assert torch.equal(windows.index + 1, rows[0].long())
        assert windows.grid == size
        unfolded, padding = windows.unfolded(rows)
        assert torch.equal(unfolded[1], numbers[0, ..., 0])
        assert padding.shape[1] == rows.shape[1] - size[0] * size[1]
        assert not padding.any()
    for handle in handles:
        handle.remove()


def test_windows_of_twins_lie_where_its_layers_cut_them() -> None:
    layer = ZOO["twins-svt"].network().blocks[0][0].attn
    layer.ws = 3
    announced: list[Windows | None] = []
    handles = list(window_hooks(layer, announced.append))
    seen: list[Tensor] = []
    layer.qkv.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    numbers = torch.arange(1.0, 1 + 8 * 7).view(1, -1, 1)
    layer(numbers.expand(2, -1, 16), (8, 7))
    windows, ended = announced
    assert windows is not None
    assert ended is None
    assert seen[0].ndim - 1 == windows.dimensions
    assert torch.equal(windows.index + 1, seen[0][0, ..., 0].flatten().long())
    assert len(handles) == 2


def test_maps_of_any_size_are_shared_out_by_area() -> None:
    sums = CellSums(torch.zeros(1, 3, 5, 8), (2, 2), (4, 8), absolute=False)
    pixels = torch.zeros(1, 5, 8)
    pixels[0, 1, 3], pixels[0, 2, 4], pixels[0, 4, 0] = 1.0, 2.0, 5.0  # row 4 is unseen
    sums.add_map(pixels)
    sums.add_map(torch.tensor([[[4.0]]]))  # coarser: evenly
    sums.add_map(torch.tensor([[[0.1, 0.2], [0.3, -0.4]]]))
    sums.add_rest(torch.tensor([[-1.0, 0.5]]))
    expected = [[1 + 1 + 0.1, 1 + 0.2, 1 + 0.3, 2 + 1 - 0.4, 5 - 0.5]]
    torch.testing.assert_close(sums.sums(), torch.tensor(expected))


def test_a_map_that_no_power_of_two_divides_is_cut_at_the_cells() -> None:
    sums = CellSums(torch.zeros(1, 3, 6, 6), (2, 1), (6, 6), absolute=True)
    sums.add_map(torch.tensor([[[1.0], [-3.0], [5.0]]]))
    torch.testing.assert_close(sums.sums(), torch.tensor([[1 + 1.5, 5 + 1.5, 0.0]]))


def test_cells_beyond_the_picture_take_strides_of_powers_of_two() -> None:
    # 5 rows of 4 pixels on cells of 8: the last cell lies half beyond the 20 pixels.
    sums = CellSums(torch.zeros(1, 3, 20, 8), (3, 1), (24, 8), absolute=False)
    sums.add_map(torch.tensor([[[1.0], [2.0], [3.0], [4.0], [5.0]]]))
    torch.testing.assert_close(sums.sums(), torch.tensor([[3.0, 7.0, 5.0, 0.0]]))


def test_learned_thresholds_are_refused() -> None:
    network = timm.create_model("resnetv2_50d_frn", channels=[8, 8, 8, 8])
    assert "thresholds" in refusal(network)
