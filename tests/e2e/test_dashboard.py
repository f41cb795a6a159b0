#!/usr/bin/env python3
"""test_dashboard.py -- the page in a real browser: headless Chromium, driven over its DevTools
protocol, beside a server that works.

With WEIR_TEST_SHOTS=FOLDER it leaves screenshots there.
"""

import asyncio
import base64
import contextlib
import os
import re
import shutil
import subprocess
import threading
import urllib.request

from weirtest import Server, Skip, case, main, scratch, until

try:
    import aiohttp
except ImportError:
    aiohttp = None

KEY = "dashboard-key-1234"
SHOTS = os.environ.get("WEIR_TEST_SHOTS")
LIMIT_S = 60


class Page:
    """A tab of a browser of its own."""

    def __init__(self, session, socket):
        self.session, self.socket, self.last = session, socket, 0

    async def call(self, method, **parameters):
        self.last += 1
        number = self.last
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            told = await self.socket.receive_json(timeout=LIMIT_S)
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]

    async def js(self, code):
        told = await self.call("Runtime.evaluate", expression=code, awaitPromise=True,
                               returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, code, what):
        for _ in range(LIMIT_S * 10):
            if await self.js(code):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{what}: not within {LIMIT_S} s; the page says "
                             f"{await self.js('document.body.innerText')!r}")

    async def type(self, text, enter=True):
        await self.call("Input.insertText", text=text)
        if enter:
            for kind in ("keyDown", "keyUp"):
                await self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter",
                                windowsVirtualKeyCode=13, text="\r" if kind == "keyDown" else "")

    async def look(self, width, height, scheme):
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                        deviceScaleFactor=1, mobile=width < 500)
        await self.call("Emulation.setEmulatedMedia",
                        features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def shot(self, name):
        if SHOTS:
            told = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
            with open(os.path.join(SHOTS, name + ".png"), "wb") as f:
                f.write(base64.b64decode(told["data"]))


@contextlib.asynccontextmanager
async def browser(url):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    log_path = scratch("chromium.log")
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--remote-debugging-port=0", f"--user-data-dir={scratch('profile')}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=log)

    def port():
        with open(log_path, encoding="utf-8", errors="replace") as f:
            found = re.search(r"ws://127\.0\.0\.1:(\d+)/", f.read())
        return found and found.group(1)
    try:
        until(port, "the browser listens", LIMIT_S)
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{port()}/json/new?about:blank") as answer:
                tab = (await answer.json())["webSocketDebuggerUrl"]
            async with session.ws_connect(tab, max_msg_size=0) as socket:
                page = Page(session, socket)
                await page.call("Page.navigate", url=url + "/dashboard")
                yield page
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def load(server, clients=6, headers=None):
    """Clients that ask for as long as the block lasts."""
    over = threading.Event()

    def ask():
        while not over.is_set():
            server.post("/v1/completions", {"prompt": "the water " * 30, "max_tokens": 24,
                                            "ignore_eos": True}, headers)
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def visit(server, what):
    if not aiohttp:
        raise Skip("no aiohttp")
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        raise Skip("no chromium")

    async def run():
        async with browser(server.url) as page:
            await page.until("document.readyState === 'complete' && !!document.getElementById('said')",
                             "the page is there")
            await what(page)
    asyncio.run(run())


def card(name):
    return (f"[...document.querySelectorAll('#cards .card')].find(c => "
            f"c.lastChild.textContent === {name!r})?.firstChild.textContent")


@case
def pools_are_seen_and_told_what_to_do():
    async def look(page):
        await page.until("document.getElementById('said').textContent === 'live'", "it is live")
        await page.until(f"parseFloat({card('tokens/s')}) > 0", "tokens are counted")
        for name in ("TTFT p50", "TTFT p95", "TPOT p50"):
            await page.until(f"/s$/.test({card(name)})", f"{name} is told")
        await page.until("document.querySelectorAll('#workers tr').length === 4", "four workers")
        busy = "Math.max(...[...document.querySelectorAll('#pools [role=meter]')]" \
               ".map(m => +m.ariaValueNow))"
        await page.until(f"{busy} > 0", "a pool is busy")
        # Where the time went: parts of a whole, for both pools, and what it costs.
        parts = "[...document.querySelectorAll('#pools .parts')].map(b => [...b.children].reduce(" \
                "(sum, i) => sum + (parseFloat(i.style.width) || 0), 0))"
        await page.until(f"{parts}.length === 2 && {parts}.every(s => s > 95 && s < 100.1)",
                         "the pools' time is divided")
        await page.until("[...document.querySelectorAll('#pools .key')].every(k => "
                         "/no work|waits|busy/.test(k.textContent))", "the parts have names")
        colours = await page.js("[...document.querySelectorAll('#pools .parts')].flatMap(b => "
                                "[...b.querySelectorAll('i')].map(i => i.className + ' ' + "
                                "getComputedStyle(i).backgroundColor))")
        assert len({c.split(" ", 1)[0] for c in colours}) == len(set(colours)) == \
            len({c.split(" ", 1)[1] for c in colours}), colours
        await page.until(f"parseFloat({card('price of a million tokens')}) > 0", "its price is told")
        # With the keyboard: a number into the field, and Enter.
        field = "document.querySelector('form[data-role=decode] input')"
        await page.js(f"{field}.focus(), {field}.select()")
        await page.type("3")
        await page.until("document.getElementById('said').textContent === 'scale: asked for'",
                         "the pool is scaled")
        until(lambda: next(p for p in server.get("/controller/state").json()["pools"]
                           if p["role"] == "decode")["wanted"] >= 3, "the controller knows")
        await page.until("document.querySelectorAll('#decisions tr').length > 0",
                         "decisions are shown")
        backs = []
        for name, width, height, scheme in (("wide-light", 1200, 1000, "light"),
                                            ("phone-light", 390, 844, "light"),
                                            ("wide-dark", 1200, 1000, "dark"),
                                            ("phone-dark", 390, 844, "dark")):
            await page.look(width, height, scheme)
            await asyncio.sleep(1.2)
            await page.shot(name)
            backs.append(await page.js("getComputedStyle(document.body).backgroundColor"))
            over = await page.js("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, f"{name}: {over} pixels stand over"
            outside = await page.js("[...document.querySelectorAll('button')].filter(b => "
                                    "b.getBoundingClientRect().right > innerWidth).length")
            assert outside == 0, f"{name}: {outside} buttons stand outside"
        assert backs[0] == backs[1] != backs[2] == backs[3], backs
        names = await page.js("[...document.querySelectorAll('button, input')].every(e => "
                              "e.ariaLabel || e.textContent || e.labels?.length)")
        assert names, "a control has no name"
    prices = scratch("prices")
    with open(prices, "w", encoding="ascii") as f:
        f.write("timed = 2.5\n")
    with Server("--price-table", prices, "--threads", "2", "--autoscale", "--prefill", "2", "--decode", "2",
                "--prefill-min", "2", "--decode-min", "2", "--prefill-max", "4", "--decode-max",
                "4", "--backend", "timed") as server, load(server):
        visit(server, look)


@case
def without_a_key_it_shows_nothing_and_asks_for_one():
    async def look(page):
        await page.until("!document.getElementById('keyform').hidden", "it asks for a key")
        assert await page.js("document.querySelectorAll('#cards .card').length") == 0
        await page.js("document.getElementById('key').focus()")
        await page.type("wrong-key-1234")
        await page.until("document.getElementById('said').textContent.includes('not valid')",
                         "the key is refused")
        await page.js("document.getElementById('key').select()")
        await page.type(KEY)
        await page.until("document.getElementById('said').textContent === 'live'", "it is live")
        assert await page.js("document.getElementById('keyform').hidden")
        assert await page.js("document.getElementById('control').hidden")  # there is no controller
        await page.until("document.querySelectorAll('#workers tr').length === 2", "both workers")
    with Server("--threads", "1", "--api-key", KEY) as server:
        visit(server, look)


@case
def the_page_takes_nothing_from_elsewhere():
    with Server("--threads", "1", "--api-key", KEY) as server:
        with urllib.request.urlopen(server.url + "/dashboard") as answer:
            policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert not re.search(r"https?://|@import|<(script|link)[^>]+src", text)


if __name__ == "__main__":
    main()
