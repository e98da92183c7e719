"""The comparison as a page: Snakemake's report shows HTML in place, but only downloads markdown."""

import html
import re

from markdown_it import MarkdownIt

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
"""What a browser lets the page load: figures inside it, and nothing from elsewhere."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 2rem auto;
       max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto;
        font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #ddd; white-space: nowrap; }
img { max-width: 100%; }
th { border-bottom: 2px solid #888; text-align: left; }
"""


def table_page(markdown: str, title: str) -> str:
    """An HTML page of a markdown document with tables; no raw HTML passes through. Pictures are
    linked as the document links them."""
    document = MarkdownIt("commonmark", {"html": False}).enable("table")
    # Links and pictures go to the figures and nowhere else; others stay text.
    document.validateLink = lambda url: re.fullmatch(r"figures/[\w.-]+", url) is not None  # type: ignore[method-assign]
    body = document.render(markdown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
