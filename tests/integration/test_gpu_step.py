"""What a step on a GPU rests on, proved on a CPU: the mode of kernels, operations that have a
deterministic one, and a first ratio of 1 in bfloat16."""

import pytest
import torch
import trainer_world
from torch.utils._python_dispatch import TorchDispatchMode

from sdar.clock import PhaseClock
from sdar.policy import reproducible
from sdar.policy.log_probs import PolicyScorer
from sdar.rollout.engines.transformers import TransformersEngine
from sdar.training.learner import Learner
from sdar.training.parts import make_accelerator, trained_method
from sdar.training.sft import Sample, add_gradients
from sdar.training.trainer import training_step

# Of the documentation of torch.use_deterministic_algorithms: what raises on CUDA.
WITHOUT_KERNEL = {
    *("aten.histc", "aten.kthvalue", "aten.put_", "aten.put", "aten.nll_loss2d_forward"),
    *("aten.median.dim", "aten.nanmedian.dim", "aten.nll_loss_forward", "aten._ctc_loss"),
    *("aten._embedding_bag", "aten.grid_sampler_2d", "aten.max_unpool2d", "aten.cumprod"),
}
OF_FLOATS = {"aten.cumsum", "aten.bincount"}


class Forbidden(TorchDispatchMode):
    """Collects operations that would raise on CUDA in strict mode."""

    def __init__(self):
        super().__init__()
        self.found, self.seen = set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removesuffix(".default")
        base = ".".join(name.split(".")[:2])
        self.seen += 1
        floats = any(isinstance(a, torch.Tensor) and a.is_floating_point() for a in args)
        if name in WITHOUT_KERNEL or base in WITHOUT_KERNEL or (base in OF_FLOATS and floats):
            self.found.add(name)
        return function(*args, **(kwargs or {}))


def learner_of(method="sdar", **values):
    config = trainer_world.configuration(values)
    accelerator = make_accelerator(config)
    parts = trainer_world.parts()
    return Learner.prepare(parts, config, trained_method(method), 0, accelerator)


def test_a_step_samples_with_quick_kernels_and_scores_and_updates_with_exact_ones(monkeypatch):
    seen = []
    score, generate = PolicyScorer.forward, TransformersEngine.generate

    def mode(what):
        strict = torch.are_deterministic_algorithms_enabled()
        seen.append((what, strict and not torch.is_deterministic_algorithms_warn_only_enabled()))

    def scored(self, *args, **named):
        mode("update" if torch.is_grad_enabled() else "score")
        return score(self, *args, **named)

    def generated(self, *args, **named):
        mode("sample")
        return generate(self, *args, **named)

    learner = learner_of()
    monkeypatch.setattr(reproducible, "is_gpu", lambda device: True)
    reproducible.choose_kernels(torch.device("cpu"))
    monkeypatch.setattr(PolicyScorer, "forward", scored)
    monkeypatch.setattr(TransformersEngine, "generate", generated)
    try:
        training_step(learner, 0)
    finally:
        learner.close()
        torch.use_deterministic_algorithms(True, warn_only=True)
    assert set(seen) == {("sample", False), ("score", True), ("update", True)}


def test_fine_tuning_takes_exact_kernels_and_none_is_lacking(monkeypatch):
    seen, forward = [], PolicyScorer.forward

    def scored(self, *args, **named):
        seen.append((torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()))
        return forward(self, *args, **named)

    learner = learner_of()
    monkeypatch.setattr(reproducible, "is_gpu", lambda device: True)
    reproducible.choose_kernels(torch.device("cpu"))
    monkeypatch.setattr(PolicyScorer, "forward", scored)
    samples = [Sample((3, 4, 5)[:length], (6, 7)) for length in (1, 2, 3)]
    try:
        with Forbidden() as forbidden:
            add_gradients(learner.updating.policy, samples, micro_batch=2)
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        learner.close()
        torch.use_deterministic_algorithms(True, warn_only=True)
    assert seen == [(True, True)] * 2
    assert forbidden.seen > 100
    assert forbidden.found == set()


@pytest.mark.parametrize("method", ["grpo", "sdar", "reverse_kl_full", "gigpo", "rlsd"])
def test_no_operation_of_scoring_and_update_lacks_a_deterministic_kernel_on_cuda(method):
    learner = learner_of(method)
    batch_of = learner.rollout

    with Forbidden() as forbidden:
        # The rollout is outside: sampling's sum of floats has none.
        learner.rollout = lambda *args: _outside(batch_of, *args)
        training_step(learner, 0)
    learner.close()
    assert forbidden.seen > 1000
    assert forbidden.found == set()


def _outside(function, *args):
    with torch.utils._python_dispatch._disable_current_modes():
        return function(*args)


def test_the_rollout_would_raise_if_it_were_strict():
    learner = learner_of()
    with Forbidden() as forbidden:
        learner.rollout(0, PhaseClock())
    learner.close()
    assert forbidden.found == {"aten.cumsum"}


@pytest.mark.parametrize("method", ["grpo", "sdar"])
def test_the_first_ratio_in_bfloat16_is_one(method):
    training = {"minibatch": 8, "micro_batch": 3, "learning_rate": 1e-3}
    learner = learner_of(method, policy={"dtype": "bfloat16"}, training=training)
    shares = {}

    def note(step, batch, *rest):
        shares["first"] = learner.updating.policy.shares(batch).minibatches[0].samples
        return update(step, batch, *rest)

    update, learner.update = learner.update, note
    step = training_step(learner, 0)
    learner.close()
    rows = shares["first"]
    assert len(rows) < len(step.batch), "more than one minibatch"
    ratio = (step.student_SR - step.old_SR).double().exp()
    assert float((ratio[rows.start : rows.stop] - 1).abs().max()) < 1e-6
    assert float((ratio[rows.stop :] - 1).abs().max()) > 1e-4, "then the weights have moved"


@pytest.mark.parametrize(
    ("dtype", "source", "passes_of"),
    [
        ("bfloat16", "auto", "the update"),
        ("float32", "auto", "the sampler"),
        ("float32", "pass", "their own"),
    ],
)
def test_old_log_probs_cost_a_pass_only_where_sampling_is_coarser(
    dtype, source, passes_of, monkeypatch
):
    scored, passes = PolicyScorer.forward, {True: [], False: []}

    def forward(self, batch, *args, **named):
        passes[torch.is_grad_enabled()].append(batch.input_ids_ST.tolist())
        return scored(self, batch, *args, **named)

    monkeypatch.setattr(PolicyScorer, "forward", forward)
    training = {"minibatch": 8, "micro_batch": 3, "kl_coefficient": 0.0, "old_log_probs": source}
    learner = learner_of("grpo", policy={"dtype": dtype}, training=training)
    for made in passes.values():
        made.clear()  # those that tried the paths
    step = training_step(learner, 0)
    learner.close()
    assert len(passes[True]) > 2
    # In bfloat16 a log-prob depends on what is scored beside it.
    assert (passes[False] == passes[True]) is (passes_of == "the update")
    assert (not passes[False]) is (passes_of == "the sampler")
    sampled_SR = step.batch.engine_log_probs()
    assert torch.equal(step.old_SR, sampled_SR) is (passes_of == "the sampler")
    assert float((step.old_SR - sampled_SR).abs().max()) < (1e-5 if dtype == "float32" else 0.5)
