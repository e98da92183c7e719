"""What a pretrained model says on one machine, for another machine to be held against.

    python benchmarks/acceptance_reference.py --model FOLDER --out reference.json

A few chats, each with the model's greedy answer and its log-probabilities, by the model's own
forward in float32 without a cache: nothing of sdar computes here but the prompts.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from acceptance_record import Record
from torch.nn.utils.rnn import pad_sequence

from sdar.policy.chat import render_prompt
from sdar.policy.loading import load_policy
from sdar.policy.log_probs import PolicyScorer, score_responses
from sdar.rollout.engines.transformers_continuous import ContinuousTransformersEngine

ANSWER_TOKENS = 24
CHATS: tuple[tuple[str | None, str], ...] = (
    (None, "What is the capital of Denmark?"),
    (None, "Name three things that are usually found in a kitchen, one in each line."),
    ("Answer in one short sentence.", "Why is the sky blue?"),
    (
        "You search an archive before you answer. Write <search>words</search> to search it.",
        "Which of the two countries has more inhabitants, Peru or Chile? Think first.",
    ),
)
"""Skill and question."""


@torch.no_grad()
def make_reference(folder: Path, threads: int = 1) -> dict[str, Any]:
    """Prompts, greedy answers and log-probs, as plain values."""
    torch.set_num_threads(threads)
    model, tokenizer = load_policy(folder)
    entries = []
    for skill, question in CHATS:
        messages = [{"role": "user", "content": question}]
        if skill is not None:
            messages.insert(0, {"role": "system", "content": skill})
        prompt = render_prompt(tokenizer, messages)
        answer: list[int] = []
        log_probs: list[float] = []
        for _ in range(ANSWER_TOKENS):
            logits_V = model(torch.tensor([prompt + answer])).logits[0, -1].float()
            token = int(logits_V.argmax())
            log_probs.append(float(logits_V.log_softmax(-1)[token]))
            answer.append(token)
        entries.append({"prompt": prompt, "answer": answer, "log_probs": log_probs})
    return {"torch": torch.__version__, "machine": platform.machine(), "entries": entries}


def check_reference(record: Record, folder: Path, reference: Path, device: str) -> None:
    """Hold engine and scorer on a device against the values in a file."""
    values = json.loads(reference.read_text(encoding="utf-8"))
    record.note("reference/torch", values["torch"])
    entries = values["entries"]
    prompts = [entry["prompt"] for entry in entries]
    answers = [entry["answer"] for entry in entries]
    expected_SR = pad_sequence(
        [torch.tensor(entry["log_probs"]) for entry in entries], batch_first=True
    )
    model, tokenizer = load_policy(folder, device)
    engine = ContinuousTransformersEngine(model, tokenizer, ends=frozenset())
    generations = engine.generate(
        prompts,
        [(0, 0, slot, 0) for slot in range(len(prompts))],
        max_new_tokens=ANSWER_TOKENS,
        temperature=0.0,
    )
    same = sum(g.token_ids == answer for g, answer in zip(generations, answers, strict=True))
    record.equal("reference/greedy answers", same, len(answers))
    scored_SR = score_responses(PolicyScorer(model), prompts, answers, device=device).log_probs
    record.at_most("reference/log-probs", float((scored_SR - expected_SR).abs().max()), 1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    reference = make_reference(options.model)
    options.out.write_text(json.dumps(reference) + "\n", encoding="utf-8")
    print(f"{options.out}: {len(reference['entries'])} answers")


if __name__ == "__main__":
    main()
