"""The warm start: from random weights to a policy that can act, and that follows a hint.

Supervised fine-tuning on the demonstrations, then rounds of expert relabelling (DAgger, Ross et
al. 2011): the policy plays, half of its episodes with the hint, and the expert says what it would
have done at every state the policy reached. A continued warm start is the same warm start.
"""

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sdar.config import ExperimentConfig, Layout
from sdar.config.stages import content_digests
from sdar.environments.packages import environment_package
from sdar.environments.practices import open_practices
from sdar.errors import SdarError
from sdar.files.digest import file_digest, json_digest
from sdar.files.lock import only_writer
from sdar.interruption import Stopped, between_steps, stop_requested
from sdar.policy.chat import ChatFormat, render_prompt
from sdar.policy.reproducible import make_reproducible
from sdar.policy.tiny import make_tiny_policy
from sdar.policy.tokenizer import tokenizer_digest
from sdar.policy.weights import policy_digest
from sdar.progress import Progress
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.rollout.turns import read_response
from sdar.tracking.provenance import write_provenance
from sdar.tracking.recorder import RunRecorder
from sdar.training.checkpoint import load_checkpoint, save_checkpoint
from sdar.training.demonstrations import (
    Demonstration,
    Libraries,
    Player,
    library_of,
    read_demonstrations,
    write_demonstrations,
)
from sdar.training.export import export_policy
from sdar.training.identity import RunIdentity
from sdar.training.kept_records import keep_records, kept_in, restore_files
from sdar.training.muon import MuonWithAdamW
from sdar.training.sft import Sample, Schedule, fine_tune
from sdar.training.skips import Skips

log = logging.getLogger("sdar.training")
# Episodes the policy plays are numbered from here, after all that the demonstrations show.
FIRST_OWN_EPISODE = 10_000_000
RECORD_EVERY = 50


@dataclass(frozen=True)
class Phase:
    """A stretch of updates on one set of samples; round 0 is fine-tuning, then DAgger's rounds."""

    round: int
    first_update: int
    schedule: Schedule


def phases(config: ExperimentConfig) -> list[Phase]:
    """The warm start's plan."""
    settings, dagger = config.warm_start, config.warm_start.dagger
    plan = [Phase(0, 0, Schedule(settings.updates, settings.warmup))]
    for number in range(1, dagger.rounds + 1):
        scale = dagger.learning_rate_scale * dagger.decay ** (number - 1)
        first = settings.updates + (number - 1) * dagger.updates
        plan.append(Phase(number, first, Schedule(dagger.updates, 20, scale)))
    return plan


def warm_start(config: ExperimentConfig, layout: Layout) -> None:
    """Write `policy/` (Hugging Face format) into `layout.warm_start`, from the demonstrations.

    Raises `SdarError` where these cannot be read, or another process writes the folder.
    """
    with only_writer(layout.warm_start):
        _warm_start(config, layout)


def _warm_start(config: ExperimentConfig, layout: Layout) -> None:
    settings = config.warm_start
    folder = layout.warm_start
    make_reproducible(config.execution.warm_start_threads)
    turns = read_demonstrations(layout.demonstrations / "demonstrations.parquet")
    tokenizer = load_tokenizer(layout.demonstrations / "tokenizer")
    model = make_tiny_policy(config.policy.tiny, tokenizer, settings.seed)
    optimizer = MuonWithAdamW(
        model,
        matrix_learning_rate=settings.matrix_learning_rate,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    done, plan = 0, phases(config)
    total = plan[-1].first_update + plan[-1].schedule.updates
    identity = warm_start_identity(config, model, tokenizer, turns)
    checkpoint = identity.find_start(folder / "checkpoints", total)
    skips = Skips(config.training.skipped_in_a_row, folder)
    if checkpoint is not None:
        load_checkpoint(checkpoint, model, optimizer)
        skips.restore(checkpoint.state)
        done = checkpoint.step
        log.warning("continuing the warm start at update %d", done)
    libraries = library_of(config)
    for turn in turns:
        check_length(tokenizer, turn, config)
    played: dict[str, str] = {} if checkpoint is None else checkpoint.state["relabelled"]
    demonstrated = [as_sample(tokenizer, turn) for turn in turns]
    relabelled: list[Sample] = []
    spans = identity.spans(checkpoint)
    if checkpoint is not None:
        restore_files(folder, checkpoint)
    write_provenance(folder, config, layout, computed_with=spans)

    about: dict[str, Any] = {"kind": "warm_start", "name": "warm start"}
    with (
        RunRecorder(folder, config=config, layout=layout, **about) as run,
        Progress(total=total, initial=done, desc="warm start", unit="update") as bar,
        between_steps(),
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
            stopping = stop_requested()
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
                )
            if stopping and number < total:
                raise Stopped

        for phase in plan:
            if phase.round:
                own = own_episodes(config, layout, phase, model, tokenizer, libraries, done, played)
                relabelled += [as_sample(tokenizer, turn) for turn in own]
            if done >= phase.first_update + phase.schedule.updates:
                continue
            began = time.perf_counter()
            fine_tune(
                model,
                optimizer,
                mixture(demonstrated, relabelled, seed=settings.seed + phase.round),
                schedule=phase.schedule,
                batch=settings.batch,
                seed=settings.seed * 1000 + phase.round,
                start=max(0, done - phase.first_update),
                first_update=phase.first_update,
                skips=skips,
                on_update=partial(after, phase),
            )
        run.finish()

    export_policy(folder / "policy", model, tokenizer)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of the demonstrations. Raises `SdarError` when it is missing or broken."""
    from transformers import AutoTokenizer

    try:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{name} is missing")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever the libraries make of a damaged file
        reason = " ".join(str(error).split())[:200]
        raise SdarError(
            f"{folder} cannot be read ({reason}): make it with `sdar demonstrations`"
        ) from None
    ChatFormat.of(tokenizer)
    return tokenizer


def warm_start_identity(
    config: ExperimentConfig,
    model: torch.nn.Module,
    tokenizer: Any,
    turns: Sequence[Demonstration],
) -> RunIdentity:
    """What the warm start of these weights on these demonstrations depends on."""
    inputs = {
        "policy": policy_digest(model),
        "tokenizer": tokenizer_digest(tokenizer),
        "demonstrations": json_digest([(turn.messages, turn.response) for turn in turns])[:16],
        "skills": content_digests(config)["skills.library"],
    }
    return RunIdentity.of(config, "warm_start", inputs)


def mixture(
    demonstrated: Sequence[Sample], relabelled: Sequence[Sample], seed: int
) -> list[Sample]:
    """All of the policy's own relabelled turns, and as many demonstrations."""
    if not relabelled:
        return list(demonstrated)
    count = min(len(demonstrated), len(relabelled))
    return [*relabelled, *random.Random(f"mixture/{seed}").sample(list(demonstrated), count)]


def check_length(tokenizer: Any, turn: Demonstration, config: ExperimentConfig) -> None:
    """Raise `SdarError` when the prompt of a demonstration is beyond the policy's limits: nothing
    has been computed yet. Turns that the policy reaches later are learned from at any length."""
    prompt = render_prompt(tokenizer, turn.messages)
    policy = config.policy
    key = "max_teacher_prompt_tokens" if turn.hinted else "max_prompt_tokens"
    if len(prompt) > getattr(policy, key):
        raise SdarError(
            f"policy.{key}: a demonstration of {turn.task_type} needs {len(prompt)} prompt tokens, "
            f"the limit is {getattr(policy, key)}: raise it"
        )


def as_sample(tokenizer: Any, turn: Demonstration) -> Sample:
    """Token ids of a turn."""
    prompt = render_prompt(tokenizer, turn.messages)
    return Sample(tuple(prompt), tuple(ChatFormat.of(tokenizer).response_ids(turn.response)))


def own_episodes(
    config: ExperimentConfig,
    layout: Layout,
    phase: Phase,
    model: torch.nn.Module,
    tokenizer: Any,
    libraries: Libraries,
    done: int,
    played: dict[str, str],
) -> list[Demonstration]:
    """The states the policy reached in this round, each with the expert's turn.

    They are a function of the weights at the round's start; once a round has begun they are read
    from the file they were written to. `played` has the digests of these files; a new one's is
    added.
    """
    folder = layout.warm_start
    path = folder / "relabelled" / f"round-{phase.round}.parquet"
    if done > phase.first_update:
        checkpoints = folder / "checkpoints"
        remedy = f"remove {checkpoints} and run the warm start again, it then begins anew"
        turns = read_demonstrations(path, remedy)
        if file_digest(path) != played.get(path.name):
            raise SdarError(f"{path} is not what the checkpoint was trained with: {remedy}")
        return turns
    dagger = config.warm_start.dagger
    first = FIRST_OWN_EPISODE + (phase.round - 1) * dagger.episodes
    with open_practices(config, layout) as practices:
        players = [
            Player(config, practices, first + number, libraries, slot=number)
            for number in range(dagger.episodes)
        ]
        turns = play_and_relabel(config, players, model, tokenizer, step=-phase.round)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_demonstrations(path, turns)
    played[path.name] = file_digest(path)
    return turns


def play_and_relabel(
    config: ExperimentConfig,
    players: Sequence[Player],
    model: torch.nn.Module,
    tokenizer: Any,
    step: int,
) -> list[Demonstration]:
    """Let the policy act in every task, at training temperature; the expert labels each state."""
    model.eval()
    engine = TransformersEngine(model, tokenizer)
    package = environment_package(config.environment.name)
    turns: list[Demonstration] = []
    live = list(range(len(players)))
    for index in range(config.environment.max_turns):
        at = [players[slot] for slot in live]
        turns += [player.demonstrate()[0] for player in at if not player.practice.stuck]
        still = []
        for start in range(0, len(live), config.rollout.batch):
            slots = live[start : start + config.rollout.batch]
            generations = engine.generate(
                [render_prompt(tokenizer, players[slot].messages()) for slot in slots],
                [(config.warm_start.seed, step, slot, index) for slot in slots],
                max_new_tokens=config.policy.max_response_tokens,
                temperature=config.rollout.temperature,
            )
            for slot, generation in zip(slots, generations, strict=True):
                action = read_response(tokenizer, package, generation.token_ids)[1].action
                if not players[slot].step(action):
                    still.append(slot)
        live = still
        if not live:
            break
    model.train()
    return sorted(turns, key=lambda turn: (turn.episode, turn.turn))
