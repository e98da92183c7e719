"""Episodes as MLflow traces: one span per episode, below it one per turn."""

from collections.abc import Mapping, Sequence
from typing import Any

from sdar.escaping import short
from sdar.rollout.episode import Episode


def episode_record(
    episode: Episode,
    *,
    gaps: Sequence[Sequence[float]] | None = None,
    gates: Sequence[Sequence[float]] | None = None,
) -> dict[str, Any]:
    """An episode as the plain values that `RunRecorder.episodes` takes.

    `gaps` and `gates` hold one value per response token of each turn; their means are shown.
    """
    turns = []
    for number, turn in enumerate(episode.turns):
        record: dict[str, Any] = {
            "messages": turn.prompt.messages,
            "response": turn.response,
            "action": turn.action,
            "valid": turn.valid,
            "observation": turn.next_observation,
            "prompt_tokens": len(turn.prompt.token_ids),
            "response_tokens": len(turn.response_ids),
        }
        for name, values in (("gap", gaps), ("gate", gates)):
            if values is not None and len(values[number]):
                record[f"{name}_mean"] = sum(values[number]) / len(values[number])
        turns.append(record)
    return {
        "task": episode.task.id,
        "task_type": episode.task.task_type,
        "instruction": episode.task.instruction,
        "slot": episode.slot,
        "won": episode.won,
        "return": episode.episode_return,
        "skill": episode.skill,
        "turns": turns,
    }


def log_episode(
    client: Any, state: Mapping[str, Any], spec: Mapping[str, Any], message: Mapping[str, Any]
) -> None:
    """Send one episode. Its spans are a millisecond apart: a turn's own time is not recorded."""
    from mlflow.entities import SpanType

    episode: dict[str, Any] = message["episode"]
    turns: list[dict[str, Any]] = episode.get("turns", [])
    outcome = "solved" if episode.get("won") else "failed"
    count = f"{len(turns)} turn" + "s" * (len(turns) != 1)
    step = message["step"]
    tags = {"run": spec["name"], "outcome": outcome, "stage": spec["kind"]}
    if step is not None:
        tags["step"] = str(step)
    if "task_type" in episode:
        tags["task_type"] = short(str(episode["task_type"]))
    shown = ("turns", "instruction")
    clock = int(1e9 * message["at"])
    root = client.start_trace(
        "episode",
        span_type=SpanType.AGENT,
        # Plain sentences, because the list of traces shows inputs and outputs as they are.
        inputs=episode.get("instruction", episode.get("task")),
        attributes={k: v for k, v in episode.items() if k not in shown and v is not None},
        tags=tags,
        experiment_id=state["experiment_id"],
        start_time_ns=clock,
        run_id=state["run_id"],
    )
    for number, turn in enumerate(turns, start=1):
        clock = _log_turn(client, root, number, turn, clock)
    client.end_trace(
        root.trace_id,
        outputs=f"{outcome} in {count}, return {episode.get('return')}",
        end_time_ns=clock,
    )


def _log_turn(client: Any, root: Any, number: int, turn: Mapping[str, Any], clock: int) -> int:
    from mlflow.entities import SpanType

    shown = ("response", "action", "observation")
    hidden = ("messages", *shown)
    span = client.start_span(
        f"turn {number}: {turn.get('action') or '(no action)'}"[:120],
        trace_id=root.trace_id,
        parent_id=root.span_id,
        span_type=SpanType.CHAT_MODEL,
        inputs={"messages": turn.get("messages")},
        attributes={key: value for key, value in turn.items() if key not in hidden},
        start_time_ns=clock,
    )
    clock += 1_000_000
    client.end_span(
        root.trace_id,
        span.span_id,
        outputs={key: turn[key] for key in shown if key in turn},
        end_time_ns=clock,
    )
    return clock
