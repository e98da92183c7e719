# Validates the configuration before any job is planned, and names paths, targets and resources.
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from snakemake.exceptions import WorkflowError

from sdar.config import Layout, parse_config
from sdar.config.checks import check_files
from sdar.config.cluster import job_resources
from sdar.config.generate import resolved_yaml, write_if_changed
from sdar.config.launch import (
    job_shell,
    needs_slurm,
    training_resources,
    warm_start_resources,
)
from sdar.config.load import merge_values, read_values
from sdar.config.stages import content_digests, fingerprint
from sdar.config.variants import sweep_seeds, sweep_variants, variant_config
from sdar.errors import SdarError
from sdar.files.copies import note_times, restore_times
from sdar.files.snakemake_lock import note_holder
from sdar.methods.roles import trained_among, untrained_beside
from sdar.redaction import has_secret
from sdar.tracking.store import hand_down

given = workflow.config_settings.config.get("tracking")
if isinstance(given, dict) and has_secret(str(given.get("uri", ""))):
    raise WorkflowError(
        "--config: tracking.uri has a password, and Snakemake writes its command line into "
        ".snakemake/log: give it in a file of your own (--configfile), and delete the newest log "
        "there"
    )

try:
    # Not left to Snakemake, which does not know `base`, and would leave the default environment's
    # keys in the section of another one.
    merged = read_values(DEFAULT_CONFIG)
    for path in workflow.config_settings.configfiles:
        merged = merge_values(merged, read_values(path))
    merged = merge_values(merged, workflow.config_settings.config)
    config.clear()
    config.update(merged)
    CONFIG = parse_config(config, source=" + ".join(map(str, workflow.configfiles)))
    check_files(CONFIG)
except SdarError as error:
    raise WorkflowError(str(error)) from None

if (
    workflow.exec_mode.name == "DEFAULT"
):  # no job, which would read its own results' times
    with suppress(OSError, SdarError):
        restore_times(Path())

# SLURM sends its signals to every process of a job: only `sdar` takes them, which saves and ends;
# the Snakemake around it must live until then.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

# Jobs find `sdar` beside the Python that runs Snakemake, also when no environment is activated.
IN_SLURM = "SLURM_JOB_ID" in os.environ
PROGRAMS = Path(sys.executable).parent
shell.prefix(
    job_shell(CONFIG, PROGRAMS, IN_SLURM).replace("{", "{{").replace("}", "}}")
)

LAYOUT = Layout(Path(), CONFIG.experiment)
PER_RUN = LAYOUT.run("{method}", "{seed}")
LOGS = f"logs/{CONFIG.experiment}"
BENCHMARKS = f"logs/{CONFIG.experiment}/benchmarks"

# The untrained ones are the starting policy: evaluated once, whatever the seeds.
UNTRAINED = untrained_beside(CONFIG.methods)
TRAINED = trained_among(CONFIG.methods)
TRAINED_RUNS = [(method, seed) for method in TRAINED for seed in CONFIG.seeds]
ALL_RUNS = [(method, 0) for method in UNTRAINED] + TRAINED_RUNS
EVALUATION_FILES = ("summary.json", "episodes.parquet", "tokens.parquet")

ON_GPU = CONFIG.execution.device == "cuda"

# Memory, run time, GPUs; partition, account and the like where the configuration has them.
JOBS = {
    kind: job_resources(CONFIG.cluster, kind, ON_GPU) for kind in ("small", "evaluate")
}
JOBS["train"] = training_resources(CONFIG)
JOBS["warm_start"] = warm_start_resources(CONFIG)

# Threads of a training job on one machine; on several ranks, each has its share.
TRAINING_THREADS = CONFIG.execution.threads * CONFIG.execution.processes

# The tiny policy's warm start is one process on a CPU; a pretrained model's has training's ranks.
TINY = CONFIG.policy.model == "tiny"

# An edited skill text counts like a changed key.
CONTENT = content_digests(CONFIG)

# Jobs get the merged and validated configuration as one file. It is no input: what a rule depends
# on is its `params`, so a key that does not concern it never reruns it. A password of tracking.uri
# is not in it: jobs inherit that. Nor may the report show the files that hold it.
RESOLVED = LAYOUT.runs / "config.yaml"
hand_down(CONFIG.tracking.uri)
if has_secret(CONFIG.tracking.uri):
    workflow.configfiles[:] = [str(RESOLVED)]


onstart:
    # A dry run may plan here what a cluster will run.
    if CONFIG.execution.nodes > 1 and workflow.local_exec and not IN_SLURM:
        raise WorkflowError(needs_slurm(CONFIG.execution))
    write_if_changed(RESOLVED, resolved_yaml(CONFIG))
    note_holder(Path())


def note_all_times():
    """So that a copy of this folder is as finished as this one."""
    folders = [LAYOUT.tasks.parent, LAYOUT.runs, LAYOUT.results]
    with suppress(OSError, SdarError):
        note_times(Path(), folders)


onsuccess:
    note_all_times()


onerror:
    note_all_times()


wildcard_constraints:
    method="|".join([*UNTRAINED, *TRAINED]),
    seed=r"\d+",
    variant=r"[\w.+-]+",


def depends_on(stage, of=CONFIG):
    """What a stage's result depends on (`sdar.config.stages`), as one comparable text: keys that
    change no result, or only the rounding, are not in it and rerun nothing."""
    return fingerprint(of, stage, CONTENT)


def starting_policy(_wildcards=None):
    """What training starts from: the warm start, or a pretrained model, which no rule makes."""
    return [LAYOUT.warm_start / "policy"] if CONFIG.warm_start.enabled else []


def policy_of(wildcards):
    """The policy that an evaluation plays."""
    if wildcards.method in UNTRAINED:
        return starting_policy()
    return [LAYOUT.run(wildcards.method, wildcards.seed) / "policy"]


def run_files(runs, *names):
    """These files of these runs' folders."""
    return [LAYOUT.run(method, seed) / name for method, seed in runs for name in names]


# The sweep: its variants, and the configuration and folder of each.
SWEEP = (
    {variant.name: variant for variant in sweep_variants(CONFIG)}
    if CONFIG.sweep.is_set
    else {}
)
VARIANT_CONFIGS = {
    name: variant_config(CONFIG, variant) for name, variant in SWEEP.items()
}
PER_VARIANT = LAYOUT.of_variant("{variant}").run("", "{seed}")
SWEEP_RUNS = [
    LAYOUT.of_variant(name).run("", seed)
    for name in SWEEP
    for seed in sweep_seeds(CONFIG)
]
SWEEP_RESULTS = LAYOUT.sweep_results


def variant_depends_on(stage):
    """`depends_on`, of the configuration that the wildcard's variant runs with."""
    return lambda wildcards: depends_on(stage, of=VARIANT_CONFIGS[wildcards.variant])


def sweep_evaluations(_wildcards):
    """Every evaluation that is compared; says what to set where there is no sweep."""
    try:
        sweep_variants(CONFIG)
    except SdarError as error:
        raise WorkflowError(str(error)) from None
    return [
        folder / "evaluation" / name
        for folder in SWEEP_RUNS
        for name in EVALUATION_FILES
    ]
