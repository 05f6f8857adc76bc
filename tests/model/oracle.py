"""The encoder a second time, in float64 numpy and in the most naive way: one sample, one head, one N x N matrix.

Also weights and pixels that are closed formulas of their index, so that goldens need no file of weights.
Shapes: N = tokens, D = width, H = heads, E = channels of a head, S = values of a patch.
"""

import math
import zlib
from collections.abc import Iterable, Mapping

import numpy as np

from ov_encoder.model.config import OVEncoderConfig
from ov_encoder.model.encoder import CLIP_MEAN, CLIP_STD

SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}


def noise(name: str, shape: Iterable[int]) -> np.ndarray:
    """Numbers in [-1, 1) from a hash of (name, index): the same on every machine and in every release."""
    shape = tuple(shape)
    with np.errstate(over="ignore"):
        z = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1).reshape(shape)


def formula_weights(shapes: Mapping[str, Iterable[int]]) -> dict[str, np.ndarray]:
    """float32 weights for every key: norms near 1, biases small, the rest large enough that attention is sharp."""
    out = {}
    for key, shape in shapes.items():
        w = noise(key, shape)
        if key.endswith("bias"):
            w = 0.1 * w
        elif "norm" in key:
            w = 1 + 0.2 * w
        elif "probe" not in key:
            w = w * 2 / math.sqrt(math.prod(w.shape[1:]))
        out[key] = w.astype(np.float32)
    return out


def formula_pixels(name: str, tokens: int, values: int = 588) -> np.ndarray:
    """uint8 patches [N, S]."""
    return ((noise(name, (tokens, values)) + 1) * 128).astype(np.uint8)


def forward(
    weights: Mapping[str, np.ndarray],
    config: OVEncoderConfig,
    patches_NS: np.ndarray,
    positions_N3: np.ndarray,
    allowed_NN: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """One sample of uint8 patches: tokens [N, D], pooled [D], hidden states. `allowed_NN` limits who sees whom."""
    w = {k: np.asarray(v, np.float64) for k, v in weights.items()}
    eps, H = config.layer_norm_eps, config.num_attention_heads
    rgb_N3s = patches_NS.reshape(len(patches_NS), 3, -1) / 255
    x = (rgb_N3s - np.array(CLIP_MEAN)[:, None]) / np.array(CLIP_STD)[:, None]
    x = x.reshape(len(x), -1) @ w["embeddings.patch_embedding.weight"].reshape(config.hidden_size, -1).T
    x = layer_norm(x, w, "layernorm_pre", eps)
    angle_NF = angles(positions_N3, config)
    states = [x]
    for i in range(config.num_hidden_layers):
        key = f"encoder.layers.{i}"
        y = layer_norm(x, w, f"{key}.layer_norm1", eps)
        q, k, v = (linear(y, w, f"{key}.self_attn.{n}_proj") for n in "qkv")
        heads = []
        for q_NE, k_NE, v_NE in zip(*(np.split(a, H, axis=1) for a in (q, k, v)), strict=True):
            heads.append(attention(turn(q_NE, angle_NF, config), turn(k_NE, angle_NF, config), v_NE, allowed_NN))
        x = x + linear(np.concatenate(heads, axis=1), w, f"{key}.self_attn.out_proj")
        x = x + mlp(layer_norm(x, w, f"{key}.layer_norm2", eps), w, f"{key}.mlp")
        states.append(x)
    tokens = layer_norm(x, w, "layernorm_post", eps)
    return tokens, pool(tokens, w, config), states


def pool(tokens_ND: np.ndarray, w: Mapping[str, np.ndarray], config: OVEncoderConfig) -> np.ndarray:
    """The head on the tokens of one sample: [D]."""
    sides = (w["head.probe"][0], tokens_ND, tokens_ND)
    parts = zip(
        sides, np.split(w["head.attention.in_proj_weight"], 3), np.split(w["head.attention.in_proj_bias"], 3),
        strict=True,
    )  # fmt: skip
    q, k, v = (np.split(x @ m.T + b, config.num_attention_heads, axis=1) for x, m, b in parts)
    heads = [attention(*qkv, None) for qkv in zip(q, k, v, strict=True)]
    y = linear(np.concatenate(heads, axis=1), w, "head.attention.out_proj")
    normed = y / np.sqrt((y**2).mean(-1, keepdims=True) + config.layer_norm_eps) * w["head.norm.weight"]
    return (y + mlp(normed, w, "head.mlp"))[0]


def angles(positions_N3: np.ndarray, config: OVEncoderConfig) -> np.ndarray:
    """[N, E/2]: a quarter of the channels for t, three eighths each for h and w."""
    half = config.head_dim // 2
    columns = []
    for axis, n in enumerate((half // 4, half * 3 // 8, half * 3 // 8)):
        columns += [positions_N3[:, axis] / config.rope_theta ** (j / n) for j in range(n)]
    return np.stack(columns, axis=1)


def turn(x_NE: np.ndarray, angle_NF: np.ndarray, config: OVEncoderConfig) -> np.ndarray:
    """Rotary embedding, channel by channel, as written in the papers and in the reference."""
    out, F = np.empty_like(x_NE), angle_NF.shape[1]
    for c in range(2 * F):
        if config.rope == "rotation":
            mate, sign = (c + F, -1) if c < F else (c - F, 1)
        else:
            mate, sign = (c + 1, -1) if c % 2 == 0 else (c - 1, 1)
        f = angle_NF[:, c % F]
        out[:, c] = x_NE[:, c] * np.cos(f) + sign * x_NE[:, mate] * np.sin(f)
    return out


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    scores = q @ k.T / math.sqrt(q.shape[1])
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True) @ v


def linear(x: np.ndarray, w: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    return x @ w[f"{key}.weight"].T + w[f"{key}.bias"]


def layer_norm(x: np.ndarray, w: Mapping[str, np.ndarray], key: str, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * w[f"{key}.weight"] + w[f"{key}.bias"]


def mlp(x: np.ndarray, w: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    y = linear(x, w, f"{key}.fc1")
    erf = np.vectorize(math.erf)(y / math.sqrt(2))
    return linear(y * (1 + erf) / 2, w, f"{key}.fc2")
