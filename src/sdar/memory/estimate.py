"""From a model's shape and a configuration to bytes: by part and phase, per GPU.

What is counted is the worst the configuration allows: every prompt and response as long as its
limit. The phases of a step do not peak together, so each has its own sum:

    rollout         the engine's weights and its cache
    scoring         old, teacher and reference log-probs: passes without gradient
    update          forward and backward of a micro-batch, gradients of the ones before it kept
    optimizer step  AdamW's temporaries, no activations

N trained parameters of P in all: weights in float32 (4 P), AdamW's moments (8 N) and gradients
(4 N). FSDP2 divides these by the number of ranks, and gathers a layer in bfloat16 to compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from sdar.config import ExperimentConfig
from sdar.config.execution import LoraConfig
from sdar.memory import activations
from sdar.memory.activations import FLOAT32, Precision
from sdar.methods.declarations import Method
from sdar.policy.log_probs import CHUNK_LOGITS
from sdar.policy.micro_batches import CPU_TOKENS, prefill_tokens
from sdar.policy.shape import ModelShape
from sdar.policy.sharding import wants_sharding
from sdar.rollout.engines.buckets import capacity_bucket, row_bucket

GIB = 2**30
GATHERED_LAYERS = 2
"""FSDP2 gathers the next layer while one computes."""
CUDA_BYTES = GIB
"""Context, cuBLAS workspaces, NCCL buffers: what is usual, beside tensors."""

Parts = dict[str, int]


@dataclass(frozen=True)
class MemoryPhase:
    """Bytes by part, all alive at the phase's peak."""

    name: str
    parts: Parts

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryEstimate:
    """Of one rank: what its GPU must hold, or what its process needs on CPUs."""

    shape: ModelShape
    method: str
    ranks: int
    on_gpu: bool
    sharded: bool
    phases: tuple[MemoryPhase, ...]

    @property
    def worst(self) -> MemoryPhase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def peak(self) -> int:
        """Bytes."""
        return self.worst.total


def estimate(
    shape: ModelShape,
    config: ExperimentConfig,
    method: Method,
    *,
    on_gpu: bool = True,
    gpu_bytes: int | None = None,
) -> MemoryEstimate:
    """What a training job of `method` needs. `gpu_bytes`: a GPU's memory, for vLLM's share."""
    ranks = config.execution.ranks
    device = SimpleNamespace(type="cuda" if on_gpu else "cpu")
    launched = SimpleNamespace(num_processes=ranks, device=device)
    sharded = wants_sharding(config, launched)
    return _Job(shape, config, method, on_gpu, sharded, gpu_bytes).estimate()


def worst_case(
    shape: ModelShape,
    config: ExperimentConfig,
    methods: Sequence[Method],
    *,
    on_gpu: bool = True,
    gpu_bytes: int | None = None,
) -> MemoryEstimate:
    """The largest estimate among several methods."""
    return max(
        (estimate(shape, config, each, on_gpu=on_gpu, gpu_bytes=gpu_bytes) for each in methods),
        key=lambda each: each.peak,
    )


def trained_parameters(shape: ModelShape, lora: LoraConfig | None) -> int:
    """All parameters, or those of the adapters."""
    if lora is None:
        return shape.parameters
    targets = None if lora.targets == "all-linear" else tuple(lora.targets)
    return shape.adapter_parameters(lora.rank, targets)


@dataclass(frozen=True)
class _Job:
    shape: ModelShape
    config: ExperimentConfig
    method: Method
    on_gpu: bool
    sharded: bool
    gpu_bytes: int | None

    @property
    def ranks(self) -> int:
        return self.config.execution.ranks

    @property
    def precision(self) -> Precision:
        return activations.as_precision(self.config.policy.dtype, self.sharded)

    def share(self, count: int) -> int:
        """A rank's part of what FSDP2 divides."""
        return -(-count // self.ranks) if self.sharded else count

    def estimate(self) -> MemoryEstimate:
        phases = (
            MemoryPhase("rollout", self.resident() | self.rollout()),
            MemoryPhase("scoring", self.resident() | self.scoring()),
            MemoryPhase("update", self.resident() | self.update()),
            MemoryPhase("optimizer step", self.resident() | self.optimizer_step()),
        )
        return MemoryEstimate(
            self.shape, self.method.name, self.ranks, self.on_gpu, self.sharded, phases
        )

    # What is in memory all the time.

    @property
    def adapters(self) -> int:
        return 0 if self.config.training.lora is None else self.trained

    @property
    def trained(self) -> int:
        return trained_parameters(self.shape, self.config.training.lora)

    @property
    def reference(self) -> int:
        """Bytes of the frozen reference, on GPU or host; with LoRA it is the policy itself."""
        training = self.config.training
        if training.kl_coefficient == 0 or training.lora is not None:
            return 0
        shape, precision = self.shape, self.precision
        if not precision.casts:
            return self.share(4 * shape.parameters)
        # Its matrices are in the type computed in, and its head is its own.
        converted = 0 if self.config.policy.fp32_head else shape.head_parameters
        head = converted if shape.tied else 0
        matrices = shape.layers * shape.layer_matrices + converted
        return 4 * (shape.parameters + head) - (4 - precision.compute) * matrices

    def resident(self) -> Parts:
        parts = {
            "weights": self.share(4 * (self.shape.parameters + self.adapters)),
            "moments": self.share(8 * self.trained),
            "reference": self.reference if self.config.training.reference == "device" else 0,
            "CUDA": CUDA_BYTES if self.on_gpu else 0,
        }
        if not self.config.rollout.vllm.sleep:
            parts["engine"] = self.engine_bytes
        return parts

    # What each phase adds.

    def rollout(self) -> Parts:
        rollout = self.config.rollout
        if rollout.engine == "vllm":
            return {"engine": self.engine_bytes}
        shape, training = self.shape, self.config.training
        precision = activations.BFLOAT16 if self.sharded else self.precision
        if self.config.policy.dtype == "float32":
            precision = FLOAT32
        episodes = -(-training.tasks_per_step * training.group_size // self.ranks)
        rows = min(rollout.batch, episodes)
        prompt = self.prompt_tokens
        width = prompt + self.config.policy.max_response_tokens
        static = self.on_gpu and rollout.static_decode is not False
        tokens = row_bucket(rows) * capacity_bucket(width) if static else rows * width
        block = prefill_tokens("cuda" if self.on_gpu else "cpu")
        cache = tokens * activations.cache_of_token(shape, precision)
        read = min(max(block, prompt), rows * prompt)
        reading = read * activations.passing(shape, precision)
        reading += 2 * self.attention_scores(read, prompt)
        drawing = rows * shape.vocabulary * activations.LOGIT_SAMPLING
        parts = {
            # A layer's buffers exist twice while finished rows leave.
            "cache": cache + cache // shape.layers,
            # Prompts are read, then tokens are drawn; graphs keep what they draw in.
            "activations": reading + drawing if static else max(reading, drawing),
        }
        if self.sharded:
            parts["engine"] = precision.compute * shape.parameters
        elif precision.casts:
            # Converted once for all tokens, frozen weights as well.
            parts["computing copies"] = self.casted
        return parts

    def scoring(self) -> Parts:
        longest = self.config.policy.max_prompt_tokens
        if self.method.needs_teacher:
            longest = max(longest, self.config.policy.max_teacher_prompt_tokens)
        longest = max(longest, self.prompt_tokens)
        width = longest + self.config.policy.max_response_tokens
        tokens, responses = self.pass_tokens(longest)
        shape, precision = self.shape, self.precision
        logits = activations.chunk_logits(shape, responses, CHUNK_LOGITS)
        parts = {
            # The layers come first, then the head.
            "activations": max(
                tokens * activations.passing(shape, precision)
                + 2 * self.attention_scores(tokens, width),
                logits * activations.LOGIT_SCORING,
            ),
            "teacher's head": self.copied_head,
        }
        if self.sharded:
            parts["computing copies"] = self.gathered
        elif precision.casts and not self.adapters:
            parts["computing copies"] = self.casted
        elif precision.casts:
            parts["computing copies"] = precision.compute * shape.head_parameters
        distillation = self.config.training.distillation
        if distillation.scored_by == "engine" and self.method.needs_teacher:
            parts["engine"] = self.engine_bytes  # awake until it has scored
        if self.config.training.reference == "host" and self.reference:
            # A pass of its own: the reference comes when other passes' copies have gone.
            kept = 0 if self.sharded else parts.get("computing copies", 0)
            parts["reference"] = max(self.reference - kept, 0)
        return parts

    def update(self) -> Parts:
        shape, precision, training = self.shape, self.precision, self.config.training
        tokens, responses = self.pass_tokens(self.prompt_tokens)
        rank = 0 if training.lora is None else training.lora.rank
        width = self.prompt_tokens + self.config.policy.max_response_tokens
        scores = self.attention_scores(tokens, width)
        layer = tokens * activations.kept_by_layer(shape, precision, rank) + scores
        kept = tokens * activations.kept_by_final_norm(shape, precision)
        working = tokens * activations.passing_backward(shape, precision) + 2 * scores
        if training.activation_checkpointing:
            kept += shape.layers * tokens * precision.stream * shape.hidden
            working += layer
        else:
            kept += shape.layers * layer
        logit = activations.LOGIT_TRAINING
        if self.copied_head:
            logit += activations.LOGIT_DIVERGENCE
        head = activations.chunk_logits(shape, responses, CHUNK_LOGITS) * logit
        ends = 0
        if not self.adapters:
            head += activations.head_gradient(shape, precision)
            if self.sharded:
                # Undivided gradients of a layer, in the type computed in and summed in float32;
                # those of embedding and head when all activations have gone.
                summed = precision.compute + 4
                working += summed * shape.layer_parameters
                working += precision.compute * shape.head_parameters
                ends = summed * self.end_parameters
        parts = {
            "gradients": self.share(4 * self.trained),
            "activations": kept,
            # First in the head, then in the layers, then in the embedding.
            "backward pass": max(head, working, ends - kept),
            "teacher's head": self.copied_head,
        }
        if self.sharded:
            parts["computing copies"] = self.gathered
        elif precision.casts:
            parts["computing copies"] = self.casted
        return parts

    def optimizer_step(self) -> Parts:
        # AdamW takes all second moments' roots at once on a GPU, one by one on a CPU.
        largest = max(self.shape.head_parameters, self.shape.layer_matrices)
        roots = 4 * (self.trained if self.on_gpu else min(largest, self.trained))
        return {
            "gradients": self.share(4 * self.trained),
            "optimizer's temporaries": self.share(roots),
            "teacher's head": self.copied_head,
        }

    # Used by several phases.

    @property
    def prompt_tokens(self) -> int:
        """The student's limit in training."""
        policy = self.config.policy
        with_skill = self.method.rollout_with_skill
        return policy.max_teacher_prompt_tokens if with_skill else policy.max_prompt_tokens

    def pass_tokens(self, prompt: int) -> tuple[int, int]:
        """Padded tokens of a micro-batch, and response tokens among them."""
        response = self.config.policy.max_response_tokens
        samples = self.config.training.micro_batch
        if not self.on_gpu:
            samples = min(samples, max(1, CPU_TOKENS // (prompt + response)))
        return samples * (prompt + response - 1), samples * response

    def attention_scores(self, tokens: int, width: int) -> int:
        """Bytes of a layer's scores, `tokens` of each head against `width` tokens; 0 where they
        never exist at once. On a GPU no fused kernel takes float32 with grouped queries, and what
        computes it then keeps them all."""
        grouped = self.shape.kv_heads < self.shape.heads
        if not (self.on_gpu and grouped and self.config.policy.dtype == "float32"):
            return 0
        return 4 * self.shape.heads * tokens * width

    @property
    def casted(self) -> int:
        """Autocast's copies of all matrices, which live as long as a pass."""
        return self.precision.compute * (
            self.shape.layers * self.shape.layer_matrices + self.shape.head_parameters
        )

    @property
    def copied_head(self) -> int:
        """Bytes of the teacher's head, where its whole distribution is needed."""
        if not self.method.needs_teacher_distribution:
            return 0
        of_number = 4 if self.config.policy.fp32_head else self.precision.compute
        return of_number * self.shape.head_parameters

    @property
    def end_parameters(self) -> int:
        """Parameters of embedding and head."""
        return self.shape.head_parameters * (1 if self.shape.tied else 2)

    @property
    def gathered(self) -> int:
        """Bytes of the weights that FSDP2 has gathered at once."""
        layers = GATHERED_LAYERS * self.shape.layer_parameters
        return self.precision.compute * (self.end_parameters + layers)

    @property
    def engine_bytes(self) -> int:
        """Bytes of an awake vLLM in this process."""
        rollout = self.config.rollout
        if rollout.engine != "vllm" or rollout.vllm.servers:
            return 0
        if self.gpu_bytes is None:  # of which vLLM's share is unknown
            return self.precision.compute * self.shape.parameters
        return int(rollout.vllm.gpu_memory_share * self.gpu_bytes)
