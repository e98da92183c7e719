"""The page of sample episodes: one HTML file that needs nothing else, neither network nor server.

Data go into the page as JSON with every text stored once; the template draws it.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from sdar.config import ExperimentConfig
from sdar.files.whole import write_text
from sdar.methods.roles import label
from sdar.records import colours
from sdar.records.episodes import NUMBERS, TokenEpisode, episodes_of_rows
from sdar.records.names import type_label
from sdar.records.token_classes import CLASSES

MAX_TOKENS = 200_000
"""Response tokens in one page, about 20 MB; episodes beyond are left out, and the page says so."""


def run_page(
    path: Path, rows: Iterable[Mapping[str, Any]], config: ExperimentConfig, name: str
) -> Path:
    """Write the page of one run's token rows (columns of `TOKENS`) to `path`, which is returned."""
    settings = config.training.distillation
    episodes = episodes_of_rows(rows, source=name)
    write_text(path, render_page(episodes, title=name, gate=settings.gate, beta=settings.beta))
    return path


def render_page(episodes: list[TokenEpisode], *, title: str, gate: str, beta: float) -> str:
    """The page as text: a function of the episodes alone."""
    kept, tokens = [], 0
    for episode in episodes:
        tokens += sum(len(turn.tokens) for turn in episode.turns)
        if tokens > MAX_TOKENS:
            break
        kept.append(episode)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    templates = files("sdar.records") / "templates"
    template = environment.from_string((templates / "episodes.html.jinja").read_text("utf-8"))
    script = "\n" + (templates / "episodes.js").read_text("utf-8")
    return template.render(
        script=script,
        # The browser runs this script and no other, and loads nothing.
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=title,
        gate=gate,
        beta=f"{beta:g}",
        shown=len(kept),
        left_out=len(episodes) - len(kept),
        data=_json_for_script(_page_data(kept)),
    )


def _page_data(episodes: list[TokenEpisode]) -> dict[str, Any]:
    """Episodes with their long texts replaced by indices into one list of texts."""
    texts: dict[str, int] = {}
    shared = ("observation", "result", "student_prompt", "teacher_prompt", "skill_text")
    plain = []
    for episode in episodes:
        values = asdict(episode)
        values["type_label"] = type_label(episode.task_type)
        values["method_label"] = label(episode.method)
        for turn in values["turns"]:
            for name in shared:
                turn[name] = texts.setdefault(turn[name], len(texts))
            turn["classes"] = [CLASSES.index(kind) for kind in turn["classes"]]
        plain.append(values)
    return {
        "episodes": plain,
        "texts": list(texts),
        "numbers": NUMBERS,
        "limits": {"gap": colours.GAP_LIMIT, "advantage": colours.ADVANTAGE_LIMIT},
        "classes": [{"name": name, "colour": colours.CLASS_COLOURS[name]} for name in CLASSES],
        "colours": {"closed": colours.ORANGE, "neutral": colours.WHITE, "open": colours.BLUE},
    }


def _json_for_script(data: dict[str, Any]) -> str:
    """JSON that can stand inside a script element whatever the texts contain."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
