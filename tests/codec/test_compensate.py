"""Motion compensation against slow, literal oracles: the six-tap filter of H.264, bilinear prediction, plain means.

Y, X = pixel rows and columns, H, W = cell rows and columns.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.codec.compensate import derived_energy, exact_residual, reduction, residual_energy, shrink
from ov_encoder.codec.vectors import VECTOR

SEEDS = st.integers(0, 2**32 - 1)


def picture(rng, Y, X):
    """Noise over blobs, with saturated samples: the filters clip there."""
    coarse = np.kron(rng.integers(0, 2, (-(-Y // 4), -(-X // 4))) * 255, np.ones((4, 4)))[:Y, :X]
    return np.where(rng.random((Y, X)) < 0.5, coarse, rng.integers(0, 256, (Y, X))).astype(np.uint8)


# --- six taps -------------------------------------------------------------------------------------------------


def sample(reference_YX, x4, y4):
    """One predicted luma sample at (x4, y4) quarter pixels, step by step as H.264 8.4.2.2.1 names them."""
    Y, X = reference_YX.shape
    xi, yi, fx, fy = x4 >> 2, y4 >> 2, x4 & 3, y4 & 3

    def full(dx, dy):
        return int(reference_YX[min(max(yi + dy, 0), Y - 1), min(max(xi + dx, 0), X - 1)])

    def taps(values):
        e, f, g, h, i, j = values
        return e - 5 * f + 20 * g + 20 * h - 5 * i + j

    def clip(value):
        return min(max(value, 0), 255)

    def across(dy):
        return taps([full(dx, dy) for dx in range(-2, 4)])

    def down(dx):
        return taps([full(dx, dy) for dy in range(-2, 4)])

    G, H, M = full(0, 0), full(1, 0), full(0, 1)
    b, s = clip((across(0) + 16) >> 5), clip((across(1) + 16) >> 5)
    h, m = clip((down(0) + 16) >> 5), clip((down(1) + 16) >> 5)
    j = clip((taps([across(dy) for dy in range(-2, 4)]) + 512) >> 10)
    pair = {
        (0, 0): (G, G), (0, 1): (G, h), (0, 2): (h, h), (0, 3): (h, M),
        (1, 0): (G, b), (1, 1): (b, h), (1, 2): (h, j), (1, 3): (h, s),
        (2, 0): (b, b), (2, 1): (b, j), (2, 2): (j, j), (2, 3): (j, s),
        (3, 0): (b, H), (3, 1): (b, m), (3, 2): (j, m), (3, 3): (s, m),
    }[fx, fy]  # fmt: skip
    return (pair[0] + pair[1] + 1) >> 1


def block(x, y, w, h, mx, my):
    made = np.zeros(1, VECTOR)
    made["source"], made["w"], made["h"], made["motion_scale"] = -1, w, h, 4
    made["dst_x"], made["dst_y"], made["motion_x"], made["motion_y"] = x + w // 2, y + h // 2, mx, my
    return made


@pytest.mark.parametrize("quarter", range(16))
def test_every_quarter_position_is_the_standard_s(quarter):
    rng = np.random.default_rng(quarter)
    luma, reference = picture(rng, 16, 32), picture(rng, 16, 32)
    mx, my = quarter % 4 + 4, quarter // 4 - 8
    residual, inter = exact_residual(luma, reference, block(8, 0, 16, 16, mx, my))
    expected = np.zeros((16, 32), int)
    for y in range(16):
        for x in range(8, 24):
            expected[y, x] = int(luma[y, x]) - sample(reference, 4 * x + mx, 4 * y + my)
    assert residual.dtype == np.int16
    assert np.array_equal(residual, expected)
    assert np.array_equal(inter, np.tile((np.arange(32) >= 8) & (np.arange(32) < 24), (16, 1)))


@settings(max_examples=25)
@given(seed=SEEDS, reach=st.sampled_from([3, 20, 90, 400, 30000]))
def test_residual_is_pixel_identical_wherever_vectors_point(seed, reach):
    rng = np.random.default_rng(seed)
    luma, reference = picture(rng, 16, 32), picture(rng, 16, 32)
    vectors, expected, inter = [], np.zeros((16, 32), int), np.zeros((16, 32), bool)
    for y in range(0, 16, 8):
        for x in range(0, 32, 8):
            if rng.random() < 0.2:
                continue  # an intra block
            mx, my = (int(v) for v in rng.integers(-reach, reach + 1, 2))
            vectors.append(block(x, y, 8, 8, mx, my))
            inter[y : y + 8, x : x + 8] = True
            for v in range(y, y + 8):
                for u in range(x, x + 8):
                    expected[v, u] = int(luma[v, u]) - sample(reference, 4 * u + mx, 4 * v + my)
    got, got_inter = exact_residual(luma, reference, np.concatenate([*vectors, np.empty(0, VECTOR)]))
    assert np.array_equal(got, expected)
    assert np.array_equal(got_inter, inter)


def test_blocks_that_reach_out_of_the_picture_are_clipped():
    rng = np.random.default_rng(0)
    luma, reference = picture(rng, 16, 16), picture(rng, 16, 16)
    vectors = np.concatenate([block(-8, -8, 16, 16, 0, 0), block(8, 8, 16, 16, 0, 0), block(40, 0, 16, 16, 0, 0)])
    residual, inter = exact_residual(luma, reference, vectors)
    corners = np.zeros((16, 16), bool)
    corners[:8, :8] = corners[8:, 8:] = True
    assert np.array_equal(inter, corners)
    assert np.array_equal(residual, np.where(corners, luma.astype(int) - reference, 0))


# --- energy ---------------------------------------------------------------------------------------------------


def unpredicted(now, before):
    """What stands in for an intra cell: the smaller of the frame difference and the cell's own variance."""
    now, before = now.astype(float), before.astype(float)
    return min(((now - before) ** 2).mean(), now.var())


@given(seed=SEEDS, Y=st.integers(1, 40), X=st.integers(1, 40))
@settings(max_examples=30)
def test_residual_energy_is_the_mean_square_of_each_cell(seed, Y, X):
    rng = np.random.default_rng(seed)
    luma, before = picture(rng, Y, X), picture(rng, Y, X)
    residual = rng.integers(-255, 256, (Y, X)).astype(np.int16)
    H, W = -(-Y // 8), -(-X // 8)
    cells = rng.random((H, W)) < 0.6
    inter = np.kron(cells, np.ones((8, 8), bool))[:Y, :X]
    energy = residual_energy(residual, inter, luma, before)
    assert (energy.shape, energy.dtype) == ((H, W), np.float32)
    for i in range(H):
        for j in range(W):
            part = np.s_[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            missed = (residual[part].astype(float) ** 2).mean()
            expected = missed if cells[i, j] else unpredicted(luma[part], before[part])
            assert energy[i, j] == pytest.approx(expected, rel=1e-4, abs=0.02)


def bilinear(picture_YX, y, x):
    """Value at real positions; outside, border samples repeat."""
    Y, X = picture_YX.shape
    xa, ya = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - xa, y - ya

    def at(v, u):
        return picture_YX[np.clip(v, 0, Y - 1), np.clip(u, 0, X - 1)].astype(float)

    top = at(ya, xa) * (1 - fx) + at(ya, xa + 1) * fx
    return top * (1 - fy) + (at(ya + 1, xa) * (1 - fx) + at(ya + 1, xa + 1) * fx) * fy


@settings(max_examples=60)
@given(
    seed=SEEDS,
    factor=st.sampled_from([1, 2, 4, 8]),
    height=st.integers(17, 70),
    width=st.integers(17, 70),
    reach=st.sampled_from([0, 2, 12, 300]),
    fraction=st.sampled_from([1, 4]),
)
def test_derived_energy_is_the_error_of_bilinear_prediction(seed, factor, height, width, reach, fraction):
    rng = np.random.default_rng(seed)
    Y, X = height // factor, width // factor  # as `shrink` leaves them
    now, before = (picture(rng, Y, X).astype(np.float32) for _ in range(2))
    H, W = -(-height // 8), -(-width // 8)
    few = rng.integers(-reach * fraction, reach * fraction + 1, (3, 2)) / fraction  # so that neighbours often agree
    motion = few[rng.integers(0, 3, (H, W))].astype(np.float32)
    lists = np.where(rng.random((H, W)) < 0.2, 0, 1).astype(np.uint8)
    energy = derived_energy(now, before, motion, lists, factor)
    side = 8 // factor
    for i in range(H):
        for j in range(W):
            ys, xs = np.arange(i * side, min(i * side + side, Y)), np.arange(j * side, min(j * side + side, X))
            if not len(ys) or not len(xs):
                assert energy[i, j] == 0  # the remainder that shrinking left out
                continue
            part = np.ix_(ys, xs)
            if lists[i, j] == 0:
                expected = unpredicted(now[part], before[part])
            else:
                mx, my = motion[i, j] / factor
                guess = bilinear(before, *np.meshgrid(ys + float(my), xs + float(mx), indexing="ij"))
                expected = ((now[part] - guess) ** 2).mean()
            assert energy[i, j] == pytest.approx(expected, rel=1e-3, abs=0.05), (i, j)


def test_a_picture_shifted_by_its_motion_costs_nothing():
    before = picture(np.random.default_rng(3), 64, 64).astype(np.float32)
    now = np.roll(before, (-4, 3), axis=(0, 1))  # content moved 3 right and 4 up: it came from (-3, +4)
    motion = np.broadcast_to(np.float32([-3, 4]), (8, 8, 2)).copy()
    lists = np.ones((8, 8), np.uint8)
    energy = derived_energy(now, before, motion, lists, 1)
    assert (energy[:-1, 1:] == 0).all()
    assert (derived_energy(now, before, -motion, lists, 1) > 100).all()


# --- shrinking ------------------------------------------------------------------------------------------------


@given(seed=SEEDS, Y=st.integers(8, 50), X=st.integers(8, 50), factor=st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=40)
def test_shrink_is_the_mean_of_squares_of_pixels(seed, Y, X, factor):
    luma = picture(np.random.default_rng(seed), Y, X)
    small = shrink(luma, factor)
    H, W = Y // factor, X // factor
    means = luma[: H * factor, : W * factor].reshape(H, factor, W, factor).mean(axis=(1, 3))
    assert (small.shape, small.dtype) == ((H, W), np.float32)
    assert np.abs(small - means).max() < 1e-3


def test_shrink_works_on_a_decoder_s_padded_rows():
    rows = picture(np.random.default_rng(1), 48, 64)
    view = rows[:40, :50]
    for factor in (2, 4, 8):
        assert np.array_equal(shrink(view, factor), shrink(view.copy(), factor))


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(224, 224, 1), (319, 5000, 1), (320, 320, 2), (720, 1280, 4), (1080, 1920, 4), (1280, 720, 4), (9000, 9000, 8)],
)
def test_reduction_leaves_160_pixels_or_more(height, width, factor):
    assert reduction(height, width) == factor
