"""A random tiny policy, a tokenizer, and a scripted text world: what rollout tests run on."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sdar.environments.base import Observation, Task
from sdar.environments.packages import environment_package
from sdar.environments.pools import SentActions
from sdar.policy.paths import set_sharing
from sdar.rollout.settings import RolloutSettings

SETTINGS = RolloutSettings(
    package=environment_package("alfworld"),
    max_turns=5,
    history=2,
    max_prompt_tokens=600,
    max_response_tokens=10,
    temperature=1.0,
    batch=64,
    success_reward=10.0,
    invalid_action_penalty=0.1,
)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLACES = ("shelf", "desk", "fridge", "sofa")
TEXTS = [
    "You are in a room. Your task is to: find the key. Looking around, you see a shelf.",
    "You have taken 3 actions. You saw: nothing happens. You did: go to the fridge",
    "Now, at turn 2, you see: a drawer. You can: ['go to shelf', 'open fridge', 'look']",
    "First reason inside <think></think>, then give one action inside <action></action>.",
    "The key is usually in the fridge. assistant user system",
]


@cache
def tokenizer() -> Any:
    """Byte-level BPE of some 360 entries with Qwen's chat markers. Lossless on any text."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(
            vocab_size=360,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def policy(seed: int = 0, layers: int = 2, spread: float = 1.0, head: int = 8) -> Any:
    """A random Qwen3 with grouped-query attention; larger `spread`, more peaked predictions.
    `head`: size of an attention head."""
    config: Any = Qwen3Config(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.15 * spread)
    set_sharing(model, True)  # as where it is loaded
    return model.eval()


def tasks(count: int, split: str = "train") -> list[Task]:
    types = ("pick_and_place_simple", "look_at_obj_in_light")
    return [
        Task(f"{split}/task-{i}", split, types[i % 2], f"find the key {i}.", f"world/{i}")
        for i in range(count)
    ]


class ScriptedPool:
    """Deterministic worlds without an engine: episode i of task k ends after a few actions.

    A world is won when the text of an action hits a residue that depends on the task, so that
    different responses earn different returns. `steps` counts actions per slot.
    """

    def __init__(self, modulus: int = 7) -> None:
        self.modulus = modulus
        self.tasks: dict[int, Task] = {}
        self.steps: dict[int, int] = {}
        self.prefetched: list[list[str]] = []
        self.resets = 0
        self.sent = SentActions()

    def reset(self, tasks: dict[int, Task]) -> dict[int, Observation]:
        self.resets += 1
        self.sent.drop(tasks)
        self.tasks = dict(tasks)
        self.steps = dict.fromkeys(tasks, 0)
        return {slot: self._see(slot, f"You see a {PLACES[slot % 4]}.", False) for slot in tasks}

    def step(self, actions: dict[int, str]) -> dict[int, Observation]:
        seen = {}
        for slot, action in actions.items():
            self.steps[slot] += 1
            residue = sum(action.encode()) + len(self.tasks[slot].id)
            won = residue % self.modulus == 0
            text = "You found it." if won else f"Nothing happens to the {PLACES[residue % 4]}."
            seen[slot] = self._see(slot, text, won)
        return seen

    def send(self, actions: dict[int, str]) -> None:
        self.sent.put(actions)

    def receive(self, slots: Sequence[int]) -> dict[int, Observation]:
        return self.step(self.sent.take(slots))

    def prefetch(self, tasks: Sequence[Task]) -> None:
        self.prefetched.append([task.id for task in tasks])

    def close(self) -> None:
        self.tasks = {}

    def _see(self, slot: int, text: str, won: bool) -> Observation:
        actions = tuple(f"go to {place}" for place in PLACES)
        return Observation(text, actions, won, won)
