"""Small tokenizers: deterministic, lossless, digits apart, ordinary Hugging Face files, refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from phronesis.errors import CheckpointError, ConfigError, TemplateError
from phronesis.models.tokenizer import LLAMA3_SPECIALS, QWEN_SPECIALS, QWEN_TAGS, load_tokenizer, train_tokenizer

TEXTS = ["look up the price of fig", "12 + 34 = 46<|im_end|>", "busy, see kiwi"] * 20


@pytest.fixture(scope="session")
def small():
    return {"qwen": train_tokenizer(TEXTS, 400), "llama3": train_tokenizer(TEXTS, 400, "llama3")}


@pytest.mark.parametrize("style", ["qwen", "llama3"])
def test_same_texts_same_tokenizer(small, style):
    again = train_tokenizer(iter(TEXTS), 400, style)
    assert again.backend_tokenizer.to_str() == small[style].backend_tokenizer.to_str()
    assert len(again) <= 400


def test_special_tokens_are_single_ids(small):
    for style, specials in (("qwen", QWEN_SPECIALS), ("llama3", LLAMA3_SPECIALS)):
        assert [small[style].encode(s) for s in specials] == [[i] for i in range(len(specials))]
    qwen = small["qwen"]
    assert [qwen.encode(t) for t in QWEN_TAGS] == [[i] for i in range(len(qwen) - 6, len(qwen))]
    assert qwen.decode(qwen.encode("<think>a</think><|im_end|>"), skip_special_tokens=True) == "<think>a</think>"
    assert (qwen.eos_token, qwen.pad_token, small["llama3"].eos_token) == ("<|im_end|>", "<|endoftext|>", "<|eot_id|>")


def test_digits_are_apart_and_special_text_is_not_merged(small):
    qwen = small["qwen"]
    assert qwen.tokenize("a 1234") == ["a", "\u0120", "1", "2", "3", "4"]
    assert not any("im_" in t for t in qwen.get_vocab() if t not in QWEN_SPECIALS)


def test_words_of_the_template_are_short(small):
    for word in ("user", "assistant", "system", "name", "arguments"):
        assert len(small["qwen"].encode(word)) == 1


@given(text=st.text())
def test_text_survives(small, text):
    for tokenizer in small.values():
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_tools_are_compact_and_complete(small):
    schema = {
        "type": "object",
        "properties": {"item": {"type": "string"}, "items": {"type": "array", "items": {"type": "integer"}}},
        "required": ["item"],
    }
    tool = {"type": "function", "function": {"name": "look_up", "description": "Price.", "parameters": schema}}
    wide = {"type": "function", "function": {"name": "w", "description": "", "parameters": {"$defs": {}, "properties": {}}}}
    text = small["qwen"].apply_chat_template([{"role": "user", "content": "x"}], tools=[tool, wide], tokenize=False)
    assert text == (
        '<|im_start|>system\n# Tools\n\n<tools>\n{"name": "look_up", "description": "Price.", "parameters": {"item": "string", '
        '"items?": {"type": "array", "items": {"type": "integer"}}}}\n'
        '{"name": "w", "parameters": {"$defs": {}, "properties": {}}}\n</tools><|im_end|>\n<|im_start|>user\nx<|im_end|>\n'
    )


def test_saved_and_loaded(small, tmp_path):
    small["qwen"].save_pretrained(tmp_path)
    loaded, plain = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "look up 12"}]
    want = small["qwen"].apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert loaded.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == want
    assert plain.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == want
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(TemplateError, match=r"chat_template\.jinja"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("no json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match="vocab_size=264"):
        train_tokenizer(TEXTS, 264)
    assert len(train_tokenizer([], 265)) == 265
    with pytest.raises(CheckpointError, match="not a directory"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no 'tokenizer\.json'"):
        load_tokenizer(tmp_path)
