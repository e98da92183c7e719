"""Recorded cases against the environment: does it still say exactly what was recorded?

Recognises the format from the content: those that the environments' packages know, action-parsing
cases, and cases of the algorithms.
"""

from pathlib import Path
from typing import Any

from sdar.environments.packages import NAMES, environment_package
from sdar.environments.recorded import ReplayReport, read_cases
from sdar.errors import SdarError


def replay(file: Path, environment: str | None, data: Path | None) -> ReplayReport:
    """Run the cases of `file` against `environment`.

    `data` is the folder of the environment's data, for formats that need it; parsing and scoring
    need none, cases of the algorithms neither data nor environment. Every step is one case, and so
    is every first observation. Raises SdarError when the file is unreadable, of an unknown format,
    or meant for another environment, or when its data are not given.
    """
    cases = read_cases(file)
    if _are_algorithm_cases(cases):
        return _replay_algorithms(cases)
    if environment is None:
        raise SdarError(f"{file}: say which environment it is for: --environment")
    if environment not in NAMES:
        raise SdarError(f"--environment {environment}: give one of {', '.join(NAMES)}")
    packages = {name: environment_package(name) for name in NAMES}
    parsed = {package.parsing_cases for package in packages.values()}
    if isinstance(cases, dict) and not parsed.isdisjoint(cases):
        return _replay_parsing(file, cases, environment)
    for name, package in packages.items():
        for known in package.recorded:
            if not known.recognises(cases):
                continue
            if name != environment:
                raise SdarError(f"{file} holds {known.name}: use --environment {name}")
            if known.needs_data and data is None:
                raise SdarError(
                    f"{file}: its cases need the environment's data: give the folder by --data"
                )
            return known.replay(cases, data)
    formats = (known for package in packages.values() for known in package.recorded)
    raise SdarError(
        f"{file}: not a format that {environment} can replay; known are "
        f"{', '.join(known.known_as or known.name for known in formats)}, action-parsing cases, "
        "and cases of the algorithms"
    )


def _are_algorithm_cases(cases: Any) -> bool:
    """Without torch, which other cases do not need."""
    return isinstance(cases, dict) and any(
        name.endswith(("_loss", "_advantages", "reference_kl")) for name in cases
    )


def _replay_algorithms(cases: dict[str, Any]) -> ReplayReport:
    """Each case in both precisions, which have their own tolerances."""
    from sdar.algorithms.recorded import FORMULAS, TOLERANCES, largest_difference

    strange = cases.keys() - FORMULAS
    if strange:
        raise SdarError(
            f"no formula is called {', '.join(sorted(strange))}; known: {', '.join(FORMULAS)}"
        )
    report = ReplayReport()
    for name, entries in cases.items():
        for number, case in enumerate(entries):
            for dtype, tolerance in TOLERANCES.items():
                difference = largest_difference(name, case, dtype)
                kind = str(dtype).removeprefix("torch.")
                expected = f"a difference of at most {tolerance:g}"
                actual = expected if difference <= tolerance else f"a difference of {difference:g}"
                report.compare(f"{name}, case {number} in {kind}", expected, actual)
    return report


def _replay_parsing(file: Path, cases: dict[str, Any], environment: str) -> ReplayReport:
    package, report = environment_package(environment), ReplayReport()
    if package.parsing_cases not in cases:
        raise SdarError(f"{file} has no parsing cases for {environment}; it has {', '.join(cases)}")
    for number, case in enumerate(cases[package.parsing_cases]):
        parsed = package.parse(case["response"])
        report.compare(
            f"case {number}, response {case['response']!r}",
            (case["action"], case["valid"]),
            (parsed.action, parsed.valid),
        )
    return report
