"""A GRPO step of TRL's trainer, as a process that is asked for it: see step_protocol.py.

    .venv-trl/bin/python benchmarks/trl_server.py JSON      (passes_speed.py starts it)

Runs in TRL's own environment (`make bench-trl`), without sdar. The trainer's loop goes on for ever;
before a step's first optimizer step it waits for a line, after the last one it answers with
seconds, and the weights are put back. JSON: `policy` (a folder), `prompts` (token ids, `repeats`
samples of each), `optimizer_steps`, `micro_batch`, `accumulate`, `response`, `kl`, `learning_rate`,
`threads`.
"""

import os
import sys
import tempfile
from typing import Any

from step_protocol import READY, main_arguments, private_output, put, requests, stopwatch


def train(given: dict[str, Any], answers: Any) -> None:
    """TRL's trainer on these prompts, a step for each line."""
    import torch
    import transformers
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(given["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        given["policy"], dtype=torch.float32, attn_implementation="sdpa"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(given["policy"])
    texts = [tokenizer.decode(ids) for ids in given["prompts"]]
    clocks, optimizer_steps = stopwatch(given["threads"]), given["optimizer_steps"]
    words = requests(sys.stdin)
    seen = {"samples": 0, "tokens": 0, "response_tokens": 0}

    def encoded(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def reward(prompts: Any, completions: Any, completion_ids: Any, **other: Any) -> list[float]:
        """Any will do; it also sees what was sampled."""
        before = sum(len(encoded(text)) for text in prompts)
        after = sum(map(len, completion_ids))
        seen.update(samples=len(prompts), tokens=before + after, response_tokens=after)
        return [float(len(ids) % 3) for ids in completion_ids]

    class OnDemand(transformers.TrainerCallback):
        """Waits before a step and answers after it."""

        def __init__(self) -> None:
            self.values = [p.detach().clone() for p in model.parameters()]
            self.begun = clocks()

        def on_step_begin(self, args: Any, state: Any, control: Any, **other: Any) -> None:
            if state.global_step % optimizer_steps:
                return
            word = next(words, None)
            if word == READY:
                ids = zip(texts, given["prompts"], strict=True)
                exact = sum(encoded(text) == own for text, own in ids)
                put(answers, {"prompts": len(texts), "same_tokens": exact})
                word = next(words, None)
            if word is None:
                answers.flush()
                os._exit(0)  # the trainer has no way out of its first step
            self.begun = clocks()

        def on_step_end(self, args: Any, state: Any, control: Any, **other: Any) -> None:
            if state.global_step % optimizer_steps:
                return
            now = clocks()
            seconds = {"wall": now[0] - self.begun[0], "cpu": now[1] - self.begun[1]}
            put(answers, seconds | seen)
            with torch.no_grad():
                for weight, value in zip(model.parameters(), self.values, strict=True):
                    weight.copy_(value)

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            max_steps=1_000_000,
            learning_rate=given["learning_rate"],
            lr_scheduler_type="constant",
            per_device_train_batch_size=given["micro_batch"],
            gradient_accumulation_steps=given["accumulate"],
            steps_per_generation=given["accumulate"] * optimizer_steps,
            num_generations=given["repeats"],
            num_iterations=1,
            max_completion_length=given["response"],
            temperature=1.0,
            beta=given["kl"],
            gradient_checkpointing=False,
            dataloader_num_workers=0,
            shuffle_dataset=False,
        )
        GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
            processing_class=tokenizer,
            callbacks=[OnDemand()],
        ).train()


def main() -> None:
    with private_output() as answers:
        train(main_arguments(), answers)


if __name__ == "__main__":
    main()
