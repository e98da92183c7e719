"""Search-QA's tasks: generate questions and the archive that answers them, or list real ones.

The folder then holds `questions.jsonl` and, for generated questions, `archive.json` (the words
facts are filed under) and `passages.jsonl`; the retriever's index is built here too, so that jobs
find it.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from sdar.environments.base import Task
from sdar.environments.searchqa.config import QUESTION_TYPES, SearchqaConfig
from sdar.environments.searchqa.engine.data import (
    DATA_SOURCES,
    Question,
    read_folder,
    read_questions,
    write_questions,
)
from sdar.environments.searchqa.retrieval import PASSAGES, open_retriever
from sdar.environments.searchqa.retrieval.passages import write_passages
from sdar.environments.searchqa.world.archive import Archive, entries
from sdar.environments.searchqa.world.passages import make_passages
from sdar.environments.searchqa.world.questions import make_questions
from sdar.errors import SdarError
from sdar.files.digest import json_digest

QUESTIONS = "questions.jsonl"
ARCHIVE_FILE = "archive.json"

ONE_HOP = ("nq", "triviaqa", "popqa")
"""Real data sets whose questions ask for one fact; the others of the seven need more searches."""


def make_tasks(
    environment: SearchqaConfig, panels: Sequence[str], folder: Path
) -> tuple[list[Task], str]:
    """Fill `folder`; the tasks, and where they come from."""
    if environment.data is not None:
        questions = read_folder(environment.data)
        source = "real questions"
    else:
        questions = generate(environment, folder)
        source = (
            f"questions, generated, size {environment.size}, seed {environment.seed}, "
            f"archive {environment.archive}"
        )
    _check_types(questions, environment)
    write_questions(folder / QUESTIONS, questions)
    wanted = ("train", *panels)
    tasks = [_task(question, wanted) for question in questions]
    # Training questions are missed by training alone: a pretrained policy is evaluated without.
    _check(tasks, panels, environment)
    open_retriever(environment.retriever, folder).close()
    return tasks, source


def generate(environment: SearchqaConfig, folder: Path) -> list[Question]:
    """The questions of all splits; the archive and its passages are written."""
    archive = Archive.draw(environment.archive, environment.size)
    told = entries(environment.size)
    archive.write(folder / ARCHIVE_FILE)
    write_passages(folder / PASSAGES, make_passages(archive, told))
    return [
        question
        for split, count in environment.questions.model_dump().items()
        for question in make_questions(
            environment.size, told, split, count, environment.question_types, environment.seed
        )
    ]


def task_type_of(question: Question) -> str | None:
    """Declared by generated questions, and by rows that say it; else that of the data set, and None
    where that is none of the seven: nobody can tell."""
    declared = question.metadata.get("task_type")
    if declared is not None:
        return str(declared)
    if question.data_source not in DATA_SOURCES:
        return None
    return "one_hop" if question.data_source in ONE_HOP else "two_hop"


def _task(question: Question, wanted: Collection[str]) -> Task:
    """The question in its split; where a panel is a data set's, in that of its test questions."""
    panel = question.split == "test" and question.data_source in wanted
    return Task(
        id=question.id,
        split=question.data_source if panel else question.split,
        task_type=task_type_of(question) or "",
        instruction=question.question,
        location=QUESTIONS,
        data_set=question.data_source,
        content=json_digest(asdict(question))[:16],
    )


def _check_types(questions: Sequence[Question], environment: SearchqaConfig) -> None:
    """Every question has a type that there are skills for: a wrong one is a wrong skill."""
    for question in questions:
        if task_type_of(question) not in QUESTION_TYPES:
            declared = question.metadata.get("task_type")
            what = f"data_source {question.data_source!r} is none of {', '.join(DATA_SOURCES)}"
            if declared is not None:
                what = f"task_type {declared!r} is none of {', '.join(QUESTION_TYPES)}"
            raise SdarError(
                f"environment.data: {environment.data}, question {question.id!r}: {what}, so its "
                "skill is not known; correct it, name a file without data_source after its data "
                f"set, or give each row a task_type ({', '.join(QUESTION_TYPES)})"
            )


def _check(tasks: list[Task], wanted: Collection[str], environment: SearchqaConfig) -> None:
    """Every panel has questions."""
    missing = [split for split in wanted if all(task.split != split for task in tasks)]
    if missing:
        where = environment.data or "the generated questions"
        had = ", ".join(dict.fromkeys(task.split for task in tasks)) or "none"
        raise SdarError(
            f"{where}: no question for '{missing[0]}' (there are {had}): evaluation.panels names "
            "`test` or data sets; training questions stand in files whose name begins with `train`"
        )


def read_archive(folder: Path) -> Archive | None:
    """The archive the questions in `folder` are about; None for real questions."""
    path = folder / ARCHIVE_FILE
    return Archive.read(path) if path.exists() else None


def stored_questions(folder: Path) -> list[Question]:
    """The questions that `make_tasks` left in `folder`."""
    return read_questions(folder / QUESTIONS)
