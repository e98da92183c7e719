"""What comes with which extra of sdar (`pip install 'sdar[report]'`), and one sentence where
something is missing.

The core trains and evaluates. What only the report, the pipeline or one environment imports is in
an extra, is imported where it is used, and is named: here, and by the environments' sections.
"""

import importlib.util
import sys
from collections.abc import Iterable, Mapping

Extras = Mapping[str, tuple[str, ...]]
"""The modules of each extra that sdar imports."""

EXTRAS: Extras = {
    "report": ("polars", "matplotlib", "markdown_it", "rich"),
    "pipeline": ("snakemake", "dvc", "mlflow"),
    "lora": ("peft",),
    "serve": ("starlette", "uvicorn", "h11"),
    "gguf": ("gguf",),
}
"""Those of no environment. vLLM has an environment of its own."""


def is_installed(module: str) -> bool:
    """Whether it can be found; it is not imported."""
    return module in sys.modules or importlib.util.find_spec(module) is not None


def first_missing(modules: Iterable[str], extras: Extras) -> str | None:
    """One sentence about the first of these that is not installed, with the extra it comes with."""
    return next((_sentence(name, extras) for name in modules if not is_installed(name)), None)


def missing_extra(error: BaseException, extras: Extras) -> str | None:
    """The same of an import that failed; None where that is something else."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    module = error.name.partition(".")[0]
    known = any(module in modules for modules in extras.values())
    return _sentence(module, extras) if known and not is_installed(module) else None


def _sentence(module: str, extras: Extras) -> str:
    extra = next(name for name, modules in extras.items() if module in modules)
    return (
        f"{module} is not installed: `pip install 'sdar[{extra}]'` brings it (in the repository: "
        f"`pip install -e '.[{extra}]'`)"
    )
