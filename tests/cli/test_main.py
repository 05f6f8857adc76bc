"""The front door: help is light and complete, errors are one line, exit codes mean something."""

import logging
import re
import subprocess
import sys

import pytest

from ov_encoder.cli import main

COMMANDS = {
    "demo": "--out --model --video --image",
    "inspect": "FILE --json --plot --decode",
    "encode": "PATHS... --out --model --format --tokens --rate --workers --timeout --device --dtype --batch-tokens "
    "+patch",
    "view": "FILE --out +patch",
    "models": "",
    "bench": "FILE --model --repeat --device --dtype +patch",
    "pretrain": "RECIPE --data --out --steps --set --probe --held-out --device --show",
    "export": "RUN --out --no-average --dtype --title --results",
    "probe": "--data --out --model --baselines --probes --seeds --shots --vector --epochs --batch --label "
    "--train-split --val-split --fold --cache --shard --workers --timeout --device --dtype +patch",
    "study": "--data --out --model --policies --baselines --budgets --probes --seeds --label --train-split --val-split "
    "--fold --workers --device --dtype +patch",
}
MEMBERS = {  # of groups
    "label run": "CONFIG --dry-run",
    "label index": "SOURCES... --out --label --engine --workers --timeout",
    "label dedup": "MANIFEST --out --no-near --radius --video-radius",
    "label features": "MANIFEST --out --kind --duplicates --teacher --device --frames --pooling --engine --workers "
    "--timeout",
    "label kmeans": "FEATURES --out --k --metric --init --iterations --batch --seed --hierarchical --device",
    "label assign": "FOLDER --top --method --device --engine --workers",
    "label ocr": "MANIFEST --out --duplicates --min-images --most-words --tags --engine --workers --timeout",
    "label report": "OUT --no-pixels --clusters --workers",
    "lmm train": "--data --out --encoder --llm --init --stage --lora --steps --set --device",
    "lmm ask": "FILE QUESTION --model --mode --budget --max-new-tokens --show --device",
    "lmm eval": "QUESTIONS --model --out --mode --budget --blind --max-new-tokens --device",
}
PATCH_OPTIONS = (
    "--mode --frames --budget --size --patch --anchors --signal --signals --camera --accumulate --normalise --fusion "
    "--centre-prior --block --slot-floor --slot-cap --threads"
)
HEAVY = ("torch", "av", "numba", "numpy", "transformers", "matplotlib", "pyarrow", "PIL")


def help_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main([*arguments, "--help"])
    assert leaving.value.code == 0
    return capsys.readouterr().out


def test_the_commands_are_these(capsys):
    groups = dict.fromkeys(name.split()[0] for name in MEMBERS)
    assert f"{{{','.join([*COMMANDS, *groups])}}}" in help_of(capsys)
    for group in groups:
        inside = [name.split()[1] for name in MEMBERS if name.split()[0] == group]
        assert f"{{{','.join(inside)}}}" in help_of(capsys, group)


@pytest.mark.parametrize("command", [*COMMANDS, *MEMBERS])
def test_the_options_are_these(capsys, command):
    text = help_of(capsys, *command.split())
    options = re.findall(r"^\W*(?:-\w \w+, )?(--[a-z][\w-]*)", text, re.M)
    wanted = (COMMANDS | MEMBERS)[command].replace("+patch", PATCH_OPTIONS).split()
    assert [o for o in options if o != "--help"] == [w for w in wanted if w.startswith("--")]
    for place in wanted:
        assert place in text
    assert f"Example: ov-encoder {command}" in text


@pytest.mark.parametrize("arguments", [["--help"], *([*c.split(), "--help"] for c in [*COMMANDS, *MEMBERS])])
def test_help_imports_nothing_heavy(arguments):
    code = (
        f"import sys; from ov_encoder.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "ov-encoder" in done.stdout


def test_import_brings_nothing_heavy():
    code = f"import sys, ov_encoder; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["inspect", "view", "bench"])
def test_bad_media_is_one_line_and_exit_code_1(capsys, tmp_path, command):
    assert main([command, str(tmp_path / "missing.mp4")]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == f"error: {tmp_path / 'missing.mp4'}: no such file"
    assert "Traceback" not in err and not out


def test_bad_arguments_are_one_line_and_exit_code_2(capsys, photo):
    assert main(["view", str(photo), "--budget", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: budget")


def test_unknown_options_exit_with_2(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["inspect", "x", "--budgett", "3"])
    assert leaving.value.code == 2


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    from ov_encoder.errors import OvEncoderError

    monkeypatch.setenv("OV_ENCODER_DEBUG", "1")
    with pytest.raises(OvEncoderError):
        main(["inspect", str(tmp_path / "missing.mp4")])


@pytest.fixture(autouse=True)
def quiet_logging():
    yield
    logging.getLogger().handlers.clear()
