#!/usr/bin/env python3
"""mockllm.py -- an OpenAI server that computes nothing, for the routers that bench/gateways compares.

    bench/mockllm.py PORT [--first-ms MS] [--gap-ms MS]

Streams `max_tokens` chunks, the first after MS, the others a gap apart, with TCP_NODELAY; whole
answers come at once. Health, models and what else routers poll is answered too. asyncio protocols
without a framework: what it costs is the same for all that stand in front of it.
"""

import argparse
import asyncio
import json
import re
import socket

CHUNK = json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mock",
                    "choices": [{"index": 0, "delta": {"content": " water"}, "finish_reason": None}]})
WHOLE = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "mock",
                    "choices": [{"index": 0, "message": {"role": "assistant", "content": " water"},
                                 "finish_reason": "length"}],
                    "usage": {"prompt_tokens": 120, "completion_tokens": 1, "total_tokens": 121}})
MODELS = json.dumps({"object": "list", "data": [{"id": "mock", "object": "model", "owned_by": "m"}]})


class Mock(asyncio.Protocol):
    options = None

    def connection_made(self, transport):
        self.transport, self.buffer, self.task = transport, b"", None
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, error):
        if self.task:
            self.task.cancel()

    def data_received(self, data):
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = re.search(rb"content-length: *(\d+)", head, re.I)
            length = int(length.group(1)) if length else 0
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            self.answer(head.split(b" ", 2)[1].decode(), rest[:length])

    def send(self, text, kind="application/json"):
        body = text.encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
                             % (kind.encode(), len(body), body))

    def answer(self, path, body):
        if not path.startswith(("/v1/chat/completions", "/v1/completions")):
            self.send(MODELS if path.startswith("/v1/models") else "{}")
            return
        request = json.loads(body)
        if request.get("stream"):
            self.task = asyncio.ensure_future(self.stream(request.get("max_tokens") or request.get(
                "max_completion_tokens") or 16))
        else:
            self.send(WHOLE)

    async def stream(self, tokens):
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                             b"Transfer-Encoding: chunked\r\n\r\n")
        for i in range(tokens):
            await asyncio.sleep((self.options.gap_ms if i else self.options.first_ms) / 1000)
            self.chunk(f"data: {CHUNK}\n\n")
        self.chunk("data: [DONE]\n\n")
        self.transport.write(b"0\r\n\r\n")

    def chunk(self, text):
        body = text.encode()
        self.transport.write(b"%x\r\n%s\r\n" % (len(body), body))


async def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("port", type=int)
    p.add_argument("--first-ms", type=float, default=2)
    p.add_argument("--gap-ms", type=float, default=5)
    Mock.options = p.parse_args()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Mock, "127.0.0.1", Mock.options.port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
