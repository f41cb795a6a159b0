#!/usr/bin/env python3
"""stub_llama.py -- stands in for llama.cpp's binaries, by the name it is called by.

Tools print what the real ones print; the server is a weir behind llama-server's own paths and
shapes: /health, /tokenize with `content`. STUB_FAIL names the tool that breaks.
"""
import http.server
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

BENCH = """
main: n_kv_max = 9216, n_batch = 2048, n_ubatch = 512, flash_attn = 1, n_threads = 2

%s
llama_perf_context_print:        load time =     206.84 ms
"""
CASE = {"n_kv_max": 9216, "n_batch": 2048, "n_ubatch": 512, "flash_attn": 1, "is_pp_shared": 1,
        "n_gpu_layers": -1, "n_threads": 2, "n_threads_batch": 2, "pp": 512, "tg": 64, "pl": 1,
        "n_kv": 576, "t_pp": 0.5, "speed_pp": 1.0, "t_tg": 0.5, "speed_tg": 1.0, "t": 1.0,
        "speed": 1.0}
PERPLEXITY = """perplexity: tokenizing the input ..
perplexity: calculating perplexity over 4 chunks, n_ctx=512, batch_size=2048, n_seq=4
perplexity: 1.03 seconds per pass - ETA 0.02 minutes
[1]10.5432,[2]13.0211,[3]15.7711,[4]18.1234,
Final estimate: PPL = 18.1234 +/- 0.98765
"""
VERSION = "version: 0.5.0-dev (build 0, commit 0c1e57098)\nbuilt with GNU 12.2.0 for Linux x86_64\n"


def flag(name):
    return sys.argv[sys.argv.index(name) + 1]


def batched_bench():
    batches = [int(n) for n in flag("-npl").split(",")]
    speeds = {1: (100.0, 10.0), batches[-1]: (200.0, 40.0)}
    cases = [{**CASE, "pl": n, "speed_pp": speeds[n][0], "speed_tg": speeds[n][1]}
             for n in batches]
    cases[0].update(speed_pp=1.0, speed_tg=1.0)  # cold: not to be told
    print(BENCH % "\n".join(json.dumps(case) for case in cases))


class Front(http.server.BaseHTTPRequestHandler):
    """llama-server's face before a weir."""
    protocol_version = "HTTP/1.1"
    weir = ""

    def do_GET(self):
        self.forward(None)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/tokenize":
            asked = json.loads(body)
            body = json.dumps({"prompt": asked.get("content", ""),
                               "add_special_tokens": False}).encode()
        self.forward(body)

    def forward(self, body):
        request = urllib.request.Request(self.weir + self.path, body,
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                code, kind, data = answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as e:
            code, kind, data = e.code, e.headers["Content-Type"], e.read()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def server():
    weir = subprocess.Popen([os.environ["STUB_WEIR"], "serve", "--model", flag("-m"), "--port", "0",
                             "--log-level", "warn"], stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        Front.weir = "http://" + weir.stdout.readline().split("http://")[1].split()[0]
        http.server.ThreadingHTTPServer(("127.0.0.1", int(flag("--port"))), Front).serve_forever()
    finally:
        weir.terminate()
        weir.wait()


def main():
    tool = os.path.basename(sys.argv[0])
    if "--version" in sys.argv:
        print(VERSION, file=sys.stderr)
    elif os.environ.get("STUB_FAIL") == tool:
        print(f"{tool}: error: unable to load model", file=sys.stderr)
        sys.exit(3)
    elif tool == "llama-server":
        server()
    elif tool == "llama-batched-bench":
        batched_bench()
    else:
        print(PERPLEXITY)


if __name__ == "__main__":
    main()
