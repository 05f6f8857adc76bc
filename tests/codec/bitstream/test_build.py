"""The library is built by setup.py where there is a compiler, left out with a word where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ov_encoder.codec.bitstream import library

ROOT = Path(__file__).parents[3]


def build(folder: Path, path: str) -> tuple[subprocess.CompletedProcess, list[Path]]:
    """setup.py build_ext in a copy of what it needs, with this PATH."""
    shutil.copytree(ROOT / "src/ov_encoder/codec/bitstream/csrc", folder / "src/ov_encoder/codec/bitstream/csrc")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    environment = {k: v for k, v in os.environ.items() if k != "CC"} | {"PATH": path}
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", "out", "--build-temp", "temp"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done, sorted((folder / "out").rglob("*.so"))


def test_without_a_compiler_installation_goes_on_and_says_so(tmp_path):
    if "ziglang" in sys.modules or shutil.which("python-zig"):
        pytest.skip("zig is here")
    done, built = build(tmp_path, "/nonexistent")
    assert (done.returncode, built) == (0, [])
    assert "the bitstream reader is left out (no C compiler was found)" in done.stderr


def test_a_compiler_that_fails_is_named(tmp_path):
    fake = tmp_path / "bin"
    fake.mkdir()
    for name in ("cc", "gcc", "clang"):
        (fake / name).write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
        (fake / name).chmod(0o755)
    folder = tmp_path / "tree"
    folder.mkdir()
    done, built = build(folder, f"{fake}:/bin")
    assert (done.returncode, built) == (0, []) and "no such luck" in done.stderr


def test_why_a_library_cannot_be_used_is_said(monkeypatch, tmp_path):
    def reason(file: Path) -> str:
        monkeypatch.setattr(library, "FILE", file)
        library._load.cache_clear()
        return library.reason()

    try:
        assert "was not built: no C compiler" in reason(tmp_path / "missing.so")
        broken = tmp_path / "broken.so"
        broken.write_bytes(b"not a library")
        assert "cannot be loaded" in reason(broken) and not library.available()
        with pytest.raises(RuntimeError, match="cannot be loaded"):
            library.load()
    finally:
        monkeypatch.undo()
        library._load.cache_clear()
    assert library.available() and library.reason() == ""
