"""What each distillation term estimates, and how noisily: the figure of docs/methods.md.

    python benchmarks/estimator.py [--steps 20000] [--tokens 64] [--out docs/figures/estimator.svg]

A small softmax policy (`estimator_world`), simulated and enumerated; seconds on one core.
Left: the expected update of each logit. Right: the variance of a token's update against the
constant subtracted from the gate. Prints the figures as JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from estimator_world import (
    SoftmaxWorld,
    Term,
    best_baseline,
    centred_term,
    expected_update,
    full_reverse_kl_term,
    full_reverse_kl_updates,
    gated_term,
    mean_and_error,
    mean_gate,
    random_world,
    sampled_updates,
    simulate,
    squared_deviations,
    update_variance,
)
from matplotlib.axes import Axes
from torch import Tensor

from sdar.algorithms.gates import gap_gate
from sdar.methods.roles import colour
from sdar.report.style import new_figure

BETA = 5.0
CONFIDENCE = 1.96
"""Standard errors on each side of a 95 % interval."""
BASELINES = 11


def terms(world: SoftmaxWorld, tokens: int) -> dict[str, tuple[str, Term, Tensor]]:
    """Per method: what it is called here, its term, and its exact updates `[K, V, V]`."""
    gate_KV = gap_gate(world.gap_KV, beta=BETA)
    half_KV = torch.full_like(gate_KV, 0.5)
    # A token has its own gate in its step's mean: a share of 1 / tokens of its weight is lost.
    centred_KV = (gate_KV - mean_gate(world, gate_KV)) * (1 - 1 / tokens)
    return {
        "grpo_opsd": (
            "constant gate",
            gated_term(gate="none"),
            sampled_updates(world, half_KV),
        ),
        "sdar": ("gap gate", gated_term(beta=BETA), sampled_updates(world, gate_KV)),
        "sdar_centred": (
            "centred gap gate",
            centred_term(beta=BETA),
            sampled_updates(world, centred_KV),
        ),
        "reverse_kl_full": (
            "full reverse KL",
            full_reverse_kl_term,
            full_reverse_kl_updates(world),
        ),
    }


def draw_updates(axes: Axes, world: SoftmaxWorld, tokens: int, steps: int, seed: int) -> Any:
    results = {}
    states, vocabulary = world.student_logits_KV.shape
    place_L = torch.arange(states * vocabulary, dtype=torch.float64)
    place_L = place_L + torch.arange(states).repeat_interleave(vocabulary) * 0.6
    for number, (method, (name, term, updates_KVV)) in enumerate(terms(world, tokens).items()):
        simulated_BL = simulate(world, term, tokens=tokens, steps=steps, seed=seed).flatten(1)
        mean_L, error_L = mean_and_error(simulated_BL)
        exact_L = expected_update(world, updates_KVV).flatten()
        at_L = place_L + 0.2 * (number - 1.5)
        axes.errorbar(at_L, mean_L, simulated_BL.std(dim=0), fmt="none", ecolor=colour(method),
                      alpha=0.35, elinewidth=1.2)  # fmt: skip
        axes.errorbar(at_L, mean_L, CONFIDENCE * error_L, fmt="o", markersize=4.5,
                      color=colour(method), elinewidth=3, label=name)  # fmt: skip
        axes.scatter(at_L, exact_L, marker="_", s=70, color="black", zorder=3, linewidths=1)
        results[name] = {
            "largest_expected_update": round(float(exact_L.abs().max()), 5),
            "largest_half_width_of_95_percent_interval": round(
                CONFIDENCE * float(error_L.max()), 5
            ),
            "largest_distance_from_exact_in_standard_errors": round(
                float(((mean_L - exact_L) / error_L).abs().max()), 2
            ),
        }
    axes.axhline(0, color="#444444", linewidth=0.8)
    centres = place_L.view(states, vocabulary).mean(dim=1)
    axes.set_xticks(centres.tolist(), [f"state {k + 1}" for k in range(states)])
    axes.set_xlabel("logits, by state")
    axes.set_ylabel("update (minus the gradient)")
    axes.set_title("Expected update of each logit")
    axes.legend(fontsize=9, loc="best")
    return results


def draw_variance(axes: Axes, world: SoftmaxWorld, tokens: int, steps: int, seed: int) -> Any:
    gate_KV = gap_gate(world.gap_KV, beta=BETA)

    def exact(baseline: float) -> float:
        return update_variance(world, sampled_updates(world, gate_KV - baseline))

    def simulated(term: Term) -> tuple[float, float]:
        updates_BKV = simulate(world, term, tokens=tokens, steps=steps, seed=seed)
        mean, error = mean_and_error(squared_deviations(updates_BKV, tokens))
        return float(mean), CONFIDENCE * float(error)

    mean, best = mean_gate(world, gate_KV), best_baseline(world, gate_KV)
    fine = torch.linspace(0, 1, 201).tolist()
    axes.plot(fine, [exact(b) for b in fine], color="#444444", label="exact")
    coarse = torch.linspace(0, 1, BASELINES).tolist()
    points = [simulated(gated_term(beta=BETA, baseline=b)) for b in coarse]
    axes.errorbar(coarse, [p[0] for p in points], [p[1] for p in points], fmt="o", markersize=4.5,
                  color=colour("sdar"), label="simulated, baseline given")  # fmt: skip
    own = simulated(centred_term(beta=BETA))
    axes.errorbar([mean], own[0], own[1], fmt="D", markersize=6, color=colour("sdar_centred"),
                  label="simulated, each step's own mean")  # fmt: skip
    axes.axvline(mean, color=colour("sdar_centred"), linestyle="--", linewidth=1.2,
                 label=f"mean gate {mean:.2f}")  # fmt: skip
    axes.axvline(best, color="#444444", linestyle=":", linewidth=1.4, label=f"best {best:.2f}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("constant subtracted from the gate")
    axes.set_ylabel("variance of a token's update")
    axes.set_title("Variance against the baseline")
    axes.legend(fontsize=9, loc="best")
    return {
        "mean_gate": round(mean, 3),
        "best_baseline": round(best, 3),
        "exact": {
            "none": round(exact(0.0), 4),
            "mean_gate": round(exact(mean), 4),
            "best": round(exact(best), 4),
        },
        "simulated_own_mean": [round(value, 4) for value in own],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=64, help="of a simulated step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/estimator.svg"))
    options = parser.parse_args()
    world = random_world(options.seed)
    drawn = (world, options.tokens, options.steps, options.seed)
    figure, (left, right) = new_figure(1, 2, (12.5, 4.6), width_ratios=(3, 2))
    results = {"updates": draw_updates(left, *drawn), "variance": draw_variance(right, *drawn)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, metadata={"Date": None, "Creator": "sdar"})
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
