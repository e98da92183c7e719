"""The warm start: from the weights a policy begins with to one that acts, and follows a hint.

Supervised fine-tuning on the demonstrations, then rounds of expert relabelling (`relabelling`). The
tiny policy, which begins with random weights, is trained by one process on its CPU; a pretrained
model on the devices and ranks that train it afterwards. A continued warm start is the same warm
start.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from sdar.config import ExperimentConfig, Layout
from sdar.config.stages import content_digests
from sdar.environments.base import Task
from sdar.files.digest import json_digest
from sdar.files.lock import only_writer
from sdar.interruption import Stopped, between_steps, stop_requested
from sdar.memory.warm_start import require_memory_of_warm_start
from sdar.policy.gpu import device_name
from sdar.policy.reproducible import make_reproducible
from sdar.policy.tokenizer import tokenizer_digest
from sdar.progress import Progress
from sdar.ranks.ranks import Ranks
from sdar.ranks.rendezvous import join_ranks
from sdar.tracking.provenance import write_provenance
from sdar.tracking.recorder import RunRecorder
from sdar.training.checkpoint import load_checkpoint, save_checkpoint
from sdar.training.demonstrations import Demonstration, read_demonstrations
from sdar.training.export import export_policy
from sdar.training.identity import RunIdentity, task_inputs
from sdar.training.kept_records import keep_records, kept_in, restore_files
from sdar.training.parts import make_accelerator
from sdar.training.phases import Phase, as_sample, demonstrated_samples, mixture, phases
from sdar.training.placed import ThisProcess
from sdar.training.relabelling import Relabelling, tasks_to_play
from sdar.training.sft import Sample, fine_tune
from sdar.training.skips import Skips
from sdar.training.warm_policy import WarmPolicy, open_warm_policy
from sdar.training.warm_tokenizer import read_warm_tokenizer

log = logging.getLogger("sdar.training")
RECORD_EVERY = 50


def warm_start(config: ExperimentConfig, layout: Layout) -> None:
    """Write `policy/` (Hugging Face format) into `layout.warm_start`: `policy.model`, fine-tuned on
    the demonstrations.

    Raises `SdarError` where these or the model cannot be read or used, or another process writes
    the folder.
    """
    if config.policy.model == "tiny":
        with only_writer(layout.warm_start):
            make_reproducible(config.execution.warm_start_threads)
            _warm_start(config, layout, ThisProcess(), Ranks())
        return
    join_ranks(config.execution.nodes, config.execution.processes)
    make_reproducible(config.execution.threads)
    accelerator = make_accelerator(config)
    require_memory_of_warm_start(config)
    ranks = Ranks.of(accelerator)
    with ranks.entered_by_first(only_writer(layout.warm_start)):
        _warm_start(config, layout, accelerator, ranks)
    accelerator.end_training()


def _warm_start(config: ExperimentConfig, layout: Layout, accelerator: Any, ranks: Ranks) -> None:
    settings, chosen = config.warm_start, config.chosen_warm_start
    folder = layout.warm_start
    turns = read_demonstrations(layout.demonstrations / "demonstrations.parquet")
    tasks = tasks_to_play(config, layout)
    tokenizer = read_warm_tokenizer(config, layout)
    demonstrated = demonstrated_samples(tokenizer, turns, config)
    policy = open_warm_policy(config, tokenizer, accelerator, ranks)
    model, optimizer = policy.placed.model, policy.optimizer
    done, plan = 0, phases(config)
    total = plan[-1].first_update + plan[-1].schedule.updates
    identity = warm_start_identity(config, policy, turns, tasks)
    ranks.require_same("settings, model and data", json_digest(dict(identity.depends_on)))
    checkpoint = None
    if ranks.first:
        checkpoint = identity.find_start(folder / "checkpoints", total)
    checkpoint = ranks.broadcast(checkpoint)
    skips = Skips(config.training.skipped_in_a_row, folder, writes=ranks.first)
    if checkpoint is not None:
        load_checkpoint(checkpoint, model, optimizer)
        skips.restore(checkpoint.state)
        done = checkpoint.step
        if ranks.first:
            log.warning("continuing the warm start at update %d", done)
    played: dict[str, str] = {} if checkpoint is None else checkpoint.state["relabelled"]
    plays = any(phase.round > 0 and done <= phase.first_update for phase in plan)
    relabelling = Relabelling.open(config, layout, policy.placed, policy.tokenizer, played, plays)
    relabelled: list[Sample] = []
    spans = identity.spans(checkpoint)
    if ranks.first:
        if checkpoint is not None:
            restore_files(folder, checkpoint)
        write_provenance(folder, config, layout, computed_with=spans)

    about: dict[str, Any] = {"kind": "warm_start", "name": "warm start"}
    with (
        closing(relabelling),
        RunRecorder(folder, config=config, layout=layout, **about) as run,
        Progress(
            total=total, initial=done, desc="warm start", unit="update", disable=not ranks.first
        ) as bar,
        between_steps(),
        ranks.watching(),
    ):
        run.resume(kept_in(checkpoint), done + 1)
        began = time.perf_counter()

        def after(phase: Phase, update: int, loss: float) -> None:
            nonlocal began
            number = phase.first_update + update + 1
            bar.update()
            if number % RECORD_EVERY == 0 or number == total:
                bar.set_postfix(loss=f"{loss:.3f}", round=phase.round)
                scale = phase.schedule.at(update)
                values = {"sft/loss": loss, "sft/round": phase.round}
                values["update/skipped"] = skips.report()
                run.metrics(number, values | {"sft/learning_rate_scale": scale})
                run.timings(number, {"seconds": time.perf_counter() - began})
                began = time.perf_counter()
            stopping = ranks.any(stop_requested())
            if number % settings.checkpoint_every == 0 or number == total or stopping:
                save_checkpoint(
                    folder / "checkpoints",
                    number,
                    model=model,
                    optimizer=optimizer,
                    state=identity.state(spans)
                    | {"round": phase.round, "skips": skips.state(), "relabelled": played},
                    keep=2,
                    extra=keep_records(run),
                    writes=ranks.first,
                )
            if stopping and number < total:
                raise Stopped

        for phase in plan:
            if phase.round:
                own = relabelling.own_episodes(phase, done)
                relabelled += [as_sample(policy.tokenizer, turn) for turn in own]
            if done >= phase.first_update + phase.schedule.updates:
                continue
            began = time.perf_counter()
            fine_tune(
                policy.placed,
                optimizer,
                mixture(demonstrated, relabelled, seed=settings.seed + phase.round),
                schedule=phase.schedule,
                batch=settings.batch,
                micro_batch=chosen.micro_batch,
                seed=settings.seed * 1000 + phase.round,
                start=max(0, done - phase.first_update),
                first_update=phase.first_update,
                skips=skips,
                on_update=partial(after, phase),
            )
        export_policy(folder / "policy", model, policy.tokenizer, writes=ranks.first)
        run.finish()


def warm_start_identity(
    config: ExperimentConfig,
    policy: WarmPolicy,
    turns: Sequence[Demonstration],
    tasks: Sequence[Task],
) -> RunIdentity:
    """What the warm start of these weights on these demonstrations depends on; `tasks` are the real
    ones that it plays."""
    inputs = {
        "policy": policy.digest,
        "tokenizer": tokenizer_digest(policy.tokenizer),
        "demonstrations": json_digest([(turn.messages, turn.response) for turn in turns])[:16],
        "skills": content_digests(config)["skills.library"],
        **(task_inputs(config, tasks) if tasks else {}),
    }
    device = device_name(policy.placed.accelerator.device)
    return RunIdentity.of(config, "warm_start", inputs, device)
