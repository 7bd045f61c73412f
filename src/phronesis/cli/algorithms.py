"""`phronesis algorithms`: what training can be told to do by one word."""

from __future__ import annotations

from typing import Annotated

import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json, table
from phronesis.config import differences
from phronesis.errors import ConfigError
from phronesis.train import presets, recipes

app = new_app()


@app.command(
    epilog=examples(
        "phronesis algorithms",
        "phronesis algorithms gspo",
        "phronesis algorithms --json",
        "phronesis train quickstart --algorithm gspo",
        "phronesis train quickstart --algorithm opd credit.teacher=runs/other/checkpoints/step-00000040",
    )
)
def algorithms(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Explain this one, and show what it sets.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the algorithms that `phronesis train --algorithm NAME` takes, or explain one.

    An algorithm sets credit, loss, passes, group size, what is left out, and a critic; everything else stays as the recipe or
    file has it. In a TOML file it is one line: algorithm = "gspo". Settings beside it win over it.
    """
    if name is None:
        if as_json:
            say_json([{"name": n, "summary": presets.summary(n), "takes": presets.ingredients(n)} for n in presets.names()])
        else:
            say(table([[n, presets.summary(n)] for n in presets.names()], ["name", "what it does"]))
        return
    changed = changes(name)
    if as_json:
        say_json({"name": name, "explanation": presets.explanation(name), "changes": changed})
        return
    say(presets.explanation(name))
    if changed:
        say("\nAgainst quickstart it sets:")
        say("\n".join(f"  {path} = {value!r}" for path, value in changed.items() if value is not None))


def changes(name: str) -> dict[str, object]:
    """What a preset sets in the quickstart recipe, by dotted path; None where it takes a setting away. Empty where the preset
    needs more than a recipe."""
    base = recipes.get("quickstart")
    try:
        new = presets.apply(name, base)
    except ConfigError:
        return {}
    return {path: after for path, (_, after) in differences(base, new).items() if path != "name"}
