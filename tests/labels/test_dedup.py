"""Groups of duplicates equal those of comparing every pair and walking the graph by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.errors import OvEncoderError
from ov_encoder.labels import dedup
from ov_encoder.labels.dedup import (
    find_duplicates,
    hash_pairs,
    join,
    load_duplicates,
    near_pairs,
    representatives,
    word_pairs,
)
from ov_encoder.labels.shards import ArrayVectors, open_features, write_shard

real_blocks = dedup.blocks


def walk(n: int, near) -> list[int]:
    """Lowest member of each sample's group, by visiting neighbours one at a time."""
    root = [-1] * n
    for start in range(n):
        if root[start] >= 0:
            continue
        stack = [start]
        while stack:
            at = stack.pop()
            if root[at] < 0:
                root[at] = start
                stack += [other for other in range(n) if other != at and near(at, other)]
    return root


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60), st.booleans())
def test_join_equals_walking(n: int, pairs: list[tuple[int, int]], one_by_one: bool) -> None:
    pairs = [(a % n, b % n) for a, b in pairs]
    linked = {(a, b) for a, b in pairs} | {(b, a) for a, b in pairs}
    arrays = (
        [np.array(pairs, np.int64).reshape(-1, 2).T] if not one_by_one else [np.array([[a], [b]]) for a, b in pairs]
    )
    assert join(n, [(a[0], a[1]) for a in arrays]).tolist() == walk(n, lambda a, b: (a, b) in linked)


def test_join_merges_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain given in single links, merged after every few: memory holds a few links, the result is one group."""
    monkeypatch.setattr(dedup, "WAITING", -95)
    merges = []
    real = dedup._merge
    monkeypatch.setattr(dedup, "_merge", lambda root, waiting: merges.append(len(waiting)) or real(root, waiting))
    links = ((np.array([i + 1]), np.array([i])) for i in reversed(range(99)))
    assert join(100, links).tolist() == [0] * 100
    assert max(merges) == 5 and sum(merges) == 99


@settings(max_examples=30)
@given(st.integers(0, 15), st.integers(1, 40), st.integers(0, 10**6))
def test_hash_pairs_equal_brute_force(radius: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, 4, dtype=np.uint64)
    hashes_N = base[rng.integers(0, 4, n)]
    for _ in range(rng.integers(0, 12)):  # flip bits here and there
        some = rng.random(n) < 0.5
        hashes_N[some] ^= np.uint64(1) << rng.integers(0, 64, some.sum(), dtype=np.uint64)

    def near(a: int, b: int) -> bool:
        return bin(int(hashes_N[a]) ^ int(hashes_N[b])).count("1") <= radius

    found = {(a, b) for left, right in hash_pairs(hashes_N, radius) for a, b in zip(left, right, strict=True)}
    assert all(a < b and near(a, b) for a, b in found)
    assert join(n, hash_pairs(hashes_N, radius)).tolist() == walk(n, near)


@settings(max_examples=40)
@given(st.integers(0, 30), st.integers(1, 3), st.integers(1, 30), st.integers(0, 10**6))
def test_word_pairs_equal_brute_force(radius: int, words: int, n: int, seed: int) -> None:
    radius = min(radius, 16 * words - 1)
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, (3, words), dtype=np.uint64)
    base[1, 0] = base[0, 0]  # one word in common is not enough
    hashes_MW = base[rng.integers(0, 3, n)]
    for _ in range(rng.integers(0, 20)):
        some = rng.random((n, words)) < 0.5
        hashes_MW[some] ^= np.uint64(1) << rng.integers(0, 64, some.sum(), dtype=np.uint64)

    def near(a: int, b: int) -> bool:
        return sum(int(x ^ y).bit_count() for x, y in zip(hashes_MW[a], hashes_MW[b], strict=True)) <= radius

    found = {(a, b) for left, right in word_pairs(hashes_MW, radius) for a, b in zip(left, right, strict=True)}
    assert all(a < b and near(a, b) for a, b in found)
    assert join(n, word_pairs(hashes_MW, radius)).tolist() == walk(n, near)


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_near_pairs_equal_all_cosines(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    rng = np.random.default_rng(1)
    x_ND = rng.standard_normal((700, 16)).astype(np.float32)
    x_ND[400:600] = 3 * x_ND[:200] + 0.2 * rng.standard_normal((200, 16))
    unit_ND = x_ND.astype(np.float64) / np.linalg.norm(x_ND, axis=1, keepdims=True)
    cosine_NN = unit_ND @ unit_ND.T
    assert np.abs(cosine_NN - 0.97).min() > 1e-6
    monkeypatch.setattr(dedup, "TILE", (50, 70))
    monkeypatch.setattr(dedup, "blocks", lambda source, start: real_blocks(source, start=start, rows=128))
    found = {
        (a, b) for p in near_pairs(ArrayVectors(x_ND), 0.97, method=method) for a, b in zip(*map(list, p), strict=True)
    }
    expected = set(zip(*map(list, np.nonzero(np.triu(cosine_NN >= 0.97, 1))), strict=True))
    assert len(expected) > 100
    assert found == expected


def test_representatives_keep_the_best_then_the_first() -> None:
    root_N = np.array([0, 0, 2, 0, 2, 5])
    assert representatives(root_N).tolist() == root_N.tolist()
    assert representatives(root_N, np.array([1, 9, 4, 9, 5, 0])).tolist() == [1, 1, 4, 1, 4, 5]


def test_three_signs_and_their_map(tmp_path: Path) -> None:
    ids = list("abcdefg")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 32)).astype(np.float32)
    write_shard(tmp_path / "f", 0, ["f", "c", "g"], np.stack([x[0], x[1], x[0] * 2]))  # other order, not all
    hashes = rng.integers(0, 2**64, 7, dtype=np.uint64)
    hashes[3] = hashes[2] ^ np.uint64(0b1001)
    found = find_duplicates(
        ids,
        content=["h", "h", "i", "j", "", "", "k"],
        hashes_N=hashes,
        features=open_features(tmp_path / "f"),
        quality_N=np.array([1, 2, 1, 1, 1, 1, 1]),
    )
    assert found.kept == ["b", "c", "e", "f"]
    found.save(tmp_path / "map.parquet")
    read = load_duplicates(tmp_path / "map.parquet")
    assert [read.ids[row] for row in read.keep_N] == ["b", "b", "c", "c", "e", "f", "f"]
    (tmp_path / "map.parquet").write_bytes(b"PAR1")
    with pytest.raises(OvEncoderError, match="cannot be read as a map of duplicates"):
        load_duplicates(tmp_path / "map.parquet")
    with pytest.raises(OvEncoderError, match=r"row 0 \(sample 'f'\): not among the 2 ids"):
        find_duplicates(["g", "c"], features=open_features(tmp_path / "f"))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="different from each other"):
        find_duplicates(["a", "a"])
    with pytest.raises(ValueError, match="1 content for 2 ids"):
        find_duplicates(["a", "b"], content=["x"])
    with pytest.raises(ValueError, match=r"radius must be 0..15"):
        list(hash_pairs(np.zeros(2, np.uint64), 16))
    with pytest.raises(ValueError, match="must be uint64"):
        list(hash_pairs(np.zeros(2, np.int64), 3))
    with pytest.raises(ValueError, match=r"radius must be 0..143 bits for 9 words, got 144"):
        list(word_pairs(np.zeros((2, 9), np.uint64), 144))
    with pytest.raises(ValueError, match=r"must be uint64 \[M, W\]"):
        list(word_pairs(np.zeros(2, np.uint64), 3))
    for threshold, method, message in ((0.0, "exact", "threshold"), (0.9, "lsh", "method must be exact or ivf")):
        with pytest.raises(ValueError, match=message):
            near_pairs(ArrayVectors(np.ones((2, 2))), threshold, method=method)
