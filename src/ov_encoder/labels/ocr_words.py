"""From a line of text to words: one spelling of each character, then cuts at what is no letter and inside long runs.

Spaced scripts are cut at their spaces; readers of pictures often lose those of Latin text, so long unknown runs go
through wordninja (English); Chinese goes through jieba. Thai, Khmer, Lao and Japanese kana stay in runs as written.
"""

from __future__ import annotations

import functools
import itertools
import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from ov_encoder.errors import missing_extra

_RUN = 10  # Latin letters: longer unknown words are looked through for words inside


def words(lines: Iterable[str]) -> list[str]:
    """The different words of some lines, sorted: letters only, NFKC, case folded, at least two letters (one for Han).

    Raises:
        OvEncoderError: wordninja or jieba is needed and missing.
    """
    return sorted({word for line in lines for word in _cut(plain(line))})


def plain(text: str) -> str:
    """One spelling for what reads the same: compatibility forms composed (NFKC), case folded."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _cut(text: str) -> Iterator[str]:
    for is_word, run in itertools.groupby(text, lambda c: unicodedata.category(c)[0] in "LM"):
        if not is_word:
            continue
        for han, part in itertools.groupby(run, _is_han):
            piece = "".join(part)
            found = _chinese()(piece) if han else _unspaced(piece)
            yield from (word for word in found if len(word) > 1 or han)


def _unspaced(run: str) -> list[str]:
    """A run of letters, or the words in it if it is long, Latin, unknown, and falls into real words."""
    if len(run) < _RUN or not run.isascii():
        return [run]
    split, known = _english()
    parts = [run] if run in known else split(run)
    return [run] if min(map(len, parts)) == 1 else parts


def _is_han(character: str) -> bool:
    return unicodedata.name(character, "").startswith("CJK UNIFIED")


@functools.cache
def _english() -> tuple[Callable[[str], list[str]], dict[str, float]]:
    try:
        import wordninja
    except ImportError as e:
        raise missing_extra("wordninja", "labels", "finding words in unspaced text") from e
    return wordninja.split, wordninja.DEFAULT_LANGUAGE_MODEL._wordcost


@functools.cache
def _chinese() -> Callable[[str], list[str]]:
    try:
        import jieba
    except ImportError as e:
        raise missing_extra("jieba", "labels", "finding words in Chinese text") from e
    jieba.setLogLevel(logging.WARNING)
    return jieba.lcut
