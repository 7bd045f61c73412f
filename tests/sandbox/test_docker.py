"""Boxes of a container engine, against a stand-in for its client: what is asked of it, and the talk with what it starts."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from phronesis.errors import SandboxFault, SandboxUnavailable
from phronesis.sandbox import BoxSpec
from phronesis.sandbox.docker import Docker


@pytest.fixture
def client(tmp_path):
    place = tmp_path / "docker"
    shutil.copy(Path(__file__).parent / "docker_stand_in.py", place)
    place.chmod(0o755)
    return place


def test_a_container_is_a_box(client):
    async def play():
        docker = Docker(str(client), image="python:test")
        async with await docker.open(BoxSpec(memory=64 << 20, processes=20, disk=1 << 20, files=50)) as box:
            await box.write("a.txt", b"hello")
            ran = await box.run(["cat", "a.txt"], cwd=str(client.parent / "work"))
            return ran, await box.read("a.txt")

    ran, read = asyncio.run(play())
    assert (ran.code, ran.stdout.text, read, ran.isolation) == (0, "hello", b"hello", "docker")
    asked = json.loads((client.parent / "asked.json").read_text())
    options = [tuple(o) for o in asked["options"]]
    assert asked["image"] == "python:test"
    for wanted in (
        ("--network", "none"), ("--read-only", None), ("--cap-drop", "ALL"), ("--security-opt", "no-new-privileges"),
        ("--pull", "never"), ("--user", "65534:65534"),
        ("--memory", str(64 << 20)), ("--memory-swap", str(64 << 20)), ("--pids-limit", "20"),
        ("--tmpfs", "/work:rw,nosuid,nodev,exec,size=1048576,nr_inodes=50,mode=1777"),
    ):  # fmt: skip
        assert wanted in options
    assert next(v for n, v in options if n == "--volume" and not v.endswith(":ro")).endswith(":/run/phronesis")


def test_what_the_engine_refuses_is_told(client):
    with pytest.raises(SandboxFault, match="Unable to find image 'missing' locally"):
        asyncio.run(Docker(str(client), image="missing").open(BoxSpec()))


def test_without_a_client_it_is_unavailable(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SandboxUnavailable, match="docker or podman"):
        Docker()
