"""The configuration, declared once. Everything else (YAML, JSON schema, checks) follows from it.

Unknown keys are errors. The defaults are the default experiment: a real environment, a tiny Qwen3
policy, minutes on two CPU cores. Imports neither torch nor MLflow, so that Snakemake can
validate before it builds the DAG.
"""

import logging
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from sdar.config.cluster import ClusterConfig
from sdar.config.execution import ExecutionConfig, LoraConfig
from sdar.config.rollout import RolloutConfig
from sdar.config.sweep import RetrievalKind, SweepConfig
from sdar.config.warm_start import Chosen, WarmStartConfig, chosen
from sdar.environments.packages import DEFAULT, environment_sections
from sdar.environments.section import EnvironmentSection
from sdar.files.paths import GivenModel, GivenPath, expand_store
from sdar.methods.declarations import get_method
from sdar.methods.gates import RunGate
from sdar.methods.roles import MethodName
from sdar.section import (
    NOTHING,
    ROUNDING,
    Changes,
    Fraction,
    Name,
    NonNegative,
    Section,
    Seed,
    Share,
    Uri,
    name_of,
)

log = logging.getLogger("sdar.config")
SECTIONS = environment_sections()
if TYPE_CHECKING:
    EnvironmentConfig = EnvironmentSection
else:
    EnvironmentConfig = Annotated[reduce(or_, SECTIONS.values()), Field(discriminator="name")]


if TYPE_CHECKING:
    ExperimentName = str
else:
    ExperimentName = name_of("a-z0-9_", "lower-case letters")


class SkillsConfig(Section):
    """The privileged text: what the teacher is told and the student is not."""

    library: GivenPath | None = None
    """A folder of markdown skills; null: the library that comes with sdar."""
    retrieval: RetrievalKind = "type"
    """Which skill a teacher, or a rollout with the skill, is told. `type`: the task type's.
    `keyword`: that of the type whose keywords occur most in the task's instruction. `all`: every
    type's; raise policy.max_teacher_prompt_tokens and policy.context for it. `random`: that of a
    drawn type, the same for all samples of a task. `none`: no skill. Demonstrations and the warm
    start always use the task type's: their hints must be followed."""
    seed: int = 0
    """Seed of `random`."""


class TinyPolicyConfig(Section):
    """The tiny Qwen3 made from scratch when `policy.model` is `tiny`."""

    layers: PositiveInt = 3
    hidden: PositiveInt = 128
    intermediate: PositiveInt = 256
    heads: PositiveInt = 4
    kv_heads: PositiveInt = 2
    vocabulary: PositiveInt = 768
    """Upper limit of the tokenizer's vocabulary."""
    context: PositiveInt = 1024

    @model_validator(mode="after")
    def _heads_divide(self) -> "TinyPolicyConfig":
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"heads ({self.heads}) must divide hidden ({self.hidden}) and be a multiple of "
                f"kv_heads ({self.kv_heads}): change one of them"
            )
        return self


class PolicyConfig(Section):
    """The policy: a Hugging Face model by name or path, or `tiny`, made here."""

    model: GivenModel = "tiny"
    """`tiny`, a folder, or a name on the hub. What begins with `/`, `.` or `~` is a folder; any
    other name is a folder's if there is one of that name (models/m), and else one on the hub."""
    trust_remote_code: bool = False
    """Whether program code that comes with `model` may run on this machine. Only a model of a
    family that transformers does not know needs it; with false such a model is refused."""
    tiny: TinyPolicyConfig = TinyPolicyConfig()
    context: PositiveInt | None = None
    """Context length of `model` in tokens, for checks before it is loaded; null: `tiny.context`, or
    read from the model when it is loaded."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    fp32_head: Annotated[bool, ROUNDING] = False
    """With `dtype: bfloat16`, compute logits in float32 from the hidden states: log-probs of scorer
    and engine then lie closer together (about half the difference), and the head takes twice the
    memory and more time. vLLM computes its own."""
    share_prefixes: Annotated[bool, ROUNDING] = True
    """Compute tokens that several sequences of a pass begin with (a skill, a group's first prompt,
    the fixed words of all prompts) once, in every pass and its gradients. Where a model does not
    allow it (docs/models.md), they are computed again for each."""
    max_prompt_tokens: PositiveInt = 448
    """A longer prompt loses history, then text from its middle, and is counted. Raised in the
    middle of a run, it continues."""
    max_response_tokens: PositiveInt = 32
    max_teacher_prompt_tokens: PositiveInt = 704
    """The teacher's own limit: its prompt holds the skill as well."""


class DistillationConfig(Section):
    """The dense term: gated distillation from the same weights, which are told the skill."""

    coefficient: NonNegative = 0.1
    """Lambda."""
    beta: NonNegative = 5.0
    gate: RunGate = "gap"
    scored_by: Literal["trainer", "engine"] = "trainer"
    """Who computes the teacher's log-probs: the trainer's own pass, or the rollout engine, which
    may share the prefill of equal prompts (prefix cache)."""
    share: Share = 1.0
    """Of the turns, those that the teacher scores, drawn anew at each step. What it says of them
    counts 1 / share times, so that on average it counts as that of all turns; the teacher costs
    about this share. A method that compares the turns of an episode draws whole episodes."""
    schedule: Literal["constant", "linear", "retire"] = "constant"
    """How the coefficient goes on. `linear`: down to 0 over `steps` steps. `retire`: 0 for the rest
    of the run once the mean |gap| is below `retire_below`. Where it is 0, the teacher is not asked,
    unless the method redistributes advantages by it, which is not scheduled here."""
    steps: PositiveInt | None = None
    """Of the schedule `linear`: the first step, from 0, without the term."""
    retire_below: NonNegative | None = None
    """Of the schedule `retire`: a mean over response tokens of |gap|, in nats (`gap/size`)."""
    retire_over: PositiveInt = 1
    """Of the schedule `retire`: how many steps in a row the mean is taken over."""

    @model_validator(mode="after")
    def _schedulable(self) -> "DistillationConfig":
        needed = {"linear": "steps", "retire": "retire_below"}.get(self.schedule)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(
                f"schedule is {self.schedule}, but {needed} is null: give it a number, or set "
                "schedule to constant"
            )
        return self


class TrainingConfig(Section):
    """Reinforcement learning."""

    steps: PositiveInt = 30
    tasks_per_step: PositiveInt = 8
    group_size: PositiveInt = 8
    minibatch: PositiveInt = 256
    """Samples (turns) per optimizer step."""
    micro_batch: Annotated[PositiveInt, ROUNDING] = 64
    """Samples per forward-backward pass: fewer take less memory. Sums are rounded differently: in
    bfloat16 a token's log-prob changes by about .01."""
    old_log_probs: Annotated[Literal["auto", "pass"], ROUNDING] = "auto"
    """Where the log-probs before the update come from. `auto`: the sampler's own, where it is the
    trainer's model itself, in float32, at temperature 1, and no gate asks for the entropy; else a
    pass over the samples. `pass`: always that."""
    learning_rate: PositiveFloat = 5e-4
    warmup_ratio: Fraction = 0.0
    weight_decay: NonNegative = 0.01
    gradient_clip: PositiveFloat = 1.0
    skipped_in_a_row: Annotated[PositiveInt, NOTHING] = 5
    """An optimizer step whose loss, gradient or inputs are not finite is skipped and counted
    (`update/skipped`); so many in a row end the run. Also those of the warm start."""
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.2
    dual_clip: PositiveFloat = 3.0
    loss_aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = (
        "token-mean"
    )
    statistics_over: Literal["steps", "episodes"] = "steps"
    normalize_by_std: bool = True
    discount: Fraction = 0.95
    kl_coefficient: NonNegative = 0.01
    entropy_coefficient: NonNegative = 0.001
    distillation: DistillationConfig = DistillationConfig()
    lora: LoraConfig | None = None
    """Null: all weights are trained."""
    activation_checkpointing: Annotated[bool, NOTHING] = False
    """Compute activations again in the backward pass: less memory, about a third more work."""
    reference: Annotated[Literal["device", "host"], NOTHING] = "device"
    """Where the frozen reference policy lies between its passes: `host` frees the GPU's memory and
    costs two transfers per step. There is none where kl_coefficient is 0, or with LoRA."""
    checkpoint_every: Annotated[PositiveInt, NOTHING] = 5
    keep_checkpoints: Annotated[PositiveInt, NOTHING] = 2
    record_tokens_every: Annotated[PositiveInt, NOTHING] = 5
    """Steps from one record of tokens (gap, gate, advantage, log-probs) to the next."""
    recorded_episodes: Annotated[PositiveInt, NOTHING] = 4
    """Episodes recorded token by token in such a step."""

    @model_validator(mode="after")
    def _possible(self) -> "TrainingConfig":
        if self.micro_batch > self.minibatch:
            raise ValueError(
                f"micro_batch ({self.micro_batch}) is larger than minibatch ({self.minibatch}): "
                "lower training.micro_batch or raise training.minibatch"
            )
        if self.group_size == 1 and self.normalize_by_std:
            raise ValueError(
                "group_size 1 leaves nothing to normalise advantages by: set training.group_size "
                "to 2 or more, or training.normalize_by_std to false"
            )
        return self


class EvaluationConfig(Section):
    """Every task of each panel exactly once per seed."""

    panels: Annotated[tuple[Name, ...], Field(min_length=1)] = SECTIONS[DEFAULT].usual_panels
    temperature: NonNegative = 0.4
    """0 is greedy."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Sampling seeds: each plays the whole panel once."""
    recorded_episodes: PositiveInt = 12
    """Episodes shown token by token in the report."""


class TrackingConfig(Section):
    """MLflow, written from metrics.jsonl."""

    unmarked: ClassVar[Changes] = "nothing"

    enabled: bool = True
    uri: Annotated[Uri, AfterValidator(expand_store)] = "sqlite:///mlflow.db"
    """Relative sqlite paths lie under the root. A password in it is neither shown nor recorded:
    records say ***, and what reads them takes the URI from MLFLOW_TRACKING_URI."""
    experiment: str | None = None
    """MLflow experiment; null: the name of this experiment."""

    @field_validator("experiment")
    @classmethod
    def _shown(cls, value: str | None) -> str | None:
        if value is not None and not (value.strip() and value.isprintable() and len(value) <= 250):
            raise ValueError("give one line of at most 250 characters, or null")
        return value


class ExperimentConfig(Section):
    """One experiment: environment, policy, methods, seeds, and how they are compared."""

    experiment: ExperimentName = "alfworld-tiny"
    methods: Annotated[tuple[MethodName, ...], Field(min_length=1)] = ("grpo", "sdar")
    """What is trained and compared. The untrained `warm_start` and `skill_prompt` are always
    evaluated, whether listed or not."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1)
    environment: EnvironmentConfig = SECTIONS[DEFAULT].model_validate({})
    skills: SkillsConfig = SkillsConfig()
    policy: PolicyConfig = PolicyConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    rollout: RolloutConfig = RolloutConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    execution: ExecutionConfig = ExecutionConfig()
    cluster: ClusterConfig = ClusterConfig()
    sweep: SweepConfig = SweepConfig()

    @property
    def context(self) -> int | None:
        """Tokens the policy can attend to, where the configuration knows it."""
        if self.policy.context is not None:
            return self.policy.context
        return self.policy.tiny.context if self.policy.model == "tiny" else None

    @property
    def chosen_warm_start(self) -> Chosen:
        """The keys of the warm start that are null, as they are for this model."""
        tiny = self.policy.model == "tiny"
        return chosen(self.warm_start, None if tiny else self.training.micro_batch)

    @model_validator(mode="before")
    @classmethod
    def _usual_environment(cls, values: Any) -> Any:
        """A file that changes keys of the default environment need not repeat its name, and another
        environment is evaluated on its own panels."""
        environment = values.get("environment") if isinstance(values, dict) else None
        if not isinstance(environment, dict):
            return values
        environment = {"name": DEFAULT, **environment}
        values = {**values, "environment": environment}
        section = SECTIONS.get(environment["name"])
        evaluation = values.get("evaluation", {})
        if section is not None and isinstance(evaluation, dict) and "panels" not in evaluation:
            values["evaluation"] = {"panels": section.usual_panels, **evaluation}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "ExperimentConfig":
        for name, values in (("methods", self.methods), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} lists a value twice: {list(values)}; remove the repeat")
        absent = [name for name in self.sweep.panels if name not in self.evaluation.panels]
        if absent:
            raise ValueError(
                f"sweep.panels: {', '.join(absent)} is not among evaluation.panels "
                f"({', '.join(self.evaluation.panels)}): add it there or remove it here"
            )
        known = self.environment.known_panels
        strange = [name for name in self.evaluation.panels if known and name not in known]
        if strange:
            raise ValueError(
                f"evaluation.panels: {self.environment.name} has no panel {', '.join(strange)}; "
                f"set evaluation.panels to [{', '.join(known)}]"
            )
        for name in self.methods:
            refused = get_method(name).refuses_share(self.training.distillation.share)
            if refused is not None:
                raise ValueError(refused)
        self._check_gpus()
        for key in ("max_prompt_tokens", "max_teacher_prompt_tokens"):
            tokens = getattr(self.policy, key) + self.policy.max_response_tokens
            if self.context is not None and tokens > self.context:
                raise ValueError(
                    f"policy.{key} + policy.max_response_tokens is {tokens}, beyond the "
                    f"model's context of {self.context} tokens: lower policy.{key}"
                )
        if self.training.distillation.scored_by == "engine":
            self._check_engine_scores()
        if self.policy.model == "tiny" and not self.warm_start.enabled:
            raise ValueError(
                "policy.model 'tiny' starts from random weights: set warm_start.enabled to true"
            )
        if self.policy.model == "tiny" and self.warm_start.lora is not None:
            raise ValueError(
                "warm_start.lora: policy.model 'tiny' starts from random weights, which adapters "
                "would leave as they are: set warm_start.lora to null"
            )
        if self.environment.data is not None and self.policy.model == "tiny":
            raise ValueError(
                "policy.model 'tiny' knows only the small generated tasks: set environment.data "
                "to null, or policy.model to a pretrained model"
            )
        return self

    def _check_gpus(self) -> None:
        """Whether each rank of a job has one."""
        jobs = {"train": self.cluster.train}
        if self.warm_start.enabled and self.policy.model != "tiny":
            jobs["warm_start"] = self.cluster.warm_start
        ranks = self.execution.processes
        for name, job in jobs.items():
            if self.execution.device == "cuda" and job.gpus is not None and job.gpus < ranks:
                raise ValueError(
                    f"cluster.{name}.gpus is {job.gpus}, but execution.processes is {ranks}, each "
                    f"on a GPU of its own: raise cluster.{name}.gpus, or set it to null"
                )

    def _check_engine_scores(self) -> None:
        key = "training.distillation.scored_by is engine"
        if self.rollout.engine != "vllm":
            raise ValueError(
                f"{key}, but rollout.engine is {self.rollout.engine}, which does not score: set "
                "rollout.engine to vllm, or scored_by to trainer"
            )
        if self.rollout.temperature != 1.0:
            raise ValueError(
                f"{key}: an engine scores at temperature 1 and the trainer at rollout.temperature "
                f"({self.rollout.temperature:g}): set that to 1, or scored_by to trainer"
            )
        whole = [name for name in self.methods if get_method(name).needs_teacher_distribution]
        if whole:
            raise ValueError(
                f"{key}, but {whole[0]} needs the teacher's whole distribution, which an "
                "engine does not give: set scored_by to trainer, or drop the method"
            )
