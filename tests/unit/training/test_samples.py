"""What is learned of a demonstration: the tokens of its response with the one that closes it, and
none of its prompt, whatever the chat template."""

import chat_templates
import pytest
import scripted
import torch

from sdar.policy.chat import ChatFormat
from sdar.policy.log_probs import PolicyScorer
from sdar.training.demonstrations import Demonstration
from sdar.training.phases import as_sample
from sdar.training.sft import supervised_loss

RESPONSE = "<think>The key is in the fridge.</think><action>go to fridge</action>"
MESSAGES = (
    {"role": "system", "content": "Look at the shelf first."},
    {"role": "user", "content": "You are in a room. You can: ['go to shelf', 'open fridge']"},
)


def shown(hinted: bool) -> Demonstration:
    messages = MESSAGES if hinted else MESSAGES[1:]
    return Demonstration(0, 0, "pick", hinted, messages, RESPONSE)  # type: ignore[arg-type]


@pytest.mark.parametrize("hinted", [False, True])
@pytest.mark.parametrize("family", chat_templates.TEMPLATES)
def test_only_the_response_is_learned(family: str, hinted: bool) -> None:
    tokenizer = chat_templates.tokenizer(family)
    sample = as_sample(tokenizer, shown(hinted))
    chat = ChatFormat.of(tokenizer)
    said = RESPONSE.removeprefix("<think>") if chat.opens_thought else RESPONSE
    assert chat.response_text(sample.response_ids) == said
    closing = tokenizer.convert_tokens_to_ids(chat_templates.closing(family))
    assert sample.response_ids[-1] == closing
    assert not chat.control & set(sample.response_ids[:-1])
    prompt = tokenizer.decode(sample.prompt_ids)
    assert ("Look at the shelf first." in prompt) == hinted
    assert "go to fridge</action>" not in prompt

    model = scripted.policy()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]])
    labels = ids.clone()
    labels[0, : len(sample.prompt_ids)] = -100
    expected = model(input_ids=ids, labels=labels, use_cache=False).loss
    torch.testing.assert_close(supervised_loss(PolicyScorer(model), [sample]), expected)
