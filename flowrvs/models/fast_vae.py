"""Quicker forward passes of the stock VAE's layers: same sums, same parameters.

Most of the stock VAE's time goes into moving numbers, not into convolutions: it
normalises over the channels of channels-first tensors in six passes, converts layouts
around every convolution, upsamples in float32. Here everything stays channels-last, a
normalisation in float32 is one fused pass, and on a CPU the narrow 3D convolutions, which torch
sends to a slow generic kernel, go to oneDNN (or, with gradients, to ``conv2d`` with the
time taps folded into the channels). Differences are those of another order of summation:
about 1e-5 in float32. In half precision only what is equal to the bit is changed: norms
and activations in place, upsampling without float32.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResample,
    WanRMS_norm,
    WanUpsample,
)

__all__ = ["use_fast_layers"]

#: Beyond this width the stock choice of kernels is as good (measured at 32 and 96).
_NARROW = 64
_LAST = torch.channels_last_3d

_Module = TypeVar("_Module", bound=torch.nn.Module)


def use_fast_layers(vae: _Module, *, exact: bool = True) -> _Module:
    """Give the layers of a VAE their quicker forward passes.

    Values of the parameters are untouched, so saving and loading are not affected.

    Parameters
    ----------
    vae : AutoencoderKLWan
        Or some of its layers; changed in place.
    exact : bool
        In half precision, change only what is equal to the stock layers to the bit.

    Returns
    -------
    AutoencoderKLWan
        `vae`.
    """
    half = exact and next(vae.parameters()).dtype != torch.float32
    for module in vae.modules():
        # In half precision another layout chooses other kernels, which round differently;
        # there the stock convolutions stay, and masks are the published ones to the bit.
        if isinstance(module, WanCausalConv3d) and not half:
            module.to(memory_format=_LAST)
            module.forward = MethodType(_conv, module)
        elif isinstance(module, torch.nn.Conv2d) and not half:
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, WanRMS_norm) and module.channel_first:
            module.forward = MethodType(_stock_norm if half else _norm, module)
        elif isinstance(module, torch.nn.SiLU):
            module.forward = MethodType(_silu, module)
        elif isinstance(module, WanUpsample):
            module.forward = MethodType(_upsample, module)
        elif isinstance(module, WanResample) and module.mode == "upsample3d" and not half:
            module.forward = MethodType(_upsample_in_time, module)
    return vae


def _conv(
    self: WanCausalConv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None
) -> torch.Tensor:
    _, right, _, bottom, front, _ = self._padding
    parts = [x]
    if cache_x is not None and front > 0:
        parts.insert(0, cache_x.to(x.device))
        front -= cache_x.shape[2]
    if front > 0:
        shape = (x.shape[0], x.shape[1], front, *x.shape[3:])
        parts.insert(0, torch.zeros(shape, dtype=x.dtype, device=x.device))
    x = torch.cat([p.contiguous(memory_format=_LAST) for p in parts], 2)
    padding = (0, bottom, right)
    if x.device.type != "cpu" or self.in_channels > _NARROW:
        return F.conv3d(x, self.weight, self.bias, self.stride, padding)
    if torch.is_grad_enabled() or not torch.backends.mkldnn.is_available():
        return _folded(self, x, padding)
    return torch.mkldnn_convolution(
        x, self.weight, self.bias, padding, self.stride, self.dilation, self.groups
    )


def _folded(self: WanCausalConv3d, x: torch.Tensor, padding: tuple[int, ...]) -> torch.Tensor:
    taps, stride = self.kernel_size[0], self.stride[0]
    batch, channels, length, height, width = x.shape
    count = (length - taps) // stride + 1
    span = (count - 1) * stride + 1
    x = x.transpose(1, 2)
    x = torch.cat([x[:, i : i + span : stride] for i in range(taps)], dim=2)
    x = x.reshape(batch * count, taps * channels, height, width)
    # (O, C, taps, kh, kw) -> (O, taps * C, kh, kw): taps vary slowest, as in the cat above.
    weight = self.weight.transpose(1, 2).flatten(1, 2)
    weight = weight.contiguous(memory_format=torch.channels_last)
    x = F.conv2d(x, weight, self.bias, self.stride[1:], padding[1:])
    return x.view(batch, count, *x.shape[1:]).transpose(1, 2)


def _norm(self: WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
    # x / |x| * sqrt(C) is x over the root of the mean square.
    order = (0, *range(2, x.ndim), 1)
    back = (0, x.ndim - 1, *range(1, x.ndim - 1))
    gamma = self.gamma.flatten().to(x.dtype)
    out = F.rms_norm(x.permute(order), (x.shape[1],), gamma, 1e-24).permute(back)
    return out + self.bias if _has_bias(self) else out


def _stock_norm(self: WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
    # The stock layer rounds three times in half precision. Fused, masks would differ from
    # the published ones (IoU 0.99); so it computes the same here, but a frame at a time,
    # and the group is never there in float32.
    out = torch.empty_like(x)
    frames = zip(x.unbind(2), out.unbind(2), strict=True) if x.ndim == 5 else [(x, out)]
    for frame, normed in frames:
        normed.copy_(F.normalize(frame.float(), dim=1))
    out.mul_(self.scale).mul_(self.gamma)
    return out + self.bias if _has_bias(self) else out


def _has_bias(self: WanRMS_norm) -> bool:
    return isinstance(self.bias, torch.Tensor)


def _silu(self: torch.nn.SiLU, x: torch.Tensor) -> torch.Tensor:
    # What it gets is a norm's own result, which nobody else needs.
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _upsample(self: WanUpsample, x: torch.Tensor) -> torch.Tensor:
    # Copying pixels needs no float32.
    return F.interpolate(x, scale_factor=self.scale_factor, mode=self.mode)


def _upsample_in_time(
    self: WanResample, x: torch.Tensor, feat_cache: Any = None, feat_idx: Any = None
) -> torch.Tensor:
    if feat_cache is not None:
        place = feat_idx[0]
        feat_idx[0] += 1
        before = feat_cache[place]
        if before is None:
            feat_cache[place] = "Rep"  # the stock marks the first frame so
        else:
            known = before if isinstance(before, torch.Tensor) else torch.zeros_like(x[:, :, :1])
            recent = x[:, :, -2:].clone()
            if recent.shape[2] < 2:
                recent = torch.cat([known[:, :, -1:].to(x.device), recent], dim=2)
            x = self.time_conv(x, before if isinstance(before, torch.Tensor) else None)
            feat_cache[place] = recent
            batch, channels, frames, height, width = x.shape
            # The two halves of the channels are two frames.
            x = x.permute(0, 2, 3, 4, 1).reshape(batch, frames, height, width, 2, channels // 2)
            x = x.permute(0, 1, 4, 2, 3, 5).reshape(batch, 2 * frames, height, width, channels // 2)
            x = x.permute(0, 4, 1, 2, 3)
    batch, channels, frames, height, width = x.shape
    x = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
    x = self.resample(x)
    return x.view(batch, frames, *x.shape[1:]).transpose(1, 2)
