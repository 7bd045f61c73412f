"""The browser: pages as text, forms as browsers send them, a real Chromium that gives the same text, and attacks out of it."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.chat.template import plain
from phronesis.errors import ConfigError, EnvFault, TemplateError, ToolError
from phronesis.pictures import SHELF, ImageShelf
from phronesis.records import ImagePart, Message, TextPart
from phronesis.tool import Picture, as_tool, tool
from phronesis.tools.browser import BrowserTools, ChromiumView, Node, PlainView, Response, chromium, outline, worker
from phronesis.tools.browser.markup import read
from phronesis.tools.browser.site import request

HOST = "shop.test"
FORM = """<title>Form</title><h2>Order</h2><form method=post action=/send><input type=hidden name=t value=7>
<p>Name: <input name=name placeholder='your name'> <textarea name=note>old</textarea></p>
<label><input type=checkbox name=gift value=yes checked> gift</label>
<input type=radio name=size value=s> small <input type=radio name=size value=l checked> large
<select name=colour><option>red<option value=b selected>blue</select><input name=off disabled value=x>
<button name=go value=1>Send</button> <button type=button>Nothing</button></form><a href='http://elsewhere.test/x'>away</a>"""

needs_chromium = pytest.mark.skipif(
    not any(os.access(p, os.X_OK) for p in chromium.PLACES) and shutil.which("chromium") is None, reason="no chromium"
)


def form_site(log):
    def site(asked):
        log.append((asked.method, asked.path, dict(asked.query), dict(asked.form)))
        if asked.path == "/send":
            return Response(body="<title>Sent</title><p>thanks", effect="irreversible")
        return Response(body=FORM if asked.path == "/form" else "<p>home <a href=/form>form</a>")

    return site


async def script(view):
    """The same acts in any view, and the texts they gave."""
    tools = {t.spec.name: t for t in BrowserTools(view).tools()}
    said = []
    for name, arguments in [
        ("goto", {"url": "/"}), ("click", {"id": 1}), ("type", {"id": 1, "text": "Ada\nL & Co"}),
        ("type", {"id": 2, "text": "two\nlines"}), ("click", {"id": 3}), ("click", {"id": 4}),
        ("select", {"id": 6, "option": "red"}), ("click", {"id": 9}), ("click", {"id": 10}), ("click", {"id": 7}),
        ("type", {"id": 3, "text": "x"}), ("select", {"id": 6, "option": "green"}), ("click", {"id": 44}),
        ("goto", {"url": "file:///etc/passwd"}), ("goto", {"url": "javascript:alert(1)"}), ("click", {"id": 8}), ("back", {}),
        ("back", {}), ("back", {}), ("scroll", {"direction": "down"}),
    ]:  # fmt: skip
        try:
            said.append(await tools[name].call(arguments))
        except ToolError as error:
            said.append(f"error: {error}")
    await view.close()
    return said


EXPECTED = """Page: Form (/form)
## Order
Name: [1 field "Ada L & Co"] [2 field "two lines"]
[3 checkbox off] gift [4 radio on] small [5 radio off] large [6 select "red" of red | blue] \
[7 field, disabled "x"] [8 button] Send [9 button] Nothing
[10 link] away"""


def test_pages_and_forms_without_a_browser():
    log = []
    said = asyncio.run(script(PlainView(form_site(log), HOST)))
    assert said[0] == "Page: untitled (/)\nhome [1 link] form"
    assert '[1 field "" (your name)] [2 field "old"]' in said[1] and '[6 select "blue" of red | blue]' in said[1]
    assert said[6].replace("AdaL", "Ada L") == EXPECTED and said[7] == said[6]
    assert said[8] == "(blocked: http://elsewhere.test/x is outside of this site)\n" + said[6]
    assert said[9:15] == [
        "error: element 7 is disabled",
        "error: element 3 is a checkbox, not a field",
        "error: no option 'green'; the options are: red, blue",
        "error: there is no element 44; this page has 1 to 10",
        "error: only pages of http://shop.test/ can be opened; got 'file:///etc/passwd'",
        "error: only pages of http://shop.test/ can be opened; got 'javascript:alert(1)'",
    ]
    assert said[15] == "Page: Sent (/send)\nthanks"
    sent = {"t": "7", "name": "AdaL & Co", "note": "two\nlines", "size": "s", "colour": "red", "go": "1"}
    assert log[2] == ("POST", "/send", {}, sent)
    assert "Page: Form" in said[16] and "home" in said[17] and said[18] == "error: there is no page before this one"


@needs_chromium
def test_chromium_gives_the_same_texts_and_sends_the_same_requests():
    plainly, really = [], []
    expected = asyncio.run(script(PlainView(form_site(plainly), HOST)))
    assert asyncio.run(script(ChromiumView(form_site(really), HOST))) == expected
    assert really == plainly


ODD = ("é ü", "a~b*c'd()", "<b>&amp;</b>", "a\u2028b\x0bc\x85d", "  two  ", "%41\\", "\U0001f600\x7f\x01")
ADDRESSES = (
    "/find?a=é b\"<>'~*{}|^`", "/é b\"<>'~*{}|^`[]", "/%2e%2E/find/.", "/a/./b/../c", "http://shop.test", "/find?", "/find#x", "#y",
    "/%zz?b=%zz", "/moved", "/away", "?c=1", "//find", "/empty",
)  # fmt: skip


def odd_site(log):
    def site(asked):
        log.append((asked.method, asked.path, dict(asked.query), dict(asked.form)))
        if asked.path in ("/moved", "/away"):
            where = "/find?x=1" if asked.path == "/moved" else "http://elsewhere.test/"
            return Response(body="", status=302, headers={"Location": where})
        if asked.path == "/empty":
            return Response(body="", status=404)
        return Response(body="<form action='/find?gone=1#gone'><input name=a><textarea name=b></textarea><button>Go</button></form>"
                        "<form><button>Nothing</button></form><a href='#here'>here</a> <a href='/é?ü=~'>there</a>")  # fmt: skip

    return site


@needs_chromium
def test_odd_words_and_addresses_are_written_alike():
    async def odd(view):
        tools, said = {t.spec.name: t for t in BrowserTools(view).tools()}, []
        acts = [("goto", {"url": url}) for url in ADDRESSES]
        for n in (4, 5, 6):
            acts += [("goto", {"url": "/"}), ("click", {"id": n}), ("back", {})]
        for text in ODD:
            acts += [
                ("goto", {"url": "/"}),
                ("type", {"id": 1, "text": text}),
                ("type", {"id": 2, "text": text}),
                ("click", {"id": 3}),
            ]
        for name, arguments in acts:
            try:
                said.append(await tools[name].call(arguments))
            except ToolError as error:
                said.append(f"error: {error}")
        await view.close()
        return said

    plainly, really = [], []
    expected = asyncio.run(odd(PlainView(odd_site(plainly), HOST)))
    assert asyncio.run(odd(ChromiumView(odd_site(really), HOST))) == expected
    assert really == plainly
    assert expected[2].startswith("Page: untitled (/find/)") and expected[4].startswith("Page: untitled (/)")
    assert expected[10].startswith("(blocked: http://shop.test/away is outside of this site)")
    assert {"a": "%41\\", "b": "%41\\"} in [query for _, _, query, _ in plainly]


TAGS = st.sampled_from(["p", "div", "a href=/x", "b", "li", "select", "option"])
WRAPPED = lambda inner: st.builds(lambda tag, kids: f"<{tag}>{''.join(kids)}</{tag}>", TAGS, st.lists(inner, max_size=3))  # noqa: E731


@given(st.recursive(st.text(max_size=5), WRAPPED, max_leaves=8))
def test_any_text_is_read(html):
    found = outline(read(html).tree, every=True)
    assert [e.id for e in found.elements] == list(range(1, len(found.elements) + 1))
    assert all("\n" not in line for line in found.lines)


def test_long_pages_are_shown_in_parts():
    site = lambda asked: Response(body="".join(f"<p>line {n}" for n in range(150)))  # noqa: E731

    async def run():
        view = PlainView(site, HOST)
        await view.goto("/")
        texts = [view.text()]
        for down in (True, True, True, False):
            await view.scroll(down)
            texts.append(view.text())
        again = PlainView(site, HOST)
        again.put(view.state())
        return texts, again.text() == view.text()

    texts, equal = asyncio.run(run())
    heads = [t.splitlines()[1:3] for t in texts]
    assert heads[0] == ["line 0", "line 1"] and texts[0].endswith("(90 lines below: scroll)")
    assert [h[0] for h in heads[1:]] == ["(55 lines above)", "(90 lines above)", "(90 lines above)", "(35 lines above)"]
    assert "line 149" in texts[2] and equal


def test_every_element_can_be_numbered():
    tree = Node(
        "div", {}, [Node("span", {"class": "x"}, ["one"]), Node("circle", {"r": "3"}, []), Node("p", {"hidden": ""}, ["no"])]
    )
    assert outline(tree).elements == ()
    assert outline(tree, every=True).lines == ("[1] one [2](circle r=3)",)


def test_requests_are_read_once():
    found = request("POST", "http://shop.test/a?x=1&x=2&y=", "k=a%0D%0Ab&%C3%A4=1")
    assert (found.path, found.query, found.form) == ("/a", {"x": "2", "y": ""}, {"k": "a\nb", "ä": "1"})


# ---------------------------------------------------------------------------------------------- pictures


def test_a_tool_may_answer_with_text_and_pictures():
    @tool
    def look() -> tuple[str, Picture]:
        """Looks."""
        return "here", Picture(b"\x89PNG bytes")

    parts = asyncio.run(as_tool(look).parts({}))
    assert isinstance(parts[0], TextPart) and parts[0].text == "here"
    assert isinstance(parts[1], ImagePart) and parts[1].media_type == "image/png"
    assert SHELF.load(parts[1]) == b"\x89PNG bytes"
    assert asyncio.run(as_tool(look).call({})) == f"here\n[image/png {parts[1].sha256[:12]}]"
    with pytest.raises(TemplateError, match=r"'tool' message holds an image .*writes text only"):
        plain(Message(role="tool", content=parts))


def test_the_shelf_forgets_the_oldest():
    shelf = ImageShelf(10)
    first, second = shelf.keep(b"123456", "image/png"), shelf.keep(b"1234567", "image/png")
    assert shelf.load(second) == b"1234567" and shelf.size == 7
    with pytest.raises(KeyError):
        shelf.load(first)


# ---------------------------------------------------------------------------------------------- the real browser


class Trap:
    """A server on this machine's loopback that nothing may reach."""

    def __enter__(self):
        self.hits = hits = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hits.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"SECRET-OF-THE-HOST")

            do_POST = do_GET

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


HOSTILE = """<title>hostile</title><p>quiet</p>
<link rel=preconnect href="{url}"><link rel=prefetch href="{url}/prefetch"><link rel=stylesheet href="{url}/css">
<img src="{url}/img"><iframe src="{url}/frame"></iframe><iframe src="file:///etc/passwd"></iframe>
<iframe src="/bounce"></iframe><object data="{url}/object"></object><video src="{url}/video"></video>
<script>
const u = "{url}", w = u.replace("http", "ws"), found = [];
const attempt = (name, act) => {{ try {{ Promise.resolve(act()).then(r => found.push(name + ":" + r), () => {{}}); }} catch (e) {{}} }};
attempt("fetch", () => fetch(u + "/fetch", {{mode: "no-cors"}}).then(r => r.type));
attempt("text", () => fetch("/bounce").then(r => r.text()).then(t => {{ if (t.includes("SECRET")) return t; throw 0; }}));
attempt("file", () => fetch("file:///etc/passwd").then(r => r.text()));
attempt("beacon", () => {{ navigator.sendBeacon(u + "/beacon", "x"); throw 0; }});
attempt("xhr", () => {{
  const x = new XMLHttpRequest(); x.open("GET", u + "/xhr", false); x.send(); return x.responseText; }});
attempt("socket", () => new Promise((yes, no) => {{
  const s = new WebSocket(w); s.onmessage = e => yes(e.data); s.onerror = no; s.onclose = no; }}));
attempt("events", () => new Promise((yes, no) => {{
  const s = new EventSource(u + "/events"); s.onopen = () => yes("open"); s.onerror = no; }}));
attempt("worker", () => navigator.serviceWorker.register("/sw.js"));
attempt("rtc", async () => {{ const p = new RTCPeerConnection({{iceServers: [{{urls: "stun:127.0.0.1:{port}"}}]}});
  const seen = []; p.onicecandidate = e => e.candidate && seen.push(e.candidate.candidate); p.createDataChannel("x");
  await p.setLocalDescription(await p.createOffer()); await new Promise(r => setTimeout(r, 300));
  if (seen.length) return seen.join(); throw 0; }});
attempt("open", () => {{ const a = window.open(u + "/open"), b = window.open("file:///etc/passwd"); throw 0; }});
setTimeout(() => {{ document.title = "found " + found.join(" "); }}, 600);
</script>"""


@needs_chromium
def test_a_hostile_page_reaches_nothing():
    with Trap() as trap:
        port = trap.url.rpartition(":")[2]

        def site(asked):
            if asked.path == "/bounce":
                return Response(body="", status=302, headers={"Location": f"{trap.url}/bounce"})
            return Response(body=HOSTILE.format(url=trap.url, port=port))

        async def run():
            view = ChromiumView(site, HOST, scripts=True)
            await view.goto("/")
            await asyncio.sleep(1.5)
            await view.read()
            title, popups, blocked = view.title, view.popups, view.blocked
            notes = view.text()
            await view.close()
            return title, popups, blocked, notes

        title, popups, blocked, notes = asyncio.run(run())
        assert title == "found", title
        assert trap.hits == [] and blocked >= 8 and popups >= 1
        assert "a window was opened, and closed" in notes


LEAVING = {
    "a link": '<a href="{url}/link">go</a>',
    "a link to a file": '<a href="file:///etc/passwd">go</a>',
    "a page of the browser": '<a href="chrome://version">go</a>',
    "a source view": '<a href="view-source:http://shop.test/">go</a>',
    "a page in the address": '<a href="data:text/html,<p>SECRET">go</a>',
    "a redirect": '<a href="/bounce">go</a>',
    "a form": '<form method=post action="{url}/form"><button>go</button></form>',
    "a script": "<button onclick=\"location='{url}/script'\">go</button>",
    "a new window": '<a href="{url}/window" target="_blank">go</a>',
    "a download": '<a href="/file" download="x">go</a>',
    "a dialog": "<button onclick=\"alert('hello')\">go</button>",
    "a refresh": "<button onclick=\"document.head.innerHTML = `<meta http-equiv=refresh content='0;url={url}/refresh'>`\">go</button>",
}


@needs_chromium
def test_no_way_leads_out_of_the_site():
    with Trap() as trap:
        pages = {f"/{n}": html.format(url=trap.url) for n, html in enumerate(LEAVING.values())}

        def site(asked):
            if asked.path == "/bounce":
                return Response(body="", status=302, headers={"Location": f"{trap.url}/bounce"})
            if asked.path == "/file":
                return Response(
                    body=b"data", media_type="application/octet-stream", headers={"Content-Disposition": "attachment"}
                )
            return Response(body=f"<title>here</title><p>still here</p>{pages[asked.path]}")

        async def run():
            view = ChromiumView(site, HOST, scripts=True)
            told = {}
            for n, name in enumerate(LEAVING):
                await view.goto(f"/{n}")
                await view.click(1)
                for _ in range(60 if name == "a new window" else 2):
                    if not view.popups:
                        await asyncio.sleep(0.05)
                await view.read()
                told[name] = view.text()
            await view.close()
            return told

        told = asyncio.run(run())
        assert trap.hits == []
        for name, text in told.items():
            assert "still here" in text and "SECRET" not in text and "root:" not in text, (name, text)
        assert "a dialog said 'hello' and was closed" in told["a dialog"]
        assert "a download was refused" in told["a download"] and "a window was opened" in told["a new window"]
        assert f"blocked: {trap.url}/link is outside of this site" in told["a link"]


@needs_chromium
def test_chromium_itself_sees_neither_files_nor_network():
    """Without any routing: what Chromium could reach if a page, or a fault of ours, got past it."""
    with Trap() as trap:

        async def reach(found):
            browser = await found._running()
            context = await browser.new_context()
            page, said = await context.new_page(), {}
            for url in (
                "file:///etc/passwd",
                f"file://{Path(__file__)}",
                f"{trap.url}/direct",
                "http://localhost/",
                "file:///proc/1/environ",
            ):
                try:
                    await page.goto(url, timeout=8000)
                    said[url] = await page.inner_text("body")
                except Exception as error:
                    said[url] = f"refused {type(error).__name__}"
            await context.close()
            return said

        async def run():
            found = worker.shared()
            return await found.call(reach(found)), found.isolation

        said, isolation = asyncio.run(run())
        assert isolation == "namespaces" and trap.hits == []
        assert all(text.startswith("refused") or not text.strip() for text in said.values()), said


AS_USER = """
import asyncio, os
from phronesis.tools.browser import ChromiumView, Response, worker
async def main():
    view = ChromiumView(lambda asked: Response(body="<p>hello"), "shop.test")
    await view.goto("/")
    print(os.getuid() != 0, view.text().splitlines()[-1], worker.shared().isolation)
    await view.close()
asyncio.run(main())
"""


@needs_chromium
def test_an_ordinary_user_has_it_as_safe():
    through = [sys.executable, str(Path(__file__).parents[1] / "sandbox" / "as_user.py")] if os.geteuid() == 0 else []
    ran = subprocess.run([*through, sys.executable, "-c", AS_USER], capture_output=True, text=True, timeout=120, check=False)
    assert ran.stdout == "True hello namespaces\n", ran.stderr


@needs_chromium
def test_nothing_outlives_the_process_that_started_it():
    """Not even when it is killed."""
    code = AS_USER.replace(
        "    await view.close()", "    print(worker.shared().program.box.pid, flush=True); await asyncio.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as ran:
        ran.stdout.readline()
        held = [pid for pid in chromium.below(ran.pid) if _state(pid)]
        assert int(ran.stdout.readline()) in held and len(held) > 5
        ran.kill()
    for _ in range(300):
        left = [pid for pid in held if _state(pid) not in ("", "Z")]
        if not left:
            break
        time.sleep(0.1)
    assert left == []


def _state(pid):
    """Letter of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return ""


@needs_chromium
def test_nothing_is_left_for_the_next_episode():
    pages = {
        "/set": "<title>set</title><script>document.cookie='a=1';localStorage.b='1';sessionStorage.c='1';window.name='d'</script>",
        "/get": "<body><script>const s = [document.cookie, localStorage.b, sessionStorage.c, window.name];"
        "document.body.innerHTML = `<p>${s}</p>`</script>",
    }

    async def visit(*paths):
        view = ChromiumView(lambda asked: Response(body=pages[asked.path]), HOST, scripts=True, size=(444, 333))
        for path in paths:
            await view.goto(path)
        found = view.text().splitlines()[-1]
        await view.close()
        return found

    assert asyncio.run(visit("/set", "/get")) == "a=1,1,1,d"
    assert asyncio.run(visit("/get")) == ",,,"
    assert worker.shared().open == 0


@needs_chromium
def test_a_page_that_left_its_site_leaves_nothing_either():
    """Neither storage, nor pages of the episode before to go back to."""
    pages = {
        "/set": "<script>localStorage.b='1';sessionStorage.c='1';setTimeout(() => { location = 'about:blank' })</script>",
        "/get": "<body><script>const s = [localStorage.b, sessionStorage.c, history.length];"
        "document.body.innerHTML = `<p>${s}</p>`</script>",
        "/on": "<p>on",
    }

    async def visit(*paths):
        view = ChromiumView(lambda asked: Response(body=pages[asked.path]), HOST, scripts=True, size=(445, 333))
        for path in paths:
            await view.goto(path)
        for _ in range(100 if paths == ("/set",) else 0):
            await view.read()
            if view.url == "about:blank":
                break
        found = view.url, view.text().splitlines()[-1]
        await view.close()
        return found

    assert asyncio.run(visit("/set"))[0] == "about:blank"
    assert asyncio.run(visit("/on", "/on", "/get"))[1].startswith(",,")
    assert asyncio.run(visit("/get"))[1] == ",,2"  # this page and the empty one before it


@needs_chromium
def test_a_site_that_fails_is_a_fault_of_the_world():
    def site(asked):
        raise KeyError("sku")

    async def visit():
        view = ChromiumView(site, HOST)
        try:
            await view.goto("/")
        finally:
            await view.close()

    with pytest.raises(EnvFault, match=r"the site 'shop.test' failed: KeyError: 'sku'"):
        asyncio.run(visit())


async def _after(signal_number):
    """What an episode meets whose Chromium dies or hangs, and what the next one reads."""
    view = ChromiumView(lambda asked: Response(body="<p>hello"), HOST)
    await view.goto("/")
    for pid in chromium.below(worker.shared().program.box.pid):
        with contextlib.suppress(ProcessLookupError):  # gone with one that was killed before
            os.kill(pid, signal_number)
    met = []
    for act in (view.goto("/"), view.close()):
        try:
            await act
        except Exception as error:
            met.append(error)
    view = ChromiumView(lambda asked: Response(body="<p>hello"), HOST)
    await view.goto("/")
    text = view.text()
    await view.close()
    return met, text


@needs_chromium
def test_a_chromium_that_dies_is_replaced():
    met, text = asyncio.run(_after(signal.SIGKILL))
    assert [type(error) for error in met] == [EnvFault] and "the browser failed: " in str(met[0]), met
    assert text == "Page: untitled (/)\nhello" and worker.shared().open == 0


@needs_chromium
def test_a_chromium_that_hangs_is_killed_and_replaced(monkeypatch):
    hung = []

    def call(self, work, own=worker.Worker.call):
        monkeypatch.setattr(worker, "CALL", 2.0 if len(hung) in (1, 2) else 60.0)
        hung.append(self.program)
        return own(self, work)

    monkeypatch.setattr(worker.Worker, "call", call)
    monkeypatch.setattr(worker, "PULSE", 2.0)
    met, text = asyncio.run(_after(signal.SIGSTOP))
    assert {type(error) for error in met} == {EnvFault} and "the browser gave no answer within 2 s" in str(met[0])
    assert text == "Page: untitled (/)\nhello"
    assert worker.shared().program is not hung[1] and hung[1].box.pid is None


@needs_chromium
def test_a_page_that_never_stops_talking_is_cut_off():
    site = lambda asked: Response(body="<p>x<script>for (let n = 0; n < 30; n++) alert(n)</script>")  # noqa: E731

    async def visit():
        view = ChromiumView(site, HOST, scripts=True)
        await view.goto("/")
        text = view.text()
        await view.close()
        return text.splitlines()

    told = asyncio.run(visit())
    assert told[19:22] == ["(a dialog said '19' and was closed)", "(more of this happened)", "Page: untitled (/)"]


@needs_chromium
def test_a_worn_out_chromium_is_replaced(monkeypatch):
    async def visit():
        view = ChromiumView(lambda asked: Response(body="<p>hello"), HOST)
        await view.goto("/")
        shot = await view.screenshot()
        await view.close()
        return shot

    assert asyncio.run(visit())[:8] == b"\x89PNG\r\n\x1a\n"
    found = worker.shared()
    starts = found.starts
    monkeypatch.setattr(worker, "WINDOWS", 1)
    asyncio.run(visit())
    assert found.starts == starts + 1 and found.program.memory() > 10 << 20


def test_the_look_up_order(monkeypatch, tmp_path):
    own = tmp_path / "chrome"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert chromium.find({"PHRONESIS_CHROMIUM": str(own)}) == str(own)
    monkeypatch.setattr(chromium, "PLACES", (str(own),))
    assert chromium.find({}) == str(own)
    monkeypatch.setattr(chromium, "PLACES", ())
    assert chromium.find({}) == ""
    with pytest.raises(ConfigError, match="PHRONESIS_CHROMIUM='/nowhere' is no program"):
        chromium.find({"PHRONESIS_CHROMIUM": "/nowhere"})


def test_no_playwright_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "playwright", None)
    with pytest.raises(ConfigError, match=r"pip install 'phronesis\[browser\]'") as caught:
        ChromiumView(lambda asked: Response(body=""), HOST)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
