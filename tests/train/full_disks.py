"""``full_disks.py FOLDER TROUBLE MOMENT...``: runs whose disk fails at a moment of choice, resumed when it works.

TROUBLE is real, only its moment is chosen: ``full`` fills the small file system that FOLDER lies on; ``limit`` is a limit of
the system on the size of files (0 bytes: nothing can be written); ``torn`` lets one more byte into the file in question;
``readonly`` takes the right to write away from all folders of the run, of which root takes no notice: this process becomes
somebody else first. MOMENT names what is about to be written.

Everything is imported once; every run, and every resumption, is a fork of this process. Prints as JSON, for every moment, the
error's class and message, the step of the newest checkpoint as it was loaded, how the resumed run ended, and a hash of all that
it must have in common with a run without trouble; and under ``""`` the hash of such a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import torch
from tiny_jobs import config, essence

from phronesis.alive.verdict import look
from phronesis.cli.report import write as write_report
from phronesis.errors import UserError
from phronesis.log import setup
from phronesis.store import lock, run
from phronesis.store.frames import AppendFile
from phronesis.train import checkpoint, job, phases, state

NOBODY = 65534


class Trouble:
    """Strikes once, before call number `nth` of something."""

    def __init__(self, kind: str, folder: Path):
        self.kind, self.folder, self.struck = kind, folder, False

    def strike(self, size: int = 0) -> None:
        """From here on nothing can be written."""
        self.struck = True
        if self.kind in ("limit", "torn"):
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1 if self.kind == "torn" else 0, hard))
        elif self.kind == "readonly":
            for path in [self.folder, *self.folder.rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
        else:
            with (self.folder.parent / "ballast").open("wb", buffering=0) as file:
                for block in (2**16, 2**10, 1):
                    try:
                        while True:
                            file.write(bytes(block))
                    except OSError:
                        continue

    def heal(self) -> None:
        """All is well again."""
        (self.folder.parent / "ballast").unlink(missing_ok=True)
        for path in [self.folder, *self.folder.rglob("*")] if self.kind == "readonly" else []:
            path.chmod(0o755 if path.is_dir() else 0o644)

    def before(self, owner: object, name: str, when: Callable[..., bool] = lambda *given: True, nth: int = 1) -> None:
        """Strikes before the nth call of a function that `when` picks."""
        whole, calls = getattr(owner, name), 0

        def wrapped(*given, **named):
            nonlocal calls
            if when(*given):
                calls += 1
                if calls == nth and not self.struck:
                    first = given[0] if given else None
                    self.strike(first.size if isinstance(first, AppendFile) else 0)
            return whole(*given, **named)

        setattr(owner, name, wrapped)


def named(text: str) -> Callable[..., bool]:
    """Picks calls whose first argument is a path, or a file, of that name."""
    return lambda first, *rest: text in str(getattr(first, "path", first))


def arm(trouble: Trouble, moment: str) -> None:
    """Lets trouble strike before that is written."""
    moments: dict[str, tuple[object, str, Callable[..., bool], int]] = {
        "lock": (lock, "_try", lambda *given: True, 1),
        "code": (run, "write_whole", named("code.json"), 1),
        "config": (run, "write_whole", named("config.toml"), 1),
        "tokenizer": (state, "save_tokenizer", lambda *given: True, 1),
        "generation": (state, "save_generation", lambda *given: True, 1),
        "event": (AppendFile, "append", named("events.jsonl"), 8),
        "priming": (AppendFile, "append", named("metrics.jsonl"), 2),
        "metrics": (AppendFile, "append", named("metrics.jsonl"), 25),
        "new file": (run.RunWriter, "append", lambda *given: True, 1),
        "first episode": (AppendFile, "append", named("heldout_before-"), 1),
        "episode": (AppendFile, "append", named("train-"), 20),
        "phases": (phases, "write_whole", named("phases.json"), 4),
        "first checkpoint": (checkpoint, "save_model", lambda *given: True, 1),
        "weights": (checkpoint, "save_model", lambda *given: True, 2),
        "optimiser": (checkpoint.torch, "save", lambda *given: True, 2),
        "manifest": (checkpoint, "_digest", named("step-00000002"), 1),
        "publish": (checkpoint, "_publish", lambda *given: True, 2),
        "evaluation": (AppendFile, "append", named("heldout_after-"), 2),
        "summary": (run, "write_whole", named("summary.json"), 1),
        "report": (job, "summarise_run", lambda *given: False, 1),
    }
    trouble.before(*moments[moment])


def child(work: Callable[[], str]) -> str:
    """Does something in a fork of this process and returns what it says; '' when it died."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said


def interrupted(trouble: Trouble, moment: str) -> str:
    """A run with trouble, until its error."""
    try:
        if moment == "report":
            job.run(config(), trouble.folder)
            trouble.strike()
            write_report(trouble.folder)
        else:
            arm(trouble, moment)
            job.run(config(), trouble.folder)
    except UserError as error:
        return json.dumps({"error": type(error).__name__, "message": str(error)})
    except BaseException as error:
        return json.dumps({"error": f"not typed: {type(error).__name__}", "message": str(error)})
    return json.dumps({"error": "none", "message": f"struck: {trouble.struck}"})


def resumed(folder: Path) -> str:
    """The same run, to its end."""
    try:
        job.run(config(), folder, resume=(folder / "config.toml").exists())
        write_report(folder)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "finished"


def judged(folder: Path) -> str:
    """What `phronesis status` says."""
    try:
        found = look(folder)
    except UserError:
        return "no run"
    return f"{found.state}: {found.why}"


def newest(folder: Path) -> str:
    """The newest checkpoint, read."""
    path = checkpoint.latest(folder / "checkpoints")
    return "none" if path is None else f"step {checkpoint.load(path).manifest.step}"


def digest(folder: Path) -> str:
    """What two runs of one config must agree on, in short."""
    found = essence(folder, config().steps)
    found["episodes"] = sorted(found["episodes"].items())  # in whatever order they were written
    return hashlib.sha256(repr(found).encode()).hexdigest()


def main(arguments: list[str]) -> None:
    """One run after the other."""
    folder, kind, moments = Path(arguments[0]), arguments[1], arguments[2:]
    torch.set_num_threads(1)
    setup(level=40)
    with TemporaryDirectory() as spare:  # what is imported and compiled late is there before
        job.run(config(), Path(spare) / "run")
        write_report(Path(spare) / "run")
        found: dict[str, dict[str, str]] = {"": {"essence": digest(Path(spare) / "run")}}
    if kind == "readonly" and os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    for moment in moments:
        trouble = Trouble(kind, folder / moment.replace(" ", "-"))
        said = child(lambda trouble=trouble, moment=moment: interrupted(trouble, moment))
        entry: dict[str, str] = json.loads(said or '{"error": "died", "message": ""}')
        entry["status"] = child(lambda trouble=trouble: judged(trouble.folder))
        entry["checkpoint"] = child(lambda trouble=trouble: newest(trouble.folder))
        trouble.heal()
        entry["resumed"] = child(lambda trouble=trouble: resumed(trouble.folder))
        entry["essence"] = child(lambda trouble=trouble: digest(trouble.folder))
        found[moment] = entry
        rmtree(trouble.folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
