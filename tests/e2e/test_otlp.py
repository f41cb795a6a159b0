#!/usr/bin/env python3
"""test_otlp.py -- traces as an OpenTelemetry collector gets them.

The collector here is a small HTTP server; what it takes is read with the protocol's own schema (the
PyPI package opentelemetry-proto), strictly, so a field that does not exist or has the wrong type is
found.
"""

import base64
import http.server
import json
import os
import re
import signal
import socket
import threading
import time

from weirtest import Server, Skip, case, main, parallel, scratch, until

try:
    from google.protobuf import json_format
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
except ImportError:
    json_format = None

CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CLIENT_TRACE, CLIENT_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PROFILE = ("prefill-us = 2000\nprefill-token-us = 20\nprefill-context-us = 0\ndecode-us = 1000\n"
           "decode-seq-us = 50\ndecode-context-us = 0\nkv-gbps = 1\nkv-bytes-per-token = 20000\n")
PROMPT = "the water over the weir " * 8
SERVER, INTERNAL, ERROR = 2, 1, 2
HEX = re.compile(r"[0-9a-f]+")


def check_json(value, key=""):
    """What json_format would take although OTLP does not allow it: names of enumerations, 64-bit
    numbers that are not strings, ids that are not hexadecimal."""
    if isinstance(value, dict):
        for k, v in value.items():
            check_json(v, k)
    elif isinstance(value, list):
        for v in value:
            check_json(v, key)
    elif key in ("traceId", "spanId", "parentSpanId"):
        assert HEX.fullmatch(value) and len(value) == (32 if key == "traceId" else 16), value
        assert set(value) != {"0"}, f"{key} of zeros"
    elif key in ("startTimeUnixNano", "endTimeUnixNano", "timeUnixNano", "intValue"):
        assert isinstance(value, str), f"{key}: {value!r} is no string"
    elif key in ("kind", "code"):
        assert isinstance(value, int), f"{key}: {value!r} is no number"


def as_protobuf_json(value, key=""):
    """OTLP's JSON writes ids as hexadecimal, protobuf's as base64."""
    if isinstance(value, dict):
        return {k: as_protobuf_json(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [as_protobuf_json(v, key) for v in value]
    if key in ("traceId", "spanId", "parentSpanId"):
        return base64.b64encode(bytes.fromhex(value)).decode()
    return value


class Span:
    def __init__(self, span, resource):
        self.trace, self.id = span.trace_id.hex(), span.span_id.hex()
        self.parent = span.parent_span_id.hex()
        self.name, self.kind, self.state, self.flags = (span.name, span.kind, span.trace_state,
                                                        span.flags)
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.failed = span.status.code == ERROR
        self.attributes = attributes(span.attributes)
        self.events = [(e.name, e.time_unix_nano, attributes(e.attributes)) for e in span.events]
        self.resource = resource

    def __repr__(self):
        return f"{self.name} {self.start}..{self.end} {self.attributes} {self.events}"


def attributes(pairs):
    return {p.key: getattr(p.value, p.value.WhichOneof("value")) for p in pairs}


class Collector:
    """Answers with `answers` one after the other, then with 200; `gate` holds what it answers."""

    def __init__(self, answers=()):
        if json_format is None:
            raise Skip("no package opentelemetry-proto")
        self.answers, self.spans, self.posts = list(answers), [], 0
        self.headers = {}
        self.problem = None
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = outer.take(self.path, self.headers, body)
                outer.gate.wait()
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")
                except OSError:
                    pass  # it did not wait for the answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path, headers, body):
        self.posts += 1
        self.headers = headers
        status, extra = self.answers.pop(0) if self.answers else (200, {})
        try:
            assert path == "/v1/traces", path
            assert headers["Content-Type"] == "application/json", headers["Content-Type"]
            data = json.loads(body)
            check_json(data)
            request = json_format.Parse(json.dumps(as_protobuf_json(data)),
                                        trace_service_pb2.ExportTraceServiceRequest())
            if status == 200:
                self.spans += [Span(s, attributes(r.resource.attributes))
                               for r in request.resource_spans for scope in r.scope_spans
                               for s in scope.spans]
        except Exception as error:  # told by the thread that waits
            self.problem = error
        self.arrived.set()
        return status, extra

    def requests(self, count):
        """Waits for the traces of so many requests; one list of spans each, the request's first."""
        def found():
            if self.problem:
                raise AssertionError(f"not OTLP: {self.problem!r}")
            return [s for s in self.spans if s.kind == SERVER][:count]

        roots = until(lambda: len(found()) == count and found(), f"{count} traces")
        return [[r, *(s for s in self.spans if s.parent == r.id)] for r in roots]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()


def profile():
    path = scratch("otlp.profile")
    with open(path, "w", encoding="ascii") as f:
        f.write(PROFILE)
    return path


def serve(collector, *flags, **more):
    where = ("--otlp-endpoint", collector.url) if collector else ()
    return Server("--backend", "timed", "--profile", profile(), "--local-prefill-max", "0",
                  "--log-level", "debug", *where, *flags, **more)


def job(**more):
    return {"prompt": PROMPT, "max_tokens": 8, "ignore_eos": True, **more}


def check_tree(spans):
    """One trace, parts within the whole, nothing that ends before it starts."""
    root, *parts = spans
    assert len({s.trace for s in spans}) == 1, spans
    assert len({s.id for s in spans}) == len(spans), "two spans with one id"
    for s in parts:
        assert s.kind == INTERNAL, s
        assert root.start <= s.start <= s.end <= root.end, f"{s} is not within {root}"
    for _, at, _ in root.events:
        assert root.start <= at <= root.end


def named(spans, name):
    found = [s for s in spans if s.name == name]
    assert len(found) == 1, f"{len(found)} spans named {name}: {spans}"
    return found[0]


@case
def the_collector_gets_the_headers_that_it_wants():
    key = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret%2C7, X-Scope=a=b"}
    with Collector() as collector:
        with serve(collector, env=key) as server:
            server.post("/v1/completions", job())
            collector.requests(1)
            assert collector.headers["Api-Key"] == "secret,7", collector.headers
            assert collector.headers["X-Scope"] == "a=b", collector.headers
            assert "secret" not in server.log()
        with serve(collector, "--otlp-headers", "api-key=other", env=key) as server:
            server.post("/v1/completions", job())
            collector.requests(2)
            assert collector.headers["Api-Key"] == "other", "the flag comes first"
            assert collector.headers["X-Scope"] is None
        refused = serve(collector, "--otlp-headers", "a=1,b=secret%00", wait=False)
        assert refused.process.wait(60) != 0
        assert "number 2" in refused.log() and "secret" not in refused.log(), refused.log()
        refused.kill()


@case
def one_trace_goes_from_the_client_through_all_workers():
    with Collector() as collector, serve(collector) as server:
        answer = server.post("/v1/completions", job(),
                             {"traceparent": CLIENT, "tracestate": "rojo=1,congo=t61rcWkgMzE"})
        usage = answer.json()["usage"]
        spans, = collector.requests(1)
        check_tree(spans)
        root = spans[0]
        assert (root.trace, root.parent) == (CLIENT_TRACE, CLIENT_SPAN), root
        assert all(s.state == "rojo=1,congo=t61rcWkgMzE" for s in spans), spans
        assert root.flags & 0x301 == 0x301 and spans[1].flags & 0x301 == 0x101, "flags"
        assert answer.headers["traceresponse"] == f"00-{CLIENT_TRACE}-{root.id}-01"
        assert {s.name for s in spans[1:]} == {"tokenize", "queue", "prefill queue", "prefill",
                                               "kv transfer", "decode"}, spans
        expected = {"http.request.method": "POST", "url.path": "/v1/completions",
                    "http.response.status_code": 200, "gen_ai.operation.name": "text_completion",
                    "gen_ai.request.model": answer.json()["model"],
                    "gen_ai.request.max_tokens": 8,
                    "gen_ai.usage.input_tokens": usage["prompt_tokens"],
                    "gen_ai.usage.output_tokens": 8}
        assert expected.items() <= root.attributes.items(), root.attributes
        assert root.name == "POST /v1/completions" and not root.failed
        prefill, moved, decode = (named(spans, n) for n in ("prefill", "kv transfer", "decode"))
        assert prefill.attributes["weir.worker"] == 0 == moved.attributes["weir.worker.from"]
        assert decode.attributes["weir.worker"] == 1 == moved.attributes["weir.worker"]
        assert named(spans, "prefill queue").end == prefill.start
        assert prefill.end == decode.start, "the first token ends one and begins the other"
        assert prefill.end - prefill.start >= 2_000_000, "a step of the profile is 2 ms at least"
        assert decode.end - decode.start >= 7_000_000, "and so are seven more tokens"
        assert decode.attributes["weir.tokens"] == 8
        assert root.resource["service.name"] == "weir"
        assert re.search(rf"answered path=/v1/completions code=200 .*trace={CLIENT_TRACE}",
                         server.log()), "no line in the access log"
        for word in ("submitted", "reserved"):
            assert re.search(rf"worker: {word} request=\d+ attempt=\d+ trace={CLIENT_TRACE}",
                             server.log()), f"no worker says {word}"


@case
def streams_chats_and_what_needs_no_worker_have_traces_too():
    with Collector() as collector, serve(collector) as server:
        assert [e for e in server.stream("/v1/chat/completions",
                                         {"messages": [{"role": "user", "content": PROMPT}],
                                          "max_tokens": 5, "ignore_eos": True})]
        assert server.post("/tokenize", {"prompt": "x"}).status == 200
        assert server.post("/v1/completions", job(prompt="a " * 5000)).status == 400
        assert server.post("/v1/completions", job(n="many")).status == 400
        server.get("/metrics")
        found = collector.requests(4)
        for spans in found:
            check_tree(spans)
            assert spans[0].parent == "" and not spans[0].failed, spans[0]
        assert len({spans[0].trace for spans in found}) == 4, "each has its own trace"
        chat, tokens, long, bad = found
        assert chat[0].attributes["gen_ai.operation.name"] == "chat"
        assert named(chat, "decode").attributes["weir.tokens"] == 5
        assert tokens[0].attributes["url.path"] == "/tokenize" and len(tokens) == 1
        assert long[0].attributes["http.response.status_code"] == 400
        assert {s.name for s in long[1:]} == {"tokenize"}, long
        assert bad[0].attributes["http.response.status_code"] == 400 and len(bad) == 1


@case
def what_the_client_says_of_sampling_is_honoured():
    with Collector() as collector, serve(collector, "--otlp-sample", "0") as server:
        answers = [server.post("/v1/completions", job(), headers) for headers in (
            {}, {"traceparent": CLIENT[:-1] + "0"}, {"traceparent": "nonsense"},
            {"traceparent": CLIENT})]
        spans, = collector.requests(1)
        assert spans[0].trace == CLIENT_TRACE
        header = [a.headers["traceresponse"].split("-") for a in answers]
        assert [h[3] for h in header] == ["02", "00", "02", "01"], header
        assert [h[1] == CLIENT_TRACE for h in header] == [False, True, False, True], header
        time.sleep(1.2)  # longer than a batch is collected
        assert len(collector.requests(1)) == 1 and collector.posts == 1, "nothing else was sent"
        connection = socket.create_connection((server.host, server.port))
        body = json.dumps(job()).encode()
        connection.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            f"traceparent: {CLIENT}\r\ntraceparent: {CLIENT}\r\nConnection: close\r\n\r\n".encode()
            + body)
        text = connection.makefile("rb").read()
        connection.close()
        assert b" 200 " in text and CLIENT_TRACE.encode() not in text, "of two, none is right"


@case
def a_share_of_requests_is_traced():
    with Collector() as collector, serve(collector, "--otlp-sample", "0.5") as server:
        answers = parallel(range(200), lambda _: server.post("/tokenize", {"prompt": "x"}), 8)
        sampled = {a.headers["traceresponse"][3:35] for a in answers
                   if a.headers["traceresponse"][-1] == "3"}
        # 2^-40 or so that fair coins do otherwise
        assert 50 < len(sampled) < 150, len(sampled)
        found = collector.requests(len(sampled))
        assert {spans[0].trace for spans in found} == sampled


@case
def a_killed_worker_shows_as_a_second_attempt_in_the_same_trace():
    with Collector() as collector, serve(collector) as server:
        events = server.stream("/v1/completions", job(max_tokens=400))
        for _ in range(5):
            next(events)
        os.kill(server.workers("decode")[0], signal.SIGKILL)
        assert [e for e in events][-1] is None, "it ended as it should"
        spans, = collector.requests(1)
        check_tree(spans)
        first, second = sorted((s for s in spans if s.name == "decode"), key=lambda s: s.start)
        assert first.failed and not second.failed, spans
        assert first.end <= second.start
        assert first.attributes["weir.attempt"] < second.attributes["weir.attempt"], spans
        tokens = first.attributes["weir.tokens"] + second.attributes["weir.tokens"]
        assert tokens == spans[0].attributes["gen_ai.usage.output_tokens"] == 400, spans
        names = [name for name, _, _ in spans[0].events]
        assert "worker lost" in names and "retry" in names, names
        assert not spans[0].failed
        server.worker_pids |= set(server.workers())


@case
def a_collector_that_asks_for_patience_gets_everything_later():
    answers = [(503, {"Retry-After": "1"}), (429, {})]
    with Collector(answers) as collector, serve(collector) as server:
        server.post("/v1/completions", job(), {"traceparent": CLIENT})
        spans, = collector.requests(1)
        assert collector.posts == 3 and spans[0].trace == CLIENT_TRACE
        until(lambda: server.metrics().sum("weir_traces_sent_total") == 1, "it is counted")
        assert server.metrics().sum("weir_traces_dropped_total") == 0


@case
def what_a_collector_refuses_is_dropped_and_counted():
    with Collector([(400, {})]) as collector, serve(collector) as server:
        server.post("/tokenize", {"prompt": "x"})
        until(lambda: server.metrics().sum("weir_traces_dropped_total", why="refused") == 1,
              "it is counted")
        server.post("/tokenize", {"prompt": "x"}, {"traceparent": CLIENT})
        spans, = collector.requests(1)
        assert spans[0].trace == CLIENT_TRACE and collector.posts == 2, "not sent again"


@case
def a_collector_that_hangs_holds_up_no_request():
    with Collector() as collector:
        with serve(collector) as server:
            collector.gate.clear()
            server.post("/v1/completions", job())
            collector.arrived.wait()
            # All of these while the collector has not answered the first.
            answers = parallel(range(32), lambda _: server.post("/v1/completions", job()), 8)
            assert all(a.status == 200 for a in answers)
            assert not collector.gate.is_set() and collector.posts == 1
        # The server has ended although the collector still hangs.
        collector.gate.set()


@case
def without_a_collector_nothing_fails_and_drops_are_counted():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with serve(None, "--otlp-endpoint", url) as server:
            def many(_):
                connection = server.connect()
                for _ in range(400):
                    connection.request("POST", "/tokenize", b'{"prompt": "x"}',
                                       {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    assert response.status == 200, response.status
                    response.read()
                connection.close()

            parallel(range(8), many, 8)  # more than wait at most
            until(lambda: server.metrics().sum("weir_traces_dropped_total", why="full") > 0,
                  "what has no room is dropped")
            assert server.metrics().sum("weir_traces_sent_total") == 0
            assert server.post("/v1/completions", job()).status == 200


@case
def what_waits_is_sent_when_the_server_ends():
    with Collector() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url + "/", "OTEL_SERVICE_NAME": "front"}
        with serve(None, env=env) as server:
            server.post("/v1/completions", job(), {"traceparent": CLIENT})
        spans = collector.requests(1)[0]
        check_tree(spans)
        assert spans[0].trace == CLIENT_TRACE and spans[0].resource["service.name"] == "front"


@case
def an_address_that_is_none_is_refused_at_once():
    for url in ("localhost:4318", "ftp://localhost", "http://", "http://a b", "http://a?x=1"):
        server = serve(None, "--otlp-endpoint", url, wait=False)
        server.wait_end(expect=1)
        assert "is not like http://host:4318" in server.log(), server.log_tail()


if __name__ == "__main__":
    main()
