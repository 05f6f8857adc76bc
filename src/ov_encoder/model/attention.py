"""The one seam for attention: packed tokens in, packed tokens out, every sample attends to itself only.

Two ways to the same numbers: a variable-length kernel (NVIDIA GPU, 16-bit), and PyTorch's fused
`scaled_dot_product_attention` over runs of equally long samples. Neither materialises a score matrix.

Shapes: M = query tokens, N = key tokens, H = heads, E = channels of a head, R = samples in a run.
"""

import functools
import itertools
import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

try:
    from torch.nn.attention import varlen
except ImportError:  # torch < 2.10; `choose_kernel` says so when it matters
    varlen = None  # type: ignore[assignment]

ATTENTION = ("auto", "sdpa", "varlen")
_log = logging.getLogger("ov_encoder")


class Segments(NamedTuple):
    """Where samples begin and end in a packed tensor. Built once per forward, used by every layer."""

    lengths: list[int]
    bounds: torch.Tensor  # int32 [samples + 1] on the device, for the varlen kernel
    longest: int
    runs: list[tuple[int, int]]  # (samples, length) of neighbours that are equally long

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Segments":
        """From lengths that the host knows: no device synchronisation happens here or later."""
        bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
        runs: list[tuple[int, int]] = []
        for length in lengths:
            if runs and runs[-1][1] == length:
                runs[-1] = (runs[-1][0] + 1, length)
            else:
                runs.append((1, length))
        return cls(list(lengths), bounds, max(lengths), runs)


def attend(
    q_MHE: torch.Tensor, k_NHE: torch.Tensor, v_NHE: torch.Tensor, queries: Segments, keys: Segments, kernel: str
) -> torch.Tensor:
    """softmax(q k^T / sqrt(E)) v within each sample, in both directions: [M, H, E].

    `kernel` is what `choose_kernel` gave, "varlen" or "sdpa".
    """
    if kernel == "varlen":
        bounds = (queries.bounds, keys.bounds, queries.longest, keys.longest)
        o_MHE = varlen.varlen_attn(q_MHE, k_NHE, v_NHE, *bounds)
        assert isinstance(o_MHE, torch.Tensor)
        return o_MHE
    dtype = q_MHE.dtype
    # The 16-bit backward of the fused attention is 2 to 5 times slower on a CPU; its forward is not.
    if q_MHE.device.type == "cpu" and q_MHE.requires_grad:
        q_MHE, k_NHE, v_NHE = q_MHE.float(), k_NHE.float(), v_NHE.float()
    out, sample, m, n = [], 0, 0, 0
    # Neighbours of the same length go through one call, as views: nothing is gathered or padded.
    for R, k_len in keys.runs:
        q_len = queries.lengths[sample]  # the same for all samples of a run: either 1, or as many as keys
        q_RHLE = q_MHE[m : m + R * q_len].unflatten(0, (R, q_len)).transpose(1, 2)
        k_RHLE = k_NHE[n : n + R * k_len].unflatten(0, (R, k_len)).transpose(1, 2)
        v_RHLE = v_NHE[n : n + R * k_len].unflatten(0, (R, k_len)).transpose(1, 2)
        o_RHLE = scaled_dot_product_attention(q_RHLE, k_RHLE, v_RHLE)
        out.append(o_RHLE.transpose(1, 2).flatten(0, 1))
        sample, m, n = sample + R, m + R * q_len, n + R * k_len
    return (out[0] if len(out) == 1 else torch.cat(out)).to(dtype)


@torch.compiler.assume_constant_result  # decided and said while tracing, so that compiled graphs stay whole
def choose_kernel(attention: str, device_type: str, dtype: torch.dtype) -> str:
    """The kernel for "auto", "sdpa" or "varlen". On a GPU, "auto" that must take "sdpa" says so once, and why.

    Raises:
        ValueError: `attention` is unknown, or is "varlen" where that kernel cannot run (the reason is given).
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention is {attention!r}; allowed: {', '.join(map(repr, ATTENTION))}")
    if attention == "sdpa":
        return "sdpa"
    if device_type != "cuda":
        reason = f"the varlen kernel needs an NVIDIA GPU, tokens are on {device_type!r}"
    elif varlen is None:
        reason = f"the varlen kernel needs torch >= 2.10, this is {torch.__version__}"
    elif dtype not in (torch.bfloat16, torch.float16):
        reason = f"the varlen kernel needs bfloat16 or float16, tokens are {str(dtype).removeprefix('torch.')}"
    else:
        return "varlen"
    if attention == "varlen":
        raise ValueError(f"attention='varlen' cannot run: {reason}; use 'auto' or 'sdpa'")
    if device_type == "cuda":  # elsewhere sdpa is the kernel of choice, not a fallback
        _say_once(f"attention='auto' takes sdpa, one call per run of equal lengths: {reason}")
    return "sdpa"


@functools.cache
def _say_once(message: str) -> None:
    _log.warning(message)
