"""The stage behind `sdar serve-retriever`: which passages, which retriever, and the server."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from sdar.config import Layout, load_config
from sdar.environments.searchqa.config import RetrieverConfig, SearchqaConfig
from sdar.environments.searchqa.retrieval import open_local, passages_file
from sdar.errors import SdarError
from sdar.files.remembered import user_cache


def serve_retriever(
    passages: Path | None,
    config: Path | None,
    root: Path,
    index: Path | None,
    host: str,
    port: int,
    say: Callable[[str], None],
) -> None:
    """Open the index (built where needed) and serve it until Ctrl-C. Needs the extra `serve`.

    `passages` overrides the configuration's; with neither there is nothing to serve (`SdarError`).
    """
    try:
        from sdar.environments.searchqa.retrieval.server import RetrieverServer
    except ImportError as error:
        raise SdarError(
            f"{error.name} is missing; pip install 'sdar[serve]' brings the server"
        ) from error
    retriever_config, tasks = _choose(passages, config, root)
    home = index or (tasks if retriever_config.passages is None else user_cache())
    retriever = open_local(retriever_config, passages_file(retriever_config, tasks), home)
    try:
        with RetrieverServer(
            retriever, len(retriever), host=host, port=port, default_top_k=retriever_config.top_k
        ) as server:
            kind = retriever_config.kind
            line = f"serving {len(retriever)} passages ({kind}) at {server.url} (Ctrl-C ends it)"
            if not server.private:
                line += f"\n--host {host}: whoever reaches this machine can search, unasked"
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever(ready=lambda: say(line))
    finally:
        retriever.close()
    say("ended")


def _choose(passages: Path | None, config: Path | None, root: Path) -> tuple[RetrieverConfig, Path]:
    """The retriever's configuration, and the experiment's tasks' folder."""
    chosen, tasks = RetrieverConfig(), root
    if config is not None:
        experiment = load_config(config)
        environment = experiment.environment
        if not isinstance(environment, SearchqaConfig):
            raise SdarError(
                f"--config {config}: environment.name is {environment.name}; give an experiment "
                "of searchqa, or --passages alone"
            )
        chosen, tasks = environment.retriever, Layout(root, experiment.experiment).tasks
        if chosen.kind == "http":
            raise SdarError(
                f"--config {config}: environment.retriever.kind is http, which has no passages of "
                "its own to serve; give a configuration with kind bm25 or dense"
            )
    elif passages is None:
        raise SdarError("give --passages FILE, or --config with a Search-QA experiment")
    if passages is not None:
        chosen = chosen.model_copy(update={"passages": passages})
    return chosen, tasks
