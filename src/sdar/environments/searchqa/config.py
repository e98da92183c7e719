"""Configuration of the Search-QA environment."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sdar.section import NonNegative, Section

QuestionType = Literal["one_hop", "two_hop", "comparison"]
QUESTION_TYPES: tuple[QuestionType, ...] = ("one_hop", "two_hop", "comparison")


class QuestionCounts(Section):
    """How many questions to generate for each split."""

    train: PositiveInt = 400
    test: PositiveInt = 300


class RetrieverConfig(Section):
    """What answers a search."""

    kind: Literal["bm25", "dense", "http"] = "bm25"
    top_k: PositiveInt = 3
    passages: Path | None = None
    """JSON lines of {"id", "contents"}; null: the passages that come with the generated
    questions."""
    urls: tuple[str, ...] = ()
    """`http`: servers that answer POST /retrieve as Search-R1's do."""
    timeout: PositiveFloat = 60.0
    """`http`: seconds for one request."""
    retries: Annotated[int, Field(ge=0)] = 3
    """`http`: further attempts after a connection error or a server's error."""
    model: str = "sentence-transformers/all-MiniLM-L6-v2"
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


class SearchqaConfig(Section):
    """Question answering with a search engine, in the Search-R1 protocol."""

    name: Literal["searchqa"] = "searchqa"
    data: Path | None = None
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
    success_reward: PositiveFloat = 1.0
    invalid_action_penalty: NonNegative = 0.01
    workers: Annotated[int, Field(ge=0)] = 0

    @property
    def task_types(self) -> tuple[str, ...]:
        """What skills are looked up by."""
        return self.question_types

    @property
    def known_panels(self) -> tuple[str, ...]:
        """What evaluation.panels may name; with real questions also the data sets in `data`."""
        return ("test",) if self.data is None else ()
