"""Rotary embedding of (t, h, w): angles from positions, and their use on queries and keys. No state, no buffers.

Two kinds share their frequencies. Half of a head's channels, F = E/2, is split 4:6:6 over t, h and w; each axis
has n frequencies theta^(-j/n).

* "rotation": channel c and channel c + F turn together by angle f[c]. Norms are kept, and the logit of a query
  and a key depends on the difference of their positions only.
* "reference": what released weights were trained with. The angles are tiled (f, f) but neighbours (2i, 2i+1)
  are mixed, so the two channels of a pair use two different angles: not a rotation, norms change, and logits
  depend on absolute positions. At position 0 both kinds are the identity.

Shapes: N = tokens, H = heads, E = channels of a head, F = E/2.
"""

from typing import NamedTuple

import torch


class RotaryTable(NamedTuple):
    """Factors for one set of positions, float32 [N, 1, E]; `first` and `second` pick the channels of a pair."""

    cos_N1E: torch.Tensor
    sin_N1E: torch.Tensor  # already negative in the first channel of a pair
    first: slice
    second: slice


def angles(positions_N3: torch.Tensor, *, head_dim: int, theta: float) -> torch.Tensor:
    """Angles f = [t * w_t | h * w_h | w * w_w] of integer or fractional positions, in float32: [N, E/2]."""
    columns = []
    for axis, share in enumerate((4, 6, 6)):
        n = head_dim // 2 * share // 16
        # Python floats, rounded once: every device gets the same frequencies, and a model built on the meta
        # device has nothing that could stay uninitialised.
        frequencies = [theta ** (-j / n) for j in range(n)]
        w_n = torch.tensor(frequencies, dtype=torch.float32, device=positions_N3.device)
        columns.append(positions_N3[:, axis, None].float() * w_n)
    return torch.cat(columns, dim=-1)


def rotary_table(positions_N3: torch.Tensor, *, head_dim: int, theta: float, kind: str) -> RotaryTable:
    """The table that `apply_rotary` takes. Computed once per forward, for all layers and heads.

    Raises:
        ValueError: `kind` is neither "reference" nor "rotation".
    """
    f_NF = angles(positions_N3, head_dim=head_dim, theta=theta)
    if kind == "rotation":
        first, second = slice(0, head_dim // 2), slice(head_dim // 2, head_dim)
    elif kind == "reference":
        first, second = slice(0, head_dim, 2), slice(1, head_dim, 2)
    else:
        raise ValueError(f"rope is {kind!r}; allowed: 'reference', 'rotation'")
    e_N1E = torch.cat((f_NF, f_NF), dim=-1).unsqueeze(1)
    sin_N1E = e_N1E.sin()
    sin_N1E[..., first].neg_()
    return RotaryTable(e_N1E.cos(), sin_N1E, first, second)


def apply_rotary(x_NHE: torch.Tensor, table: RotaryTable) -> torch.Tensor:
    """Queries or keys at their positions: computed in float32, returned in the dtype of `x_NHE`."""
    cos, sin, first, second = table
    x = x_NHE.float()
    y = x * cos
    y[..., first].addcmul_(x[..., second], sin[..., first])
    y[..., second].addcmul_(x[..., first], sin[..., second])
    return y.to(x_NHE.dtype)
