"""The job: right numbers, one outcome for every file, and nothing lost or doubled however often it is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import ov_encoder as ov
from ov_encoder.bundled import DEFAULT
from ov_encoder.cli import main
from ov_encoder.cli.job import encode_group, read_patches, run_job
from ov_encoder.cli.outputs import SafetensorsWriter
from ov_encoder.data.folder import locked
from ov_encoder.data.sources import Entry, entries
from ov_encoder.model.weights import fingerprint
from tests.cli.conftest import pictures
from tests.cli.readers import read_or_die


def run(*arguments) -> int:
    return main(["encode", *map(str, arguments)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


def test_the_numbers_are_those_of_the_library(clip, photo, tmp_path, capsys):
    assert run(clip, photo, "-o", tmp_path, "--tokens", "--budget", 150, "--workers", 2) == 0
    model = ov.load_model(DEFAULT)
    for path, options in ((clip, {"budget": 150}), (photo, {"budget": 150})):
        batch = ov.patchify(str(path), **options)
        with torch.inference_mode():
            out = model(batch)
        found = load_file(tmp_path / f"{path.name}.safetensors")
        assert torch.equal(found["tokens_ND"], out.tokens_ND) and torch.equal(found["pooled_BD"], out.pooled_BD)
        np.testing.assert_array_equal(found["positions_N3"].numpy(), batch.positions_N3)
    assert "2 encoded" in capsys.readouterr().out


def test_windows_of_a_long_video_share_one_file(clip, tmp_path):
    assert run(clip, "-o", tmp_path, "--rate", 10, "--frames", 4, "--budget", 60, "--workers", 1) == 0
    found = load_file(tmp_path / "disc.mp4.safetensors")
    windows = list(ov.patchify_windows(str(clip), rate=10, frames=4, budget=60))
    assert len(windows) > 1 and found["lengths_B"].tolist() == [w.tokens for w in windows]
    assert found["pooled_BD"].shape == (len(windows), 192)


def test_failures_are_listed_recorded_and_tried_again(photo, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "good.png").write_bytes(photo.read_bytes())
    (folder / "bad.mp4").write_text("not a video")
    assert run(folder, "-o", out, "--workers", 1) == 1
    text = capsys.readouterr().out
    assert "1 encoded" in text and "failed (error): bad.mp4: " in text and "not a video or image" in text
    (record,) = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert record["source"] == str(folder / "bad.mp4") and record["failure"] == "error"
    (folder / "bad.mp4").write_bytes(photo.read_bytes())  # content decides, not the suffix
    assert run(folder, "-o", out, "--workers", 1) == 0
    assert "1 encoded" in (text := capsys.readouterr().out) and "1 were there before" in text
    assert (out / "failures.jsonl").read_text() == ""


def test_other_options_are_refused_with_the_difference(photo, tmp_path, capsys):
    assert run(photo, "-o", tmp_path, "--workers", 1) == 0
    before = files(tmp_path)
    assert run(photo, "-o", tmp_path, "--workers", 1, "--budget", 77, "--tokens") == 2
    error = capsys.readouterr().err
    assert "patchify.budget: 2048 there, 77 now" in error and "tokens: False there, True now" in error
    assert "frames" not in error and files(tmp_path) == before
    assert run(photo, "-o", tmp_path, "--workers", 2, "--threads", 2) == 0  # these change no number


def test_a_run_says_how_it_was_made(photo, tmp_path):
    run(photo, "-o", tmp_path, "--workers", 1, "--anchors", "scenes")
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["options"]["patchify"]["anchors"] == "scenes" and found["options"]["seed"] == 0
    assert found["options"]["weights"] == fingerprint(ov.load_model(DEFAULT))
    assert found["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", 16], f"patch=16, but {DEFAULT} takes patches of 14"),
        (["--workers", 0], "workers must be at least 1"),
        (["--timeout", 0], "timeout_s must be positive"),
        (["--rate", 0], "rate=0.0"),
        (["--model", "tinny"], "did you mean 'tiny'"),
        (["--budget", 0], "budget"),
        (["--size", 0], "size"),
    ],
)
def test_wrong_arguments_end_the_job_before_it_starts(photo, tmp_path, capsys, arguments, message):
    assert run(photo, "-o", tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not files(tmp_path)


def test_embeddings_without_a_run_json_are_not_added_to(photo, tmp_path, capsys):
    run(photo, "-o", tmp_path, "--workers", 1)
    (tmp_path / "run.json").unlink()
    assert run(photo, "-o", tmp_path, "--workers", 1) == 2
    assert "no run.json" in capsys.readouterr().err


def test_two_jobs_cannot_write_to_one_folder(photo, tmp_path, capsys):
    with locked(tmp_path):
        assert run(photo, "-o", tmp_path, "--workers", 1) == 2
    assert "another job is writing there" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run(photo, "-o", tmp_path / "file") == 2


def test_parquet_has_a_row_for_each_file_and_resumes(tmp_path, capsys):
    pictures(tmp_path / "in", 5)
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--format", "parquet", "--workers", 2) == 0
    pictures(tmp_path / "in", 8)
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--format", "parquet", "--workers", 2) == 0
    rows = [r for p in sorted((tmp_path / "out").glob("*.parquet")) for r in pq.read_table(p).to_pylist()]
    assert sorted(r["id"] for r in rows) == [f"{i:02d}.png" for i in range(8)]
    run(tmp_path / "in", "-o", tmp_path / "single", "--workers", 1)
    for row in rows:
        pooled = load_file(tmp_path / "single" / f"{row['id']}.safetensors")["pooled_BD"][0]
        np.testing.assert_array_equal(np.array(row["pooled"], np.float32), pooled)


# --- crashes -----------------------------------------------------------------------------------------------------


def test_crashes_of_the_decoder_cost_one_file_each(tmp_path):
    paths = pictures(tmp_path / "in", 7)
    steps = run_job(
        entries([str(tmp_path / "in")], {}),
        folder=tmp_path,
        writer=SafetensorsWriter(tmp_path),
        model=ov.load_model(DEFAULT),
        read=read_or_die,
        keep_tokens=False,
        workers=2,
        timeout_s=10,
        batch_tokens=0,
    )
    failures = {step.entry.id: step.failure for step in steps if step.failure}
    assert failures == {"01.png": "crash", "02.png": "crash", "03.png": "timeout", "04.png": "error"}
    assert sorted(files(tmp_path)) == [f"{p.name}.safetensors" for p in paths if p.name not in failures]
    recorded = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert {r["id"]: r["failure"] for r in recorded} == failures
    assert any("SIGSEGV" in r["reason"] for r in recorded) and any("MemoryError" in r["trace"] for r in recorded)


def test_packing_files_together_changes_no_number_beyond_rounding(tmp_path):
    group = [(Entry(p.name, str(p), str(p)), ov.patchify(str(p))) for p in pictures(tmp_path, 5)]
    model = ov.load_model(DEFAULT)
    alone = list(encode_group(model, group, limit=0, keep_tokens=True))
    together = list(encode_group(model, group, limit=25, keep_tokens=True))
    for a, b in zip(alone, together, strict=True):
        assert a.entry == b.entry
        torch.testing.assert_close(a.tokens_ND, b.tokens_ND, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(a.pooled_BD, b.pooled_BD, atol=1e-5, rtol=1e-5)


# --- kill -9 -----------------------------------------------------------------------------------------------------


def start(folder: Path, out: Path) -> subprocess.Popen:
    code = "import sys; from ov_encoder.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "encode", str(folder), "-o", str(out), "--workers", "2", "--tokens"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process: the same bits
    return subprocess.Popen(command, env=one_thread, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_at_random_moments_nothing_is_lost_nothing_doubled(tmp_path):
    rng = random.Random(4)
    folder, out = tmp_path / "in", tmp_path / "out"
    pictures(folder, 60)
    assert main(["encode", str(folder), "-o", str(tmp_path / "whole"), "--workers", "2", "--tokens"]) == 0
    kills, counts = 0, []
    for target in (1, 9, 20):  # files written when the blow falls, plus a random moment
        job = start(folder, out)
        while len(files(out)) < target and job.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        job.send_signal(signal.SIGKILL)
        kills += job.wait() == -signal.SIGKILL
        counts.append(len(files(out)))
    assert kills == 3 and counts == sorted(counts)
    assert start(folder, out).wait() == 0
    assert files(out) == files(tmp_path / "whole")  # to the bit
    assert not list(out.rglob("*.part"))


def test_the_work_can_be_sent_to_workers():
    import pickle

    work = partial(read_patches, options={"budget": 9}, rate=None)
    assert pickle.loads(pickle.dumps(work)).keywords == work.keywords
