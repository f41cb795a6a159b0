#!/usr/bin/env python3
"""test_limits.py -- bad input, too much of it, and what serving costs while nothing happens."""

import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

from weirtest import (BIN, FULL, HANG_S, Answer, Server, Skip, case, children, cpu_seconds,
                      fd_count, generate, main, parallel, real_model, scratch, tiny_model, until)

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
_server = Server("--threads", "1")


def works(server=_server):
    answer = server.post(COMPLETIONS, {"prompt": "the water", "max_tokens": 2})
    assert answer.status == 200, (answer.status, answer.body)


# ---- the command line --------------------------------------------------------------------------

def refuse(flags, *words):
    """`weir serve` ends by itself with a message that has all the words."""
    done = subprocess.run([BIN, "serve", "--port", "0", *flags], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=HANG_S)
    text = done.stderr.decode("utf-8", "replace")
    assert done.returncode in (1, 2), f"{flags}: exit {done.returncode}\n{text}"
    assert b" serves " not in done.stdout, "it served"
    for word in words:
        assert word.lower() in text.lower(), f"{flags}: no {word!r} in {text!r}"
    return text


def spoiled(name, change):
    with open(tiny_model(), "rb") as f:
        data = bytearray(f.read())
    path = scratch(name)
    with open(path, "wb") as f:
        f.write(change(data))
    return path


@case
def options_that_make_no_sense_are_named():
    model = ("--model", tiny_model())
    refuse(["--model", scratch("none.gguf")], "none.gguf")
    refuse(["--model", os.path.dirname(tiny_model())], os.path.dirname(tiny_model()))
    refuse([*model, "--prefill-chunk", "17"], "prefill-chunk", "17")
    refuse([*model, "--port", "70000"], "port", "70000")
    refuse([*model, "--decode", "0"], "decode")
    refuse([*model, "--kv-memory", "many"], "kv-memory", "many")
    refuse([*model, "--backend", "abacus"], "backend", "abacus")
    refuse([*model, "--no-such-option"], "no-such-option")
    refuse([*model, "--host", "no.such.host.invalid"], "no.such.host.invalid")
    refuse([*model, "--port", str(_server.port)], str(_server.port), "in use")
    refuse([*model, "--api-key-file", scratch("no.keys")], "no.keys")


@case
def damaged_model_files_are_refused_by_name():
    size = os.path.getsize(tiny_model())
    for keep in (0, 3, 4, 8, 23, 24, 100, 1000, 8000, size // 2, size - 1):
        path = spoiled(f"cut-{keep}.gguf", lambda d: d[:keep])
        refuse(["--model", path], f"cut-{keep}.gguf")
    def put(at, data):
        def change(d):
            d[at:at + len(data)] = data
            return d
        return change
    huge = struct.pack("<Q", 1 << 62)
    for name, change, word in (("magic", put(0, b"GGUX"), "gguf"),
                               ("version", put(4, struct.pack("<I", 99)), "version"),
                               ("tensors", put(8, huge), "tensor"),
                               ("keys", put(16, huge), "key"),
                               ("name", put(24, huge), "byte"),
                               ("ones", put(24, b"\xff" * 4000), "byte")):
        refuse(["--model", spoiled(f"{name}.gguf", change)], f"{name}.gguf", word)


@case
def models_that_do_not_fit_the_engine_are_refused():
    def rename(old, new):
        def change(d):
            at = d.index(old)
            d[at:at + len(old)] = new
            return d
        return change
    path = spoiled("norm.gguf", rename(b"output_norm.weight", b"output_morn.weight"))
    refuse(["--model", path], "output_morn.weight")
    path = spoiled("heads.gguf", rename(b"llama.attention.head_count_kv",
                                        b"llama.attention.head_count_xx"))
    refuse(["--model", path], "attn_k")
    path = spoiled("template.gguf", rename(b"{% for ", b"{% fro "))
    refuse(["--model", path], "template")


# ---- request bodies ----------------------------------------------------------------------------

def nested(depth):
    return b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}"


BODIES = [
    # path, body, status, param
    (COMPLETIONS, b"", 400, None),
    (COMPLETIONS, b"{", 400, None),
    (COMPLETIONS, b"null", 400, None),
    (COMPLETIONS, b"[]", 400, None),
    (COMPLETIONS, b"{} {}", 400, None),
    (COMPLETIONS, b"{}", 400, "prompt"),
    (COMPLETIONS, b'{"prompt": "a", "prompt": "b"}', 400, None),
    (COMPLETIONS, b'{"prompt": "\xff\xfe"}', 400, None),
    (COMPLETIONS, b'{"prompt": "\\ud800"}', 400, None),
    (COMPLETIONS, b'{"prompt": "\\u0000"}', 400, "prompt"),
    (COMPLETIONS, b'{"prompt": "a", "max_tokens": 1e400}', 400, None),
    (COMPLETIONS, b'{"prompt": "a", "temperature": NaN}', 400, None),
    (COMPLETIONS, b'\xef\xbb\xbf{"prompt": "a"}', 400, None),
    (COMPLETIONS, nested(60), 400, "prompt"),
    (COMPLETIONS, nested(500), 400, None),
    (COMPLETIONS, nested(500000), 400, None),
    (COMPLETIONS, b'{"prompt": [' + b"1," * 100000 + b"1]}", 400, "prompt"),
    (COMPLETIONS, b'{"prompt": "' + b"a" * 3000000 + b'"}', 400, "prompt"),
    (COMPLETIONS, b'{"prompt": "a", ' + b",".join(b'"k%d": 0' % i for i in range(70000)) + b"}",
     400, None),
    (COMPLETIONS, {"prompt": ["a"] * 65}, 400, "prompt"),
    (COMPLETIONS, {"prompt": "a", "model": "other"}, 404, "model"),
    (COMPLETIONS, {"prompt": "a", "model": 7}, 400, "model"),
    (COMPLETIONS, {"prompt": 7}, 400, "prompt"),
    (COMPLETIONS, {"prompt": {}}, 400, "prompt"),
    (COMPLETIONS, {"prompt": ["a", 1]}, 400, "prompt"),
    (COMPLETIONS, {"prompt": [[1], [True]]}, 400, "prompt"),
    (COMPLETIONS, {"prompt": [1.5]}, 400, "prompt"),
    (COMPLETIONS, {"prompt": [-1]}, 400, "prompt"),
    (COMPLETIONS, {"prompt": ""}, 400, "prompt"),
    (COMPLETIONS, {"prompt": "a", "n": 1 << 40}, 400, "n"),
    (COMPLETIONS, {"prompt": "a", "n": "2"}, 400, "n"),
    (COMPLETIONS, {"prompt": "a", "n": 1.5}, 400, "n"),
    (COMPLETIONS, {"prompt": "a", "stream": "yes"}, 400, "stream"),
    (COMPLETIONS, {"prompt": "a", "temperature": "hot"}, 400, "temperature"),
    (COMPLETIONS, {"prompt": "a", "temperature": -1}, 400, "temperature"),
    (COMPLETIONS, {"prompt": "a", "seed": 1 << 70}, 400, "seed"),
    (COMPLETIONS, {"prompt": "a", "stop": [""]}, 400, "stop"),
    (COMPLETIONS, {"prompt": "a", "stop": "b" * 5000}, 400, "stop"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": [1]}, 400, "logit_bias"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 100000}, 400, "max_tokens"),
    (COMPLETIONS, {"prompt": "the " * 2000}, 400, "prompt"),
    (COMPLETIONS, {"prompt": "a", "guided_json": {}}, 400, "guided_json"),
    (CHAT, {"messages": "hi"}, 400, "messages"),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": [1]}, 400, None),
    (CHAT, {"messages": [{"role": 1, "content": "a"}]}, 400, None),
    (CHAT, {"messages": [{"role": "user", "content": 7}]}, 400, None),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
     400, None),
    (CHAT, {"messages": [{"role": "user", "content": "a " * 4000}]}, 400, "messages"),
    ("/tokenize", {}, 400, None),
    ("/tokenize", {"prompt": 1}, 400, "prompt"),
    ("/detokenize", {"tokens": "a"}, 400, "tokens"),
    ("/detokenize", {"tokens": [1 << 40]}, 400, "tokens"),
]


@case
def bad_bodies_are_refused_with_the_field_named():
    for path, body, status, param in BODIES:
        shown = str(body)[:80]
        answer = _server.post(path, body)
        assert answer.status == status, f"{path} {shown}: {answer.status} {answer.body[:200]}"
        error = answer.json()["error"]
        assert error["code"] == status and error["message"] and error["type"], error
        assert param is None or error["param"] == param, f"{shown}: {error}"
        assert len(answer.body) < 2000, "an error is short"
    works()


@case
def a_body_too_large_is_not_read():
    with socket.create_connection((_server.host, _server.port), HANG_S) as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
                  b"Content-Length: 5000000000\r\n\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 413 ")
    works()


# ---- HTTP --------------------------------------------------------------------------------------

HEADS = [
    b"\x00" * 100 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 200,  # TLS
    b"GET\r\n\r\n",
    b"GET /health\r\n\r\n",
    b"GET /health HTTP/9.9\r\nHost: h\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost : h\r\n\r\n",
    b"GET /hea\x00lth HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n",
    b"BREW /health HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 100000 + b"\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 5000 + b"\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nTransfer-Encoding: chunked"
    b"\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 2\r\n\r\n{}",
    b"DELETE /v1/completions HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n",
]


@case
def malformed_http_is_refused_and_hurts_nobody():
    for head in HEADS:
        with socket.create_connection((_server.host, _server.port), HANG_S) as s:
            try:
                s.sendall(head)
                s.shutdown(socket.SHUT_WR)
                got = s.recv(65536)
            except ConnectionError:
                got = b""
        assert got == b"" or got[:10] in (b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 5"), (
            head[:60], got[:100])
    works()


# ---- too much at once --------------------------------------------------------------------------

@case
def more_requests_than_the_limit_are_refused_at_once():
    body = {"prompt": "the water", "max_tokens": 900, "ignore_eos": True}
    with Server("--threads", "1", "--max-requests", "4") as server:
        for pid in server.workers("decode"):
            os.kill(pid, 19)  # SIGSTOP: nothing ends meanwhile
        streams = []
        try:
            for _ in range(4):
                connection = server.connect()
                connection.request("POST", COMPLETIONS, json.dumps(body),
                                   {"Content-Type": "application/json"})
                streams.append(connection)
            until(lambda: server.metrics().sum("weir_requests_open") == 4, "four are open", 2)
            took = []
            for _ in range(10):
                start = time.monotonic()
                answer = server.post(COMPLETIONS, body)
                took.append(time.monotonic() - start)
                assert answer.status == 503, answer.status
                assert int(answer.headers["Retry-After"]) >= 1
                assert answer.json()["error"]["type"] == "ServiceUnavailableError"
            print(f"# refused in {sorted(took)[5] * 1000:.1f} ms (median), "
                  f"{max(took) * 1000:.1f} ms (worst)")
            assert max(took) < 5
        finally:
            for pid in server.workers("decode"):
                os.kill(pid, 18)
        for connection in streams:
            assert connection.getresponse().status == 200
            connection.close()
        works(server)
        server.check_pages_free()


def frozen(server, role):
    """The workers of a role, stopped for the time of a `with`."""
    class Frozen:
        def __enter__(self):
            self.pids = server.workers(role)
            for pid in self.pids:
                os.kill(pid, signal.SIGSTOP)

        def __exit__(self, kind, value, trace):
            for pid in self.pids:
                os.kill(pid, signal.SIGCONT)
    return Frozen()


def begin(server, count, body, headers=None):
    """Requests sent and not waited for."""
    held = []
    for _ in range(count):
        connection = server.connect()
        connection.request("POST", COMPLETIONS, json.dumps(body),
                           {"Content-Type": "application/json", **(headers or {})})
        held.append(connection)
    return held


def all_answered(held):
    for connection in held:
        assert connection.getresponse().status == 200
        connection.close()


@case
def a_request_that_would_begin_too_late_is_refused_at_once():
    """The prefill worker stands still, so what waits only grows: past the objective, 503."""
    body = {"prompt": "the water " * 200, "max_tokens": 2}
    with Server("--threads", "1", "--ttft-slo-ms", "300", "--local-prefill-max", "0",
                "--heartbeat-timeout-ms", "60000") as server:
        for _ in range(8):
            assert server.post(COMPLETIONS, body).status == 200
        time.sleep(0.6)  # a heartbeat that tells the speed
        with frozen(server, "prefill"):
            held, refused = [], []
            while not refused:
                assert len(held) < 400, "400 requests wait for a worker that stands still"
                held += begin(server, 1, body)
                refused = select.select([c.sock for c in held], [], [], 0.05)[0]
            turned_away = [c for c in held if c.sock in refused]
            held = [c for c in held if c.sock not in refused]
            for connection in turned_away:
                answer = Answer(connection.getresponse())
                assert answer.status == 503, answer.status
                assert 1 <= int(answer.headers["Retry-After"]) <= 60
                assert answer.json()["error"]["type"] == "ServiceUnavailableError"
            counted = server.metrics().sum("weir_requests_refused_total", why="late")
            assert counted == len(turned_away), counted
        assert held, "the first one is never refused"
        all_answered(held)
        server.check_pages_free()


def two_keys():
    """A file of API keys, and the headers of each."""
    names = "first-key-1234", "second-key-1234"
    path = scratch("limits.keys")
    with open(path, "w", encoding="ascii") as f:
        f.write("\n".join(names) + "\n")
    os.chmod(path, 0o600)
    return path, *({"Authorization": f"Bearer {name}"} for name in names)


@case
def a_key_with_too_many_requests_gets_429_and_others_are_served():
    keys, first, second = two_keys()
    body = {"prompt": "the water", "max_tokens": 5}
    with Server("--threads", "1", "--max-requests-per-key", "3", "--metrics-open",
                "--api-key-file", keys) as server:
        with frozen(server, "decode"):
            held = begin(server, 3, body, first)
            until(lambda: server.metrics().sum("weir_requests_open") == 3, "three are open", 2)
            answer = server.post(COMPLETIONS, body, first)
            assert answer.status == 429, answer.status
            assert int(answer.headers["Retry-After"]) >= 1
            assert server.metrics().sum("weir_requests_refused_total", why="key") == 1
            held += begin(server, 3, body, second)
            until(lambda: server.metrics().sum("weir_requests_open") == 6, "six are open", 2)
        all_answered(held)
        assert server.post(COMPLETIONS, body, first).status == 200


@case
def a_request_that_waits_in_line_can_leave_it():
    body = {"prompt": "the water " * 40, "max_tokens": 2}
    with Server("--threads", "1", "--ttft-slo-ms", "0", "--local-prefill-max", "0",
                "--heartbeat-timeout-ms", "60000") as server:
        with frozen(server, "prefill"):
            held = begin(server, 30, body)
            until(lambda: server.metrics().sum("weir_requests_open") == 30, "30 are open", 5)
            for connection in held[10:]:
                connection.close()
            until(lambda: server.metrics().sum("weir_requests_open") == 10, "20 have left", 5)
        all_answered(held[:10])
        server.check_pages_free()


@case
def a_request_that_waited_in_line_too_long_is_a_typed_503():
    body = {"prompt": "the water " * 40, "max_tokens": 2}
    with Server("--threads", "1", "--ttft-slo-ms", "0", "--local-prefill-max", "0",
                "--heartbeat-timeout-ms", "60000", "--queue-timeout-ms", "500") as server:
        with frozen(server, "prefill"):
            held = begin(server, 30, body)
            until(lambda: server.metrics().sum("weir_requests_pending") == 0, "the line is empty",
                  20)
            at_workers = server.metrics().sum("weir_requests_open")
        answers = [Answer(connection.getresponse()) for connection in held]
        late = [a for a in answers if a.status == 503]
        assert 0 < len(late) == 30 - at_workers, (len(late), at_workers)
        assert all(int(a.headers["Retry-After"]) >= 1 for a in late)
        server.check_pages_free()


def prompts_in_the_order_of_the_line(server):
    """Prompt tokens of each request, in the order in which the gateway gave them to workers."""
    return [int(n) for n in re.findall(r"request=\d+ attempt=1 path=.* prompt_tokens=(\d+) ",
                                       server.log())]


@case
def a_key_with_few_requests_is_served_between_those_of_one_with_many():
    """By the gateway's own log: answers that are there at once say nothing of their order."""
    keys, greedy, modest = two_keys()
    with Server("--threads", "1", "--ttft-slo-ms", "0", "--local-prefill-max", "0",
                "--heartbeat-timeout-ms", "60000", "--metrics-open", "--log-level", "debug",
                "--api-key-file", keys) as server:
        with frozen(server, "prefill"):
            held = begin(server, 60, {"prompt": "the water " * 200, "max_tokens": 2}, greedy)
            until(lambda: server.metrics().sum("weir_requests_open") == 60, "60 are open")
            held += begin(server, 3, {"prompt": "the water " * 210, "max_tokens": 2}, modest)
            until(lambda: server.metrics().sum("weir_requests_open") == 63, "63 are open")
        answers = [c.getresponse() for c in held]
        assert all(a.status == 200 for a in answers), [a.status for a in answers]
        tokens = [json.loads(a.read())["usage"]["prompt_tokens"] for a in answers]
        order = prompts_in_the_order_of_the_line(server)
    assert sorted(order) == sorted(tokens), f"each goes through once: {order}"
    assert tokens[:60] == [tokens[0]] * 60 and tokens[0] not in tokens[60:], tokens
    last = max(i for i, n in enumerate(order) if n == tokens[60])
    assert last < 40, f"the modest key's last of 3 went through after {last} of 63"


@case
def accepted_requests_that_wait_in_line_are_finished_by_a_drain():
    body = {"prompt": "the water " * 40, "max_tokens": 2}
    server = Server("--threads", "1", "--ttft-slo-ms", "0", "--local-prefill-max", "0",
                    "--heartbeat-timeout-ms", "60000")
    with frozen(server, "prefill"):
        held = begin(server, 30, body)
        until(lambda: server.metrics().sum("weir_requests_open") == 30, "30 are open", 5)
        server.worker_pids |= set(children(server.pid))
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "draining" in server.log(), "it drains", 5)
    all_answered(held)
    server.wait_end()


@case
def more_connections_than_the_limit_are_refused():
    with Server("--threads", "1", "--max-connections", "8") as server:
        held = [socket.create_connection((server.host, server.port), HANG_S) for _ in range(40)]
        answered = 0
        for s in held:
            s.settimeout(0.2)
            try:
                got = s.recv(1000)
                assert got == b"" or got.startswith(b"HTTP/1.1 503"), got[:80]
                answered += 1
            except TimeoutError:
                pass
            except ConnectionError:
                answered += 1
        assert answered >= 32, f"{answered} of 40 were turned away"
        for s in held:
            s.close()
        until(server.healthy, "others are let in again", 20)
        works(server)


@case
def a_client_that_reads_nothing_does_not_stop_the_others():
    body = {"prompt": "the water", "max_tokens": 900, "ignore_eos": True, "n": 8, "logprobs": 5,
            "stream": True}
    data = json.dumps(body).encode()
    with Server("--threads", "1") as server:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect((server.host, server.port))
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(data) + data)
        until(lambda: server.metrics().sum("weir_api_completion_tokens_total") >= 0, "it runs")
        for _ in range(5):
            works(server)
        until(lambda: server.metrics().sum("weir_requests_open") == 0, "it ends or is cancelled",
              50)
        server.check_pages_free()
        s.close()


# ---- nothing leaks -----------------------------------------------------------------------------

@case
def descriptors_stay_the_same():
    def counts():
        return [fd_count(p) for p in [_server.pid, *sorted(_server.workers())]]
    parallel(range(40), lambda i: works(), 8)
    until(lambda: _server.metrics().sum("weir_http_connections") <= 1, "connections close", 20)
    before = counts()

    def one(i):
        if i % 4 == 0:
            stream = _server.stream(COMPLETIONS, {"prompt": f"the water {i}", "max_tokens": 300,
                                                  "ignore_eos": True})
            next(stream)
            stream.close()
        elif i % 4 == 1:
            _server.post(COMPLETIONS, b"{")
        else:
            generate(_server, COMPLETIONS, {"prompt": f"the water {i}", "max_tokens": 5,
                                            "stream": i % 2 == 0})
    parallel(range(200), one, 8)
    until(lambda: _server.metrics().sum("weir_http_connections") <= 1, "connections close", 20)
    until(lambda: counts() == before, f"descriptors: {before} before, {counts()} after", 10)


@case
def idle_costs_nothing():
    if not FULL:
        raise Skip("in the full tier")
    for model in (tiny_model(), real_model()):
        with Server("--prefill", "1", "--decode", "1", model=model) as server:
            works(server)
            time.sleep(2)
            pids = [server.pid, *children(server.pid)]
            before = sum(map(cpu_seconds, pids))
            time.sleep(10)
            used = (sum(map(cpu_seconds, pids)) - before) / 10
            print(f"# idle: {used * 100:.2f} % of a core, gateway and 2 workers, over 10 s")
            assert used < 0.01, f"{used * 100:.2f} % of a core"


@case
def the_server_ends_well_after_all_this():
    _server.check_pages_free()
    _server.stop()


main()
