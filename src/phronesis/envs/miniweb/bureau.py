"""The post office, the tables of the restaurant, and the account."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from phronesis.envs.miniweb.pages import area, box, choice, field, form, hidden, link, page, text
from phronesis.envs.miniweb.tasks import DAYS, LANGUAGES
from phronesis.tools.browser import Request, Response

if TYPE_CHECKING:
    from phronesis.envs.miniweb.town import Town


def _thanks(what: str) -> Response:
    said = (text(f"Done: {what}."), text("All is settled. You will hear from us."))
    return Response(body=page("Thank you", *said), effect="irreversible")


def _missing(what: str) -> Response:
    return Response(body=page("Not found", text(f"There is no such {what}.")), status=404)


# ---------------------------------------------------------------------------------------------- mail


def mail_of(town: Town, id: str) -> dict[str, Any] | None:
    """The mail of a number, unless it was deleted."""
    gone = town.state["deleted"]
    return next((m for m in town.world["mails"] if m["id"] == id and id not in gone), None)


def inbox(town: Town, asked: Request) -> Response:
    """What has arrived."""
    away = set(town.state["deleted"]) | set(town.state["archived"])
    rows = "".join(
        f"<tr><td>{m['sender']}</td><td>{link('/mail/read?id=' + m['id'], m['subject'])}</td></tr>"
        for m in town.world["mails"] if m["id"] not in away
    )  # fmt: skip
    return Response(body=page("Mail", f"<table><tr><th>from</th><th>about</th></tr>{rows}</table>"))


def letter(town: Town, asked: Request) -> Response:
    """One mail."""
    mail = mail_of(town, asked.query.get("id", ""))
    if mail is None:
        return _missing("mail")
    id = hidden("id", mail["id"])
    acts = (
        f"<p>{link('/mail/reply?id=' + mail['id'], 'Reply')}</p>",
        form("/mail/archive", town.token(), "Archive", id),
        form("/mail/delete", town.token(), "Delete for ever", id),
    )
    return Response(body=page(f"About {mail['subject']}", text(f"From {mail['sender']}."), text(mail["body"]), *acts))


def archive(town: Town, asked: Request) -> Response:
    """Puts a mail away."""
    mail = mail_of(town, asked.form.get("id", ""))
    if mail is None or mail["id"] in town.state["archived"]:
        return _missing("mail")
    town.state["archived"].append(mail["id"])
    return Response(body=page("Archived", text("The mail is in the archive.")), effect="mutating")


def delete(town: Town, asked: Request) -> Response:
    """Deletes a mail for ever."""
    mail = mail_of(town, asked.form.get("id", ""))
    if mail is None:
        return _missing("mail")
    town.state["deleted"].append(mail["id"])
    town.state["archived"] = [id for id in town.state["archived"] if id != mail["id"]]
    return _thanks("the mail is gone")


def reply(town: Town, asked: Request) -> Response:
    """The form that answers a mail."""
    mail = mail_of(town, asked.query.get("id", ""))
    return _missing("mail") if mail is None else Response(body=_reply(town, mail))


def _reply(town: Town, mail: dict[str, Any], complaint: str = "") -> str:
    said = text(complaint) if complaint else ""
    write = form("/mail/send", town.token(), "Send", hidden("id", mail["id"]), area("Your answer", "body"))
    return page(f"Reply to {mail['sender']}", said, text(f"About {mail['subject']}."), write)


def send(town: Town, asked: Request) -> Response:
    """Sends an answer."""
    mail, body = mail_of(town, asked.form.get("id", "")), asked.form.get("body", "").strip()
    if mail is None:
        return _missing("mail")
    if not body:
        return Response(body=_reply(town, mail, "The answer is empty."))
    town.state["sent"].append({"mail": mail["id"], "body": body})
    return _thanks("your answer is on its way")


# ---------------------------------------------------------------------------------------------- tables


def tables(town: Town, asked: Request) -> Response:
    """The times of a day and how many places are left."""
    day = asked.query.get("day", DAYS[0])
    if day not in DAYS:
        return _missing("day")
    days = " ".join(link(f"/booking?day={d}", d) for d in DAYS)
    rows = "".join(
        f"<tr><td>{s['time']}</td><td>{town.state['free'][s['id']]} places</td>"
        f"<td>{link('/booking/table?id=' + s['id'], 'Reserve')}</td></tr>"
        for s in town.world["slots"] if s["day"] == day
    )  # fmt: skip
    return Response(body=page(f"Tables on {day}", f"<p>{days}</p><table>{rows}</table>"))


def table(town: Town, asked: Request) -> Response:
    """The form that reserves."""
    return _table(town, asked.query.get("id", ""))


def _table(town: Town, id: str, complaint: str = "") -> Response:
    slot = next((s for s in town.world["slots"] if s["id"] == id), None)
    if slot is None:
        return _missing("table")
    said = text(complaint) if complaint else ""
    fields = (hidden("id", id), choice("People", "people", [str(n) for n in range(1, 9)], "1"), field("Name", "name"))
    free = text(f"{town.state['free'][id]} places are left. A reservation is binding.")
    return Response(
        body=page(f"{slot['day']}, {slot['time']}", said, free, form("/booking/reserve", town.token(), "Reserve", *fields))
    )


def reserve(town: Town, asked: Request) -> Response:
    """Reserves places at a table."""
    id, people, name = asked.form.get("id", ""), asked.form.get("people", ""), " ".join(asked.form.get("name", "").split())
    if id not in town.state["free"]:
        return _missing("table")
    if not re.fullmatch("[1-8]", people) or not name:
        return _table(town, id, "A name and a number of people are needed.")
    if int(people) > town.state["free"][id]:
        return _table(town, id, "There is not enough room.")
    town.state["free"][id] -= int(people)
    town.state["reserved"].append({"slot": id, "people": int(people), "name": name})
    return _thanks(f"the table is reserved for {people}")


# ---------------------------------------------------------------------------------------------- account


def account(town: Town, asked: Request) -> Response:
    """The form of the account."""
    return Response(body=_account(town))


def _account(town: Town, complaint: str = "") -> str:
    now = town.state["account"]
    fields = (
        field("Email", "email", now["email"]),
        field("Phone", "phone", now["phone"]),
        choice("Language", "language", LANGUAGES, now["language"]),
        box("Send me the newsletter", "newsletter", now["newsletter"]),
    )
    said = text(complaint) if complaint else ""
    return page("Account", said, form("/account/save", town.token(), "Save", *fields))


def save(town: Town, asked: Request) -> Response:
    """Changes the account."""
    told = {name: value.strip() for name, value in asked.form.items()}
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", told.get("email", "")) or told.get("language") not in LANGUAGES:
        return Response(body=_account(town, "That is no email address."))
    fresh = {"email": told["email"], "phone": told.get("phone", ""), "newsletter": told.get("newsletter") == "yes"}
    town.state["account"] = {**fresh, "language": told["language"]}
    return Response(body=_account(town, "Saved. All is settled."), effect="mutating")


PAGES: dict[tuple[str, str], Callable[[Town, Request], Response]] = {
    ("GET", "/mail"): inbox,
    ("GET", "/mail/read"): letter,
    ("POST", "/mail/archive"): archive,
    ("POST", "/mail/delete"): delete,
    ("GET", "/mail/reply"): reply,
    ("POST", "/mail/send"): send,
    ("GET", "/booking"): tables,
    ("GET", "/booking/table"): table,
    ("POST", "/booking/reserve"): reserve,
    ("GET", "/account"): account,
    ("POST", "/account/save"): save,
}
