#!/usr/bin/env python3
"""test_interop.py -- weir behind other people's routers: the series and the parameters they use.

vllm-router is run for real where it is (on the PATH, or in the virtual environment that
WEIR_TEST_ROUTERS names; `pip install vllm-router`).
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

from hosts import Cluster
from weirtest import Server, Skip, case, main, scratch, until

PROMPT = "the water goes over the weir " * 12
LENGTH = 24
PAGE = 16


def ask(server, **more):
    body = {"prompt": PROMPT, "max_tokens": LENGTH, "temperature": 0, "ignore_eos": True, **more}
    answer = server.post("/v1/completions", body)
    assert answer.status == 200, answer.body
    return answer.json()


def computed(server):
    """Prompt tokens that ran through the model: when the number has stood still for two turns of
    the workers' reports."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < 0.7:
        now = server.metrics().sum("weir_prompt_tokens_computed_total")
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.05)
    return last


@contextlib.contextmanager
def vllm_router(*flags):
    venv = os.environ.get("WEIR_TEST_ROUTERS")
    program = shutil.which("vllm-router", path=os.path.join(venv, "bin") if venv else None)
    if not program:
        raise Skip("no vllm-router; pip install it and set WEIR_TEST_ROUTERS to the environment")
    ports = []
    for _ in range(2):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            ports.append(s.getsockname()[1])
    with open(scratch("router.log"), "wb") as log:
        process = subprocess.Popen(
            [program, *flags, "--host", "127.0.0.1", "--port", str(ports[0]), "--prometheus-host",
             "127.0.0.1", "--prometheus-port", str(ports[1])], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{ports[0]}"

    def up():
        assert process.poll() is None, open(scratch("router.log"), encoding="utf-8").read()[-2000:]
        try:
            with urllib.request.urlopen(url + "/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False
    try:
        until(up, "vllm-router serves")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        with open(scratch("router.log"), encoding="utf-8") as f:
            raise AssertionError(f"{error.read()} {f.read()[-3000:]}") from error


@case
def parameters_of_a_transfer_come_back_and_the_prompt_is_computed_once():
    with Server("--threads", "2", "--local-prefill-max", "0") as server:
        plain = ask(server)
        count = plain["usage"]["prompt_tokens"]
        before = computed(server)
        salt = {"cache_salt": "other"}  # nothing of the first is found
        first = ask(server, max_tokens=1, min_tokens=1, kv_transfer_params={
            "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None,
            "remote_block_ids": None, "remote_host": None, "remote_port": None}, **salt)
        params = first["kv_transfer_params"]
        assert params["do_remote_prefill"] is True and params["do_remote_decode"] is False, params
        assert params["remote_request_id"] == first["id"], params
        assert computed(server) - before == count
        second = ask(server, kv_transfer_params=params, **salt)
        assert second["choices"][0]["text"] == plain["choices"][0]["text"]
        again = computed(server) - before - count
        assert 0 < again <= PAGE, f"{again} tokens of {count} were computed again"
        assert "kv_transfer_params" not in second and "kv_transfer_params" not in plain


@contextlib.contextmanager
def gateway_pair():
    """A prefill and a decode server as their routers see it: two gateways of one cluster."""
    with Cluster() as c:
        prefill, decode = c.gateway(wait=False), c.gateway(wait=False)
        c.worker("prefill")
        c.worker("decode")
        for gateway in (prefill, decode):
            gateway.wait_ready()
            c.wait_joined(gateway, 2)
        yield prefill, decode


@case
def vllm_router_drives_a_weir_pair():
    with gateway_pair() as (prefill, decode), vllm_router(
            "--vllm-pd-disaggregation", "--prefill", prefill.url, "--decode", decode.url,
            "--policy", "round_robin") as url:
        plain = ask(decode, cache_salt="a")
        count = plain["usage"]["prompt_tokens"]
        text = plain["choices"][0]["text"]
        before = computed(decode)
        body = {"model": decode.get("/v1/models").json()["data"][0]["id"], "prompt": PROMPT,
                "max_tokens": LENGTH, "temperature": 0, "ignore_eos": True, "cache_salt": "b"}
        answer = json.loads(post(url + "/v1/completions", body))
        assert answer["choices"][0]["text"] == text, answer
        assert answer["usage"]["completion_tokens"] == LENGTH
        assert 0 < computed(decode) - before <= count + PAGE, "the prompt was computed twice"
        assert prefill.metrics().sum("weir_requests_total", end="ok") == 1
        told = ""
        for line in post(url + "/v1/completions", {**body, "stream": True}).splitlines():
            if line.startswith("data: {"):
                told += json.loads(line[6:])["choices"][0]["text"]
        assert told == text, told


@case
def two_gateways_of_a_cluster_are_a_prefill_and_a_decode_server():
    with gateway_pair() as (prefill, decode):
        plain = ask(prefill, cache_salt="a")
        first = ask(prefill, max_tokens=1, kv_transfer_params={"do_remote_decode": True},
                    cache_salt="b")
        time.sleep(0.6)  # the other gateway hears of the pages with the next heartbeat
        second = ask(decode, kv_transfer_params=first["kv_transfer_params"], cache_salt="b")
        assert second["choices"][0]["text"] == plain["choices"][0]["text"]
        cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        count = second["usage"]["prompt_tokens"]
        assert cached >= count - PAGE, f"{cached} of {count} tokens were found"


@case
def the_series_of_vllm_are_there_and_move():
    with Server("--threads", "2") as server:
        ask(server)
        ask(server)
        page = server.metrics()
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting",
                     "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"):
            assert page.all(name), f"{name} is not there"
            assert page.sum(name) == 0, name
        assert page.sum("vllm:generation_tokens_total") == 2 * LENGTH
        assert page.sum("vllm:prefix_cache_hits_total") > 0
        assert page.sum("vllm:time_to_first_token_seconds_count") == 2
        assert page.sum("vllm:time_per_output_token_seconds_count") == 2


if __name__ == "__main__":
    main()
