"""The study's recipe: what its drawn clips show, which files it makes, and the arithmetic of its table."""

import io
import json
import random
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import ImageColor

from ov_encoder.errors import OvEncoderError
from ov_encoder.lmm.evaluate import read_questions
from ov_encoder.lmm.instructions import read_instructions


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    """A recipe is a script beside the package: its folder is on the path when it runs."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "recipes/lmm"))


def decoded(clip: bytes) -> np.ndarray:
    with av.open(io.BytesIO(clip)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def coloured(frames: np.ndarray) -> np.ndarray:
    """Pixels that are far from grey: bool [T, H, W]."""
    return frames.max(axis=3).astype(int) - frames.min(axis=3) > 90


@pytest.mark.parametrize("seed", range(6))
def test_the_disc_moves_the_way_the_answer_says(seed):
    import clips

    clip, question, way = clips.moving(random.Random(seed))
    there = coloured(decoded(clip))
    assert len(there) == clips.FRAMES and way in question
    places = [np.argwhere(frame).mean(axis=0)[::-1] for frame in there]
    moved = places[-1] - places[0]
    x, y = clips.WAYS[way]
    assert moved @ (x, y) > 30 and abs(moved @ (y, x)) < 3


@pytest.mark.parametrize("seed", range(4))
def test_the_square_shows_in_three_frames_in_the_colour_of_the_answer(seed):
    import clips

    clip, _, name = clips.flash(random.Random(seed))
    frames = decoded(clip)
    seen = coloured(frames).sum(axis=(1, 2)) > 100
    assert seen.sum() == 3 and seen[np.argmax(seen) :][:3].all()
    colour = frames[seen][0][coloured(frames[seen])[0]].mean(axis=0)
    nearest = min(clips.COLOURS, key=lambda c: np.abs(ImageColor.getrgb(clips.COLOURS[c]) - colour).sum())
    assert nearest == name


def test_files_hold_so_many_of_each_task_and_the_blind_ones_no_media(tmp_path):
    import make_data
    import study

    make_data.main(tmp_path, pictures=60, moving_clips=20)
    out = tmp_path / "study"
    out.mkdir()
    assert study.write_files(tmp_path, out, (), 5, 2) == {"train": 25, "heldout": 10}
    talks, blind = (read_instructions(out / name) for name in ("train.jsonl", "train-blind.jsonl"))
    assert [t.id for t in talks] == [t.id for t in blind]
    assert all(p.exists() for t in talks for p in t.images + t.videos)
    for talk, without in zip(talks, blind, strict=True):
        (kind,) = {"image"} if talk.images else {"video"}
        assert talk.messages[0]["content"] == f"<{kind}>\n{without.messages[0]['content']}"
        assert talk.messages[1] == without.messages[1] and not without.images + without.videos
    assert len({q.id for q in read_questions(out / "heldout.jsonl")}) == 10
    assert study.write_files(tmp_path, out, ("chart", "which way"), 5, 2)["train"] == 10
    with pytest.raises(OvEncoderError, match="has no task 'sums'; tasks: rendered word"):
        study.write_files(tmp_path, out, ("sums",), 5, 2)


def answers(task, right, *, failed=0):
    """Records of a task with these scores, the last `failed` of them without an answer."""
    records = [{"id": f"{task}/{i}", "task": task, "metric": "choice", "right": ["a"], "score": float(s),
                "answer": "ab"[not s]} for i, s in enumerate(right)]  # fmt: skip
    for record in records[len(records) - failed :]:
        del record["answer"], record["score"]
        record["reason"] = "gone"
    return records


def test_the_table_counts_as_one_would_by_hand(tmp_path):
    import table

    runs = {
        "codec": [answers("x", [1] * 30), answers("x", [1] * 24 + [0] * 6)],
        "chunk": [answers("x", [1] * 15 + [0] * 15), answers("x", [1] * 15 + [0] * 15)],
        "blind": [answers("x", [0, 1] * 15), answers("x", [1] * 30, failed=30)],
    }
    entry = table.compare(runs)["tasks"]["x"]
    assert entry["items"] == 30
    assert [entry["ways"][way]["score"] for way in runs] == pytest.approx([0.9, 0.5, 0.25])
    assert entry["ways"]["codec"]["per_seed"] == [1.0, 0.8]
    assert [entry["ways"][way]["failed"] for way in runs] == [0, 0, 30]
    low, high = entry["ways"]["chunk"]["interval"]
    assert low == pytest.approx(0.5 - 1.96 * 0.5 / 30**0.5, abs=0.04) and high == pytest.approx(1 - low, abs=0.04)
    assert entry["differences"]["codec - blind"]["value"] == pytest.approx(0.65)
    assert entry["differences"]["codec - chunk"]["interval"][0] > 0
    text = table.markdown(table.compare(runs))
    assert "**+40 [" in text and text.count("\n") == 3
    said = table.examples(runs, {f"x/{i}": "which | one?" for i in range(30)})
    assert said.splitlines()[2] == "| which / one? (x/0) | a | a | a | b |" and len(said.splitlines()) == 3


def test_a_table_is_written_from_the_files_of_lmm_eval(tmp_path):
    import table

    folders = {}
    for way, right in (("codec", [1, 1, 0, 1]), ("blind", [0, 0, 0, 1])):
        folders[way] = [tmp_path / way]
        folders[way][0].mkdir()
        lines = [json.dumps(record) for record in answers("x", right) + answers("y", right)]
        (folders[way][0] / "answers.jsonl").write_text("\n".join(lines) + "\n")
    questions = [{"id": f"{t}/{i}", "question": "which?"} for t in "xy" for i in range(4)]
    (tmp_path / "heldout.jsonl").write_text("\n".join(map(json.dumps, questions)))
    text = table.write(tmp_path, folders, tmp_path / "heldout.jsonl", {"seeds": 1})
    assert text == (tmp_path / "results.md").read_text() and "| all (mean) | 8 | 75 [" in text
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["tasks"]["all"]["differences"]["codec - blind"]["value"] == 0.5 and found["options"] == {"seeds": 1}
