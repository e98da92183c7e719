"""Checks that look at files: data, skills, model. Under a second, without torch.

Commands run them before they work and Snakemake before it builds the DAG, so that a wrong path
costs nothing.
"""

import hashlib
import re
from pathlib import Path

from sdar.config.models import ExperimentConfig
from sdar.environments.searchqa.config import SearchqaConfig
from sdar.errors import SdarError

QUESTION_FILES = (".parquet", ".jsonl")
GAMES_FOLDER = "json_2.1.1"
GENERAL_SKILL = "general"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_files(config: ExperimentConfig) -> None:
    """Raise `SdarError` with every missing file, each with its key and the remedy."""
    problems = [*_data(config), *_skills(config), *_model(config), *_accelerate(config)]
    if problems:
        raise SdarError("\n".join(problems))


def _data(config: ExperimentConfig) -> list[str]:
    """`environment.data`, where it is set, holds what the environment reads there."""
    data = config.environment.data
    if data is None:
        return []
    if config.environment.name == "alfworld":
        return _games(config, data)
    if isinstance(config.environment, SearchqaConfig):
        return _questions(config.environment, data)
    if data.expanduser().exists():
        return []
    return [
        f"environment.data: {data} does not exist; correct it, or set it to null for generated "
        "tasks"
    ]


def _questions(environment: SearchqaConfig, data: Path) -> list[str]:
    """Question files, and passages for a retriever in process."""
    problems = []
    folder = data.expanduser()
    if not any(path.suffix in QUESTION_FILES for path in folder.glob("*")):
        problems.append(
            f"environment.data: {folder} holds no question files ({' or '.join(QUESTION_FILES)}); "
            "put them there (names that begin with `train` are training questions), or set "
            "environment.data to null to generate questions"
        )
    retriever = environment.retriever
    if retriever.kind != "http":
        passages = retriever.passages
        if passages is None or not passages.expanduser().is_file():
            problems.append(
                f"environment.retriever.passages: expected a file of passages, found {passages}; "
                "real questions need one (JSON lines of id and contents), or retriever.kind http"
            )
    return problems


def _games(config: ExperimentConfig, data: Path) -> list[str]:
    """An `$ALFWORLD_DATA` folder with every split that will be played."""
    games = data.expanduser() / GAMES_FOLDER
    remedy = (
        f"download the games with `ALFWORLD_DATA={data} alfworld-download`, set environment.data "
        f"to the folder that holds {GAMES_FOLDER}/, or to null to generate games"
    )
    if not games.is_dir():
        return [f"environment.data: expected a folder {games}, which does not exist; {remedy}"]
    splits = dict.fromkeys(("train", *config.evaluation.panels))
    missing = [split for split in splits if not (games / split).is_dir()]
    if missing:
        return [f"environment.data: {games} lacks the split(s) {', '.join(missing)}; {remedy}"]
    return []


def default_library(environment: str) -> Path:
    """The skills that come with sdar for an environment."""
    return Path(__file__).resolve().parent.parent / "skills" / "library" / environment


def library_digest(config: ExperimentConfig) -> str:
    """SHA-256 over names and texts of the skill library, so that an edited skill is noticed."""
    library = config.skills.library
    folder = default_library(config.environment.name) if library is None else library.expanduser()
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.md")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _skills(config: ExperimentConfig) -> list[str]:
    """A markdown file for each task type that is played, and the general one."""
    library = config.skills.library
    if library is None:
        folder = default_library(config.environment.name)
        source = "the library that comes with sdar"
    else:
        folder, source = library.expanduser(), str(library)
        if not folder.is_dir():
            return [
                f"skills.library: no folder {library}; give a folder of markdown skills, or null "
                "for the library that comes with sdar"
            ]
    present = {path.stem for path in folder.rglob("*.md")}
    missing = [name for name in config.environment.task_types if name not in present]
    if GENERAL_SKILL not in present:
        return [
            f"skills.library: {source} has no {GENERAL_SKILL}.md, the text that opens every skill; "
            "add it (it may be empty)"
        ]
    if not missing:
        return []
    return [
        f"skills.library: {source} has no file for the task type(s) {', '.join(missing)}; add "
        f"{missing[0]}.md there, or remove the type from environment.task_types"
    ]


def _model(config: ExperimentConfig) -> list[str]:
    """`tiny`, a folder in Hugging Face format, or a name on the hub (not looked up here)."""
    model = config.policy.model
    if model == "tiny":
        return []
    folder = Path(model).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return []
        return [
            f"policy.model: {model} has no config.json; give a model saved in Hugging Face format"
        ]
    if HUB_NAME.fullmatch(model) and not model.startswith("."):
        return []
    return [
        f"policy.model: {model} is neither `tiny`, nor a folder, nor a name on the hub such as "
        "Qwen/Qwen3-1.7B; correct it"
    ]


def _accelerate(config: ExperimentConfig) -> list[str]:
    path = config.execution.accelerate
    if path is None or path.expanduser().is_file():
        return []
    return [
        f"execution.accelerate: no file {path}; take one of config/accelerate (paths begin where "
        "the command is started: the repository), or null"
    ]
