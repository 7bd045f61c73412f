"""Every error the library raises, as one tree.

PhronesisError
├── UserError                the caller can fix it: the CLI prints the message and exits with code 2
│   ├── ConfigError          unknown key, impossible value or combination
│   │   └── GroupTooSmall    a group baseline over a group of one
│   ├── UnknownName          no recipe, environment or field of that name (suggests near ones)
│   ├── CheckpointError      a checkpoint that is missing, corrupt or of an unsupported architecture
│   │   └── UnsupportedModel a sound checkpoint of a model that the compact decoder does not compute
│   ├── RunFolderError       a run folder that is missing, corrupt or belongs to another run
│   │   └── DiskError        a run folder that cannot be written: a full disk, missing permissions, a limit of the system
│   ├── SandboxUnavailable   this machine cannot isolate as strongly as is asked
│   └── TemplateError        a tokenizer or chat template that cannot be used token-exactly
├── ToolError                a tool call the policy got wrong; its text goes back to the policy, nothing is broken
├── EpisodeFault             something broke inside one episode; recorded as `Episode.failure`, never raised by play
│   ├── EnvFault             the environment, tool or rubric raised, hung or broke its contract
│   │   └── ServiceFault     an environment service is gone, full or cannot be reached; another one may play the episode
│   ├── PolicyFault          the engine failed to answer
│   │   └── EndpointFault    an HTTP endpoint failed to answer, all its retries included
│   └── SandboxFault         a sandbox broke, not the command in it
├── ClusterError             no worker elsewhere is left to play, or one failed in a way that says nothing about an episode
├── WeightsError             weights that arrived damaged, or that are another model's; the old ones stay in place
├── WireError                JSON of a chat endpoint that is not what its format says; names the field
├── AllFaulted               every episode of a phase was a fault: nothing to learn from, nothing to count
│   └── SourceDown           an environment or the policy gave nothing but faults for too long
└── TrainingError            the trainer stops rather than learn from wrong numbers
    ├── Overdue              a phase of a step gave no result within its limit
    ├── MismatchError        recomputed log-probabilities disagree with the recorded ones
    ├── Untrainable          a turn without ids, of a policy that only takes messages
    └── RankFailed           a process of a learner group died, broke or did not answer
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PhronesisError(Exception):
    """Base of all errors of this library."""


class UserError(PhronesisError):
    """The input is wrong and the message says what to change; the CLI exits with code 2."""


class ConfigError(UserError):
    """An unknown key, or a value or combination that cannot work."""


class GroupTooSmall(ConfigError):
    """A baseline that compares episodes of a group was given a group of one."""


class UnknownName(UserError):
    """A name that is not known, with the nearest known ones. Dotted names are compared by their last part."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        names = sorted(known)
        last = {n: n.rpartition(".")[2].lower() for n in names}
        near_last = get_close_matches(name.rpartition(".")[2].lower(), list(dict.fromkeys(last.values())), n=3, cutoff=0.6)
        near = [n for part in near_last for n in names if last[n] == part][:3]
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(names) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")
        self.kind, self.name, self.known, self.near = kind, name, names, near

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return type(self), (self.kind, self.name, self.known)


class CheckpointError(UserError):
    """A checkpoint that is missing, corrupt, of an architecture that is not supported, or that cannot be written."""


class UnsupportedModel(CheckpointError):
    """A checkpoint of an architecture or variant that the compact decoder does not compute; the generic path may."""


class RunFolderError(UserError):
    """A run folder that is missing, corrupt or not the one expected."""


class DiskError(RunFolderError):
    """A run folder that cannot be written: a full or failing disk, missing permissions, a limit of the system. What was
    written before is whole."""


class SandboxUnavailable(UserError):
    """This machine cannot isolate commands as strongly as is asked."""


class TemplateError(UserError):
    """A tokenizer or chat template that cannot be used token-exactly; says why."""


class ToolError(PhronesisError):
    """A tool call that cannot be done as asked. The text goes back to the policy, which may try again; `kind` is counted.

    A tool raises it to refuse: ``raise ToolError("no page 7; the last page is 5")``.
    """

    def __init__(self, message: str, kind: str = "tool_raised"):
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[ToolError], tuple[str, str]]:
        return type(self), (str(self), self.kind)


class EpisodeFault(PhronesisError):
    """Something broke inside one episode. `play` records it and never raises it."""


class EnvFault(EpisodeFault):
    """The environment, a tool or the rubric raised, hung or broke its contract."""


class ServiceFault(EnvFault):
    """A service that plays an environment elsewhere is gone, full or cannot be reached. The world itself did nothing wrong, so
    the same task can be played at another service."""


class PolicyFault(EpisodeFault):
    """The engine failed to answer a request."""


class EndpointFault(PolicyFault):
    """An HTTP endpoint failed to answer. The message names address, status, what the server said and what to do."""

    def __init__(self, message: str, *, url: str = "", status: int | None = None, reason: str = "", attempts: int = 1):
        """What went wrong.

        Args:
            message: for people.
            url: address without user, password and query.
            status: HTTP status; None when there was no answer.
            reason: short name for counting, e.g. ``429``, ``ConnectError`` or ``malformed``.
            attempts: requests sent.
        """
        super().__init__(message)
        self.url, self.status, self.reason, self.attempts = url, status, reason, attempts

    def __reduce__(self) -> tuple[object, ...]:
        return _endpoint_fault, (str(self), self.url, self.status, self.reason, self.attempts)


def _endpoint_fault(message: str, url: str, status: int | None, reason: str, attempts: int) -> EndpointFault:
    return EndpointFault(message, url=url, status=status, reason=reason, attempts=attempts)


class SandboxFault(EpisodeFault):
    """A sandbox broke: not the command in it, but what runs it."""


class WeightsError(PhronesisError):
    """Weights that arrived damaged, incomplete or unauthorised, or that are another model's; the model keeps what it had."""


class WireError(PhronesisError):
    """JSON of a chat endpoint, request or reply, that is not what its format says.

    >>> WireError("messages[2].role", "expected a role, got 7").field
    'messages[2].role'
    """

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field, self.problem = field, problem

    def __reduce__(self) -> tuple[type[WireError], tuple[str, str]]:
        return type(self), (self.field, self.problem)


class ClusterError(PhronesisError):
    """No worker of a cluster is left and none will come, or one failed in a way that says nothing about an episode."""


class AllFaulted(PhronesisError):
    """Every episode that was played ended in a fault, in training or in evaluation; names the first cause."""


class SourceDown(AllFaulted):
    """An environment, its rubric or the policy gave nothing but faults for as long as the run is patient; resume it later."""


class TrainingError(PhronesisError):
    """The trainer stops rather than learn from wrong numbers."""


class MismatchError(TrainingError):
    """The learner's recomputed log-probabilities disagree with the behaviour log-probabilities."""


class Overdue(TrainingError):
    """A phase that awaits foreign code, e.g. credit that re-runs episodes, gave no result within its limit."""


class Untrainable(TrainingError):
    """A turn of a policy that takes and gives messages only: it has no ids, so nothing can be learned from it."""


class RankFailed(TrainingError):
    """A process of a learner group died, broke or did not answer; names it and says what it last wrote."""


def one_line(error: BaseException, most: int = 240) -> str:
    """What an error of foreign code says, on one line of at most `most` characters.

    >>> one_line(ValueError("roles must alternate\\n\\n  user/assistant"))
    'roles must alternate user/assistant'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 1]}…"
