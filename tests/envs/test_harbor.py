"""Harbor task folders: reading, refusals, and over twenty tasks of eight kinds: the solution earns 1 and doing nothing 0."""

from __future__ import annotations

import asyncio

import pytest
from env_scripts import act, call

from phronesis.envs import registry
from phronesis.envs.adapters.harbor_folder import Command, Copied, instructions, read, read_all
from phronesis.envs.check import check, render
from phronesis.envs.scripted import Clock, expert, play_scripted, recorded, reward_of, silent
from phronesis.errors import ConfigError, EnvFault, UnknownName
from phronesis.records import say

TOML = 'schema_version = "1.1"\n[metadata]\ndifficulty = "easy"\n[verifier]\ntimeout_sec = 20.0\n[agent]\ntimeout_sec = 20.0\n'
JUDGE = "if {test}; then echo 1 > /logs/verifier/reward.txt; else echo 0 > /logs/verifier/reward.txt; fi\n"


def write(folder, **files):
    """A task folder; names have __ for / and _dot_ for a full stop."""
    files = {"task_dot_toml": TOML, "environment__Dockerfile": "FROM debian\nWORKDIR /app\n", **files}
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def kinds(root, i):
    """One task of each kind."""
    n = 17 * i + 3
    write(
        root / f"hello-{i}",
        instruction_dot_md=f"Write hello {n} into hello.txt.",
        tests__test_dot_sh=JUDGE.format(test=f'[ "$(cat /app/hello.txt)" = "hello {n}" ]'),
        solution__solve_dot_sh=f"echo hello {n} > hello.txt\n",
    )
    write(
        root / f"copied-{i}",
        instruction_dot_md="Sum the numbers of data/ into sum.txt.",
        environment__Dockerfile='FROM debian\nWORKDIR /app\nCOPY data/ data/\nCOPY note.txt /srv/note.txt\nCMD ["bash"]\n',
        environment__data__a_dot_txt=f"{n}\n",
        environment__data__b_dot_txt="4\n",
        environment__note_dot_txt="kept\n",
        tests__test_dot_sh=JUDGE.format(test=f"grep -qx {n + 4} sum.txt && grep -q kept /srv/note.txt"),
        solution__solve_dot_sh="cat data/*.txt | awk '{s += $1} END {print s}' > sum.txt\n",
    )
    write(
        root / f"built-{i}",
        instruction_dot_md="Double the number in number.txt.",
        environment__Dockerfile=f"FROM debian AS base\nARG N={n}\nENV PLACE=/data/in SUFFIX=.txt\nWORKDIR $PLACE\n"
        "RUN echo $N > number${SUFFIX} && \\\n    chmod 600 number.txt\n",
        tests__test_dot_sh=JUDGE.format(test=f'[ "$(cat number.txt)" = {2 * n} ] && [ "$PLACE" = /data/in ]'),
        solution__solve_dot_sh="echo $(($(cat number.txt) * 2)) > number.txt\n",
    )
    write(
        root / f"python-{i}",
        instruction_dot_md="Mend calc.py.",
        environment__Dockerfile='FROM python:3\nWORKDIR /app\nCOPY ["calc.py", "./"]\n',
        environment__calc_dot_py="def add(a, b):\n    return a - b\n",
        tests__test_dot_sh="cd /app && python3 /tests/test_state.py && R=1\necho ${R:-0} > /logs/verifier/reward.txt\n",
        tests__test_state_dot_py=f"import sys\nsys.path.insert(0, '.')\nimport calc\nassert calc.add({n}, 5) == {n + 5}\n",
        solution__solve_dot_sh="cp /solution/right.py calc.py\n",
        solution__right_dot_py="def add(a, b):\n    return a + b\n",
    )
    write(
        root / f"json-{i}",
        instruction_dot_md=f"Make two files, a and b{n}.",
        tests__test_dot_sh="A=0; B=0; [ -e a ] && A=1; [ -e b* ] && B=1\n"
        'echo "{\\"reward\\": $((A * B)), \\"a\\": $A, \\"b\\": $B}" > /logs/verifier/reward.json\n',
        solution__solve_dot_sh=f"touch a b{n}\n",
    )
    write(
        root / f"separate-{i}",
        task_dot_toml='artifacts = ["/app/out.txt"]\n'
        + TOML.replace("[verifier]", '[verifier]\nenvironment_mode = "separate"'),
        instruction_dot_md=f"Write {n} into out.txt.",
        tests__Dockerfile="FROM debian\nWORKDIR /app\nCOPY key.txt /keys/key.txt\nCOPY test.sh /tests/test.sh\n",
        tests__key_dot_txt=f"{n}\n",
        tests__test_dot_sh=JUDGE.format(test='cmp -s /app/out.txt /keys/key.txt && [ "$(ls /app)" = out.txt ]'),
        solution__solve_dot_sh=f"echo {n} > out.txt; echo rubbish > more.txt\n",
    )
    write(
        root / f"artifacts-{i}",
        task_dot_toml=TOML.replace("[verifier]", f'[verifier]\nenvironment_mode = "separate"\nenv = {{ WANTED = "{n}" }}'),
        tests__Dockerfile="FROM debian\nWORKDIR /app\nCOPY . /tests/\n",
        instruction_dot_md=f"Write {n} into /logs/artifacts/answer.txt.",
        tests__test_dot_sh=JUDGE.format(test='[ "$(cat /logs/artifacts/answer.txt)" = "$WANTED" ]'),
        solution__solve_dot_sh=f"mkdir -p /logs/artifacts; echo {n} > /logs/artifacts/answer.txt\n",
    )
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("harbor")
    for i in range(3):
        kinds(root, i)
    return root


def played(spec, index, speaker):
    async def run():
        found = await play_scripted(spec, spec.task("train", index), 0, speaker, clock=Clock(30))
        return found, (await reward_of(spec, found.episode)).value

    return asyncio.run(run())


def test_the_solution_earns_1_and_nothing_0_on_every_task(folder):
    spec = registry.get("harbor", {"folder": str(folder)})
    assert spec.sizes == {"train": 21}

    async def run():
        found = {}
        for i in range(21):
            task = spec.task("train", i)
            values = []
            for agent in (expert(), silent()):
                episode = (await play_scripted(spec, task, 0, agent, clock=Clock(30))).episode
                values.append((await reward_of(spec, episode)).value)
            found[task.id] = values
        return found

    found = asyncio.run(run())
    assert set(map(tuple, found.values())) == {(1.0, 0.0)}, found


def test_the_contract(folder):
    report = asyncio.run(check(registry.get("harbor", {"folder": str(folder), "heldout": ["hello-1", "json-2"]})))
    assert report.ok, render(report)


def test_a_task_in_both_splits_is_an_error(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, instruction_dot_md="same", tests__test_dot_sh="same")
    with pytest.raises(ConfigError, match="'two', which is held out, is the same as 'one'"):
        registry.get("harbor", {"folder": str(tmp_path), "heldout": ["two"]})
    with pytest.raises(UnknownName, match="held-out task 'three'"):
        registry.get("harbor", {"folder": str(tmp_path), "heldout": ["three"]})


def test_nothing_of_tests_and_solution_is_there_before_the_agent_has_stopped(folder):
    look = "ls -A /tests /solution /logs; find / -xdev -name test.sh -o -name solve.sh 2>/dev/null; pwd; echo $PLACE; cat *"
    spec = registry.get("harbor", {"folder": str(folder)})
    index = next(i for i in range(21) if spec.task("train", i).id == "built-0")
    episode, value = played(spec, index, recorded([act(call("shell", {"command": look})), say("assistant", "Done.")]))
    text = episode.replies[0].messages[0].text
    assert text.endswith("/data/in\n/data/in\n3") and "test.sh" not in text and "solve.sh" not in text and value == 0.0


@pytest.mark.parametrize(
    "command",
    [
        "mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt; echo '{\"reward\": 1}' > /logs/verifier/reward.json",
        "mkdir -p /tests; echo 'echo 1 > /logs/verifier/reward.txt' > /tests/test.sh",
        "(setsid sh -c 'while :; do mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt; done' &); sleep 0.2",
        "rm -rf /logs; ln -s /app /logs; mkdir /app/verifier; echo 1 > /app/verifier/reward.txt",
        "printf 'exit 0' > /app/grep; chmod 755 /app/grep; ln -s /etc/passwd /app/hello.txt",
        "kill -9 -1; kill -9 1",
        "cd /work; cat > tarfile.py <<'E'\nimport os, sys\nsys.stdin.buffer.read()\nos.makedirs('tests', exist_ok=True)\n"
        "open('tests/test.sh', 'w').write('echo 1 > /logs/verifier/reward.txt')\nsys.exit()\nE\n"
        "cp tarfile.py json.py; cp tarfile.py sitecustomize.py; cp tarfile.py sys.pth",
    ],
)
@pytest.mark.parametrize("kind", ["hello-0", "separate-0"])
def test_cheats_earn_nothing(folder, kind, command):
    spec = registry.get("harbor", {"folder": str(folder)})
    index = next(i for i in range(21) if spec.task("train", i).id == kind)
    _, value = played(spec, index, recorded([act(call("shell", {"command": command})), say("assistant", "Done.")]))
    assert value == 0.0


def test_programs_on_the_path_of_the_image_do_not_run_in_place_of_ours(tmp_path):
    write(
        tmp_path / "path",
        instruction_dot_md="",
        environment__Dockerfile="FROM debian\nWORKDIR /app\nENV PATH=/app/bin:$PATH\n",
        tests__test_dot_sh="echo 0 > /logs/verifier/reward.txt\n",
    )
    trojans = (
        "mkdir bin; printf '#!/bin/sh\\necho 1 > /logs/verifier/reward.txt\\n' > bin/bash; chmod 755 bin/bash; "
        "cp bin/bash bin/rm; cp bin/bash bin/mkdir; bash; tr a b < /dev/null && cat /logs/verifier/reward.txt"
    )
    agent = recorded([act(call("shell", {"command": f"mkdir -p /logs/verifier; {trojans}"})), say("assistant", "Done.")])
    found, value = played(registry.get("harbor", {"folder": str(tmp_path)}), 0, agent)
    assert found.replies[0].messages[0].text == "1"  # the rest of PATH is there, behind the image's own
    assert value == 0.0


def test_a_docker_file_is_read_by_hand(tmp_path):
    task = read(kinds(tmp_path, 0) / "built-0")
    (ran,) = task.machine.steps
    assert isinstance(ran, Command) and ran.text == "echo $N > number${SUFFIX} &&     chmod 600 number.txt"
    assert (ran.folder, ran.environment["N"], task.machine.tops) == ("/data/in", "3", ("data", "logs", "solution", "tests"))
    copied = read(tmp_path / "copied-0").machine.steps
    assert [sorted(s.files) for s in copied if isinstance(s, Copied)] == [
        ["/app/data/a.txt", "/app/data/b.txt"],
        ["/srv/note.txt"],
    ]
    assert list(instructions("\n# a\nRUN a \\\n# b\n b\nENV A b c\n")) == [(3, "RUN", "a  b"), (6, "ENV", "A b c")]
    assert [t.name for t in read_all(tmp_path)][:2] == ["artifacts-0", "built-0"] and len(read_all(tmp_path / "json-0")) == 1


REFUSED = {
    "RUN apt-get update && apt-get install -y git": "line 2: RUN 'apt-get update && apt-get install -y git' needs a network",
    "RUN pip install numpy": "needs a network",
    "FROM other": "line 2: several stages",
    "COPY --from=base a b": "COPY --from",
    "COPY missing.txt .": "COPY of 'missing.txt', which is not in the folder",
    "COPY ../task.toml .": "COPY of '../task.toml', which is not in the folder",
    "ADD https://example.org/x .": "needs a network",
    "WORKDIR /usr/src/app": "works in /usr, which is read-only",
    "SHELL [\"bash\"]": "the instruction SHELL",
    "RUN --mount=type=cache true": "RUN with options",
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_what_a_box_cannot_do_is_refused_by_name(tmp_path, line):
    files = {"instruction_dot_md": "", "tests__test_dot_sh": "", "environment__Dockerfile": f"FROM debian\n{line}\n"}
    write(tmp_path / "bad", **files)
    with pytest.raises(ConfigError) as refused:
        registry.get("harbor", {"folder": str(tmp_path)})
    assert "the Harbor task 'bad' cannot be played here" in str(refused.value) and REFUSED[line] in str(refused.value)


@pytest.mark.parametrize(
    ("toml", "why"),
    [
        ("[environment]\ngpus = 1", "gpus"),
        ("[environment]\nmcp_servers = [{ name = 'x' }]", "mcp_servers"),
        ("[[steps]]\nname = 'a'", "steps"),
        ("[verifier]\nenvironment_mode = 'both'", "environment_mode is 'both'"),
        ("[agent]\ntimeout_sec = -1", "timeout_sec is -1"),
        ("environment = 3", "[environment] is no table"),
        ("not toml", "cannot be read"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(tmp_path, toml, why):
    write(tmp_path / "bad", task_dot_toml=toml, instruction_dot_md="", tests__test_dot_sh="")
    with pytest.raises(ConfigError) as refused:
        read(tmp_path / "bad")
    assert why in str(refused.value)


def test_folders_without_tasks_or_without_tests_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no Harbor tasks"):
        registry.get("harbor", {"folder": str(tmp_path)})
    write(tmp_path / "bad", instruction_dot_md="")
    with pytest.raises(ConfigError, match=r"tests/test\.sh is missing"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"), [("nan", "not finite"), ("one", "no number"), ('{"reward": true}', "else than numbers")]
)
def test_tests_that_write_no_number_are_a_fault(tmp_path, text, why):
    write(
        tmp_path / "odd",
        instruction_dot_md="",
        tests__test_dot_sh=f"echo '{text}' | sed s/nan/NaN/ > /logs/verifier/reward.txt\n",
    )
    with pytest.raises(EnvFault, match=why):
        played(registry.get("harbor", {"folder": str(tmp_path)}), 0, silent())


def test_tests_that_write_nothing_and_builds_that_fail(tmp_path):
    write(tmp_path / "mute", instruction_dot_md="", tests__test_dot_sh="exit 1\n")
    found, value = played(registry.get("harbor", {"folder": str(tmp_path / "mute")}), 0, silent())
    assert value == 0.0 and found.replies[0].metrics["no_reward_file"] == 1.0
    files = {
        "environment__Dockerfile": "FROM debian\nRUN echo why >&2; false\n",
        "instruction_dot_md": "",
        "tests__test_dot_sh": "",
    }
    write(tmp_path / "broken", **files)
    with pytest.raises(EnvFault, match="failed: why; a box has no network"):
        played(registry.get("harbor", {"folder": str(tmp_path / "broken")}), 0, silent())
