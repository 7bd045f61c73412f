"""Frozen values that flow through the system. No torch, no numpy, no behaviour beyond derived properties."""

from phronesis.records.batch import Batch, Segment
from phronesis.records.conversation import Conversation
from phronesis.records.credit import Credit
from phronesis.records.episode import Episode, EpisodeGroup, Failure
from phronesis.records.message import ImagePart, Message, Part, Role, TextPart, ToolCall, ToolSpec, say
from phronesis.records.reward import Component, Reward
from phronesis.records.task import Task
from phronesis.records.turn import Effect, Finish, Reply, Span, SpanKind, Stop, Turn, Usage, total

__all__ = [
    "Batch",
    "Component",
    "Conversation",
    "Credit",
    "Effect",
    "Episode",
    "EpisodeGroup",
    "Failure",
    "Finish",
    "ImagePart",
    "Message",
    "Part",
    "Reply",
    "Reward",
    "Role",
    "Segment",
    "Span",
    "SpanKind",
    "Stop",
    "Task",
    "TextPart",
    "ToolCall",
    "ToolSpec",
    "Turn",
    "Usage",
    "say",
    "total",
]
