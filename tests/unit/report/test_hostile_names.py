"""Names from data stay names: in tables, pages, figures and terminals, whatever they hold."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
import report_data
from markdown_it import MarkdownIt
from rich.console import Console

from sdar.environments.base import Task
from sdar.environments.tasks import counts_table
from sdar.escaping import markdown, visible
from sdar.records.view import view
from sdar.report.formatting import markdown_table
from sdar.report.results import compare, make_report
from sdar.report.table_page import table_page

HOSTILE = [
    "\x1b[31mv\x1b]8;;http://evil.example\x07\x00",
    "[red]x[/red] [/nothing]",
    "a | b || c",
    "\\| d \\",
    "![e](http://evil.example/e.png)",
    "[f](javascript:alert(1))",
    "<img src=http://evil.example/g.png>",
    "<script>alert('h')</script>",
    "</script><script>alert('i')</script>",
    "<!-- j",
    "`k`` *l* __m__ ~~n~~",
    "$\\frac{o}{$ p$",
    "q\nr\r\n# s\n\n- t",
    "\u202eevil\u2066 u\u200b",
    "&lt;w&#33;",
    "<http://evil.example/y>",
    "[z]: http://evil.example",
    "{{ 7 * 7 }} {% raw %}",
    "\ud83d lone",
    "long " * 2000,
]


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and each table's cells per row."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1


def read(page: str) -> Page:
    parser = Page()
    parser.feed(page)
    return parser


def loaded(page: str) -> list[tuple[str, str]]:
    """Whatever refers to another place."""
    return [
        (tag, value)
        for tag, attributes in read(page).tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "background", "poster")
        and value is not None
        and not value.startswith(("data:image/png", "figures/"))
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_cell_is_one_cell_of_text(name: str) -> None:
    table = markdown_table(["name", "x"], [[name, "1"], ["plain_name", "42.4 [34.5, 50.7]"]])
    assert len(table.splitlines()) == 4
    assert "| plain_name" in table
    assert "42.4 [34.5, 50.7]" in table
    page = read(html := table_page(table, name))
    assert page.rows == [2, 2, 2]
    assert not loaded(html)
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "table", "thead", "tbody"),
        *("tr", "th", "td"),
    }
    # Elsewhere raw HTML passes through, and formulas are drawn.
    raw = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(table)
    assert {tag for tag, _ in read(raw).tags} <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert "$" not in table
    shown = re.sub(r"<[^>]+>", "", raw)
    assert visible(name).strip()[:3] in shown.replace("&lt;", "<").replace("&amp;", "&")


@pytest.mark.parametrize("name", ["warm_start", "SDAR - GRPO", "λ = 0.1", "<0.001", "3 x 2", "–"])
def test_ordinary_cells_stay_as_they_are(name: str) -> None:
    assert markdown(name) == name


def test_an_old_document_links_to_nothing() -> None:
    page = table_page(
        "![a](http://evil.example/a.png) [b](https://evil.example) <http://evil.example> "
        "[c](javascript:alert(1)) ![d](//evil.example/d.png) ![e](../../e.png) "
        "![f](figures/f.svg)\n",
        "x",
    )
    assert not loaded(page)
    assert 'src="figures/f.svg"' in page


def test_tasks_table_of_hostile_types() -> None:
    tasks = [Task(str(n), f"split {n} |", name, "", "") for n, name in enumerate(HOSTILE)]
    page = read(table_page(counts_table(tasks, "made | <b>by</b>\n# me"), "tasks"))
    assert set(page.rows) == {len(HOSTILE) + 2}
    assert [tag for tag, _ in page.tags if tag in ("h1", "b")] == ["h1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole experiment, of task types and panels that nobody should name so."""
    patch = pytest.MonkeyPatch()
    types = [name.encode("utf-8", "replace").decode() for name in HOSTILE]
    patch.setattr(report_data, "TYPES", tuple(types))
    panels = {"a | ![b](http://evil.example/b.png)": 2 * len(types), "$\\frac{c}{<b>": len(types)}
    config, layout = report_data.make_experiment(
        tmp_path_factory.mktemp("root"), steps=4, panels=panels
    )
    compare(config, layout)
    make_report(config, layout)
    patch.undo()
    return layout.results


@pytest.mark.slow
def test_every_page_loads_nothing_and_says_so(made: Path) -> None:
    pages = sorted(made.rglob("*.html"))
    assert {page.name for page in pages} == {"comparison.html", "answers.html", "episodes.html"}
    for path in pages:
        text = path.read_text("utf-8")
        assert not loaded(text)
        policies = [
            attributes["content"]
            for tag, attributes in read(text).tags
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        (policy,) = policies
        assert policy is not None
        assert policy.startswith("default-src 'none'; ")
        assert "http" not in policy
        scripts = [a for tag, a in read(text).tags if tag == "script" and "type" not in a]
        assert len(scripts) == (path.name == "episodes.html")


@pytest.mark.slow
def test_the_page_of_episodes_runs_its_own_script_alone(made: Path) -> None:
    import base64
    import hashlib

    text = (made / "episodes.html").read_text("utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "unsafe-inline'; base" in text
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", script)


@pytest.mark.slow
def test_tables_keep_their_columns(made: Path) -> None:
    for name in ("comparison.md", "answers.md"):
        text = (made / name).read_text("utf-8")
        for block in text.split("\n\n"):
            if not block.startswith("|"):
                continue
            assert len({line.count("|") for line in block.splitlines()}) == 1
    assert len(pl.read_parquet(made / "episodes.parquet")["task_type"].unique()) == len(HOSTILE)


@pytest.mark.slow
def test_figures_are_drawn(made: Path) -> None:
    drawn = {path.stem for path in (made / "figures").glob("*.svg")}
    assert {"success_by_panel", "success_by_type", "learning_curves", "gate_mass"} <= drawn
    for path in (made / "figures").glob("*.svg"):
        text = path.read_text("utf-8")
        assert "<script" not in text
        assert "evil.example/" not in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


@pytest.mark.slow
def test_a_terminal_obeys_nothing(made: Path) -> None:
    run = made.parent.parent / "runs" / made.name / "sdar" / "seed-0"
    shown = io.StringIO()
    console = Console(file=shown, width=40_000, color_system=None, legacy_windows=False)
    view(run, console=console)
    for episode in ("1", "5"):
        view(run, episode, prompts=True, numbers=True, console=console)
    said = shown.getvalue()
    assert not {"\x1b", "\x07", "\x00", "\u202e", "\u2066"} & {*said}
    assert "[red]x[/red] [/nothing]" in said
    assert "\\x1b[31mv" in said
