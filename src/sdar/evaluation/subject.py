"""What is evaluated: which weights, with which prompts. A method's declaration decides."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdar.config import ExperimentConfig, Layout
from sdar.config.stages import content_digests, depends_on, played_data
from sdar.environments.base import Task
from sdar.errors import SdarError
from sdar.files.digest import folder_digest, json_digest
from sdar.files.paths import model_folder
from sdar.files.remembered import content_digest
from sdar.methods.declarations import get_method
from sdar.records.tables import TOKENS


@dataclass(frozen=True)
class Subject:
    """Weights (a folder, or a model's name) and the kinds of prompt they play with.

    `prompts` lists with-skill flags; the first is the one reported under the method's name.
    """

    method: str
    seed: int
    policy: Path | str
    prompts: tuple[bool, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the policy's files; of a model on the hub, its name."""
        if not isinstance(self.policy, str):
            return folder_digest(self.policy)
        folder = model_folder(self.policy)
        return self.policy if folder is None else content_digest([folder])


def subject_of(config: ExperimentConfig, layout: Layout, method: str, seed: int) -> Subject:
    """The subject that `method` and `seed` name.

    An untrained method is the policy that training starts from. Raises SdarError for an unknown
    method, and when the policy is not there yet.
    """
    declared = get_method(method)
    usual = declared.evaluate_with_skill
    prompts = (usual, not usual) if declared.evaluate_both_prompts else (usual,)
    if declared.trained:
        what = f"--variant {layout.variant}" if layout.variant else f"--method {method}"
        path, stage = layout.run(method, seed) / "policy", f"train {what} --seed {seed}"
    elif config.warm_start.enabled:
        path, stage = layout.warm_start / "policy", "warm-start"
    else:
        return Subject(method, seed, config.policy.model, prompts)
    if not (path / "config.json").is_file():
        raise SdarError(f"{path}: no policy to evaluate; make it with `sdar {stage}`")
    return Subject(method, seed, path, prompts)


def evaluation_key(
    subject: Subject,
    config: ExperimentConfig,
    panels: dict[str, list[Task]],
    skills: dict[str, str],
) -> dict[str, Any]:
    """All that the episodes are a function of: kept chunks are reused only when it is the same.

    `skills` maps task types to digests. What changes only the rounding is left out.
    """
    ids = [[panel, [task.digest for task in tasks]] for panel, tasks in panels.items()]
    named = ("environment.data", "skills.library")  # the digests stand for what is there
    settings = depends_on(config, "evaluate", content_digests(config))
    return {
        "method": subject.method,
        "seed": subject.seed,
        "prompts": list(subject.prompts),
        "policy": subject.digest,
        "skills": skills,
        "tasks": json_digest(ids),
        "settings": {key: value for key, value in settings.items() if key not in named},
        "columns": TOKENS.names,
        **played_data(config, list(panels)),
    }
