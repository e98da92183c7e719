"""A run that computes nothing: 30 steps of 60 metrics. Usage: ROOT FIRST_STEP [KILL_AT [SECONDS]].

It kills itself with SIGKILL in the middle of step KILL_AT, leaving a half-written line.
FAKE_URI in the environment is the address of another MLflow store.
"""

import math
import os
import signal
import sys
import time
from pathlib import Path

from sdar.config import Layout, parse_config
from sdar.tracking import RunRecorder, write_provenance

STEPS = 30
METRICS = 60


def main() -> None:
    root, first = Path(sys.argv[1]), int(sys.argv[2])
    kill_at = int(sys.argv[3]) if len(sys.argv) > 3 else None
    seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    uri = os.environ.get("FAKE_URI")
    tracking = {"tracking": {"uri": uri}} if uri else {}
    config = parse_config({"experiment": "fake", **tracking})
    layout = Layout(root, "fake")
    folder = layout.run("sdar", 0)
    write_provenance(folder, config, layout)
    with RunRecorder(folder, config=config, layout=layout, kind="train", name="sdar/seed-0") as run:
        run.truncate(first)
        for step in range(first, STEPS):
            if step == kill_at:
                with run.metrics_path.open("a") as file:
                    file.write(f'{{"step": {step}, "gate/me')
                time.sleep(seconds)
                os.kill(os.getpid(), signal.SIGKILL)
            run.metrics(step, {f"train/m{k:02}": math.sin(step + k) / 3 for k in range(METRICS)})
            run.timings(step, {"rollout_s": 0.1, "tokens/per_s": 1000.0})
            run.episodes([_episode(step)], step=step) if step % 10 == 0 else None
        # As an evaluation does: no step, slots that repeat from panel to panel.
        run.episodes([{**_episode(99), "task": panel} for panel in ("seen", "unseen", "seen")])


def _episode(step: int) -> dict[str, object]:
    turn = {
        "messages": [{"role": "user", "content": f"step {step}: what next?"}],
        "response": "<action>look</action>",
        "action": "look",
        "observation": "a desk",
        "gap_mean": 0.25,
        "gate_mean": 0.75,
    }
    return {"task": "game", "slot": 0, "won": step > 0, "return": 10.0, "turns": [turn, turn]}


if __name__ == "__main__":
    main()
