"""Recipes: Python functions that return a complete TrainConfig. `ov-encoder pretrain NAME --data DIR` takes them.

    from ov_encoder.recipes import RECIPES
    config = RECIPES["tiny_cpu"]()

A recipe of your own is a function of yours that returns a TrainConfig; `ov-encoder pretrain path/to/file.py:function`
takes it too.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from ov_encoder.recipes.bundle_tiny import bundle_tiny
from ov_encoder.recipes.large_8gpu import large_8gpu
from ov_encoder.recipes.paper import paper_stage1, paper_stage2
from ov_encoder.recipes.tiny_cpu import tiny_cpu
from ov_encoder.train.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    f.__name__: f for f in (tiny_cpu, bundle_tiny, paper_stage1, paper_stage2, large_8gpu)
}


def find_recipe(name: str) -> TrainConfig:
    """The config of a recipe: a name of RECIPES, or FILE.py:FUNCTION.

    Raises:
        ValueError: no such recipe.
    """
    file, found, function = name.rpartition(":")
    if found and file.endswith(".py"):
        spec = importlib.util.spec_from_file_location("recipe", Path(file))
        if spec is None or spec.loader is None or not Path(file).is_file():
            raise ValueError(f"{file}: no such file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made = getattr(module, function, None)
        if made is None:
            raise ValueError(f"{file}: has no function {function!r}")
        return made()
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"unknown recipe {name!r}{hint}; recipes: {', '.join(RECIPES)}, or FILE.py:FUNCTION")
    return RECIPES[name]()
