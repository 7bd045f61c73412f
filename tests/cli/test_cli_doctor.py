import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from terminal import Seen

from phronesis.cli.machine import Machine, advise, available_memory, inspect, render
from phronesis.models.tokenizer import save_tokenizer, train_tokenizer

Run = Callable[..., Seen]

FINE = Machine(
    python="3.12.1",
    platform="Linux",
    packages={"torch": "2.6"},
    commit=None,
    cpus=2,
    threads=2,
    omp_wait_policy="passive",
    memory_gib=8.0,
    disk_gib=50.0,
    accelerators=(),
    native="found step.so",
    compiled=True,
)


def test_advice_only_where_something_hurts():
    assert advise(FINE) == ()
    assert advise(msgspec.structs.replace(FINE, memory_gib=None)) == ()
    cases = {
        "torch uses 8 threads on 2 processors": {"threads": 8},
        "OMP_WAIT_POLICY is None": {"omp_wait_policy": None},
        "torch is not installed; pip install torch": {"packages": {"torch": None}},
        "only 0.5 GiB of memory": {"memory_gib": 0.5},
        "only 0.2 GiB are left on this disk": {"disk_gib": 0.2},
        "small models decode several times slower than they could: no C compiler": {
            "native": "no C compiler",
            "compiled": False,
        },
    }
    for text, change in cases.items():
        (line,) = advise(msgspec.structs.replace(FINE, **change))
        assert line.startswith(text)


def test_the_kernels_memory_table(tmp_path: Path):
    table = tmp_path / "meminfo"
    table.write_text("MemTotal:       8388608 kB\nMemAvailable:   3145728 kB\n")
    assert available_memory(table) == 3.0
    assert available_memory(tmp_path / "absent") is None
    table.write_text("MemTotal: 1 kB\n")
    assert available_memory(table) is None


def test_the_report_says_what_was_found(run: Run):
    found = json.loads(run("doctor", "--json").out)
    assert found["python"] == sys.version.split()[0]
    assert found["cpus"] >= 1 and found["disk_gib"] > 0
    assert msgspec.convert(found, Machine).threads == found["threads"] >= 1
    text = run("doctor").out
    assert "processors" in text and found["packages"]["torch"] in text


def test_rendering_ends_with_the_advice():
    assert render(FINE).endswith("\n\nnothing to complain about")
    bad = msgspec.structs.replace(FINE, advice=("do this", "then that"))
    assert render(bad).endswith("\n\nadvice: do this\nadvice: then that")
    assert inspect().python in render(inspect())


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BROKEN = {
    "{{ raise_exception('Roles must\n\n  alternate') }}": (1, "refuses messages with the roles user: Roles must alternate"),
    "{% for m in messages %}\n\n{{ m.role }": (1, "the chat template is broken at line 3: unexpected '}'"),
    "{% if tools %}{{ raise_exception('no\n tools\nhere') }}{% endif %}" + CHAT: (0, "it refuses tools: the chat template"),
}


@pytest.mark.parametrize("source", BROKEN)
def test_a_broken_template_takes_one_line_a_finding(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str):
    tokenizer = train_tokenizer(["Say a."] * 2, 290)
    tokenizer.chat_template = source
    save_tokenizer(tokenizer, tmp_path / "model")
    seen = run("doctor", "template", str(tmp_path / "model"))
    code, said = BROKEN[source]
    assert seen.code == code and said in seen.out
    assert seen.err == "" and caplog.records == []
    head, *lines = seen.out.splitlines()
    assert head.startswith(f"{tmp_path / 'model'}: {'fail' if code else 'warn'} ")
    assert all(line.split()[0] in ("ok", "warn", "fail", "->", "at") for line in lines)


def test_a_folder_without_a_tokenizer_is_told_in_one_line(run: Run, tmp_path: Path):
    (tmp_path / "model").mkdir()
    seen = run("doctor", "template", str(tmp_path / "model"))
    assert seen.code == 2
    assert seen.err == f"error: no 'tokenizer.json' in {str(tmp_path / 'model')!r}; save a fast tokenizer there\n"
    (tmp_path / "model" / "tokenizer.json").write_text("{junk")
    seen = run("doctor", "template", str(tmp_path / "model"))
    assert seen.code == 2 and seen.err.count("\n") == 1 and "JSONDecodeError: Expecting property name" in seen.err
