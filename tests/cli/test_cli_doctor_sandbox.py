"""`phronesis doctor sandbox`: what it says of each way of isolating, and when it fails."""

import json
from collections.abc import Callable

import pytest
from terminal import Seen

from phronesis.cli import sandbox
from phronesis.sandbox import Found, Guarantees

Run = Callable[..., Seen]
PROMISES = ("files", "network", "processes", "calls", "user", "kill", "disk")
ALL = Guarantees(tier="namespaces", memory="cgroup", note="by root", **dict.fromkeys(PROMISES, True))
NONE = Guarantees(tier="process", memory="polled", note="nothing", **{**dict.fromkeys(PROMISES, False), "kill": True})


def surveyed(monkeypatch: pytest.MonkeyPatch, *found: Found) -> None:
    async def survey() -> list[Found]:
        return list(found)

    monkeypatch.setattr(sandbox, "survey", survey)


def test_it_says_what_is_promised_what_is_not_and_why(run: Run, monkeypatch: pytest.MonkeyPatch):
    surveyed(monkeypatch, Found("namespaces", ALL, ""), Found("docker", None, "no engine\nat all"), Found("process", NONE, ""))
    seen = run("doctor", "sandbox")
    assert seen.code == 0
    assert "namespaces  files, network, processes, calls, user, kill, disk; memory cgroup" in seen.out
    assert "docker      not here: no engine\n" in seen.out
    assert "process     kill; memory polled; NOT files, network, processes, calls, user, disk" in seen.out
    assert "used where nothing else is asked for: namespaces" in seen.out


def test_it_fails_where_nothing_isolates(run: Run, monkeypatch: pytest.MonkeyPatch):
    surveyed(monkeypatch, Found("namespaces", None, "not permitted"), Found("process", NONE, ""))
    seen = run("doctor", "sandbox")
    assert seen.code == 1
    assert "nothing here isolates" in seen.out
    as_json = run("doctor", "sandbox", "--json")
    assert as_json.code == 1
    assert [t["reason"] for t in json.loads(as_json.out)["tiers"]] == ["not permitted", ""]
