"""Where everything lies under the root. The only place that spells paths."""

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths of one experiment under `root`."""

    root: Path
    experiment: str
    variant: str | None = None
    """A variant of the sweep: its runs lie apart, all else is the experiment's."""

    @property
    def tasks(self) -> Path:
        """Folder of the tasks: `tasks.jsonl`, `tasks.md`, and what the environment plays from."""
        return self.root / "data" / self.experiment / "tasks"

    @property
    def demonstrations(self) -> Path:
        """Folder with `demonstrations.parquet` and, for the tiny policy, its `tokenizer/`."""
        return self.root / "data" / self.experiment / "demonstrations"

    @property
    def runs(self) -> Path:
        return self.root / "runs" / self.experiment

    @property
    def warm_start(self) -> Path:
        """Run folder of the warm start; `policy/` inside is the model training starts from."""
        return self.runs / "warm_start"

    def run(self, method: str, seed: int) -> Path:
        """Run folder of one training run; a variant's has its name in the place of the method."""
        if self.variant is not None:
            return self.runs / "sweep" / self.variant / f"seed-{seed}"
        return self.runs / method / f"seed-{seed}"

    def evaluation(self, method: str, seed: int) -> Path:
        """Folder of one evaluation: `episodes.parquet`, `tokens.parquet`, `summary.json`. It holds
        what is a function of the run alone, so that equal evaluations are equal byte for byte."""
        return self.run(method, seed) / "evaluation"

    def evaluating(self, method: str, seed: int) -> Path:
        """Folder of what else an evaluation leaves: `config.yaml`, `provenance.json`, what MLflow's
        mirror needs, and the chunks of one under way."""
        return self.run(method, seed) / "evaluating"

    @property
    def results(self) -> Path:
        return self.root / "results" / self.experiment

    @property
    def sweep_results(self) -> Path:
        """Folder of the sweep's table and heat map."""
        return self.results / "sweep"

    def of_variant(self, name: str) -> "Layout":
        """The same experiment's paths for one variant of its sweep."""
        return replace(self, variant=name)
