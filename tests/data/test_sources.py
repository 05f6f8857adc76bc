"""Names of outputs never collide, and never change because a job covers more."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_encoder.data.sources import as_text, entries, find_media


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_searched_for_media_and_named_files_are_always_tried(tmp_path):
    touch(tmp_path / "a/x.MP4", tmp_path / "a/sub/y.png", tmp_path / "a/notes.txt", tmp_path / "a/.hidden/z.mp4",
          tmp_path / "a/.w.mp4", tmp_path / "odd.dat")  # fmt: skip
    found = find_media([str(tmp_path / "a"), str(tmp_path / "odd.dat"), str(tmp_path / "missing.mp4")])
    assert [name for _, name in found] == ["sub/y.png", "x.MP4", "odd.dat", "missing.mp4"]


def test_a_file_given_twice_is_one_input(tmp_path, monkeypatch):
    touch(tmp_path / "a/x.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(find_media(["a", "a/x.mp4", str(tmp_path / "a"), "a/../a/x.mp4"])) == 1


def test_nothing_to_do_is_an_error_that_says_where(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=f"{tmp_path}: no media files"):
        find_media([str(tmp_path)])
    with pytest.raises(ValueError, match="no input"):
        find_media([])


def test_equal_stems_and_equal_names_do_not_collide(tmp_path):
    touch(tmp_path / "a/x.mp4", tmp_path / "a/x.mkv", tmp_path / "b/x.mp4")
    found = entries([str(tmp_path / "a"), str(tmp_path / "b")], {})
    ids = [e.id for e in found]
    assert len(set(ids)) == 3 and "x.mkv" in ids
    assert all(i.startswith("x.mp4~") for i in ids if i != "x.mkv")


def test_what_was_written_keeps_its_name_when_more_comes(tmp_path):
    touch(tmp_path / "a/x.mp4", tmp_path / "b/x.mp4")
    (first,) = entries([str(tmp_path / "a")], {})
    assert first.id == "x.mp4"
    both = entries([str(tmp_path / "a"), str(tmp_path / "b")], {first.source: first.id})
    assert both[0].id == "x.mp4" and both[1].id.startswith("x.mp4~")
    (second,) = entries([str(tmp_path / "b")], {first.source: first.id})
    assert second.id == both[1].id


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), unique=True, min_size=1), st.data())
def test_ids_are_unique_and_resuming_after_any_part_gives_the_same_ones(tmp_path_factory, names, data):
    paths = [f"/nowhere/{folder}/{name}.mp4" for folder, name in names]
    whole = entries(paths, {})
    assert len({e.id for e in whole}) == len(whole)
    finished = data.draw(st.sets(st.sampled_from(whole)))
    again = entries(paths, {e.source: e.id for e in finished})
    assert again == whole


def test_names_that_are_long_or_no_unicode_still_work(tmp_path):
    long = "x" * 251 + ".mp4"
    (entry,) = entries([long], {})
    assert len(entry.id) < 200 and entry.id.startswith("xxx")
    raw = os.fsdecode(b"caf\xe9.mp4")
    assert as_text(raw) == r"caf\xe9.mp4"
    (entry,) = entries([raw], {})
    assert entry.path == raw and entry.id.encode()
