"""The methods, one declaration each. Nothing here computes; `execution` carries a declaration out.

A method = rollout prompt + advantage + policy coefficient + distillation term + gate, where the
gate may be centred or kept to some tokens. What a declaration leaves at None is the run's own
setting (lambda, gate, clip range), so an ablation changes the configuration and never the method.
Sources: SDAR (arXiv 2605.15155) and its reference code unless `source` says otherwise; formulas in
docs/methods.md.
"""

from dataclasses import dataclass
from typing import Literal

from sdar.errors import SdarError
from sdar.methods.gates import GATES

AdvantageName = Literal["grpo", "gigpo"]
TokenCredit = Literal["uniform", "rlsd", "agent_opsd"]
DistillationName = Literal["none", "gated", "skill_sd", "reverse_kl", "reverse_kl_full"]
GateBaseline = Literal["none", "step_mean"]
KeptTokens = Literal["all", "unopposed"]


@dataclass(frozen=True)
class LinearSchedule:
    """`start` at training step 0, `end` from step `steps` on, a straight line between."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        share = min(max(step / self.steps, 0.0), 1.0)
        return self.start + share * (self.end - self.start)


NEVER = LinearSchedule(0.0, 0.0, 1)
CREDIT_CLIP = 0.2
"""How far from 1 the teacher may move the weight of a turn's or a token's advantage."""


@dataclass(frozen=True)
class Method:
    """What distinguishes one method from another, and nothing else."""

    name: str
    label: str
    """The name people know it by: in tables, figures and pages."""
    colour: str
    """Its colour in every figure."""
    summary: str
    source: str = "SDAR, arXiv 2605.15155"
    trained: bool = True
    """False: the policy that training starts from is evaluated as it is."""
    always_evaluated: bool = False
    """Of an untrained method: every experiment evaluates it, whether `methods` lists it or not."""
    rollout_with_skill: bool = False
    """The skill is in the student's own prompt while training (then it is no privilege)."""
    evaluate_with_skill: bool = False
    """The prompt of the evaluation reported under the method's name."""
    evaluate_both_prompts: bool = False
    """The other prompt is evaluated and reported too."""
    advantage: AdvantageName = "grpo"
    """Per sample."""
    token_credit: TokenCredit = "uniform"
    """How the teacher redistributes a sample's advantage over its turns or tokens."""
    token_mix: LinearSchedule = NEVER
    """Share of that redistribution, by training step counted from 0."""
    policy_coefficient: float = 1.0
    clip_high: float | None = None
    """None: the run's `training.clip_high`."""
    distillation: DistillationName = "none"
    distillation_coefficient: float | None = None
    """None: the run's lambda, `training.distillation.coefficient`."""
    gate: str | None = None
    """For the gated term, one of `gates.GATES`. None: the run's `training.distillation.gate` (the
    paper's is `gap`)."""
    gate_baseline: GateBaseline = "none"
    """Subtracted from the gate: the mean gate of the step's response tokens, or nothing."""
    kept_tokens: KeptTokens = "all"
    """`unopposed`: no weight where raising the sampled token opposes the reward."""
    without_distillation: str | None = None
    """The method that this one is at lambda = 0: a sweep varies the methods that name one."""

    @property
    def needs_teacher(self) -> bool:
        """Log-probs under the skill-augmented prompt are used in training."""
        return self.trained and (self.distillation != "none" or self.token_credit != "uniform")

    @property
    def needs_teacher_distribution(self) -> bool:
        """The teacher's probabilities over the whole vocabulary are used, not the sampled token's
        alone."""
        return self.trained and self.distillation == "reverse_kl_full"

    @property
    def compares_turns(self) -> bool:
        """What the teacher says of one turn of an episode counts for the others, too: then it
        scores an episode as a whole, or not at all."""
        return self.token_credit == "agent_opsd"

    def asks_teacher(self, coefficient_left: float) -> bool:
        """Whether a step needs the teacher, where a schedule leaves it that part of the
        distillation term's coefficient: not for a term that is off, if it is for nothing else."""
        return self.needs_teacher and (coefficient_left != 0 or self.token_credit != "uniform")

    def refuses_share(self, share: float) -> str | None:
        """Why the teacher cannot score so small a share of the turns, in a sentence; None: it can.

        A redistributed advantage moves by up to mix * `CREDIT_CLIP` of itself, and by 1 / share
        times that on the turns that are scored: more than all of it would turn its sign.
        """
        least = CREDIT_CLIP * max(self.token_mix.start, self.token_mix.end)
        if not self.needs_teacher or share >= least:
            return None
        return (
            f"training.distillation.share is {share:g}, with which {self.name} would turn the sign "
            f"of advantages on the turns that are scored: raise it to {least:g} or more"
        )

    @property
    def needs_step_context(self) -> bool:
        """The loss uses statistics of the whole step (`context.StepContext`)."""
        if self.gate is not None and GATES[self.gate].uses_step:
            return True
        return (self.gate_baseline, self.kept_tokens) != ("none", "all")

    def gate_kind(self, configured: str) -> str | None:
        """The gate in force under a run's setting; None where the method has no gate."""
        if self.distillation != "gated":
            return None
        return self.gate or configured

    def needs_entropy_gate(self, configured: str) -> bool:
        """The gate in force reads the student's entropy."""
        kind = self.gate_kind(configured)
        return kind is not None and GATES[kind].reads_entropy

    def needs_old_entropy(self, configured: str) -> bool:
        """The entropy under the policy at the step's start is used, for the gates' mean."""
        return self.gate_baseline == "step_mean" and self.needs_entropy_gate(configured)

    def coefficient(self, configured: float) -> float:
        """The weight of the distillation term under a run's lambda."""
        if self.distillation == "none":
            return 0.0
        if self.distillation_coefficient is None:
            return configured
        return self.distillation_coefficient


# Okabe & Ito's colour-blind-safe colours, then others that can be told from them.
_DECLARATIONS = (
    Method("grpo", "GRPO", "#0072B2", "GRPO alone", source="GRPO, arXiv 2402.03300"),
    Method(
        "sdar",
        "SDAR",
        "#D55E00",
        "GRPO and gap-gated self-distillation",
        distillation="gated",
        without_distillation="grpo",
    ),
    Method(
        "opsd",
        "OPSD",
        "#CC79A7",
        "Gap-gated self-distillation without the policy term",
        policy_coefficient=0.0,
        distillation="gated",
    ),
    Method(
        "grpo_opsd",
        "GRPO+OPSD",
        "#E69F00",
        "GRPO and self-distillation behind a constant gate of one half",
        distillation="gated",
        gate="none",
    ),
    Method(
        "warm_start",
        "warm start",
        "#767676",
        "The untrained policy, which every method starts from",
        trained=False,
        always_evaluated=True,
    ),
    Method(
        "skill_prompt",
        "warm start + skill",
        "#222222",
        "The untrained policy with the skill in its prompt",
        trained=False,
        always_evaluated=True,
        rollout_with_skill=True,
        evaluate_with_skill=True,
    ),
    Method(
        "skill_grpo",
        "Skill-GRPO",
        "#009E73",
        "GRPO with the skill in the prompt",
        rollout_with_skill=True,
        evaluate_with_skill=True,
        evaluate_both_prompts=True,
    ),
    Method(
        "skill_sd",
        "Skill-SD",
        "#56B4E9",
        "GRPO and importance-weighted k3 toward the teacher",
        distillation="skill_sd",
        distillation_coefficient=0.001,
    ),
    Method(
        "rlsd",
        "RLSD",
        "#8C6D31",
        "GRPO with the advantage redistributed over tokens by the teacher",
        token_credit="rlsd",
        token_mix=LinearSchedule(0.5, 0.0, 100),
    ),
    Method(
        "gigpo",
        "GiGPO",
        "#3B4BA3",
        "Episode and turn advantages",
        source="GiGPO, arXiv 2505.10978",
        advantage="gigpo",
    ),
    Method(
        "sdar_gigpo",
        "SDAR+GiGPO",
        "#A32A2A",
        "GiGPO advantages and gap-gated self-distillation",
        advantage="gigpo",
        distillation="gated",
        without_distillation="gigpo",
    ),
    Method(
        "reverse_kl",
        "reverse KL",
        "#6A3D9A",
        "GRPO and the sampled reverse-KL policy gradient toward the teacher",
        source="the correction of the reference code's issue 16",
        distillation="reverse_kl",
    ),
    Method(
        "agent_opsd",
        "AgentOPSD",
        "#2F7F7A",
        "GRPO with the advantage redistributed over turns by the teacher's evidence",
        source="AgentOPSD, arXiv 2608.05987",
        token_credit="agent_opsd",
        token_mix=LinearSchedule(0.5, 0.5, 1),
        clip_high=0.24,
    ),
    Method(
        "reverse_kl_full",
        "full reverse KL",
        "#B07AD9",
        "GRPO and the reverse KL toward the teacher over the whole vocabulary",
        source="the divergence itself, as in SDPO, arXiv 2601.20802",
        distillation="reverse_kl_full",
    ),
    Method(
        "sdar_centred",
        "centred SDAR",
        "#7A9A01",
        "SDAR with the step's mean gate subtracted from every gate",
        source="this project",
        distillation="gated",
        gate_baseline="step_mean",
    ),
    Method(
        "sdar_adaptive",
        "adaptive SDAR",
        "#F08A6B",
        "SDAR with a gate that follows where the gaps lie, and is shut without information",
        source="this project, on the future work that SDAR names",
        distillation="gated",
        gate="adaptive",
    ),
    Method(
        "sdar_objective",
        "objective-consistent SDAR",
        "#5C4033",
        "SDAR on the tokens whose raising does not oppose the reward",
        source="this project; compare ICSD, arXiv 2608.14945",
        distillation="gated",
        kept_tokens="unopposed",
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _DECLARATIONS}


def get_method(name: str) -> Method:
    """The declaration of `name`.

    Raises:
        SdarError: unknown name; the message lists the known ones.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise SdarError(
            f"unknown method {name!r}, expected one of {', '.join(METHODS)}: correct `methods` "
            "or --method"
        ) from None
