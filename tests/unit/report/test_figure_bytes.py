"""Equal figures give equal bytes, wherever the layout's solver keeps its unknowns in memory."""

from pathlib import Path

import pytest

from sdar.report.style import new_figure, save


@pytest.mark.slow
def test_a_figure_drawn_again_has_the_same_bytes(tmp_path: Path) -> None:
    seen = set()
    kept = []  # other objects between the figures, so that addresses differ
    for size in range(12):
        kept.append([object() for _ in range(137 * size)])
        figure, axes = new_figure(1, 3, (14, 4.6), width_ratios=[1.3, 1, 1])
        for axis in axes:
            axis.plot([0, 1, 2], [0.1, 0.2, 0.17], label="gap")
            axis.set(title="Gap", ylabel="nats\na token")
        axes[0].legend(loc="best")
        seen.add(tuple(path.read_bytes() for path in save(figure, tmp_path / "figure")))
    assert len(seen) == 1
