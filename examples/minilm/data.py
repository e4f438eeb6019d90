"""Retrieval on documentation: the one-line summary of a function and the paragraph that describes it are a pair.

The texts are docstrings in the source files of installed packages, read without importing these. Samples of a pair
stand beside each other, so that a prefix of even length is a retrieval task as well. Calibration texts come from other
packages than evaluation texts. Everything is seeded: the same versions of the packages give the same texts.
"""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np

EVALUATION_PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas")
CALIBRATION_PACKAGES = ("networkx", "matplotlib")
PAIRS = 250  # of evaluation texts, drawn in equal parts from the folders below
CALIBRATION_PAIRS = 80
# where the packages document functions in prose; a few folders, so that reading takes seconds
EVALUATION_FOLDERS = ("numpy/lib", "scipy/signal", "scipy/stats", "sklearn/utils", "pandas/core/indexes")
CALIBRATION_FOLDERS = ("networkx/algorithms", "matplotlib/axes")
SUMMARY_WORDS, DESCRIPTION_WORDS = (4, 20), (12, 36)  # least and most; 36 words are rarely more than 64 tokens
MARKUP = re.compile(r":\w+:`~?([^`]*)`|[`*]+")  # roles and quotes of reStructuredText
NOT_PROSE = re.compile(r">>>|::|\.\. |[|=<>{}\\]|--|^\s*[-*\d]", re.MULTILINE)


def evaluation() -> dict[str, np.ndarray]:
    """Texts [2 * PAIRS] and the number of the pair that each belongs to."""
    return _pairs(EVALUATION_FOLDERS, PAIRS)


def calibration() -> dict[str, np.ndarray]:
    """Texts [2 * CALIBRATION_PAIRS] of the same kind, from other packages."""
    return {"text": _pairs(CALIBRATION_FOLDERS, CALIBRATION_PAIRS)["text"]}


def reciprocal_rank(outputs: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Of each text, 1 over the rank of its partner among all other texts by cosine similarity; float64 [n].

    `labels` number the pairs. Raises ValueError where a text has no partner, or more than one.
    """
    partners = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=bool)
    if not (partners.sum(1) == 1).all():
        raise ValueError("every text needs exactly one partner among the samples: take an even number of them")
    (embeddings,) = outputs.values()
    similarity = embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    np.fill_diagonal(similarity, -np.inf)
    own = similarity[partners][:, None]
    return 1.0 / (1 + (similarity > own).sum(1))


def _pairs(folders: tuple[str, ...], count: int) -> dict[str, np.ndarray]:
    """`count` pairs, in equal parts from the folders, shuffled."""
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    chosen: list[tuple[str, str]] = []
    for folder in folders:
        found = [pair for pair in _documented(folder) if not seen.intersection(pair)]
        found = list({pair[0]: pair for pair in {pair[1]: pair for pair in found}.values()}.values())
        share = count // len(folders)
        if len(found) < share:
            raise ValueError(f"{folder} documents {len(found)} functions in prose, {share} are needed")
        mine = [found[i] for i in rng.permutation(len(found))[:share]]
        seen |= set(chain(*mine))
        chosen += mine
    order = rng.permutation(len(chosen))
    texts = list(chain(*(chosen[i] for i in order)))
    return {"text": np.array(texts), "label": np.arange(len(texts)) // 2}


def _documented(folder: str) -> Iterator[tuple[str, str]]:
    """Summary and description of every function and class below a folder of an installed package, in order."""
    package, _, rest = folder.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed, and its documentation is this model's data")
    for path in sorted((Path(spec.origin).parent / rest).rglob("*.py")):
        if "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                summary, description = (*(_prose(part) for part in re.split(r"\n\s*\n", text)[:2]), "")[:2]
                if _fits(summary, SUMMARY_WORDS) and _fits(description, DESCRIPTION_WORDS):
                    yield summary, description


def _prose(paragraph: str) -> str:
    """The paragraph in one line without markup, or nothing if it is a heading, a list or code."""
    return "" if NOT_PROSE.search(paragraph) else " ".join(MARKUP.sub(r"\1", paragraph).split())


def _fits(text: str, words: tuple[int, int]) -> bool:
    least, most = words
    return least <= len(text.split()) <= most and text.isascii()
