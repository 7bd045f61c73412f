"""The doctor names what is wrong, where, and what to do."""

import msgspec
import pytest
from chat_cases import (
    BREAK_UNLESS_LAST,
    CHATML,
    COUNTING,
    LLAMA31_LIKE,
    NO_LINE_BREAK,
    SHORTENING,
    UNENDED,
)  # fmt: skip
from tokenizers import Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerFast

from phronesis.chat import TemplateReport, diagnose, examine, render_report
from phronesis.errors import CheckpointError


def verdicts(report):
    return {f.check: f.verdict for f in report.findings}


def test_own_templates_are_healthy(qwen, llama3):
    report = examine(qwen)
    assert (report.verdict, report.family, report.retention) == ("ok", "qwen", "preserve")
    assert set(verdicts(report)) == {
        "template", "family", "prefix_stable", "after_answer", "tools", "empty_tools", "end_token", "single_ids", "bos",
        "round_trip", "thoughts", "exact",
    }  # fmt: skip
    llama = examine(llama3)
    assert llama.family == "llama3"
    assert {c for c, v in verdicts(llama).items() if v != "ok"} == {"single_ids"}


def test_report_survives_json(qwen):
    report = examine(qwen)
    assert msgspec.json.decode(msgspec.json.encode(report), type=TemplateReport) == report


def test_dropped_thoughts(dropping):
    report = examine(dropping)
    finding = report.finding("thoughts")
    assert (report.verdict, report.family, report.retention, finding.verdict) == ("warn", "qwen", "until_user", "warn")
    assert finding.difference.expected.startswith("<think>\nseven is odd")
    assert finding.difference.before.endswith("<|im_start|>assistant\n")
    assert "retention='until_user'" in finding.advice
    assert report.finding("exact").verdict == "ok"


def test_missing_line_break(qwen, retemplate):
    finding = examine(retemplate(qwen, NO_LINE_BREAK)).finding("after_answer")
    assert (finding.verdict, finding.explanation) == ("warn", "no line break after '<|im_end|>'")


@pytest.mark.parametrize(
    ("template", "at", "found"),
    [(COUNTING, 0, "5 messages"), (BREAK_UNLESS_LAST, 36, "\n<|im_start|>assistant"), (SHORTENING, 59, "...")],
)
def test_rewritten_past(qwen, retemplate, template, at, found):
    report = examine(retemplate(qwen, template))
    finding = report.finding("prefix_stable")
    assert (report.verdict, report.family, finding.verdict) == ("fail", None, "fail")
    assert finding.difference.at == at
    assert finding.difference.found.startswith(found)
    text = render_report(report)
    assert f"at character {at}, after " in text
    assert "-> use a template that only appends" in text


def test_no_special_end(qwen, retemplate):
    report = examine(retemplate(qwen, UNENDED))
    assert report.finding("after_answer").verdict == "fail"
    assert report.finding("end_token").verdict == "fail"


def test_no_template_and_broken_templates(qwen, retemplate):
    for template, reason in ((None, "no chat template"), ("{{ oops(", "unexpected"), ("{{ raise_exception('no') }}", "no")):
        report = examine(retemplate(qwen, template))
        assert (report.verdict, report.family) == ("fail", None)
        assert [f.check for f in report.findings] == ["template"]
        assert reason in report.findings[0].explanation


def test_tools_that_vanish(qwen, retemplate):
    report = examine(retemplate(qwen, CHATML))
    assert report.finding("tools").explanation == "it does not write the tools offered, the calls made"
    assert report.family == "generic"


def test_empty_tools_and_single_calls(llama3, retemplate):
    report = examine(retemplate(llama3, LLAMA31_LIKE))
    empty = report.finding("empty_tools")
    assert (empty.verdict, empty.difference.found[:20]) == ("warn", "Environment: ipython")
    assert "one call at a time" in report.finding("tools").explanation


def test_other_end_token_doubled_bos_and_normalising(llama3, qwen):
    core = Tokenizer.from_str(llama3.backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", llama3.bos_token_id)]
    )
    core.normalizer = normalizers.NFC()
    twisted = PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=llama3.chat_template, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    )
    report = examine(twisted)
    assert report.finding("bos").verdict == "warn"
    assert "'<|end_of_text|>'" in report.finding("end_token").explanation
    assert report.finding("round_trip").verdict == "warn"
    assert report.finding("round_trip").difference.expected.startswith("e\u0301")
    assert report.finding("exact").verdict == "ok"


def test_spelt_tags(spelt):
    assert "<think>" in examine(spelt).finding("single_ids").explanation


def test_diagnose_reads_a_folder(qwen, tmp_path):
    qwen.save_pretrained(tmp_path)
    report = diagnose(tmp_path)
    assert (report.name, report.verdict) == (str(tmp_path), "ok")
    (tmp_path / "chat_template.jinja").unlink()
    assert diagnose(tmp_path).finding("template").verdict == "fail"
    with pytest.raises(CheckpointError, match="not a directory"):
        diagnose(tmp_path / "missing")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="no tokenizer can be read"):
        diagnose(tmp_path)
