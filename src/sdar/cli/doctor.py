"""`sdar doctor`: what is there, what is wrong, and how to fix it."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdar.config import ExperimentConfig, Layout, load_config
from sdar.config.checks import check_files
from sdar.environments.packages import all_extras, environment_sections
from sdar.errors import SdarError
from sdar.extras import is_installed
from sdar.files.paths import model_folder

Level = Literal["good", "note", "wrong"]

NEEDED_DISK = 5 * 2**30
NEEDED_MEMORY = 4 * 2**30
_FOR_CHATS = ("torch", "transformers")


@dataclass(frozen=True)
class Finding:
    """One line of the report: `remedy` says what to do about a note or a wrong."""

    level: Level
    subject: str
    state: str
    remedy: str = ""


def examine(config: Path, root: Path) -> list[Finding]:
    """Look at the installation, the machine, the configuration and the data."""
    findings = [*_python(), *_packages(), *_machine(root)]
    try:
        experiment = load_config(config)
    except SdarError as error:
        return [*findings, Finding("wrong", "configuration", str(error))]
    findings.append(Finding("good", "configuration", f"{config}: {experiment.experiment}"))
    about = (
        *_accelerator(experiment),
        *_precision(experiment),
        *_memory(experiment),
        *_checkpoints(experiment, root),
        *_chat(experiment, root),
    )
    return [*findings, *about, *_data(experiment, root)]


def render(findings: list[Finding]) -> str:
    """Aligned text: one line per finding, its remedy below."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        state = finding.state.replace("\n", "\n" + " " * (width + 9))
        lines.append(f"{finding.level:<5}  {finding.subject:<{width}}  {state}")
        if finding.remedy:
            lines.append(f"{'':<{width + 7}}  -> {finding.remedy}")
    wrong = sum(finding.level == "wrong" for finding in findings)
    end = f"{wrong} to fix (see above)." if wrong else "All that is needed is there."
    return "\n".join([*lines, "", end])


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    return [Finding("good", "python", f"{version} at {sys.prefix}")]


def _packages() -> list[Finding]:
    """Every requirement of the distribution, by extra: installed, and in the range it states. Of
    a checkout that is not installed, what is missing.

    What the configuration needs of an extra is told by `check_files`.
    """
    try:
        requirements = importlib.metadata.requires("sdar") or []
    except importlib.metadata.PackageNotFoundError:
        return _missing_packages()
    from packaging.requirements import Requirement

    findings: list[Finding] = []
    for extra in ("", *all_extras(), "dev"):
        present, problems = [], []
        for requirement in map(Requirement, requirements):
            marker = requirement.marker
            always = marker is None or marker.evaluate({"extra": ""})
            of_extra = marker is not None and not always and marker.evaluate({"extra": extra})
            if not (of_extra if extra else always):
                continue
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                problems.append(f"{requirement.name} is missing")
                continue
            if requirement.specifier.contains(version, prereleases=True):
                present.append(f"{requirement.name} {version}")
            else:
                problems.append(f"{requirement.name} {version}, needed {requirement.specifier}")
        name = f"packages [{extra}]" if extra else "packages"
        if present:
            findings.append(Finding("good", name, ", ".join(present)))
        if problems:
            level: Level = "note" if extra else "wrong"
            remedy = _bring(extra) if extra else "make setup"
            findings.append(Finding(level, name, "; ".join(problems), remedy))
    return findings


def _missing_packages() -> list[Finding]:
    state = "not installed, but run from its folder: versions are not checked"
    findings = [Finding("note", "sdar", state, "make setup")]
    for extra, modules in all_extras().items():
        missing = [f"{module} is missing" for module in modules if not is_installed(module)]
        if missing:
            name = f"packages [{extra}]"
            findings.append(Finding("note", name, "; ".join(missing), _bring(extra)))
    return findings


def _bring(extra: str) -> str:
    return f"where it is needed: pip install -c requirements.lock -e '.[{extra}]'"


def _machine(root: Path) -> list[Finding]:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    findings = [Finding("good", "cores", f"{cores} usable; OMP_NUM_THREADS {threads}")]
    memory = psutil.virtual_memory()
    free = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    wants = "the default experiment wants about 4 GiB: run one job at a time with --cores 1"
    findings.append(_enough(memory.available > NEEDED_MEMORY, "memory", free, wants))
    folder = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    disk = shutil.disk_usage(folder)
    free = f"{disk.free / 2**30:.1f} GiB free at {folder}"
    wants = "free some, or give another --root"
    findings.append(_enough(disk.free > NEEDED_DISK, "disk", free, wants))
    if not os.access(folder, os.W_OK):
        state = f"{folder} is not writable"
        findings.append(Finding("wrong", "root", state, "give another --root"))
    return findings


def _enough(enough: bool, subject: str, state: str, remedy: str) -> Finding:
    return Finding("good", subject, state) if enough else Finding("note", subject, state, remedy)


def _accelerator(config: ExperimentConfig) -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []  # reported among the packages
    import torch

    if torch.cuda.is_available():
        from sdar.policy.gpu import describe_gpu

        gpus = [describe_gpu(number) for number in range(torch.cuda.device_count())]
        return [*map(_gpu, gpus), *_attention(config)]
    state = f"none (torch {torch.__version__})"
    if config.execution.device != "cuda":
        return [Finding("good", "accelerator", f"{state}: the CPU will be used")]
    remedy = "run where a GPU is, install a CUDA build of torch, or set execution.device: cpu"
    return [Finding("wrong", "accelerator", f"{state}, but execution.device is cuda", remedy)]


def _gpu(gpu: dict[str, Any]) -> Finding:
    state = (
        f"{gpu['name']}: capability {gpu['capability']}, {gpu['free_gib']} of {gpu['memory_gib']} "
        f"GiB free, driver {gpu['driver'] or 'not known'}, CUDA {gpu['cuda']}, bfloat16 "
        f"{'yes' if gpu['bfloat16'] else 'no'}"
    )
    return Finding("good", "accelerator", state)


def _attention(config: ExperimentConfig) -> list[Finding]:
    """What computes attention on the GPU, asked of torch with heads of the policy's shape."""
    import torch

    from sdar.policy.gpu import attention_backend, chosen_device
    from sdar.policy.shape import shape_of_policy

    shape, device = shape_of_policy(config), chosen_device(config.execution.device)
    findings = []
    if shape is not None and device.type == "cuda":
        dtype = getattr(torch, config.policy.dtype)
        heads = (shape.heads, shape.kv_heads, shape.head_size)
        backend = attention_backend(*heads, dtype, device)
        state = f"{backend} in {config.policy.dtype}"
        level: Level = "note" if backend == "MATH" else "good"
        remedy = "all scores are in memory at once: set policy.dtype to bfloat16"
        findings.append(Finding(level, "attention", state, remedy if level == "note" else ""))
    return findings


def _precision(config: ExperimentConfig) -> list[Finding]:
    """What float32 costs on the GPU that is there, or will be."""
    if importlib.util.find_spec("torch") is None:
        return []
    from sdar.memory.verdict import slow_precision

    slow = slow_precision(config)
    if slow is None:
        return []
    sentence, _, remedy = slow.rpartition(": ")
    return [Finding("note", "precision", sentence, remedy)]


def _checkpoints(config: ExperimentConfig, root: Path) -> list[Finding]:
    """What the checkpoints of all runs take of the disk."""
    if importlib.util.find_spec("torch") is None:
        return []
    from sdar.memory.disk import checkpoint_disk

    disk = checkpoint_disk(config)
    if disk is None:
        return []
    folder = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    state = f"{disk.sentence()}; {free / 10**9:.1f} GB are free"
    remedy = (
        "free some space, give another --root, lower training.keep_checkpoints, or train adapters "
        "(training.lora)"
    )
    return [_enough(disk.at_most < free, "checkpoints", state, remedy)]


def _memory(config: ExperimentConfig) -> list[Finding]:
    """What training needs of each GPU, by part and phase; on a CPU for information only."""
    if importlib.util.find_spec("torch") is None:
        return []
    from sdar.memory.verdict import judge_experiment
    from sdar.policy.shape import FAMILIES

    subject = "training memory"
    verdict = judge_experiment(config)
    if verdict is None:
        state = f"not estimated: the shape of {config.policy.model} is not known here"
        families = ", ".join(FAMILIES)
        remedy = f"of {families} models, fetch at least config.json; others are not estimated"
        return [Finding("note", subject, state, remedy)]
    found = _needed(subject, verdict, verdict.remedy())
    return [found, *_warm_start_memory(config)]


def _warm_start_memory(config: ExperimentConfig) -> list[Finding]:
    """What the warm start of a pretrained model needs; what the tiny policy's does is nothing."""
    from sdar.memory.warm_start import judge_warm_start, warm_start_remedies

    verdict = judge_warm_start(config)
    if verdict is None:
        return []
    short = verdict.estimate.on_gpu and verdict.level in ("tight", "too large")
    remedy = warm_start_remedies(config, verdict) if short else ""
    return [_needed("warm-start memory", verdict, remedy)]


def _needed(subject: str, verdict: Any, remedy: str) -> Finding:
    """A verdict with its table; on a CPU nothing is wrong."""
    level: Level = "good" if verdict.level == "fits" else "note"
    if verdict.level == "too large" and verdict.estimate.on_gpu:
        level = "wrong"
    return Finding(level, subject, f"{verdict.need()}\n{verdict.table()}", remedy)


def _chat(config: ExperimentConfig, root: Path) -> list[Finding]:
    """What the policy's chat template does, where its tokenizer is on this machine."""
    folder = _policy_folder(config, root)
    if folder is None or any(importlib.util.find_spec(name) is None for name in _FOR_CHATS):
        return []
    from transformers import GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME

    from sdar.policy.chat import ChatFormat, end_token_ids
    from sdar.policy.pretrained import read_tokenizer

    subject = "chat template"
    try:
        tokenizer = read_tokenizer(str(folder), config.policy.trust_remote_code)
        chat = ChatFormat.of(tokenizer)
        has_own = (folder / GENERATION_CONFIG_NAME).is_file()
        own = GenerationConfig.from_pretrained(folder) if has_own else None
        ends = sorted(end_token_ids(own, tokenizer))
    except (SdarError, OSError, ValueError) as error:
        return [Finding("wrong", subject, " ".join(str(error).split()))]
    names = ", ".join(tokenizer.convert_ids_to_tokens(end) or f"token {end}" for end in ends)
    thought = "; it opens <think>, where responses begin" if chat.opens_thought else ""
    state = f"responses end with {names}; a skill stands in the {chat.placement}{thought}"
    if chat.closing is not None:
        return [Finding("good", subject, state)]
    state += "; it closes an assistant's message with no token"
    remedy = "see that the model writes one of these: responses run to their limit otherwise"
    return [Finding("note", subject, state, remedy)]


def _policy_folder(config: ExperimentConfig, root: Path) -> Path | None:
    """Where the policy that training starts from lies on this machine."""
    if config.warm_start.enabled:
        folder = Layout(root, config.experiment).warm_start / "policy"
        return folder if folder.is_dir() else None
    named = model_folder(config.policy.model)
    if named is not None:
        return named if named.is_dir() else None
    if importlib.util.find_spec("huggingface_hub") is None or "/" not in config.policy.model:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(config.policy.model, "tokenizer_config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _data(config: ExperimentConfig, root: Path) -> list[Finding]:
    findings = []
    try:
        check_files(config)
    except SdarError as error:
        findings.append(Finding("wrong", "files", str(error)))
    layout = Layout(root, config.experiment)
    if config.environment.data is None:
        tasks = layout.tasks / "tasks.jsonl"
        if tasks.is_file():
            count = len(tasks.read_bytes().splitlines())
            findings.append(Finding("good", "tasks", f"{count} generated, in {layout.tasks}"))
        else:
            state = f"none yet in {layout.tasks}"
            findings.append(Finding("note", "tasks", state, "run `sdar tasks`"))
    else:
        findings.append(Finding("good", "tasks", f"real ones: {config.environment.data}"))
    for section in environment_sections().values():
        if section.exported_data is None:
            continue
        variable, within = section.exported_data
        exported = os.environ.get(variable)
        if exported:
            there = (Path(exported).expanduser() / within).is_dir()
            say = f"holds {within}" if there else f"has no {within}"
            remedy = f"to use it: environment.data: {exported}" if there else ""
            level: Level = "good" if there else "note"
            findings.append(Finding(level, variable, f"{exported} {say}", remedy))
    if config.policy.model == "tiny":
        policy = layout.warm_start / "policy"
        state = f"{policy}" if policy.is_dir() else f"none yet at {policy}"
        findings.append(Finding("good" if policy.is_dir() else "note", "warm start", state))
    return findings
