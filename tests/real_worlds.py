"""Data in the form of the real ones, made here: small games, a shop, questions with passages."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from pretrained_world import save_model

from sdar.config import ExperimentConfig, Layout, parse_config
from sdar.environments.alfworld.config import ALFWORLD_TASK_TYPES
from sdar.environments.alfworld.world.generator import Request, make_game
from sdar.environments.alfworld.world.home import Home
from sdar.environments.tasks import make_tasks
from sdar.environments.webshop.world.records import make_records
from sdar.environments.webshop.world.shop import Shop

TOWNS = {"Avon": "Bree", "Corin": "Dale", "Elm": "Fenn", "Gond": "Hazel", "Isen": "Jorvik"}
RIVERS = {"Bree": "Kite", "Dale": "Lune", "Fenn": "Mole", "Hazel": "Nidd", "Jorvik": "Ouse"}
SECTIONS: dict[str, dict[str, Any]] = {
    "alfworld": {"max_turns": 20, "workers": 0},
    "webshop": {"goals": {"train": 60, "test": 20}},
    "searchqa": {},
}
LIMITS = {"max_prompt_tokens": 20000, "max_teacher_prompt_tokens": 30000}
PANELS = {"alfworld": "valid_seen", "webshop": "test", "searchqa": "test"}


@cache
def a_model() -> "tempfile.TemporaryDirectory[str]":
    """The folder of a model, of which demonstrations take the tokenizer."""
    folder = tempfile.TemporaryDirectory()
    save_model(Path(folder.name), max_position_embeddings=2**16)
    return folder


def data_of(name: str, folder: Path) -> dict[str, Any]:
    """Fill `folder`; the keys of the environment's section that name what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    return {"alfworld": _games, "webshop": _shop, "searchqa": _questions}[name](folder)


def configured(
    name: str, keys: dict[str, Any], panel: str | None = None, **demonstrations: Any
) -> ExperimentConfig:
    """An experiment on these data, whose demonstrations are few."""
    counts = {"episodes": 12, "openings": 3, "mistakes": 0.1, **demonstrations}
    return parse_config(
        {
            "experiment": "real",
            "environment": {"name": name, **SECTIONS[name], **keys},
            "evaluation": {"panels": [panel or PANELS[name]]},
            "policy": {"model": a_model().name, **LIMITS},
            "warm_start": {"enabled": False, "demonstrations": counts},
        }
    )


def listed(config: ExperimentConfig, root: Path) -> Layout:
    """Where the tasks of the experiment have been made."""
    layout = Layout(root, config.experiment)
    make_tasks(config.environment, config.evaluation.panels, layout)
    return layout


def _games(folder: Path) -> dict[str, Any]:
    for split, count in (("train", 12), ("valid_seen", 6)):
        for index in range(count):
            make_game(Request(0, split, index, Home.draw(0), ALFWORLD_TASK_TYPES, 12, folder))
    return {"data": str(folder)}


def _shop(folder: Path) -> dict[str, Any]:
    made = make_records(Shop.draw(3), 60, ("beauty", "electronics"))
    made.write(folder)
    return {"data": str(folder)}


def _questions(folder: Path) -> dict[str, Any]:
    """Of each town: what no passage says, its river (one search) and, of the kingdom, the river of
    its capital (two searches)."""
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for number, (kingdom, town) in enumerate(TOWNS.items()):
        split = "test" if number == 4 else "train"
        rows[split] += [
            (f"Which river flows through the town of {town}?", RIVERS[town]),
            (f"Which town is the capital of the kingdom {kingdom}?", town),
            (f"How many bells hang in {town}?", "forty-one"),
        ]
    for split, asked in rows.items():
        lines = (json.dumps({"question": q, "golden_answers": [a]}) + "\n" for q, a in asked)
        (folder / f"nq_{split}.jsonl").write_text("".join(lines))
    passages = [f'"{town}"\nThe river {river} flows there.' for town, river in RIVERS.items()]
    passages += [f'"{k}"\nIts capital is {town}, since 1200.' for k, town in TOWNS.items()]
    path = folder / "passages.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"{n}", "contents": t}) + "\n" for n, t in enumerate(passages))
    )
    return {"data": str(folder), "retriever": {"passages": str(path), "top_k": 2}}
