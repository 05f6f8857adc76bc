"""The pool: every item gets exactly one outcome, whatever happens to the process that held it."""

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from ov_encoder.data.workers import run_in_workers


def misbehave(item: str) -> str:
    """What a worker does with an item is said by the item."""
    match item.split(":")[0]:
        case "abort":
            os.abort()
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(3600)
        case "raise":
            raise RuntimeError("no such luck")
    return item.upper()


def test_crashes_hangs_and_errors_are_recorded_and_the_others_finish():
    items = ["ok:1", "abort", "ok:2", "exit", "hang", "ok:3", "kill", "raise", "segfault", "ok:4"]
    outcomes = {o.item: o for o in run_in_workers(misbehave, items, workers=2, timeout_s=8)}
    assert sorted(outcomes) == sorted(items)
    assert {i: o.result for i, o in outcomes.items() if not o.failure} == {f"ok:{n}": f"OK:{n}" for n in range(1, 5)}
    assert {i: o.failure for i, o in outcomes.items() if o.failure} == {
        "abort": "crash",
        "exit": "crash",
        "hang": "timeout",
        "kill": "crash",
        "raise": "error",
        "segfault": "crash",
    }
    assert "SIGABRT" in outcomes["abort"].reason
    assert "SIGSEGV" in outcomes["segfault"].reason
    assert "out of memory" in outcomes["kill"].reason
    assert "exit code 7" in outcomes["exit"].reason
    assert outcomes["raise"].reason == "RuntimeError: no such luck" and "misbehave" in outcomes["raise"].trace


poisoned = False


def poison(item: str) -> str:
    """One item breaks the process for whoever comes next, as heap corruption does."""
    global poisoned
    if item == "poison":
        poisoned = True
    elif poisoned:
        os.abort()
    return item


def test_an_innocent_item_is_not_blamed_for_a_process_that_another_one_broke():
    outcomes = list(run_in_workers(poison, ["poison", "innocent", "bystander"], workers=1))
    assert [(o.item, o.failure) for o in outcomes] == [("poison", ""), ("innocent", ""), ("bystander", "")]


def fill(n: int) -> np.ndarray:
    return np.full(300_000, n, np.float32)


def test_items_are_drawn_only_as_fast_as_results_are_taken():
    drawn = 0

    def items():
        nonlocal drawn
        for n in range(50):
            drawn += 1
            yield n

    seen = []
    for taken, outcome in enumerate(run_in_workers(fill, items(), workers=2), start=1):
        assert drawn <= taken + 2  # one in each worker's hands, nothing piled up
        assert outcome.result is not None and (outcome.result == outcome.item).all()
        seen.append(outcome.item)
    assert sorted(seen) == list(range(50))


def late(n: int) -> int:
    time.sleep(0.2)
    return n


def test_a_slow_caller_does_not_make_finished_workers_look_late():
    outcomes = []
    for outcome in run_in_workers(late, range(4), workers=2, timeout_s=3):
        outcomes.append(outcome)
        if len(outcomes) == 1:
            time.sleep(3.5)  # past the deadline of the item that the other worker finished long ago
    assert [o.failure for o in outcomes] == [""] * 4


class SlowToImport:
    """Work whose arrival in a worker takes five seconds, as importing heavy libraries does."""

    def __setstate__(self, state) -> None:
        time.sleep(5)

    def __getstate__(self):
        return {"not": "empty"}

    def __call__(self, n: int) -> int:
        return n


def test_starting_a_process_does_not_count_as_an_items_time():
    outcomes = list(run_in_workers(SlowToImport(), range(2), workers=1, timeout_s=3))
    assert [o.failure for o in outcomes] == ["", ""]


def own_pid(n: int) -> int:
    return os.getpid()


def test_leaving_early_ends_the_workers():
    run = run_in_workers(own_pid, range(100), workers=2)
    pids = {next(run).result, next(run).result}
    run.close()
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_die_with_a_killed_caller(tmp_path: Path):
    script = tmp_path / "caller.py"
    script.write_text(
        textwrap.dedent("""
        import sys, time, os, pathlib
        from ov_encoder.data.workers import run_in_workers
        def work(n):
            pathlib.Path(sys.argv[1], str(os.getpid())).touch()
            time.sleep(3600)
        if __name__ == "__main__":
            list(run_in_workers(work, range(2), workers=2))
        """)
    )
    pids = tmp_path / "pids"
    pids.mkdir()
    caller = subprocess.Popen([sys.executable, str(script), str(pids)])
    while len(list(pids.iterdir())) < 2:
        time.sleep(0.05)
    caller.kill()
    caller.wait()
    deadline = time.monotonic() + 60
    alive = [int(p.name) for p in pids.iterdir()]
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = [pid for pid in alive if _running(pid)]
    assert not alive


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(("name", "value"), [("workers", 0), ("timeout_s", 0)])
def test_wrong_arguments_are_refused_at_the_call(name, value):
    with pytest.raises(ValueError, match=name):
        run_in_workers(fill, [1], **{"workers": 1, name: value})
