"""Words and tags: one spelling, no bias, nobody gets a label for showing nothing."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ov_encoder.errors import OvEncoderError
from ov_encoder.labels.ocr_words import plain, words
from ov_encoder.labels.vocabulary import build_vocabulary, read_vocabulary, save_vocabulary, tags_of


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("TAX INVOICE No. 4711", ["invoice", "no", "tax"]),
        ("Ｆｕｌｌ　Ｗｉｄｔｈ ﬁsh", ["fish", "full", "width"]),
        ("TOTALAMOUNT", ["amount", "total"]),
        ("thankyoupleasecomeagain", ["again", "come", "please", "thankyou"]),
        ("Sdn Bhd INDAH", ["bhd", "indah", "sdn"]),  # short unknown words are names, not runs
        ("我来到北京清华大学", ["北京", "我", "来到", "清华大学"]),
        ("Größe GROSSE Straße", ["grosse", "grösse", "strasse"]),
        ("Кафе открыто", ["кафе", "открыто"]),
        ("हिन्दी भाषा", ["भाषा", "हिन्दी"]),  # vowel signs are no letters, but belong to the word
        ("AB12CD 99.90 - x", ["ab", "cd"]),
        ("", []),
    ],
)
def test_words(line, expected):
    assert words([line]) == expected


def test_words_of_all_lines_once():
    assert words(["red car", "Car blue"]) == ["blue", "car", "red"]


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=20))
def test_one_spelling_is_final(text):
    assert plain(plain(text)) == plain(text)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=9), max_size=12), st.integers(1, 3), st.integers(1, 5))
def test_the_vocabulary_counts_images(images, least, most):
    got = build_vocabulary(images, min_images=least, most=most)
    counts = {w: sum(w in image for image in images) for w in "abcdefgh"}
    ranked = sorted((w for w in counts if counts[w] >= least), key=lambda w: (-counts[w], w))[:most]
    assert list(got) == ranked and all(got[w] == counts[w] for w in ranked)


def test_no_known_word_no_tag():
    tag_of = {"a": 0, "b": 1}
    assert tags_of("x", [], tag_of) == [] and tags_of("x", ["z"], tag_of) == []
    assert tags_of("x", ["b", "a", "b", "z"], tag_of) == [0, 1]


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 120), st.text(max_size=5))
def test_tags_are_a_subset_of_the_right_size(count, most, name):
    tag_of = {f"w{i}": i for i in range(count)}
    got = tags_of(name, list(tag_of), tag_of, most=most)
    assert len(got) == min(count, most) and got == sorted(set(got)) and got[-1] < count
    assert got == tags_of(name, reversed(list(tag_of)), tag_of, most=most)


def test_sampling_has_no_bias():
    tag_of = {f"w{i}": i for i in range(20)}
    seen = Counter(t for n in range(4000) for t in tags_of(str(n), tag_of, tag_of, most=5))
    expected, spread = 4000 * 5 / 20, (4000 * 0.25 * 0.75) ** 0.5
    assert all(abs(seen[t] - expected) < 4.5 * spread for t in range(20))


def test_files(tmp_path):
    save_vocabulary(tmp_path / "v.parquet", {"of": 7, "tea": 3})
    assert read_vocabulary(tmp_path / "v.parquet") == {"of": 0, "tea": 1}
    first = hashlib.sha256((tmp_path / "v.parquet").read_bytes()).digest()
    save_vocabulary(tmp_path / "v.parquet", {"of": 7, "tea": 3})
    assert hashlib.sha256((tmp_path / "v.parquet").read_bytes()).digest() == first
    (tmp_path / "v.parquet").write_bytes(b"PAR1")
    with pytest.raises(OvEncoderError, match=r"v\.parquet: cannot be read as a vocabulary"):
        read_vocabulary(tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="at least 1"):
        build_vocabulary([], min_images=0, most=1)
