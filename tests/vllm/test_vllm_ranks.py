"""Two ranks with an engine each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import vllm_world
from test_vllm_engine import sampled

HERE = Path(__file__).parent


def test_two_ranks_have_an_engine_each(engine: Any, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *launch, str(HERE / "two_ranks.py"), str(tmp_path / "found.json")],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    wanted = [g.token_ids for g in sampled(engine, vllm_world.prompts(8))]
    assert json.loads((tmp_path / "found.json").read_text()) == wanted
