"""Episodes without a barrier at each turn: each goes on when its own environment has answered.

Which responses are generated together changes their rounding. If that depended on how long an
environment takes, a run would not be repeatable bit for bit. So time is counted in steps of the
engine (one token per live response), not measured: an environment's answer is taken up exactly
`answer_after` steps after the step that ended the response, however long the workers take, which
compute while the engine does. When nothing is being generated, the time jumps to the next answer.
"""

from collections import deque
from itertools import islice
from typing import cast

from sdar.rollout.engines.base import ContinuousEngine, RolloutEngine
from sdar.rollout.state import Rollout


def play(rollout: Rollout, engine: RolloutEngine) -> None:
    """Play all episodes to their end or the turn limit.

    At most `batch` responses are generated at once; others wait in the order of the answers' times,
    then of the slots.
    """
    engine = cast(ContinuousEngine, engine)
    settings, pool = rollout.settings, rollout.pool
    ready = deque(rollout.reset())
    speaking: set[int] = set()
    acting: deque[tuple[int, int]] = deque()  # (when its answer is taken up, slot), sorted
    now = 0
    while ready or speaking or acting:
        if not (ready or speaking):
            now = acting[0][0]
        answered = []
        while acting and acting[0][0] <= now:
            answered.append(acting.popleft()[1])
        if answered:
            with rollout.timed("environment"):
                answers = pool.receive(answered)
            for slot in answered:
                goes_on = rollout.take(slot, answers[slot])
                if goes_on and len(rollout.episodes[slot].turns) < settings.max_turns:
                    ready.append(slot)
            rollout.report([*ready, *speaking, *(slot for _, slot in acting)])
        with rollout.timed("generation"):
            rollout.prepare_turns(islice(ready, settings.batch - len(speaking)))
            while ready and len(speaking) < settings.batch:
                slot = ready.popleft()
                prompt_ids, key = rollout.open_turn(slot)
                engine.submit(
                    slot,
                    prompt_ids,
                    key,
                    max_new_tokens=settings.max_response_tokens,
                    temperature=settings.temperature,
                )
                speaking.add(slot)
            if not speaking:
                continue
            ended = engine.advance()
            for slot, generation in ended:
                rollout.close_turn(slot, generation)
        now += 1
        silent = sorted(slot for slot, _ in ended)
        speaking.difference_update(silent)
        if silent:
            rollout.send(silent)
            acting.extend((now + settings.answer_after, slot) for slot in silent)
