"""Builds the bitstream reader, a shared library in plain C that ctypes loads. Everything else is in pyproject.toml.

The system's C compiler is used ($CC, cc, gcc, clang), else zig from the package ziglang. Without any, the
installation goes on without the library: `ov-encoder inspect` says so, and other providers give the signals.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

PACKAGE = "ov_encoder.codec.bitstream"
SOURCES = Path("src") / PACKAGE.replace(".", "/") / "csrc"
FLAGS = "-std=c11 -O3 -DNDEBUG -fPIC -shared -fvisibility=hidden -fno-strict-aliasing"


def compilers() -> list[list[str]]:
    """Commands that may compile C here, the preferred one first."""
    found = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else []
    found += [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc"])
    if zig := shutil.which("python-zig"):  # the script of ziglang, seen from pip's isolated build too
        found.append([zig, "cc"])
    return found


class BuildLibrary(build_ext):
    """Compiles csrc/*.c in one call; a compiler that is missing or fails is a warning."""

    def get_ext_filename(self, fullname: str) -> str:
        """No Python version in the name: nothing of Python is linked."""
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile to where setuptools wants the library."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        why = "no C compiler was found"
        for compiler in compilers():
            command = [*compiler, *FLAGS.split(), *map(str, sorted(SOURCES.glob("*.c"))), "-o", str(target)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as e:
                why = f"{compiler[0]} cannot be run: {e}"
                continue
            if done.returncode == 0:
                return
            why = f"{' '.join(compiler)} failed:\n{done.stderr[-2000:]}"
        print(
            f"\nov-encoder: the bitstream reader is left out ({why}).\nEverything else works; motion, residual and "
            "bits come from the other providers. With gcc, clang or the package ziglang, install again to have it.\n",
            file=sys.stderr,
        )


class OneWheel(bdist_wheel):
    """One wheel per platform for all Python versions."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-platform."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension(f"{PACKAGE}.libovb", sources=[], optional=True)],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": OneWheel},
    exclude_package_data={PACKAGE: ["csrc/*"], f"{PACKAGE}.csrc": ["*"]},
)
