"""Convolutions of small maps, trained on a CPU as products of matrices.

oneDNN works through a convolution place by place, which suits large maps. The last layers of a net have maps of a few
places when images are small, and large weights: there it takes up to twenty times as long as one product of all
patches with the weights, or with the gradients. What the net says is the same but for the order of its sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ferbal.shapes import Float

WHOLE = 9
"""Places of a map up to which a layer and all its gradients are such products."""
AVX2_ALONE = torch.backends.cpu.get_cpu_capability() == "AVX2"
OF_WEIGHTS = {torch.float32: 36 if AVX2_ALONE else WHOLE, torch.bfloat16: 36}
"""Places up to which the gradients of its weights are, by number format. With AVX-512, oneDNN is faster in fp32."""
ENOUGH = {torch.float32: 0 if AVX2_ALONE else 2**19, torch.bfloat16: 2**17}
"""Weights from which a layer of larger kernels pays, by number format: 128 channels to 128 by 3x3 have 147,456.

Found on a processor with AMX; with AVX2 alone it was not measured."""
POINTWISE = 36
"""Places up to which a layer of 1x1 kernels is, whose patches need no copying."""


class Conv2d(nn.Conv2d):
    """A convolution that is trained that way on a CPU where its map is small, and else as any other."""

    def forward(self, given: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        if given.device.type != "cpu" or not self.training:
            return super().forward(given)
        form = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else given.dtype
        places = self._side(given, 0) * self._side(given, 1)
        pointwise = self.kernel_size == (1, 1) and self.padding == (0, 0) and places <= POINTWISE
        if not pointwise and not (0 < places <= OF_WEIGHTS.get(form, 0) and self.weight.numel() >= ENOUGH[form]):
            return super().forward(given)
        given, weight, bias = given.to(form), self.weight.to(form), None if self.bias is None else self.bias.to(form)
        if pointwise:
            seen = given[:, :, :: self.stride[0], :: self.stride[1]].permute(0, 2, 3, 1)
            return functional.linear(seen, weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)
        said: Tensor = _Products.apply(given, weight, bias, self.stride, self.padding, places <= WHOLE)
        return said

    def _side(self, given: Tensor, axis: int) -> int:
        """Height (axis 0) or width (1) of the map that the layer makes."""
        padded = given.shape[2 + axis] + 2 * int(self.padding[axis])
        return (padded - self.kernel_size[axis]) // self.stride[axis] + 1


def prepare(net: nn.Module) -> None:
    """Have the convolutions of a net trained so where it pays; weights, their names and what it says stay."""
    for module in net.modules():
        if (
            type(module) is nn.Conv2d
            and module.groups == 1
            and module.dilation == (1, 1)
            and not isinstance(module.padding, str)
            and module.padding_mode == "zeros"
        ):
            module.__class__ = Conv2d


class _Products(torch.autograd.Function):
    """A convolution; whole: not only the gradients of its weights are products, but all of it."""

    @staticmethod
    def forward(
        ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, whole: bool
    ) -> Tensor:
        ctx.save_for_backward(given, weight)
        ctx.stride, ctx.padding, ctx.whole = stride, padding, whole
        if not whole:
            return functional.conv2d(given, weight, bias, stride, padding)
        patches, (batch, height, width) = _patches(given, weight, stride, padding)
        size = (batch, len(weight), height, width)
        # no view of the product: what follows may act in place, as VGG's ReLU, which autograd forbids on one
        said = torch.empty(size, dtype=given.dtype, memory_format=torch.channels_last)
        places, kernels = said.permute(0, 2, 3, 1).view(len(patches), -1), _rows(weight).T
        torch.mm(patches, kernels, out=places) if bias is None else torch.addmm(bias, patches, kernels, out=places)
        return said

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        given, weight = ctx.saved_tensors
        of_given = of_weight = of_bias = None
        if ctx.needs_input_grad[0] and ctx.whole:
            of_given = _scattered(gradient, given, weight, ctx.stride, ctx.padding)
        elif ctx.needs_input_grad[0]:
            of_given = torch.ops.aten.convolution_backward(
                gradient, given, weight, None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1, [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            patches, _ = _patches(given, weight, ctx.stride, ctx.padding)
            height, width = weight.shape[2:]
            of_weight = (_at_places(gradient).T @ patches).view(-1, height, width, given.shape[1]).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_given, of_weight, of_bias, None, None, None


def _at_places(maps: Float[Tensor, "b d h w"]) -> Float[Tensor, "p d"]:
    """What stands at each place of each map."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _rows(weight: Float[Tensor, "d c k l"]) -> Float[Tensor, "d klc"]:
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _patches(given: Tensor, weight: Tensor, stride: Any, padding: Any) -> tuple[Float[Tensor, "p klc"], torch.Size]:
    """What the layer sees at each place, in the order of `_rows`; and batch, height and width of the places."""
    (height, width), (up, left) = weight.shape[2:], padding
    padded = functional.pad(given.permute(0, 2, 3, 1), (0, 0, left, left, up, up))
    seen = padded.unfold(1, height, stride[0]).unfold(2, width, stride[1]).permute(0, 1, 2, 4, 5, 3)
    return seen.reshape(seen.shape[:3].numel(), -1), seen.shape[:3]


def _scattered(
    gradient: Tensor, given: Tensor, weight: Tensor, stride: Any, padding: Any
) -> Float[Tensor, "b c h w"]:
    """Gradients of what the layer was given: those of each patch, summed where patches overlap, in float32."""
    (batch, channels, high, wide), (up, left) = given.shape, padding
    height, width = gradient.shape[2:]
    of_patches = (_at_places(gradient) @ _rows(weight)).view(batch, height, width, *weight.shape[2:], channels)
    total = torch.zeros(batch, high + 2 * up, wide + 2 * left, channels, dtype=torch.float32)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            rows = slice(row, row + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(column, column + (width - 1) * stride[1] + 1, stride[1])
            total[:, rows, columns] += of_patches[:, :, :, row, column]
    return total[:, up : up + high, left : left + wide].to(given.dtype).permute(0, 3, 1, 2)
