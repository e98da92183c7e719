"""Text without secrets: URIs lose passwords and tokens before anything shows or keeps them."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"
"""Stands for what was left out."""
_PATTERNS = (
    # scheme://user:password@; a password may hold an @, and, where no URI should, a slash.
    re.compile(
        r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s:/@?#]*:)(?P<secret>[^\s/?#]*|[^\s@]*)@", re.I
    ),
    # The same with white space in the password, where it is the whole text.
    re.compile(r"^(?P<before>[a-z][a-z0-9+.-]*://[^\s:/@?#]*:)(?P<secret>[^@]*\s[^@]*)@", re.I),
    # https://token@
    re.compile(r"(?P<before>\bhttps?://)(?P<secret>[^\s:/@?#]+)@", re.I),
    # ?token=..., also among other parameters
    re.compile(
        r"(?P<before>[?&;][^\s=&;#]*?"
        r"(?:(?:pass|pwd|secret|token|credential)[^\s=&;#]*|key|auth|sig|signature)=)"
        r"(?P<secret>[^\s&;#'\"]+)",
        re.I,
    ),
)
_SHORTEST = 3
"""Shorter secrets are too common in other words to be looked for outside a URI."""


def redact(text: str, *uris: str) -> str:
    """`text` with `***` for the passwords and tokens of all URIs in it, and for those of `uris`
    wherever else they stand (libraries quote parts of a URI in their errors)."""
    for uri in uris:
        for secret in _secrets(uri):
            text = text.replace(secret, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(_hidden, text)
    return text


def has_secret(uri: str) -> bool:
    """Whether a URI holds a password or token that is not left out already."""
    return redact(uri) != uri


def _hidden(match: "re.Match[str]") -> str:
    after = match[0][match.end("secret") - match.start() :]
    return f"{match['before']}{HIDDEN}{after}"


def _secrets(uri: str) -> Iterator[str]:
    for pattern in _PATTERNS:
        for match in pattern.finditer(uri):
            for secret in (match["secret"], unquote(match["secret"])):
                if len(secret) >= _SHORTEST and secret != HIDDEN:
                    yield secret
