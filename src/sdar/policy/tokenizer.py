"""A trained tokenizer for the tiny policy: one token per entity ("drawer 3") and common phrase.

A policy of half a million parameters cannot spend its depth on spelling, so the vocabulary holds
what the corpus repeats: numbered things, their class names, and the runs of words between them
("', 'go to"). It is byte-level BPE without merges, whose pre-tokeniser cuts at the learned units;
unseen text falls back to bytes, and every text decodes to itself. It loads with `AutoTokenizer`.
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from sdar.errors import SdarError
from sdar.files.digest import json_digest
from sdar.policy.control_tokens import TAGS

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# The roles and markers of Qwen's chat format; nothing is added that the messages do not contain.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('unknown role ' + message.role) }}"
    "{%- endif -%}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

_MARKERS = re.compile("|".join(re.escape(marker) for marker in TAGS + SPECIAL))
_ENTITY = r" ?[a-z]+ \d+(?![\w])"
# A word with its colon is one unit: looking up "egg:" in a list is then a match of equal tokens.
_ATOM = re.compile(rf"{_ENTITY}| ?\w+:?|\n| ?[^\w\s]|\s")
_NAME = re.compile(r" ?([a-z]+) \d+")


def learn_units(corpus: list[str], size: int, words: Iterable[str] = ()) -> list[str]:
    """The `size` most useful units: every atom by frequency first, then whole phrases.

    A phrase is a run of words and punctuation between two names; names (numbered things and their
    classes, and `words`) always stand alone, so that a model can copy them.
    """
    segments = Counter(part for text in corpus for part in _MARKERS.split(text) if part)
    names = set(words)
    for segment in segments:
        names.update(_NAME.findall(segment))
    atoms: Counter[str] = Counter()
    phrases: Counter[str] = Counter()

    @cache  # there are some thousand, and each comes very often
    def stands_alone(atom: str) -> bool:
        return atom.strip(" :") in names or atom == "\n" or bool(re.fullmatch(_ENTITY, atom))

    for segment, count in segments.items():
        run: list[str] = []
        for atom in _ATOM.findall(segment):
            atoms[atom] += count
            if stands_alone(atom):
                if len(run) > 1:
                    phrases["".join(run)] += count
                run = []
            else:
                run.append(atom)
        if len(run) > 1:
            phrases["".join(run)] += count
    seen_once = len(corpus) // 200
    longer = [atom for atom, _ in _ranked(atoms) if len(atom) > 1]
    common = [phrase for phrase, count in _ranked(phrases) if count > seen_once]
    return (longer[: size // 2] + common + longer[size // 2 :])[:size]


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def train_tokenizer(
    corpus: list[str], vocabulary: int, context: int, names: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """Train on whole conversations (chat markers included); at most `vocabulary` tokens.

    `names`: words that are never part of a phrase, beside those that are numbered.
    """
    alphabet = sorted(ByteLevel.alphabet())
    # An environment's own tags: what its corpus never says is spelled.
    tags = [tag for tag in TAGS if any(tag in text for text in corpus)]
    size = vocabulary - len(alphabet) - len(tags) - len(SPECIAL)
    if size < 0:
        raise SdarError(
            f"policy.tiny.vocabulary: {vocabulary} is too small, bytes and markers alone take "
            f"{vocabulary - size}: raise it"
        )
    units = learn_units(corpus, size, names)
    to_bytes = ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [to_bytes.pre_tokenize_str(unit)[0][0] for unit in units]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(alphabet + spelled))}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[], ignore_merges=True))
    phrases = sorted((u for u in units if len(_ATOM.findall(u)) > 1), key=lambda u: (-len(u), u))
    # A phrase ends where its last word does: ", a" is no part of ", apple".
    ends = (re.escape(u) + (r"(?![\w:])" if re.search(r"\w$", u) else "") for u in phrases)
    pattern = "|".join([*ends, _ATOM.pattern])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), to_bytes]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def tokenizer_digest(tokenizer: Any) -> str:
    """Of vocabulary, rules and chat template: of all that decides which tokens a prompt becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else backend.to_str()
    return json_digest([rules, tokenizer.chat_template])[:16]
