from __future__ import annotations

import multiprocessing as mp
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from phronesis.engine.weights.bucket import pack
from phronesis.engine.weights.shared import HEAD, SharedReader, SharedWriter
from phronesis.errors import WeightsError

SPAWN = mp.get_context("spawn")
pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="segments are looked for in /dev/shm")


def net(width=64, value=0.0):
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)
    return model


def fill(model, value):
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)
    return model


def values(model):
    return {v for p in model.parameters() for v in p.unique().tolist()}


def test_what_is_pushed_is_read_and_versions_are_told():
    model, copy = net(), net(value=7.0)
    with SharedWriter(model.named_parameters()) as writer, SharedReader(writer.name) as reader:
        assert reader.version is None and not reader.wait(seconds=0.0)
        with pytest.raises(WeightsError, match="nothing was pushed"):
            reader.load_into(copy)
        for version in (0, 1, 2, 5):
            writer.push(fill(model, float(version)).named_parameters(), version)
            assert reader.version == version and reader.wait(newer_than=version - 1, seconds=0.0)
            assert reader.load_into(copy, check=version % 2 == 0) == version and values(copy) == {float(version)}
            assert reader.copy().version == version
        assert not reader.wait(newer_than=5, seconds=0.01)
        with pytest.raises(WeightsError, match="another model"):
            reader.load_into(nn.Linear(1, 1))
    assert not Path("/dev/shm", writer.name).exists()


def test_bf16_is_half_as_long():
    model, copy = net(value=1.5), net()
    with SharedWriter(model.named_parameters(), dtype=torch.bfloat16) as writer, SharedReader(writer.name) as reader:
        assert writer.layout.nbytes < 0.6 * len(pack(model.named_parameters(), 0))
        writer.push(model.named_parameters(), 1)
        assert reader.load_into(copy) == 1 and values(copy) == {1.5}


def test_what_is_no_segment_of_weights_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no shared segment"):
        SharedReader("phronesis-test-missing")
    alien = Path("/dev/shm", f"phronesis-test-{os.getpid()}")
    for content in (b"", b"x" * 100, bytes(HEAD * 2)):
        alien.write_bytes(content)
        try:
            with pytest.raises(WeightsError, match=r"holds no weights|no shared segment"):
                SharedReader(alien.name)
        finally:
            alien.unlink()
    with SharedWriter(net().named_parameters()) as writer, pytest.raises(WeightsError, match="could be made"):
        SharedWriter(net().named_parameters(), name=writer.name)


def test_a_slot_left_half_written_is_not_read_and_is_written_again():
    model, copy = net(value=1.0), net()
    with SharedWriter(model.named_parameters()) as writer, SharedReader(writer.name) as reader:
        writer.push(model.named_parameters(), 1)
        with pytest.raises(Exception, match="not the tensors"):
            writer.push({"other": torch.zeros(1)}, 2)
        assert reader.load_into(copy) == 1 and values(copy) == {1.0}
        writer.push(fill(model, 3.0).named_parameters(), 3)
        assert reader.load_into(copy) == 3 and values(copy) == {3.0}


def push_for_ever(name_out, stop):
    model = net(256)
    with SharedWriter(model.named_parameters()) as writer:
        name_out.send(writer.name)
        version = 0
        while not stop.is_set():
            version += 1
            writer.push(fill(model, float(version)).named_parameters(), version)


def read_many(name, count, out):
    copy, seen = net(256), []
    with SharedReader(name) as reader:
        reader.wait()
        for i in range(count):
            version = reader.load_into(copy, check=i % 2 == 0)
            found = values(copy)
            if found != {float(version)}:
                out.send(f"version {version} came as a mixture of {sorted(found)}")
                return
            seen.append(version)
    out.send((seen == sorted(seen), len(set(seen))))


def test_no_reader_ever_sees_a_torn_write_while_another_process_pushes_without_rest():
    stop, (mine, theirs) = SPAWN.Event(), SPAWN.Pipe()
    writer = SPAWN.Process(target=push_for_ever, args=(theirs, stop))
    writer.start()
    try:
        assert mine.poll(60)
        name = mine.recv()
        pipes = [SPAWN.Pipe() for _ in range(2)]
        readers = [SPAWN.Process(target=read_many, args=(name, 150, pipe[1])) for pipe in pipes]
        for reader in readers:
            reader.start()
        for ours, _ in pipes:
            assert ours.poll(120)
            ordered, different = ours.recv()
            assert ordered is True and different > 1, "versions never go back, and the writer did push meanwhile"
        for reader in readers:
            reader.join(30)
    finally:
        stop.set()
        writer.join(30)
    assert writer.exitcode == 0 and not Path("/dev/shm", name).exists()


PROGRAM = """
    import sys, time, torch
    from torch import nn
    from phronesis.engine.weights.shared import SharedReader, SharedWriter
    model = nn.Linear(3, 2)
    if sys.argv[1] == "write":
        writer = SharedWriter(model.named_parameters())
        writer.push(model.named_parameters(), 4)
        print(writer.name, flush=True)
        time.sleep(60)
    else:
        reader = SharedReader(sys.argv[2])
        print(reader.load_into(model), flush=True)
        time.sleep(60 if len(sys.argv) > 3 else 0)
"""


def started(*arguments):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def gone(path, seconds=20.0):
    end = time.monotonic() + seconds
    while path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return not path.exists()


def test_a_reader_that_ends_or_is_killed_leaves_the_segment_and_a_killed_writer_leaves_none():
    writer = started("write")
    try:
        name = writer.stdout.readline().strip()
        path = Path("/dev/shm", name)
        with started("read", name) as one:
            assert one.stdout.readline() == "4\n"
        assert one.returncode == 0 and path.exists()
        with started("read", name, "stay") as other:
            assert other.stdout.readline() == "4\n"
            other.send_signal(signal.SIGKILL)
        assert path.exists()
        with SharedReader(name) as reader:
            writer.send_signal(signal.SIGKILL)
            writer.wait(30)
            assert gone(path), "the segment of a killed writer is removed"
            assert reader.load_into(nn.Linear(3, 2)) == 4, "who is attached keeps the last weights"
    finally:
        writer.kill()
        writer.wait(30)
        writer.stdout.close()


def test_a_hidden_segment_is_read_by_those_attached_and_found_by_nobody():
    model = net(value=2.0)
    with SharedWriter(model.named_parameters()) as writer, SharedReader(writer.name) as reader:
        writer.hide()
        writer.push(model.named_parameters(), 1)
        assert reader.load_into(net()) == 1
        with pytest.raises(WeightsError, match="no shared segment"):
            SharedReader(writer.name)
