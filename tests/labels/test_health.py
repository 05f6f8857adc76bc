"""Figures of health against their definitions, and pictures in their places."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ov_encoder.labels.assign import assign
from ov_encoder.labels.health import contact_sheet, health, sample_clusters, write_health
from ov_encoder.labels.kmeans import fit_kmeans
from tests.labels.shard_files import blobs, shards_of


def test_sizes() -> None:
    report = health(np.array([0, 0, 0, 1, 3, 3, 3, 3]), 5)
    assert report["empty"] == 0.4 and report["largest"] == 4 and report["median"] == 3
    assert report["histogram"] == [[1, 1], [2, 1], [4, 1]]
    assert health(np.repeat(np.arange(6), 7), 6)["effective"] == pytest.approx(6)


def test_agreement_with_known_classes() -> None:
    label_N = np.array([0, 0, 0, 1, 1, 2])
    report = health(label_N, 3, classes=["cat", "cat", "dog", "dog", "dog", None])
    assert report["known"] == 5 and report["classes"] == 2
    assert report["purity"] == pytest.approx(4 / 5) and report["chance"] == pytest.approx(3 / 5)
    table = np.array([[2, 0], [1, 2]]) / 5
    rows, columns = table.sum(1), table.sum(0)
    mutual = sum(
        table[i, j] * np.log(table[i, j] / rows[i] / columns[j]) for i in (0, 1) for j in (0, 1) if table[i, j]
    )
    entropies = [-(p * np.log(p)).sum() for p in (rows, columns)]
    assert report["nmi"] == pytest.approx(mutual / np.mean(entropies))
    assert health(label_N, 3, classes=[None] * 6)["known"] == 0
    with pytest.raises(ValueError, match="1 classes for 6 samples"):
        health(label_N, 3, classes=["cat"])


def test_report_of_blobs(tmp_path: Path) -> None:
    x_ND = blobs(400, 8, 5, spread=0.05)
    features = shards_of(tmp_path / "f", x_ND, rows=400)
    centres = fit_kmeans(features, k=5, init=x_ND[:5], iterations=5, device="cpu")
    labels = assign(features, centres, tmp_path / "labels", top=2)
    colours = ["red", "green", "blue", "white", "black"]
    report = write_health(
        labels,
        tmp_path / "report",
        known={f"s{i}": colours[i % 5] for i in range(400)},
        thumbnail=lambda name: Image.new("RGB", (300, 200), colours[int(name[1:]) % 5]),
    )
    assert report["purity"] == 1 and report["nmi"] == pytest.approx(1) and report["empty"] == 0
    assert json.loads((tmp_path / "report" / "health.json").read_text()) == report
    assert report["labels"]["centres"] == centres.fingerprint
    with Image.open(tmp_path / "report" / "clusters.png") as sheet:
        for row in range(5):  # a row of the sheet is one cluster: one colour
            y = 4 + row * 134 + 18 + 56
            assert len({sheet.getpixel((4 + column * 116 + 56, y)) for column in range(10)}) == 1
    with Image.open(tmp_path / "report" / "health.png") as picture:
        assert picture.width > 500


def test_sample_clusters_shows_the_nearest_first() -> None:
    label_N = np.array([0, 1, 1, 1, 1, 1, 2])
    similarity_N = np.array([0.9, 0.1, 0.5, 0.3, 0.9, 0.7, 0.2], np.float16)
    assert sample_clusters(list("abcdefg"), label_N, similarity_N, columns=4) == {"1: 5 samples": ["e", "f", "c", "d"]}
    assert len(sample_clusters(list("abc"), np.arange(3), np.ones(3, np.float16))) == 3
    with pytest.raises(ValueError, match="no clusters"):
        contact_sheet({}, lambda name: Image.new("RGB", (2, 2)))
