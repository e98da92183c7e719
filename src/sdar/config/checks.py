"""Checks that look at files: packages, data, skills, model. Under a second, without torch.

Commands run them before they work and Snakemake before it builds the DAG, so that a wrong path
costs nothing.
"""

import logging
import re

from sdar.config.models import ExperimentConfig
from sdar.config.stages import skill_library
from sdar.config.unread import unread_keys
from sdar.errors import SdarError
from sdar.extras import first_missing
from sdar.files.paths import model_folder

log = logging.getLogger("sdar.config")
GENERAL_SKILL = "general"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
FETCHED = "models/smollm2-135m-instruct"
"""The folder that `make smollm2` makes."""


def check_files(config: ExperimentConfig) -> None:
    """Raise `SdarError` with every missing file, each with its key and the remedy. Warns of keys
    that nothing reads."""
    data = config.environment.check_data(config.evaluation.panels)
    problems = [*_extras(config), *data, *_skills(config), *_model(config), *_accelerate(config)]
    if problems:
        raise SdarError("\n".join(problems))
    for sentence in unread_keys(config):
        log.warning("%s", sentence)


def _extras(config: ExperimentConfig) -> list[str]:
    """The packages of the environment."""
    missing = first_missing(config.environment.modules(), config.environment.extras)
    return [f"environment.name: {config.environment.name}: {missing}"] if missing else []


def _skills(config: ExperimentConfig) -> list[str]:
    """A markdown file for each task type that is played, and the general one."""
    library, folder = config.skills.library, skill_library(config)
    source = "the library that comes with sdar" if library is None else str(library)
    present = {path.stem for path in folder.rglob("*.md")}
    missing = [name for name in config.environment.task_types if name not in present]
    if not folder.is_dir():
        problem = (
            f"no folder {library}; give a folder of markdown skills, or null for the library that "
            "comes with sdar"
        )
    elif GENERAL_SKILL not in present:
        problem = (
            f"{source} has no {GENERAL_SKILL}.md, the text that opens every skill; add it (it may "
            "be empty)"
        )
    elif missing:
        problem = (
            f"{source} has no file for the task type(s) {', '.join(missing)}; add {missing[0]}.md "
            "there, or remove the type from environment.task_types"
        )
    else:
        return []
    return [f"skills.library: {problem}"]


def _model(config: ExperimentConfig) -> list[str]:
    """`tiny`, a folder in Hugging Face format, or a name on the hub (not looked up here)."""
    model = config.policy.model
    folder = model_folder(model)
    if model == "tiny" or (folder is not None and (folder / "config.json").is_file()):
        return []
    if folder is not None and folder.is_dir():
        return [
            f"policy.model: {model} has no config.json; give a model saved in Hugging Face format"
        ]
    if model.endswith(FETCHED):
        return [f"policy.model: {model} is not there yet; make it with `make smollm2`"]
    if folder is None and HUB_NAME.fullmatch(model):
        return []
    return [
        f"policy.model: {model} is neither `tiny`, nor a folder, nor a name on the hub such as "
        "Qwen/Qwen3-1.7B; correct it"
    ]


def _accelerate(config: ExperimentConfig) -> list[str]:
    path = config.execution.accelerate
    if path is None or path.is_file():
        return []
    return [
        f"execution.accelerate: no file {path}; take one of config/accelerate (paths begin where "
        "the command is started: the repository), or null"
    ]
