"""Batch norm over the images of all processes: torch's kernels on GPUs, the same formulas in plain tensors on CPUs.

Each is a subclass of the layer that it replaces, with the same parameter names, so that checkpoints, fusing and
parameter groups stay the same.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _AllReduce(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _all_reduce(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return _all_reduce(grad)


def _all_reduce(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _Synced(nn.Module):
    """Mixin of a batch norm: what `torch.nn.SyncBatchNorm` computes, which does not take CPU tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same, normalised by the statistics of all processes while training."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        mean, var, count = _moments(x.to(torch.promote_types(x.dtype, torch.float32)))
        self._update_running(mean.detach(), var.detach() * (count / (count - 1)))
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = torch.rsqrt(var + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale + (self.bias if self.affine else 0)
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor) -> None:
        """One update of the running statistics."""
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(var.to(self.running_var.dtype), factor)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) over all processes, and the number of values of each. Two passes: the difference of
    two large sums (E[x^2] - E[x]^2) would lose precision."""
    axes = [0, *range(2, x.dim())]
    sums = torch.cat((x.sum(axes), x.new_full((1,), x.numel() / x.shape[1])))
    total = _AllReduce.apply(sums)
    count = total[-1].detach()
    mean = total[:-1] / count
    centred = x - mean.view(1, -1, *[1] * (x.dim() - 2))
    return mean, _AllReduce.apply(centred.square().sum(axes)) / count, count


class SyncBatchNorm2d(_Synced, nn.BatchNorm2d):
    """For maps (B, C, H, W) on the CPU."""


class SyncBatchNorm3d(_Synced, nn.BatchNorm3d):
    """For maps (B, C, D, H, W) on the CPU."""


class CudaSyncBatchNorm2d(nn.SyncBatchNorm, nn.BatchNorm2d):
    """For maps (B, C, H, W) on a GPU."""


class CudaSyncBatchNorm3d(nn.SyncBatchNorm, nn.BatchNorm3d):
    """For maps (B, C, D, H, W) on a GPU."""


KINDS = {"cpu": (SyncBatchNorm2d, SyncBatchNorm3d), "cuda": (CudaSyncBatchNorm2d, CudaSyncBatchNorm3d)}


def synchronise(model: nn.Module) -> int:
    """Make every batch norm of the model, in place, one over the images of all processes; returns how many there are.

    The layers stay the same objects, so references to them and to their tensors stay valid. To be called once the model
    is on its device.
    """
    changed = 0
    flat, deep = KINDS[next(model.parameters()).device.type]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.__class__ = flat if isinstance(module, nn.BatchNorm2d) else deep
            module.process_group = None  # all of them; read by torch's layer
            changed += 1
    return changed
