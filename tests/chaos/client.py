"""client.py -- an HTTP client that can be told to leave: one asyncio loop drives thousands of calls.

A call is one POST with an answer, streamed or not. What it heard is kept as it came (`Call`); `read`
turns that into what the client was promised, and says what is wrong with it.
"""

import asyncio
import json
import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

from weirtest import Result  # noqa: E402

FIN, RST, SILENT = "fin", "rst", "silent"


class Call(asyncio.Protocol):
    """One request on a connection of its own. `done` is set when nothing more will come."""

    def __init__(self, loop, path, body, leave=None, leave_after=0):
        """leave: FIN, RST or SILENT, once `leave_after` token events have come (or 0: at the
        answer's head; below 0: so many seconds after the request is sent, whatever has come)."""
        data = json.dumps(body).encode()
        self.payload = (f"POST {path} HTTP/1.1\r\nHost: weir\r\nContent-Type: application/json\r\n"
                        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n").encode() + data
        self.chat = path.endswith("chat/completions")
        self.leave, self.leave_after = leave, leave_after
        self.done = loop.create_future()
        self.status = None
        self.headers = {}
        self.events = []       # decoded events of a stream, None for [DONE]
        self.times = []        # when each event with a token came
        self.body = b""        # of an answer that is no stream
        self.broken = None     # what was wrong with the transport, if anything
        self.left_at = None
        self.started_at = None
        self.ended_at = None
        self._buffer = bytearray()
        self._text = bytearray()
        self._chunked = self._stream = self._whole = False
        self._want = None
        self.transport = None

    # ---- asyncio.Protocol

    def connection_made(self, transport):
        self.transport = transport
        self.started_at = time.monotonic()
        transport.write(self.payload)
        if self.leave and self.leave_after < 0:
            asyncio.get_running_loop().call_later(-self.leave_after, self._leave_now)

    def data_received(self, data):
        if self.left_at:
            return
        self._buffer += data
        if self.status is None and not self._head():
            return
        if self._chunked:
            self._chunks()
        else:
            self._text += self._buffer
            self._buffer.clear()
            if self._want is not None and len(self._text) >= self._want:
                self._whole = True
        if self._stream:
            self._lines()

    def connection_lost(self, error):
        if not self.left_at and not self._whole:
            self.broken = f"the connection ended early ({error})" if error else \
                "the connection ended early"
        self._end()

    # ---- leaving

    def _leave_now(self):
        if not self.done.done():
            self._go()

    def _go(self):
        self.left_at = time.monotonic()
        raw = self.transport.get_extra_info("socket")
        if self.leave == SILENT:
            self.transport.pause_reading()  # the socket stays; its owner closes it in the end
        elif self.leave == RST:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()
        self._end()

    def close(self):
        if self.transport:
            self.transport.abort()

    def _end(self):
        if not self.done.done():
            self.ended_at = time.monotonic()
            self.done.set_result(None)

    # ---- HTTP

    def _head(self):
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[:end + 4]
        self.status = int(lines[0].split()[1])
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self._stream = self.headers.get("content-type", "").startswith("text/event-stream")
        if "content-length" in self.headers:
            self._want = int(self.headers["content-length"])
        if self.leave and self.leave_after == 0 and self._stream:
            self._go()
        return True

    def _chunks(self):
        while not self._whole:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return
            size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
            if len(self._buffer) < end + 2 + size + 2:
                return
            self._text += self._buffer[end + 2:end + 2 + size]
            del self._buffer[:end + 2 + size + 2]
            self._whole = size == 0

    def _lines(self):
        while not self.left_at:
            end = self._text.find(b"\n")
            if end < 0:
                return
            line = bytes(self._text[:end]).strip()
            del self._text[:end + 1]
            if not line.startswith(b"data: "):
                continue
            if line[6:] == b"[DONE]":
                self.events.append(None)
                continue
            event = json.loads(line[6:])
            self.events.append(event)
            if any(c.get("token_ids") for c in event.get("choices", ())):
                self.times.append(time.monotonic())
                if self.leave and 0 < self.leave_after <= len(self.times):
                    self._go()

    def answer(self):
        return None if self._stream else bytes(self._text)


async def post(loop, address, path, body, leave=None, leave_after=0, limit_s=120,
               receive_bytes=None):
    """Runs a call to its end (or to the moment it left)."""
    call = Call(loop, path, body, leave, leave_after)
    raw = socket.socket()
    raw.setblocking(False)
    if receive_bytes:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    try:
        await loop.sock_connect(raw, address)
        await loop.create_connection(lambda: call, sock=raw)
        await asyncio.wait_for(asyncio.shield(call.done), limit_s)
    except asyncio.TimeoutError:
        call.broken = f"no end within {limit_s} s"
        call.close()
    except OSError as error:
        raw.close()
        call.broken = f"no connection: {error}"
    return call


class Heard(Result):
    """What a client was told, put together, and the usage it was told of."""

    def __init__(self, count):
        super().__init__(count)
        self.usage = None


def read(call, choices):
    """(Heard, what is wrong with the form or None). A call that left is read as far as it came."""
    heard = Heard(choices)
    if call.broken:
        return heard, call.broken
    if call.status != 200:
        return heard, None if call.left_at and call.status is None else f"status {call.status}"
    if not call.events and call.answer() is not None:
        return heard, None if call.left_at else _read_whole(call, heard)
    wrong = _read_stream(call, heard)
    if call.left_at:
        return heard, wrong
    if wrong is None and (call.events.count(None) != 1 or call.events[-1] is not None):
        wrong = f"{call.events.count(None)} [DONE], the last event is {call.events[-1:]}"
    if wrong is None and None in heard.finish:
        wrong = "a choice has no finish_reason"
    return heard, wrong


def _read_whole(call, heard):
    data = json.loads(call.answer())
    for choice in data["choices"]:
        i = choice["index"]
        heard.ids[i] = choice["token_ids"]
        heard.text[i] = choice["message"]["content"] if call.chat else choice["text"]
        heard.finish[i] = choice["finish_reason"]
        heard.add_scores(choice)
    heard.usage = data["usage"]
    return None


def _read_stream(call, heard):
    for event in call.events:
        if event is None:
            continue
        if "error" in event:
            return f"error event: {event['error'].get('message')}"
        if event.get("usage"):
            if heard.usage:
                return "usage twice"
            heard.usage = event["usage"]
        for choice in event["choices"]:
            i = choice["index"]
            piece = choice["delta"].get("content") if call.chat else choice["text"]
            if heard.finish[i] and (piece or choice.get("token_ids")):
                return "text after the finish_reason"
            heard.text[i] += piece or ""
            heard.ids[i] += choice.get("token_ids") or []
            heard.add_scores(choice)
            if choice["finish_reason"]:
                if heard.finish[i]:
                    return "two finish_reasons"
                heard.finish[i] = choice["finish_reason"]
    return None


def judge(call, choices, want):
    """None when the client got exactly `want` (a Heard); else (kind, why) with a kind of failed,
    wrong, repeated or missing. A call that left must have had a beginning of it."""
    heard, wrong = read(call, choices)
    if wrong:
        return "failed", wrong
    if call.left_at:
        for i in range(choices):
            if want.ids[i][:len(heard.ids[i])] != heard.ids[i]:
                return compare(heard.ids[i], want.ids[i][:len(heard.ids[i])]), f"choice {i}, left"
        return None
    for i in range(choices):
        if heard.ids[i] != want.ids[i]:
            return (compare(heard.ids[i], want.ids[i]),
                    f"choice {i}: got {heard.ids[i]} want {want.ids[i]}")
        for what in ("text", "finish", "scores"):
            got, right = getattr(heard, what)[i], getattr(want, what)[i]
            if got != right:
                return "wrong", f"choice {i}: {what} is {got!r} not {right!r}"
    if want.usage:
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            if not heard.usage or heard.usage[name] != want.usage[name]:
                return "wrong", f"usage {heard.usage} not {want.usage}"
    return None


def compare(got, want):
    """How two token sequences differ."""
    if want[:len(got)] == got:
        return "missing"
    same = 0
    while same < min(len(got), len(want)) and got[same] == want[same]:
        same += 1
    # A piece that was there before comes again, and then the rest.
    for back in range(1, same + 1):
        if got[same:same + back] == want[same - back:same] and \
                got[same + back:] == want[same:][:len(got) - same - back]:
            return "repeated"
    for ahead in range(1, len(want) - same):
        if len(got) > same and got[same:] == want[same + ahead:]:
            return "missing"
    return "wrong"
