"""Camera motion: the part of a motion field that a moving camera explains, to be subtracted. One frame at a time.

A model is fitted to motion vectors on a grid of square cells, cells at rest included: with a still camera they
are the majority and the answer is zero however the objects move. Pixels, codecs and scores do not belong here.

The fit: many exact models through two or three distant cells, the one that most cells agree with (a bounded
loss, so that no minority can outvote them), then reweighted least squares (Tukey's biweight). No randomness
remains: the cells are drawn by a fixed sequence.

Shapes: H, W = cell rows and columns, 2 = (x, y) pixels per frame, N = sampled cells. A model is 6 numbers
(tx, axx, axy, ty, ayx, ayy): motion x = tx + axx * x + axy * y, the same for y, with x, y in cells from the
picture's centre (one unit on both axes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

MODELS = ("none", "median", "similarity", "affine")
POINTS = 400  # cells that a fit looks at: more change nothing but the time
TRIALS = 64  # exact models tried: enough that some hit three background cells out of 45 % foreground
FEW = 16  # fewer valid cells than this say nothing about zoom or rotation
STILL = 0.6  # share of cells that agree on rest, or on one motion, from which no minority can outvote them
TRUST = 0.25  # a model that explains a smaller share than this is no camera: the median is safer


@dataclass(frozen=True, slots=True)
class Camera:
    """A fitted camera motion.

    weights_6: the model in the units of the module's docstring. model: the one really used; "median" after a
    fallback. explained: share of valid cells that lie within 0.5 pixel + 10 % of the predicted motion.
    """

    weights_6: np.ndarray
    model: str
    explained: float

    def field(self, H: int, W: int) -> np.ndarray:
        """Predicted motion of every cell: float32 [H, W, 2], pixels per frame (x, y)."""
        return _field(self.weights_6, H, W)


def fit_camera(motion_HW2: np.ndarray, valid_HW: np.ndarray | None = None, *, model: str = "similarity") -> Camera:
    """Fit `model` to a motion field [H, W, 2] in pixels per frame; cells not valid or not finite are left out.

    "none" is zero motion. "median" is one translation, the median of each component. "similarity" adds zoom and
    rotation, "affine" all linear motion. Fewer than FEW valid cells, or a model that explains less than TRUST of
    them, fall back to the median; without any valid cell the motion is zero.

    Raises:
        ValueError: unknown model, or wrong shapes.
    """
    if model not in MODELS:
        raise ValueError(f"unknown camera model {model!r}; allowed: {', '.join(MODELS)}")
    motion_HW2 = np.ascontiguousarray(motion_HW2, np.float32)
    if motion_HW2.ndim != 3 or motion_HW2.shape[2] != 2:
        raise ValueError(f"motion_HW2 must have shape [rows, columns, 2], got {motion_HW2.shape}")
    H, W = motion_HW2.shape[:2]
    valid = np.ones((H, W), np.bool_) if valid_HW is None else np.ascontiguousarray(valid_HW, np.bool_)
    if valid.shape != (H, W):
        raise ValueError(f"valid_HW must have shape {(H, W)} to match motion_HW2, got {valid.shape}")
    weights_6, used, explained = _fit(motion_HW2, valid, MODELS.index(model))
    return Camera(weights_6, MODELS[used], float(explained))


def camera_field(
    motion_HW2: np.ndarray, valid_HW: np.ndarray | None = None, *, model: str = "similarity"
) -> np.ndarray:
    """The camera's share of a motion field: float32 [H, W, 2], to be subtracted. Arguments as in `fit_camera`."""
    return fit_camera(motion_HW2, valid_HW, model=model).field(*np.shape(motion_HW2)[:2])


@njit(cache=True, nogil=True)
def _field(weights_6, H, W):
    out = np.empty((H, W, 2), np.float32)
    for i in range(H):
        y = i - (H - 1) / 2
        for j in range(W):
            x = j - (W - 1) / 2
            out[i, j, 0] = weights_6[0] + weights_6[1] * x + weights_6[2] * y
            out[i, j, 1] = weights_6[3] + weights_6[4] * x + weights_6[5] * y
    return out


@njit(cache=True, nogil=True)
def _fit(motion_HW2, valid_HW, model):
    none, median, affine = 0, 1, 3
    x, y, u, v = _sample(motion_HW2, valid_HW)
    w = np.zeros(6)
    if model == none or len(x) == 0:
        return w, none if model == none else median, _explained(x, y, u, v, w)
    at_rest = 0
    for k in range(len(x)):
        at_rest += abs(u[k]) + abs(v[k]) < 0.05
    if at_rest >= STILL * len(x):
        return w, model, _explained(x, y, u, v, w)
    w[0], w[3] = np.median(u), np.median(v)
    if model == median or len(x) < FEW:
        return w, median, _explained(x, y, u, v, w)
    clear = _explained(x, y, u, v, w) >= STILL  # then the median is close enough to start from
    best = _refine(x, y, u, v, w if clear else _consensus(x, y, u, v, w, model == affine), model == affine)
    explained = _explained(x, y, u, v, best)
    if explained < TRUST:
        return w, median, _explained(x, y, u, v, w)
    return best, model, explained


@njit(cache=True, nogil=True)
def _sample(motion_HW2, valid_HW):
    """Coordinates and vectors of at most about POINTS valid cells on a regular stride."""
    H, W = valid_HW.shape
    count = 0
    for i in range(H):
        for j in range(W):
            count += valid_HW[i, j]
    stride = max(1, int(np.ceil(np.sqrt(count / POINTS))))
    x, y, u, v = np.empty(count), np.empty(count), np.empty(count), np.empty(count)
    n = 0
    for i in range((H - 1) % stride // 2, H, stride):
        for j in range((W - 1) % stride // 2, W, stride):
            a, b = motion_HW2[i, j, 0], motion_HW2[i, j, 1]
            if valid_HW[i, j] and np.isfinite(a) and np.isfinite(b):
                x[n], y[n], u[n], v[n] = j - (W - 1) / 2, i - (H - 1) / 2, a, b
                n += 1
    return x[:n], y[:n], u[:n], v[:n]


@njit(cache=True, nogil=True)
def _consensus(x, y, u, v, start, affine):
    """The exact model through a few cells (or `start`) with the smallest bounded loss over all cells."""
    n = len(x)
    step = max(1, n // 200)  # 200 cells rank the trials as well as all of them
    reach = 0.25 * (np.max(np.abs(x)) + np.max(np.abs(y)))  # closer cells would amplify their noise
    best, best_loss = start.copy(), _bounded_loss(x, y, u, v, start, step)
    state = np.uint32(12345)
    weight = np.zeros(n)
    for _ in range(TRIALS):
        weight[:] = 0
        first = -1
        picked = 0
        for _ in range(12):
            state = np.uint32(state * np.uint32(1664525) + np.uint32(1013904223))
            k = int(state >> np.uint32(8)) % n
            if first < 0:
                first = k
            elif weight[k] > 0 or abs(x[k] - x[first]) + abs(y[k] - y[first]) < reach:
                continue
            weight[k] = 1
            picked += 1
            if picked == (3 if affine else 2):
                break
        trial = _least_squares(x, y, u, v, weight, affine)
        loss = _bounded_loss(x, y, u, v, trial, step)
        if loss < best_loss:
            best, best_loss = trial, loss
    return best


@njit(cache=True, nogil=True)
def _bounded_loss(x, y, u, v, w, step):
    """Sum of r^2 / (r^2 + s^2), s = half a pixel: a cell costs at most 1 however far off it is."""
    loss = 0.0
    for k in range(0, len(x), step):
        du = u[k] - w[0] - w[1] * x[k] - w[2] * y[k]
        dv = v[k] - w[3] - w[4] * x[k] - w[5] * y[k]
        r = du * du + dv * dv
        loss += r / (r + 0.25)
    return loss


@njit(cache=True, nogil=True)
def _refine(x, y, u, v, w, affine):
    """Reweighted least squares with Tukey's biweight; the scale is the median residual, at least 0.1 pixel."""
    residual = np.empty(len(x))
    weight = np.empty(len(x))
    cutoff = 0.0
    for turn in range(6):
        for k in range(len(x)):
            du = u[k] - w[0] - w[1] * x[k] - w[2] * y[k]
            dv = v[k] - w[3] - w[4] * x[k] - w[5] * y[k]
            residual[k] = du * du + dv * dv
        if turn < 3:  # then the scale has settled
            cutoff = (4.685 * max(0.1, 1.2 * np.sqrt(np.median(residual)))) ** 2
        for k in range(len(x)):
            weight[k] = max(0.0, 1 - residual[k] / cutoff) ** 2
        w = _least_squares(x, y, u, v, weight, affine)
    return w


@njit(cache=True, nogil=True)
def _least_squares(x, y, u, v, weight, affine):
    """Weighted least squares in closed form; a translation where the cells do not span the model."""
    s = mx = my = mu = mv = 0.0
    for k in range(len(x)):
        if weight[k] > 0:
            s += weight[k]
            mx += weight[k] * x[k]
            my += weight[k] * y[k]
            mu += weight[k] * u[k]
            mv += weight[k] * v[k]
    w = np.zeros(6)
    if s == 0:
        return w
    mx, my, mu, mv = mx / s, my / s, mu / s, mv / s
    xx = xy = yy = xu = yu = xv = yv = 0.0
    for k in range(len(x)):
        if weight[k] > 0:
            dx, dy, du, dv = x[k] - mx, y[k] - my, u[k] - mu, v[k] - mv
            xx += weight[k] * dx * dx
            xy += weight[k] * dx * dy
            yy += weight[k] * dy * dy
            xu += weight[k] * dx * du
            yu += weight[k] * dy * du
            xv += weight[k] * dx * dv
            yv += weight[k] * dy * dv
    det = xx * yy - xy * xy
    if affine and det > 3e-3 * (xx + yy) ** 2:
        w[1], w[2] = (yy * xu - xy * yu) / det, (xx * yu - xy * xu) / det
        w[4], w[5] = (yy * xv - xy * yv) / det, (xx * yv - xy * xv) / det
    elif not affine and xx + yy > 0:
        zoom, turn = (xu + yv) / (xx + yy), (xv - yu) / (xx + yy)
        w[1], w[2], w[4], w[5] = zoom, -turn, turn, zoom
    w[0] = mu - w[1] * mx - w[2] * my
    w[3] = mv - w[4] * mx - w[5] * my
    return w


@njit(cache=True, nogil=True)
def _explained(x, y, u, v, w):
    if len(x) == 0:
        return 0.0
    hits = 0
    for k in range(len(x)):
        pu = w[0] + w[1] * x[k] + w[2] * y[k]
        pv = w[3] + w[4] * x[k] + w[5] * y[k]
        near = 0.5 + 0.1 * np.sqrt(pu * pu + pv * pv)
        hits += (u[k] - pu) ** 2 + (v[k] - pv) ** 2 <= near * near
    return hits / len(x)
