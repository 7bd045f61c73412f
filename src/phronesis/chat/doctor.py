"""What is right and wrong with a chat template, for people: every way in which training on its tokens could go wrong
silently is tried out and told with the place and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

from msgspec import Struct
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from phronesis.chat import probes
from phronesis.chat.detect import FAMILIES, format_for
from phronesis.chat.format import Retention
from phronesis.chat.generic import GenericFormat
from phronesis.chat.probes import Difference, first_difference, prefix_difference
from phronesis.chat.template import Template, as_chat, as_tool
from phronesis.errors import CheckpointError, TemplateError, one_line
from phronesis.records import Message, ToolSpec

Verdict = Literal["ok", "warn", "fail"]
_RANK: dict[Verdict, int] = {"ok": 0, "warn": 1, "fail": 2}
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_SAMPLES = (
    '<think>\n12 + 34 = 46\n</think>\n\n<tool_call>\n{"name": "look_up", "arguments": {"item": "fig"}}\n</tool_call>',
    "  spaces,\ttabs\n\n\nand e\u0301 \u00e9 \u4e2d\u6587 \U0001f600",
    '{"name": "look_up", "parameters": {"item": "fig"}}',
)


class Finding(Struct, frozen=True, kw_only=True):
    """The outcome of one check."""

    check: str
    """What was looked at, e.g. ``prefix_stable``."""
    verdict: Verdict
    """ok, warn (usable, but know this) or fail (not usable token-exactly)."""
    explanation: str
    """What was found."""
    difference: Difference | None = None
    """Where two renderings part; None when the check compares none, or they agree."""
    advice: str | None = None
    """What to do; None when nothing is to be done."""


class TemplateReport(Struct, frozen=True, kw_only=True):
    """All findings about one tokenizer."""

    name: str
    """What was examined, usually a path."""
    family: str | None
    """``qwen``, ``llama3`` or ``generic``: the format that would be used; None when there is none."""
    retention: Retention | None
    """Which past thoughts the template itself keeps; None when that could not be found out."""
    findings: tuple[Finding, ...]
    """In the order of the checks."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
        worst: Verdict = "ok"
        for finding in self.findings:
            worst = finding.verdict if _RANK[finding.verdict] > _RANK[worst] else worst
        return worst

    def finding(self, check: str) -> Finding | None:
        """The finding of that check; None when it was not made."""
        return next((f for f in self.findings if f.check == check), None)


def diagnose(path: str | Path) -> TemplateReport:
    """Examines the tokenizer of a directory. Never reaches for the network.

    Raises:
        CheckpointError: there is no tokenizer that can be read. A missing chat template is a finding, not an error.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{str(path)!r} is not a directory; give the folder that holds 'tokenizer.json'")
    try:
        loaded: object = AutoTokenizer.from_pretrained(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            str(folder), local_files_only=True
        )
    except Exception as fault:  # the loaders raise anything, down to bare Exceptions of the Rust core
        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"no 'tokenizer.json' in {str(path)!r}; save a fast tokenizer there") from fault
        why = f"{type(fault).__name__}: {one_line(fault)}"
        raise CheckpointError(f"no tokenizer can be read from {str(path)!r}: {why}") from fault
    return examine(cast(PreTrainedTokenizerBase, loaded), str(path))


def examine(tokenizer: PreTrainedTokenizerBase, name: str = "tokenizer") -> TemplateReport:
    """Examines a tokenizer that is already loaded."""
    try:
        template = Template(tokenizer)
        template.text(probes.PLAIN[:1])
    except TemplateError as reason:
        advice = "take the tokenizer of the instruction-tuned model, or write a 'chat_template.jinja' beside 'tokenizer.json'"
        missing = Finding(check="template", verdict="fail", explanation=str(reason), advice=advice)
        return TemplateReport(name=name, family=None, retention=None, findings=(missing,))
    there = Finding(check="template", verdict="ok", explanation=f"a chat template of {len(template.source)} characters")
    retention, thoughts = _thoughts(template)
    family, chosen = _family(tokenizer, retention)
    checks: tuple[Callable[[Template], Finding], ...] = (
        _prefix_stable, _between, _tools, _empty_tools, _end_token, _single_ids, _bos, _round_trip
    )  # fmt: skip
    findings = (there, chosen, *(check(template) for check in checks), thoughts)
    if family is not None:
        findings = (*findings, _exact(tokenizer, template, retention))
    return TemplateReport(name=name, family=family, retention=retention, findings=findings)


def render_report(report: TemplateReport) -> str:
    """The report as text for a terminal: one line a finding, the place and the remedy below it."""
    lines = [
        f"{report.name}: {report.verdict} (format: {report.family or 'none'}, own retention: {report.retention or 'unknown'})"
    ]
    for finding in report.findings:
        lines.append(f"  {finding.verdict:<4}  {finding.check:<14} {finding.explanation}")
        if finding.difference is not None:
            lines.append(f"{'':22}{finding.difference}")
        if finding.advice is not None:
            lines.append(f"{'':22}-> {finding.advice}")
    return "\n".join(lines)


def _family(tokenizer: PreTrainedTokenizerBase, retention: Retention | None) -> tuple[str | None, Finding]:
    """Which format takes the tokenizer under the template's own retention, and why others do not."""
    template = Template(tokenizer)
    reasons: list[str] = []
    for family in FAMILIES:
        if family.recognises(template):
            try:
                family(tokenizer, retention or "preserve")
            except TemplateError as reason:
                reasons.append(str(reason))
    try:
        chosen = format_for(tokenizer, retention or "preserve")
    except TemplateError as reason:
        advice = "repair the template where it is told below, or play with a tokenizer of the qwen or llama3 family"
        return None, Finding(check="family", verdict="fail", explanation=str(reason), advice=advice)
    if isinstance(chosen, GenericFormat):
        text = "; ".join(reasons) or "its special tokens are of no known family"
        told = f"generic ({text})" + "".join(f"; {note}" for note in chosen.notes)
        return "generic", Finding(check="family", verdict="warn" if reasons or chosen.notes else "ok", explanation=told)
    told = chosen.family + "".join(f"; {note}" for note in chosen.notes)
    return chosen.family, Finding(check="family", verdict="warn" if chosen.notes else "ok", explanation=told)


def _prefix_stable(template: Template) -> Finding:
    """A longer conversation must begin with the prompt of the shorter one."""
    whole = template.text(probes.PLAIN)
    for i, message in enumerate(probes.PLAIN):
        if message.role != "assistant":
            continue
        # A prompt may open the thought for the model; the answer then stands where the thought was.
        prompt = template.text(probes.PLAIN[:i]).removesuffix("<think>\n")
        where = prefix_difference(prompt, whole) or prefix_difference(prompt + message.text, whole)
        if where is not None:
            return Finding(
                check="prefix_stable",
                verdict="fail",
                explanation=f"the conversation up to message {i} (assistant) is written differently once more messages follow",
                difference=where,
                advice="use a template that only appends; otherwise every turn would need a new root",
            )
    return Finding(check="prefix_stable", verdict="ok", explanation="a longer conversation begins with the shorter one")


def _between(template: Template) -> Finding:
    """What stands between the end of an answer and the next message: forgotten, it costs a token every turn."""
    check = "after_answer"
    ended = template.text(probes.PLAIN[:2], generation=False).partition(probes.ANSWER)[2]
    middle = template.text(probes.PLAIN[:3], generation=False).partition(probes.ANSWER)[2]
    end = next((t for t in sorted(template.added, key=len, reverse=True) if ended.lstrip().startswith(t)), None)
    if end is None:
        advice = "let the template end each answer with a special token"
        return Finding(
            check=check, verdict="fail", explanation=f"an answer ends with {ended!r}: no special token", advice=advice
        )
    last = ended.partition(end)[2]
    if not middle.startswith(ended):
        return Finding(
            check=check,
            verdict="warn",
            explanation=f"after {end!r} it writes {last!r} at the end of a conversation, but something else before a message",
            difference=prefix_difference(ended, middle),
            advice="the formats here follow what stands before a message; tools that render the end alone lose it every turn",
        )
    if end == "<|im_end|>" and last == "":
        advice = "models of this family were trained with a line break there; add '\\n' after '<|im_end|>' in the template"
        return Finding(check=check, verdict="warn", explanation="no line break after '<|im_end|>'", advice=advice)
    return Finding(
        check=check, verdict="ok", explanation=f"{end!r} and then {last!r}, which the formats here append every turn"
    )


def _tools(template: Template) -> Finding:
    """Whether tools and calls reach the model at all."""
    check = "tools"
    try:
        without = template.text(probes.PLAIN[:1])
        offered = template.text(probes.PLAIN[:1], probes.TOOLS)
        answered = template.text(probes.CALLING, probes.TOOLS)
    except TemplateError as reason:
        return Finding(check=check, verdict="warn", explanation=f"it refuses tools: {reason}", advice="play without tools")
    missing = [
        what
        for what, there in (
            ("the tools offered", offered != without),
            ("the calls made", "look_up" in answered.partition("Price?")[2]),
            ("the results", "busy" in answered),
        )
        if not there
    ]
    if missing:
        advice = "play without tools, or use a template that writes them"
        return Finding(check=check, verdict="warn", explanation=f"it does not write {', '.join(missing)}", advice=advice)
    try:
        template.text(probes.PARALLEL, probes.TOOLS)
    except TemplateError as reason:
        return Finding(check=check, verdict="warn", explanation=f"one call a message only: {reason}")
    return Finding(check=check, verdict="ok", explanation="tools, calls (also several in a message) and results are written")


def _empty_tools(template: Template) -> Finding:
    """``tools=[]`` and no tools at all should be the same to the model."""
    chat = [as_chat(m) for m in probes.PLAIN[:1]]
    try:
        where = first_difference(template.apply(chat, None), template.apply(chat, []))
    except TemplateError as reason:
        return Finding(check="empty_tools", verdict="warn", explanation=f"it refuses tools=[]: {reason}")
    if where is None:
        return Finding(check="empty_tools", verdict="ok", explanation="tools=[] is written like no tools")
    return Finding(
        check="empty_tools",
        verdict="warn",
        explanation="tools=[] is written differently from no tools",
        difference=where,
        advice="pass None; the formats here never pass an empty list",
    )


def _thoughts(template: Template) -> tuple[Retention | None, Finding]:
    """Which past thoughts the template keeps."""
    check = "thoughts"
    try:
        told = probes.THOUGHT_USER[:2]
        inline = probes.THOUGHT not in template.text(told, generation=False)
        seen = probes.THOUGHT in template.text(told, generation=False, inline_thoughts=inline)
        after_user = probes.THOUGHT in template.text(probes.THOUGHT_USER, inline_thoughts=inline)
        after_tool = _kept_after_tool(template, inline)
    except TemplateError as reason:
        return None, Finding(check=check, verdict="fail", explanation=str(reason))
    way = "inside the content" if inline else "as 'reasoning_content'"
    if after_user:
        return "preserve", Finding(check=check, verdict="ok", explanation=f"past thoughts stay (passed {way})")
    retention: Retention = "until_user" if after_tool else "strip"
    where = prefix_difference(
        template.text(told, generation=False, inline_thoughts=inline),
        template.text(probes.THOUGHT_USER, inline_thoughts=inline),
    )
    text = "a new user message drops the thoughts before it" if after_tool else "past thoughts are dropped at once"
    if not seen:
        text = "thoughts are never written"
    return retention, Finding(
        check=check,
        verdict="warn",
        explanation=text,
        difference=where if seen else None,
        advice=f"retention={retention!r} follows it, with a new root whenever a thought is dropped; 'preserve' departs from it",
    )


def _kept_after_tool(template: Template, inline: bool) -> bool:
    """Whether a thought is still there when a tool has answered; without tools every new message is a user's."""
    try:
        return probes.THOUGHT in template.text(probes.THOUGHT_TOOL, probes.TOOLS, inline_thoughts=inline)
    except TemplateError:
        return True


def _end_token(template: Template) -> Finding:
    """The id that ends an answer should be the one the tokenizer declares, or engines run past it."""
    ended = template.encode(template.text(probes.PLAIN[:2], generation=False).partition(probes.ANSWER)[2])
    added = {i: t for t, i in template.added.items()}
    stop = next((i for i in ended if i in added), None)
    if stop is None:
        return Finding(check="end_token", verdict="fail", explanation="the template ends an answer without a special token")
    if stop == template.eos_id:
        return Finding(
            check="end_token", verdict="ok", explanation=f"{added[stop]!r} (id {stop}) ends an answer, and is declared"
        )
    return Finding(
        check="end_token",
        verdict="warn",
        explanation=f"{added[stop]!r} (id {stop}) ends an answer, but the tokenizer declares {template.eos_token!r}",
        advice="the formats here stop at both; set eos_token and the generation config for other engines",
    )


def _single_ids(template: Template) -> Finding:
    """Tags the template writes should be one id each."""
    spelt = [tag for tag in _TAGS if tag in template.source and template.single(tag) is None]
    if not spelt:
        return Finding(check="single_ids", verdict="ok", explanation="every tag the template writes is one id")
    return Finding(
        check="single_ids",
        verdict="warn",
        explanation=f"{', '.join(spelt)}: spelt with several ids",
        advice="tags are found in the text then, and thoughts cannot be given a budget; add them as tokens to change that",
    )


def _bos(template: Template) -> Finding:
    """A template that writes the beginning-of-text token meets tokenizers that add it again."""
    ids = template.encode_with_specials(template.text(probes.PLAIN[:1]))
    if template.bos_id is not None and ids[:2] == (template.bos_id, template.bos_id):
        return Finding(
            check="bos",
            verdict="warn",
            explanation=f"the template writes id {template.bos_id} and a plain call of the tokenizer adds it once more",
            advice="encode rendered text with add_special_tokens=False, as the formats here do",
        )
    return Finding(check="bos", verdict="ok", explanation="no doubled beginning-of-text token")


def _round_trip(template: Template) -> Finding:
    """Text like a model's must come back from its ids, and its ids from that text."""
    for sample in _SAMPLES:
        ids = template.encode(sample)
        text = template.decode(ids)
        if (where := first_difference(sample, text)) is not None:
            return Finding(
                check="round_trip",
                verdict="warn",
                explanation="encoding changes text, e.g. by normalising it",
                difference=where,
                advice="sampled ids are never encoded again here except at a new root; do not compare texts elsewhere",
            )
        if template.encode(text) != ids:
            return Finding(
                check="round_trip", verdict="warn", explanation=f"{sample!r} has other ids after decoding and encoding"
            )
    return Finding(check="round_trip", verdict="ok", explanation="text like a model's survives ids and back")


def _exact(tokenizer: PreTrainedTokenizerBase, template: Template, retention: Retention | None) -> Finding:
    """Played turn by turn, a conversation must have the ids the template gives it as a whole."""
    chosen = format_for(tokenizer, retention or "preserve")
    trials: list[tuple[Sequence[Message], Sequence[ToolSpec]]] = [(probes.PLAIN, ())]
    if not chosen.notes:
        trials.append((probes.CALLING, probes.TOOLS))
    for conversation, tools in trials:
        played = list(conversation[:1])
        ids = chosen.open(played, tools)
        at = 1
        while at < len(conversation):
            end = next((i for i in range(at + 1, len(conversation)) if conversation[i].role == "assistant"), len(conversation))
            completion, new = chosen.render(conversation[at]), conversation[at + 1 : end]
            played.append(chosen.parse(completion).message)
            extension = chosen.extend(played, tools, completion, new)
            ids = extension.ids if extension.restart else (*ids, *completion, *extension.ids)
            played += new
            at = end
        chat, offered = [as_chat(m) for m in conversation], [as_tool(t) for t in tools] or None
        where = first_difference(template.apply(chat, offered), template.decode(ids))
        if where is not None or ids != template.encode(template.apply(chat, offered)):
            return Finding(
                check="exact",
                verdict="fail",
                explanation="a conversation played turn by turn has other ids than the template gives it",
                difference=where,
                advice="report this template: the format should have refused it",
            )
    return Finding(check="exact", verdict="ok", explanation="played turn by turn, a conversation has the template's own ids")
