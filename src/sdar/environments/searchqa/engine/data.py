"""Questions, in and out: JSON lines and the parquet of Search-R1 and verl.

- JSON lines: `{"question", "golden_answers"}`, and where known `id`, `data_source`, `split`,
  `metadata`.
- Parquet, one row per question: `data_source`, `prompt` (a chat),
  `reward_model.ground_truth.target`, `extra_info` and `env_kwargs` {question, ground_truth,
  data_source}, as Search-R1, verl and their successors write them; not all of them need be there,
  and lines of JSON may be nested in the same way.

A file whose name begins with `train` (or has `train` between separators) holds training questions,
every other one test questions; a row that does not say its data set takes it from the file's name.
A known data set has its usual name, however it is tagged (`searchR1_nq`, `hotpot_qa`).

An id begins with the data set. Where a row has only a number, which each file counts from 0, the
split is in the id too: `nq/train_7`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdar.environments.searchqa.config import no_questions, question_files
from sdar.environments.searchqa.lines import json_lines
from sdar.errors import SdarError

DATA_SOURCES = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
"""The seven test sets, in the order in which results are reported."""
_ALIASES = {"naturalquestions": "nq", "nqopen": "nq", "2wiki": "2wikimultihopqa"}
_TAG = "searchr1"
"""What verl writes before the name of a data set."""

_TRAIN = re.compile(r"(^|[^a-z])train([^a-z]|$)")
_SHARD = re.compile(r"-(\d+)-of-\d+\.")
_ASKED = re.compile(r"Question:\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """A question and the answers that count as right.

    `id` begins with the data set, so that it is unique across the files of a folder too.
    `metadata` is plain JSON; `split` is one of its keys.
    """

    id: str
    question: str
    targets: tuple[str, ...]
    data_source: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> str:
        return str(self.metadata.get("split", "test"))


def read_questions(path: Path) -> list[Question]:
    """The questions of one file, in its order.

    Raises `SdarError` naming the file and the row for what cannot be read, lacks a question or an
    answer, or has an id that came before; and for a file without questions.
    """
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    questions: list[Question] = []
    seen: dict[str, str] = {}
    for where, number, row in rows:
        question = _question(row, where, number, path)
        if question.id in seen:
            raise SdarError(
                f"{where}: the id {question.id!r} is already that of {seen[question.id]}; ids must "
                "be unique: rename or remove one"
            )
        seen[question.id] = where
        questions.append(question)
    if not questions:
        raise SdarError(f"{path} holds no question: give a file with at least one")
    return questions


def read_folder(folder: Path) -> list[Question]:
    """The questions of all `question_files` of a folder. The same checks as for one file, ids
    included."""
    if not folder.is_dir():
        raise SdarError(
            f"environment.data: no folder {folder}; give a folder of question files, or null to "
            "generate questions"
        )
    files = question_files(folder)
    if not files:
        raise SdarError(no_questions(folder))
    questions = [question for path in files for question in read_questions(path)]
    repeated = [i for i, count in Counter(q.id for q in questions).items() if count > 1]
    if repeated:
        raise SdarError(
            f"environment.data: {folder} has the id {repeated[0]!r} in more than one file "
            f"({len(repeated)} such ids): remove the file that repeats the other's questions"
        )
    return questions


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    """Write questions as JSON lines or, for a name that ends in `.parquet`, in Search-R1's schema.

    `read_questions` gives the same back. Deterministic bytes for JSON lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(
            pa.Table.from_pylist([_search_r1_row(n, q) for n, q in enumerate(questions)]), path
        )
        return
    lines = (json.dumps(_json_row(q), ensure_ascii=False) + "\n" for q in questions)
    path.write_text("".join(lines), encoding="utf-8")


def by_id(questions: Iterable[Question]) -> dict[str, Question]:
    """What the environment looks questions up in."""
    return {question.id: question for question in questions}


def _json_row(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "question": question.question,
        "golden_answers": list(question.targets),
        "data_source": question.data_source,
        "metadata": question.metadata,
    }


def _search_r1_row(number: int, question: Question) -> dict[str, Any]:
    ground_truth = {"target": list(question.targets)}
    extra = {
        "split": question.split,
        "index": number,
        # As text: a parquet column has one type, and metadata differ from row to row.
        "metadata": json.dumps(question.metadata, ensure_ascii=False),
    }
    return {
        "id": question.id,
        "data_source": question.data_source,
        "prompt": [{"role": "user", "content": question.question}],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": extra,
        "env_kwargs": {
            "ground_truth": ground_truth,
            "question": question.question,
            "data_source": question.data_source,
        },
    }


def _json_rows(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    for number, row in json_lines(path, "a question"):
        yield f"{path}, line {number}", number - 1, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path}, row {number}", number, row
                    number += 1
    except (OSError, pa.ArrowException) as error:
        raise SdarError(
            f"{path} cannot be read as parquet ({error}): copy or make the file again"
        ) from error


def _question(row: Mapping[str, Any], where: str, number: int, path: Path) -> Question:
    environment, extra = _part(row, "env_kwargs"), _part(row, "extra_info")
    text = _first(environment.get("question"), row.get("question"), extra.get("question"))
    asked = text if text is not None else _asked(row.get("prompt"))
    if not isinstance(asked, str) or not asked.strip():
        raise SdarError(
            f"{where}: no question (expected `question`, `env_kwargs.question` or `prompt`): add "
            "it or remove the row"
        )
    targets = _targets(row, environment, where)
    source = _first(row.get("data_source"), environment.get("data_source"))
    data_source = usual_name(str(source)) if source is not None else _source_of(path)
    metadata = _metadata(row, extra)
    declared = _first(metadata.get("split"), row.get("split"), extra.get("split"))
    metadata["split"] = _split(declared, path)
    if row.get("task_type") is not None:
        metadata["task_type"] = row["task_type"]
    own = _text(_first(row.get("id"), extra.get("index"))) or str(number)
    if own.isdigit():
        # The number of a row: each file counts from 0.
        own = f"{_counted(metadata['split'], declared, path)}_{own}"
    prefix = f"{data_source}/"
    identifier = own if own.startswith(prefix) else prefix + own
    _check_encodable(where, asked, *targets)
    return Question(identifier, asked.strip(), targets, data_source, metadata)


def usual_name(source: str) -> str:
    """The name in `DATA_SOURCES` of a data set that is called or tagged otherwise; any other name
    as it is."""
    bare = re.sub(r"[^a-z0-9]", "", source.lower()).removeprefix(_TAG)
    known = _ALIASES.get(bare, bare)
    return known if known in DATA_SOURCES else source


def _counted(split: str, declared: Any, path: Path) -> str:
    """What the rows are counted in: the split, by the name it has in the data (dev, test), and the
    shard of a data set in several files."""
    named = split
    if split == "test" and isinstance(declared, str) and declared not in ("", "train"):
        named = declared
    shard = _SHARD.search(path.name)
    return f"{named}_{shard[1]}" if shard and shard[1].strip("0") else named


def _check_encodable(where: str, *texts: str) -> None:
    try:
        for text in texts:
            text.encode("utf-8")
    except UnicodeEncodeError:
        raise SdarError(
            f"{where}: holds half of a surrogate pair (such as \\ud83d alone), which is no text: "
            "fix or remove the row"
        ) from None


def _split(declared: Any, path: Path) -> str:
    """The file's name decides unless it says nothing: a training file is never a test file, and
    Search-R1's test file is made of what its sources call dev, test or train."""
    if _TRAIN.search(path.stem.lower()):
        return "train"
    return "train" if declared == "train" and "test" not in path.stem.lower() else "test"


def _source_of(path: Path) -> str:
    stem = path.name.split(".")[0].lower()
    return next((source for source in DATA_SOURCES if stem.startswith(source)), stem)


def _metadata(row: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    packed = extra.get("metadata", row.get("metadata"))
    if isinstance(packed, str):
        try:
            packed = json.loads(packed)
        except ValueError:
            packed = {"metadata": packed}
    # A column may hold what JSON does not: dates, bytes.
    return json.loads(json.dumps(packed, default=str)) if isinstance(packed, Mapping) else {}


def _targets(row: Mapping[str, Any], environment: Mapping[str, Any], where: str) -> tuple[str, ...]:
    rewarded = _part(row, "reward_model").get("ground_truth")
    for given in (rewarded, environment.get("ground_truth"), row.get("golden_answers")):
        given = _unpacked(given)
        target = _unpacked(given.get("target")) if isinstance(given, Mapping) else given
        texts = [_text(answer) for answer in (target if isinstance(target, list) else [target])]
        if any(texts):
            return tuple(text for text in texts if text)
    raise SdarError(
        f"{where}: no accepted answer (expected `golden_answers`, or "
        "`reward_model.ground_truth.target`): add it or remove the row"
    )


def _asked(prompt: Any) -> str | None:
    """The question inside a prompt: what follows the last `Question:`, or all of it."""
    prompt = _unpacked(prompt)
    if isinstance(prompt, list):
        said = [one for one in prompt if isinstance(one, Mapping)]
        asking = [one for one in said if one.get("role") == "user"] or said
        prompt = asking[-1].get("content") if asking else None
    if not isinstance(prompt, str):
        return None
    text = prompt
    match = _ASKED.search(text[text.rfind("Question:") :]) if "Question:" in text else None
    return match[1] if match else text


def _part(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = _unpacked(row.get(name))
    return value if isinstance(value, Mapping) else {}


def _unpacked(value: Any) -> Any:
    """An object, or a list of texts or objects, that a column holds as JSON text; anything else as
    it is (`[1, 2]` may be an answer)."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            held = json.loads(value)
        except ValueError:
            return value
        listed = held if isinstance(held, list) else [held]
        return held if all(isinstance(item, str | dict) for item in listed) else value
    return list(value) if isinstance(value, tuple) else value


def _text(answer: Any) -> str:
    """An answer as text: a number as its digits, and "" for what is none."""
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if not isinstance(answer, str | int | float) or isinstance(answer, bool):
        return ""
    text = str(answer)
    return text if text.strip() and answer == answer else ""


def _first(*values: Any) -> Any:
    """The first that is given: neither missing nor blank."""
    return next((v for v in values if v is not None and str(v).strip()), None)
