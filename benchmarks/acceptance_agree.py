"""Sections of the acceptance run about correctness on one GPU: probe, agree, reference, bf16.

Shape suffixes: S samples (turns), R response tokens.
"""

import platform
import shutil
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from acceptance_record import Record
from acceptance_reference import check_reference
from acceptance_world import CASES, CONTEXT, QWEN2, QWEN3, Case, open_case, random_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdar.clock import PhaseClock
from sdar.policy.loading import load_policy
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.policy.micro_batches import CPU_TOKENS, split_evenly
from sdar.policy.paths import scoring_path, set_fp32_head
from sdar.policy.probe import find_scoring_path
from sdar.policy.reproducible import choose_kernels
from sdar.rollout.engines.probe import find_sampling_path
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine
from sdar.rollout.engines.vllm.probe import TOLERANCES
from sdar.training.step_batch import StepBatch
from sdar.training.trainer import training_step

DEEP = QWEN2 | {"num_hidden_layers": 24}
NOISE = TOLERANCES["bfloat16"]
"""Nats of a token that are no more than rounding, on average; wrong weights make whole ones."""
HERE = Path(__file__).resolve().parent


def target() -> str:
    """The device under test."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def probe(record: Record, options: Any) -> None:
    """What machine this is, and by which path each family is scored and sampled on it."""
    record.note("python", platform.python_version())
    record.note("torch", torch.__version__)
    # Without this a driver that torch cannot use would pass for a machine without a GPU.
    alone = shutil.which("nvidia-smi") is None
    record.check("device", target(), target() == "cuda" or alone, "cuda, where nvidia-smi is there")
    if target() == "cuda":
        properties = torch.cuda.get_device_properties(0)
        record.note("name", properties.name)
        record.note("capability", f"{properties.major}.{properties.minor}")
        record.note("memory_gib", round(properties.total_memory / 2**30, 1))
        record.note("cuda", torch.version.cuda)
        # Not "highest" (some images set TF32): `agree` would fail for that alone.
        record.note("float32 products", torch.get_float32_matmul_precision())
        record.check("bf16", torch.cuda.is_bf16_supported(), torch.cuda.is_bf16_supported(), "")
        for name in ("flash", "mem_efficient", "cudnn", "math"):
            record.note(f"sdpa/{name}", getattr(torch.backends.cuda, f"{name}_sdp_enabled")())
    choose_kernels(torch.device(target()))
    for shape in (QWEN3, QWEN2):
        for dtype in (torch.float32, torch.bfloat16):
            model = random_model(shape).to(target(), dtype)
            find_scoring_path(model, PolicyScorer, CONTEXT)
            name = f"{shape['model_type']}/{str(dtype).removeprefix('torch.')}"
            record.equal(f"{name}/scored", scoring_path(model), "fast")
            path = note_sampling(record, name, model)
            record.equal(f"{name}/sampled", path, "static")
            if path != "static":
                record.note(f"{name}/static alone", decoded_alone(model))


def note_sampling(record: Record, name: str, model: Any) -> str:
    """By which path the model is sampled, where all may be; what ruled out the quicker ones."""
    path, against = find_sampling_path(ContinuousTransformersEngine, model, CONTEXT, True)
    for other, reason in against.items():
        record.note(f"{name}/not {other}", reason)
    return path


def decoded_alone(model: Any) -> str:
    """What comes of decoding in fixed shapes where the trial took another path: all that was said
    of the error."""
    engine = ContinuousTransformersEngine(model, None, ends=frozenset(), path="static")
    try:
        engine.generate([[1, 2, 3]], [(0, 0, 0, 0)], max_new_tokens=12, temperature=1.0)
    except Exception:
        return traceback.format_exc()
    return "no error"


def agree(record: Record, options: Any) -> None:
    """In float32 the device, decoding in fixed shapes, computes what a CPU computes without them:
    tokens, log-probs, one update."""
    folder = options.out / "agree"
    folder.mkdir(exist_ok=True)
    sides = ("cpu", "cuda" if target() == "cuda" else "again")
    for side in sides:
        device = "cpu" if side == "again" else side
        arguments = ["--device", device, "--out", folder, "--name", side]
        if side != "cpu":
            arguments.insert(0, "--static")
        subprocess.run([sys.executable, HERE / "acceptance_world.py", *arguments], check=False)
    one, other = (torch.load(folder / f"{side}.pt", weights_only=False) for side in sides)
    for case in CASES:
        there = [
            side for side, found in zip(sides, (one, other), strict=True) if case.name in found
        ]
        record.equal(f"{case.name}/played on", there, list(sides))
        if len(there) == 2:
            compare(record, case.name, one[case.name], other[case.name])


def compare(record: Record, name: str, cpu: dict[str, Any], device: dict[str, Any]) -> None:
    """Both sides of one case."""
    # Whether it is `static` is checked by `probe`: what is decoded otherwise is compared, too.
    record.note(f"{name}/path", device["path"])
    # Where two tokens are all but equally likely, rounding decides between them.
    record.check(
        f"{name}/greedy",
        same := share_equal(cpu["greedy"], device["greedy"]),
        same >= 0.99,
        ">=.99",
    )
    record.check(
        f"{name}/sampled",
        same := share_equal(cpu["tokens"], device["tokens"]),
        same >= 0.95,
        ">=.95",
    )
    for kind in ("old", "student", "teacher", "reference"):
        if cpu[kind] is not None:
            record.at_most(f"{name}/{kind}", largest(cpu[kind] - device[kind]), 1e-4)
    apart = (cpu["after"] - device["after"]).norm() / cpu["after"].norm()
    moved = (cpu["after"] - cpu["before"]).norm() / cpu["after"].norm()
    record.at_most(f"{name}/weights", float(apart), 1e-4)
    record.check(f"{name}/moved", float(moved), float(moved) > 1e-3, "> 1e-3")
    keys = [key for key in cpu["metrics"] if key.startswith(("update/", "gap/", "gate/", "loss"))]
    worst = max(keys, key=lambda key: relative(cpu["metrics"][key], device["metrics"][key]))
    value = relative(cpu["metrics"][worst], device["metrics"][worst])
    record.at_most(f"{name}/metrics ({worst})", value, 1e-3)


def share_equal(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """Share of the responses that are equal token for token."""
    return sum(list(a) == list(b) for a, b in zip(one, other, strict=True)) / len(one)


def largest(values: Tensor) -> float:
    return float(values.abs().max())


def relative(one: float, other: float) -> float:
    return abs(one - other) / max(abs(one), abs(other), 1e-3)


def reference(record: Record, options: Any) -> None:
    """What a pretrained model says here is what it says elsewhere."""
    if options.model is None or options.reference is None:
        record.note("not compared", "give --model and --reference")
        return
    check_reference(record, options.model, options.reference, target())
    # As an evaluation loads it; rounding alone may rule out a path.
    model, _ = load_policy(options.model, target(), "bfloat16")
    record.note("bfloat16/scored", scoring_path(model))
    record.note("bfloat16/sampled", note_sampling(record, "bfloat16", model))


def bf16(record: Record, options: Any) -> None:
    """How far log-probs in bfloat16 are from float32's, and from themselves."""
    model, tokenizer = None, None
    if options.model is not None:
        model, tokenizer = load_policy(options.model)
    shape = QWEN3 if options.small else DEEP
    training = {"minibatch": 8, "micro_batch": 3}
    case = Case("bf16", shape, "sdar", training, policy={"dtype": "bfloat16"})
    learner = open_case(case, target(), model, tokenizer)
    autocast, device = learner.playing.accelerator.autocast, learner.playing.accelerator.device
    # Not the learner's: that one is always in autocast.
    scorer = PolicyScorer(learner.parts.model)

    def scores(prompts: Any, responses: Any, micro_batch: int, dtype: str = "bfloat16") -> Tensor:
        with autocast() if dtype == "bfloat16" else nullcontext():
            return score_responses(
                scorer,
                prompts,
                responses,
                micro_batch=micro_batch,
                micro_batch_tokens=CPU_TOKENS,
                device=device,
            ).log_probs

    turns = [turn for episode in learner.rollout(0, PhaseClock()) for turn in episode.turns]
    prompts = [turn.prompt.token_ids for turn in turns]
    responses = [turn.response_ids for turn in turns]
    engine_SR = pad_sequence([torch.tensor(turn.log_probs) for turn in turns], batch_first=True)
    mask_SR = torch.arange(engine_SR.shape[1]) < torch.tensor([[len(r)] for r in responses])
    exact_SR = scores(prompts, responses, 6, "float32")
    six_SR, two_SR = scores(prompts, responses, 6), scores(prompts, responses, 2)
    for name, apart_SR in (
        ("against float32", six_SR - exact_SR),
        ("micro-batches of 6 and of 2", six_SR - two_SR),
        ("engine against scorer", engine_SR - six_SR),
    ):
        apart = apart_SR[mask_SR].abs()
        record.at_most(f"{name}, mean (nats)", float(apart.mean()), NOISE)
        record.note(f"{name}, largest (nats)", float(apart.max()))

    exact_head = replace(case, policy={**case.policy, "fp32_head": True})
    with_head = open_case(exact_head, target(), model, tokenizer)
    batch = StepBatch.from_episodes(with_head.rollout(0, PhaseClock()))
    engine_SR, old_SR = batch.engine_log_probs(), with_head.score_old(batch)[0]
    apart = (engine_SR - old_SR)[batch.response_mask_SR].abs()
    record.note("engine against scorer, head in float32, mean (nats)", float(apart.mean()))
    record.note("engine against scorer, head in float32, largest (nats)", float(apart.max()))
    with_head.close()
    set_fp32_head(learner.parts.model, False)  # a pretrained model is the same in both

    done = training_step(learner, 0)
    learner.close()
    first = split_evenly(len(done.batch), case.training["minibatch"])[0]
    ratio_SR = (done.student_SR - done.old_SR)[first.start : first.stop].exp() - 1
    record.at_most("first minibatch, largest |ratio - 1|", largest(ratio_SR), 1e-3)
    taught, answers = done.batch.teacher_prompts, done.batch.responses
    gaps = [
        scores(taught, answers, 6, dtype) - scores(done.batch.prompts, answers, 6, dtype)
        for dtype in ("float32", "bfloat16")
    ]
    mask_SR = done.batch.response_mask_SR
    gates = [torch.sigmoid(5.0 * gap_SR[mask_SR]) for gap_SR in gaps]
    apart = (gates[0] - gates[1]).abs()
    record.at_most("gate at beta 5, mean", float(apart.mean()), NOISE)
    record.note("gate at beta 5, largest", float(apart.max()))
