"""What the paper's experiments need of each GPU, by the estimate: the table of docs/memory.md.

    python benchmarks/memory_table.py [FILE.yaml ...] [--gpus 1 4 8] [--gib 79] [--output FILE]

Nothing is run. Prints markdown; with --output, writes it between the table's marks in that file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdar.config import ExperimentConfig, load_config
from sdar.memory.estimate import GIB
from sdar.memory.verdict import Verdict, judge_experiment

EXPERIMENTS = Path(__file__).resolve().parent.parent / "config" / "experiments"
GPUS, GPU_GIB = [1, 4, 8], 79.0
BEGIN, END = "<!-- begin of the generated table -->\n", "<!-- end of the generated table -->\n"


def papers() -> list[Path]:
    """The paper's experiments. Their twins with warm start train alike."""
    found = sorted(EXPERIMENTS.glob("*-qwen*.yaml"))
    return [file for file in found if not file.stem.endswith("-warm")]


def on_gpus(config: ExperimentConfig, gpus: int, gib: float) -> Verdict:
    """The experiment's verdict with so many GPUs of one machine and else as its file says."""
    execution = config.execution.model_copy(
        update={"processes": gpus, "nodes": 1, "gpu_memory_gib": gib}
    )
    verdict = judge_experiment(config.model_copy(update={"execution": execution}))
    if verdict is None:
        raise SystemExit(f"{config.policy.model}: its shape is not known")
    return verdict


def table(files: list[Path], counts: Sequence[int] = GPUS, gib: float = GPU_GIB) -> str:
    """Markdown: one row per experiment, GiB per GPU."""
    own = ["GPUs", "micro-batch", "rollout", "scoring", "update", "optimizer step"]
    head = ["experiment", *own, *(f"with {count}" for count in counts)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for file in files:
        config = load_config(file)
        verdict = on_gpus(config, config.execution.processes, gib)
        cells = [file.stem, str(config.execution.processes), str(config.training.micro_batch)]
        cells += [f"{phase.total / GIB:.1f}" for phase in verdict.estimate.phases]
        for count in counts:
            judged = on_gpus(config, count, gib)
            short = f"{judged.estimate.peak / GIB:.1f}"
            cells.append(f"({short})" if judged.level == "too large" else short)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="*", help="default: the paper's experiments")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    parser.add_argument("--gib", type=float, default=GPU_GIB, help="memory of a GPU")
    parser.add_argument("--output", type=Path, help="a file with the table's marks")
    options = parser.parse_args()
    made = table(options.files or papers(), options.gpus, options.gib)
    print(made, end="")
    if options.output is not None:
        text = options.output.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        options.output.write_text(before + BEGIN + made + END + rest.split(END)[1], "utf-8")


if __name__ == "__main__":
    main()
