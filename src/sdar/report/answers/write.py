"""Four questions of an experiment and their answers: answers.json (numbers), answers.md and
answers.html (words and figures). Every number is computed from the runs' records.
"""

import base64
import re
from dataclasses import asdict
from pathlib import Path

from sdar.config import ExperimentConfig, Layout
from sdar.files.whole import write_json, write_text
from sdar.records.runs import read_runs
from sdar.report.answers.data import build_answers
from sdar.report.answers.text import answers_markdown
from sdar.report.style import save
from sdar.report.table_page import table_page


def write_answers(config: ExperimentConfig, layout: Layout) -> None:
    """Write answers.json, answers.md, answers.html and four figures into `layout.results`."""
    answers = build_answers(config, layout, read_runs(config, layout))
    for name, figure in answers.figures().items():
        save(figure, layout.results / "figures" / name)
    text = answers_markdown(answers)
    write_json(layout.results / "answers.json", asdict(answers))
    write_text(layout.results / "answers.md", text)
    page = table_page(text, f"{config.experiment}: four questions")
    write_text(layout.results / "answers.html", embed_figures(page, layout.results))


def embed_figures(page: str, folder: Path) -> str:
    """The page with its figures inside it: one file that needs no other."""

    def inside(match: "re.Match[str]") -> str:
        image = (folder / match["path"]).with_suffix(".png").read_bytes()
        return f'src="data:image/png;base64,{base64.b64encode(image).decode()}"'

    return re.sub(r'src="(?P<path>figures/[\w.]+)"', inside, page)
