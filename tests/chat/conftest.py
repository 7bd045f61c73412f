"""Small tokenizers of each kind, trained once."""

import json

import pytest
from chat_cases import CORPUS, QWEN3_LIKE
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from phronesis.models.tokenizer import QWEN_TAGS, QWEN_TEMPLATE, train_tokenizer


@pytest.fixture(scope="session")
def qwen():
    """Qwen style with its own, thought-preserving template."""
    return train_tokenizer(CORPUS, 480, "qwen")


@pytest.fixture(scope="session")
def llama3():
    """Llama 3 style."""
    return train_tokenizer(CORPUS, 480, "llama3")


@pytest.fixture(scope="session")
def spelt(qwen):
    """Qwen style whose tags are not tokens, so that each is spelt with several ids."""
    core = json.loads(qwen.backend_tokenizer.to_str())
    core["added_tokens"] = [t for t in core["added_tokens"] if t["content"] not in QWEN_TAGS]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(core)), chat_template=QWEN_TEMPLATE, eos_token="<|im_end|>"
    )


@pytest.fixture(scope="session")
def dropping():
    """Qwen style with a template that drops thoughts as Qwen3's own does."""
    tokenizer = train_tokenizer(CORPUS, 480, "qwen")
    tokenizer.chat_template = QWEN3_LIKE
    return tokenizer


@pytest.fixture(scope="session")
def metaspace():
    """Not byte-level: spaces are written into the pieces, and the first word gets one of its own."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    specials = [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>", "[TURN]", "[SAY]")]
    letters = [chr(c) for c in range(33, 127)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=letters, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    template = (
        "<s>{% for m in messages %}[TURN]{{ m.role }}[SAY]{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[TURN]assistant[SAY]{% endif %}"
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, bos_token="<s>", eos_token="</s>")


def with_template(tokenizer, template):
    """A copy of the tokenizer with another template."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=template, eos_token=tokenizer.eos_token, bos_token=tokenizer.bos_token
    )


@pytest.fixture(scope="session")
def retemplate():
    """``retemplate(tokenizer, template)``: a copy with another template."""
    return with_template
