"""The training loop of every method, top to bottom.

    rollout -> old log-probs -> teacher log-probs -> reference log-probs -> advantages -> update
            -> records -> checkpoint

What distinguishes a method is its declaration (`sdar.methods.declarations`); nothing here asks for
its name. Everything random is a function of (seed, step, slot, turn), so a run that is killed and
started again ends with the same metrics and the same weights, byte for byte on a CPU. A scheduler's
signal (`sdar.interruption`) ends it after the current step, with a checkpoint.

Shape suffixes: S samples (turns of all episodes of a step), R response tokens.
"""

from contextlib import closing
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sdar.algorithms.policy_loss import importance_weights
from sdar.algorithms.step import step_advantages
from sdar.clock import PhaseClock
from sdar.config import ExperimentConfig, Layout
from sdar.errors import SdarError
from sdar.files.digest import file_digest
from sdar.files.lock import only_writer
from sdar.interruption import Stopped, between_steps, stop_requested
from sdar.memory.verdict import require_memory
from sdar.policy.gpu import device_name
from sdar.policy.log_probs import TeacherDistribution
from sdar.policy.reproducible import make_reproducible
from sdar.policy.sharding import wants_sharding
from sdar.progress import Progress
from sdar.ranks.ranks import Ranks
from sdar.ranks.rendezvous import join_ranks
from sdar.rollout.limits import check_limits
from sdar.tracking.provenance import write_provenance
from sdar.tracking.recorder import RunRecorder
from sdar.training.checkpoint import load_checkpoint, save_checkpoint
from sdar.training.checkpoint_cost import CheckpointCost
from sdar.training.episode_log import EpisodeLog
from sdar.training.export import export_policy
from sdar.training.identity import RunIdentity
from sdar.training.kept_records import (
    keep_records,
    keep_tokens,
    kept_in,
    lost_tokens,
    restore_files,
)
from sdar.training.learner import Learner
from sdar.training.measures import (
    context_measures,
    engine_measures,
    gap_and_gate_measures,
    rollout_measures,
    teacher_measures,
)
from sdar.training.optimizer import learning_rate_at
from sdar.training.parts import Parts, make_accelerator, open_parts, trained_method
from sdar.training.step_batch import StepBatch
from sdar.training.step_result import StepResult
from sdar.training.token_records import drop_tokens, record_tokens


def train(config: ExperimentConfig, layout: Layout, method: str, seed: int) -> None:
    """Train one method with one seed; continue where an earlier start of the same run stopped.

    Reads the tasks and the warm start (or `policy.model`); writes `layout.run(method, seed)`, the
    policy last. Raises `SdarError` for what is missing or cannot be written, and where another
    process writes this run.
    """
    declared = trained_method(method)
    refused = declared.refuses_share(config.training.distillation.share)
    if refused is not None:
        raise SdarError(refused)
    join_ranks(config.execution.nodes, config.execution.processes)
    make_reproducible(config.execution.threads)
    accelerator = make_accelerator(config)
    require_memory(config, declared)
    # Weights that are shared out go to the ranks' devices layer by layer.
    sharded = wants_sharding(config, accelerator)
    with Ranks.of(accelerator).entered_by_first(only_writer(layout.run(method, seed))):
        parts = open_parts(config, layout, torch.device("cpu") if sharded else accelerator.device)
        try:
            train_with(parts, config, layout, method, seed, accelerator)
        finally:
            parts.pool.close()
    accelerator.end_training()


def train_with(
    parts: Parts,
    config: ExperimentConfig,
    layout: Layout,
    method_name: str,
    seed: int,
    accelerator: Any,
) -> None:
    """`train` with its parts opened: the loop over steps, with records and checkpoints."""
    method, training = trained_method(method_name), config.training
    folder = layout.run(method.name, seed)
    plays_with_skill = method.rollout_with_skill
    check_limits(
        parts.tokenizer,
        config,
        parts.tasks,
        parts.skills,
        without_skill=not plays_with_skill,
        with_skill=plays_with_skill or method.needs_teacher,
    )
    ranks = Ranks.of(accelerator)
    learner = Learner.prepare(parts, config, method, seed, accelerator, ranks, folder)
    device = device_name(accelerator.device)
    identity = RunIdentity.of_training(config, method, seed, parts.inputs, device)

    start, checkpoint = 0, None
    if ranks.first:
        checkpoint = identity.find_start(
            folder / "checkpoints",
            training.steps,
            lacking=partial(lost_tokens, folder),
        )
    checkpoint = ranks.broadcast(checkpoint)
    if checkpoint is not None:
        load_checkpoint(checkpoint, parts.model, learner.optimizer)
        learner.restore(checkpoint.state)
        start = checkpoint.step
    spans = identity.spans(checkpoint)

    # All ranks hold the same step; one of them writes.
    if ranks.first:
        about = {"method": method.name, "seed": seed, "inputs": parts.inputs}
        if checkpoint is not None:
            restore_files(folder, checkpoint)
        write_provenance(folder, config, layout, **about, computed_with=spans)
        drop_tokens(folder / "tokens", start)
    records = kept_in(checkpoint)
    episode_log = EpisodeLog(folder / "episodes.parquet", records)
    token_files: dict[str, str] = {} if checkpoint is None else checkpoint.state["tokens"]
    name = f"{method.name}/seed-{seed}"
    with (
        closing(learner),
        RunRecorder(folder, config=config, layout=layout, kind="train", name=name) as recorder,
        between_steps(),
        ranks.watching(),
    ):
        recorder.resume(records, start)
        if ranks.first:
            episode_log.write()
        cost = CheckpointCost(training.checkpoint_every)
        for step in (bar := _progress_bar(name, start, training.steps, shown=ranks.first)):
            last = step == training.steps - 1
            done = training_step(learner, step, bar)
            stopping = ranks.any(stop_requested())
            recorder.metrics(step, done.metrics)
            with done.clock("records"):
                episode_log.add(step, done.batch.episodes)
                if ranks.first and (step % training.record_tokens_every == 0 or last):
                    path = record_tokens(recorder, folder / "tokens", done, learner)
                    token_files[path.name] = file_digest(path)
            with done.clock("checkpoint"):
                if (step + 1) % training.checkpoint_every == 0 or last or stopping:
                    if ranks.first:
                        episode_log.write()
                    saved = save_checkpoint(
                        folder / "checkpoints",
                        step + 1,
                        model=parts.model,
                        optimizer=learner.optimizer,
                        state=identity.state(spans) | learner.state() | {"tokens": token_files},
                        keep=training.keep_checkpoints,
                        extra=keep_records(recorder, episode_log, step, done.timings),
                        writes=ranks.first,
                    )
                    if ranks.first:
                        keep_tokens(folder, saved)
            if ranks.first:
                recorder.timings(step, done.timings())
                seconds = done.clock.seconds
                cost.step(sum(seconds.values()), seconds["checkpoint"])
            bar.set_postfix(done.summary())
            if stopping and not last:
                raise Stopped
        export_policy(folder / "policy", parts.model, parts.tokenizer, writes=ranks.first)
        recorder.policy(folder / "policy", training.steps)


def training_step(learner: Learner, step: int, bar: Any = None) -> StepResult:
    """One step, in the module docstring's order. Every log-prob is that of a sampled token."""
    clock, method, config = PhaseClock(), learner.method, learner.config

    asks = learner.asks_teacher(step)
    batch = StepBatch.from_episodes(learner.rollout(step, clock, bar))
    if step + 1 < config.training.steps:
        # The environment loads the next tasks while the model computes.
        learner.prefetch(step + 1)
    metrics = rollout_measures(batch, config.policy.max_response_tokens)

    with clock("old"):
        old_SR, old_entropy_SR = learner.score_old(batch)

    teacher_SR: Tensor | None = None
    distribution: TeacherDistribution | None = None
    if asks:
        with clock("teacher"):
            teacher_SR, distribution = learner.score_teacher(batch, batch.teacher_prompts)
        metrics |= teacher_measures(batch)

    reference_SR: Tensor | None = None
    if learner.reference is not None:
        with clock("reference"):
            reference_SR = learner.score_reference(batch)

    samples = batch.samples(old_SR, teacher_SR, old_entropy_SR)
    advantages_SR = step_advantages(method, samples, learner.advantage_settings(), step=step)
    # Where the engine that sampled is not quite the policy, its samples count more or less.
    engine_SR, cap = batch.engine_log_probs(), config.rollout.importance_cap
    weighted_SR = advantages_SR
    if cap is not None:
        weighted_SR = advantages_SR * importance_weights(
            old_SR, engine_SR, batch.response_mask_SR, cap=cap
        )
    with clock("update"):
        context = learner.look_at_step(samples, advantages_SR, step)
        update = learner.update(
            step, batch, old_SR, teacher_SR, reference_SR, weighted_SR, context, distribution
        )

    gap_SR = update.gap_SR
    if gap_SR is None and teacher_SR is not None:
        gap_SR = teacher_SR - old_SR
    metrics |= update.measures()
    metrics |= gap_and_gate_measures(batch, gap_SR, update.gate_SR)
    if asks:
        metrics |= context_measures(context, method, batch.response_mask_SR)
    metrics |= learner.follow_schedule(step, batch, gap_SR)
    if config.rollout.temperature == 1.0:  # else: log-probs of two distributions
        own, samples_of_own = old_SR, slice(None)
        if learner.scoring.sampler_gives_old:
            # Up to the first optimizer step, the update's are those of the weights that sampled.
            own, samples_of_own = update.log_probs_SR, learner.first_minibatch(batch)
        metrics |= engine_measures(
            engine_SR[samples_of_own], own[samples_of_own], batch.response_mask_SR[samples_of_own]
        )
    metrics["update/learning_rate"] = learning_rate_at(step, config)
    return StepResult(
        step=step,
        batch=batch,
        old_SR=old_SR,
        student_SR=update.log_probs_SR,
        teacher_SR=teacher_SR,
        reference_SR=reference_SR,
        advantages_SR=advantages_SR,
        gap_SR=gap_SR,
        gate_SR=update.gate_SR,
        metrics=metrics,
        clock=clock,
    )


def _progress_bar(name: str, start: int, steps: int, shown: bool) -> Progress:
    return Progress(
        range(start, steps), initial=start, total=steps, desc=name, unit="step", disable=not shown
    )
