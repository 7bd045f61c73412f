"""Messages to ids and back, token-exactly: formats, thinking retention, parsing of tool calls, and a template doctor."""

from phronesis.chat.detect import format_for
from phronesis.chat.doctor import Finding, TemplateReport, diagnose, examine, render_report
from phronesis.chat.format import ChatFormat, Extension, Parsed, Retention
from phronesis.chat.generic import GenericFormat
from phronesis.chat.llama3 import Llama3Format
from phronesis.chat.qwen import QwenFormat

__all__ = [
    "ChatFormat",
    "Extension",
    "Finding",
    "GenericFormat",
    "Llama3Format",
    "Parsed",
    "QwenFormat",
    "Retention",
    "TemplateReport",
    "diagnose",
    "examine",
    "format_for",
    "render_report",
]
