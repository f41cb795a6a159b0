#!/usr/bin/env python3
"""test_hosts.py -- clusters: hub, gateways and workers as processes that join and leave, on this host
and on two.

The oracle is that of test_exact.py: every answer has the tokens that one aggregated worker gives.
"""

import concurrent.futures
import json
import os
import signal
import subprocess
import threading
import time

import mixed
from hosts import KEY, Cluster, Host, Node
from weirtest import (BIN, FULL, Failed, Server, case, generate, main, parallel, scratch, tiny_model,
                      until)

ROUNDS = 6 if FULL else 1
jobs = [(path, {**body, "max_tokens": 100, "ignore_eos": True})
        for path, body in mixed.requests(48, seed=23)]
expected = []


def reference():
    if not expected:
        with Server("--aggregated", "--threads", "1") as server:
            expected.extend(parallel(jobs, lambda job: generate(server, *job), 8))


def check(got):
    for i, result in enumerate(got):
        want = expected[i % len(jobs)]
        assert not isinstance(result, Failed), f"request {i} failed: {result}"
        assert result.key() == want.key(), (
            f"request {i} has wrong tokens:\n got {result.key()}\nwant {want.key()}")


def attempt(server, job):
    try:
        return generate(server, *job)
    except Failed as failed:
        return failed


def run_all(server, workers=8, rounds=1):
    return parallel(jobs * rounds, lambda job: attempt(server, job), workers)


def check_well(*gateways):
    for gateway in gateways:
        check(parallel(jobs[:4], lambda job: attempt(gateway, job), 4))
        gateway.check_pages_free()
        assert gateway.metrics().sum("weir_inexact_tokens_total") == 0


def during(server, action, workers=8, rounds=2):
    """The answers to all jobs while `action()` goes on beside them."""
    errors = []

    def beside():
        try:
            action()
        except BaseException as error:
            errors.append(error)
    thread = threading.Thread(target=beside)
    thread.start()
    try:
        got = run_all(server, workers, rounds)
        while thread.is_alive():  # there is load for as long as it goes on
            check(got)
            got = run_all(server, workers)
        return got
    finally:
        thread.join()
        if errors:
            raise errors[0]


# ---- one host ----------------------------------------------------------------------------------

@case
def a_cluster_answers_like_one_worker():
    reference()
    with Cluster() as c:
        gateway = c.start()
        check(run_all(gateway))
        # Workers tell their numbers now and then.
        until(lambda: gateway.metrics().sum("weir_handoffs_total", role="prefill") > 0,
              "something was handed over")
        until(lambda: gateway.metrics().sum("weir_kv_links", transport="tcp") == 2,
              "one link, seen from both ends")
        assert "transport=tcp" in c.nodes[0].log()
        check_well(gateway)


@case
def local_pools_over_tcp():
    reference()
    with Server("--kv-transport", "tcp", "--local-prefill-max", "0", "--prefill", "2",
                "--threads", "1") as server:
        check(run_all(server))
        until(lambda: server.metrics().sum("weir_kv_links", transport="tcp") == 4,
              "two links, seen from both ends")
        assert server.metrics().sum("weir_kv_links", transport="shm") == 0
        check_well(server)


@case
def links_that_are_cut_over_tcp():
    """Between hosts a lost link is dialled again, and what was on it goes another way."""
    reference()
    spec = "prefill.before_handoff=error:3@5"
    with Server("--kv-transport", "tcp", "--local-prefill-max", "0", "--threads", "1",
                env={"WEIR_FAILPOINTS": spec}) as server:
        check(run_all(server))
        assert "a pair gets a new link" in server.log(), "the point was not reached"
        check_well(server)


@case
def damaged_pages_over_tcp_are_never_used():
    reference()
    with Server("--kv-transport", "tcp", "--local-prefill-max", "0", "--threads", "1",
                env={"WEIR_FAILPOINTS": "kvt.damage=error:3@9"}) as server:
        check(run_all(server))
        assert "channel broken" in server.log()
        check_well(server)


@case
def serve_takes_workers_that_join():
    reference()
    flags = ("--cluster-listen", "127.0.0.1:0", "--local-prefill-max", "0", "--threads", "1")
    with Server(*flags, env={"WEIR_CLUSTER_KEY": KEY}) as server:
        # Before any request: prompts that the first workers hold already would stay with them.
        address = next(line.split("address=")[1] for line in server.log().splitlines()
                       if "hub: listening" in line)
        decode = Node("worker", "--join", address, "--role", "decode")
        prefill = Node("worker", "--join", address, "--role", "prefill")
        until(lambda: server.log().count("worker joined") == 4, "both have joined")
        check(run_all(server, workers=16, rounds=2))
        until(lambda: sum(sum(server.metrics().all("weir_adoptions_total", worker=n))
                          for n in "23") > 0, "those that joined have worked", 20)
        for node in (decode, prefill):
            node.end()
        check_well(server)


@case
def several_gateways_and_the_end_of_one():
    reference()
    with Cluster() as c:
        first = c.start(decode=2)
        second = c.gateway()
        c.wait_joined(second, 3)
        both = parallel([(g, job) for job in jobs for g in (first, second)],
                        lambda pair: attempt(pair[0], pair[1]), 12)
        check(both[0::2])
        check(both[1::2])
        dying = c.gateway()
        c.wait_joined(dying, 3)
        c.gateways.remove(dying)

        def die():
            streams = [dying.stream("/v1/completions", {"prompt": f"the water {i}", "max_tokens": 700,
                                                        "ignore_eos": True}) for i in range(4)]
            for stream in streams:
                next(stream)
            dying.kill()
        check(during(first, die, rounds=1))
        check_well(first, second)


@case
def a_prefix_cached_through_one_gateway_is_found_through_another():
    alice, bob = "the-key-of-alice", "the-key-of-bob"
    files = []
    for order in ((alice, bob), (bob, alice)):  # each gateway numbers them its own way
        files.append(scratch(f"keys-{order[0]}"))
        with open(files[-1], "w", encoding="ascii") as f:
            f.write("\n".join(order) + "\n")
        os.chmod(files[-1], 0o600)
    body = {"prompt": "the water of the long river " * 20, "max_tokens": 4, "temperature": 0}

    def cached(gateway, key, **more):
        answer = gateway.post("/v1/completions", {**body, **more},
                              {"Authorization": f"Bearer {key}"})
        assert answer.status == 200, answer.body
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    with Cluster() as c:
        for role in "prefill", "decode":
            c.worker(role)
        first, second = (c.gateway("--api-key-file", path) for path in files)
        for gateway in first, second:
            c.wait_joined(gateway, 2)
        assert cached(first, alice) == 0
        warm = cached(first, alice)
        assert warm > 100, "nothing was cached"
        assert cached(second, alice) == warm, "not found through the other gateway"
        assert cached(second, bob) == 0, "another key's prefix was found"
        assert cached(first, alice, cache_salt="mine") == 0, "another salt's prefix was found"
        assert cached(second, alice, cache_salt="mine") == warm


def clients_of(gateways, over):
    """Clients that go to whatever gateway of `gateways` takes them, until `over`: what one has
    accepted it must finish, with the right tokens. Returns a function that ends them and says how
    many answers there were."""
    answers = [0] * 6

    def client(n):
        i = n
        while not over.is_set():
            path, body = jobs[i % len(jobs)]
            for gateway in list(gateways):
                try:
                    got = generate(gateway, path, body)
                except (ConnectionRefusedError, BrokenPipeError):
                    continue  # it is no more, or not yet; or it ended before the request was sent
                except (RuntimeError, Failed) as refused:
                    assert "503" in str(refused), f"request {i} was dropped: {refused}"
                    continue
                assert got.key() == expected[i % len(jobs)].key(), f"request {i}: wrong tokens"
                answers[n] += 1
                break
            i += len(answers)

    pool = concurrent.futures.ThreadPoolExecutor(len(answers))
    clients = [pool.submit(client, n) for n in range(len(answers))]
    until(lambda: all(answers), "every client has an answer")

    def end():
        over.set()
        for done in clients:
            done.result()
        return sum(answers)
    return end


@case
def a_gateway_is_replaced_and_no_request_is_dropped():
    reference()
    with Cluster() as c:
        first = c.start(decode=2)
        second = c.gateway()
        c.wait_joined(second, 3)
        whole = read(second.stream("/v1/completions", LONG))
        serving = [first, second]
        over = threading.Event()
        end_clients = clients_of(serving, over)
        try:
            for old in first, second:
                streams = [old.stream("/v1/completions", LONG) for _ in range(3)]
                begun = [read([next(stream)]) for stream in streams]
                kept = old.connect()
                kept.request("GET", "/health")
                assert kept.getresponse().read()
                old.process.send_signal(signal.SIGTERM)
                until(lambda: "draining" in old.log(), "it drains", 10)
                try:
                    kept.request("GET", "/health")
                    assert kept.getresponse().status == 503
                except OSError:
                    pass  # an idle connection may be closed instead
                for text, stream in zip(begun, streams):
                    assert text + read(stream) == whole, "a stream was cut by the drain"
                old.wait_end(0)
                serving.remove(old)
                c.gateways.remove(old)
                new = c.gateway()
                c.wait_joined(new, 3)
                serving.append(new)
        finally:
            over.set()
        print(f"# {end_clients()} requests while both gateways were replaced")
        check_well(*serving)


def clients_of_a_port(server, over):
    """Clients of a port, until `over`, half of them on connections that they keep. There is always
    a gateway behind it, so nothing may be refused, not even with a 503."""
    answers = [0] * 6

    def client(n):
        i = n
        connection = server.connect()
        while not over.is_set():
            path, body = jobs[i % len(jobs)]
            if n % 2:
                connection.close()
            whole = {**body, "stream": False, "return_token_ids": True}
            connection.request("POST", path, json.dumps(whole),
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = json.loads(answer.read())
            assert answer.status == 200, f"request {i} was dropped: {answer.status} {data}"
            got = [c["token_ids"] for c in data["choices"]]
            assert got == expected[i % len(jobs)].ids, f"request {i}: wrong tokens"
            answers[n] += 1
            i += len(answers)

    pool = concurrent.futures.ThreadPoolExecutor(len(answers))
    clients = [pool.submit(client, n) for n in range(len(answers))]

    def check_clients():
        for done in clients:
            if done.done():
                done.result()

    def end():
        over.set()
        for done in clients:
            done.result()
        return sum(answers)
    return check_clients, end


@case
def gateways_that_share_a_port_are_replaced_under_load_and_nothing_is_dropped():
    reference()
    with Cluster() as c:
        for role in "prefill", "decode", "decode":
            c.worker(role)
        flags = ["--reuse-port", "--log-level", "debug"]
        first = c.gateway(*flags)
        flags += ["--port", str(first.port)]
        second = c.gateway(*flags)
        for gateway in first, second:
            c.wait_joined(gateway, 3)
        whole = read(first.stream("/v1/completions", LONG))
        over = threading.Event()
        check_clients, end_clients = clients_of_a_port(first, over)

        def all_serve():
            def serves(gateway):
                check_clients()
                return gateway.log().count(" answered ") > 2
            until(lambda: all(map(serves, c.gateways)), "every gateway of the port has requests")
        try:
            all_serve()
            for old in first, second:
                c.wait_joined(c.gateway(*flags), 3)
                streams = [old.stream("/v1/completions", LONG) for _ in range(6)]
                begun = [read([next(stream)]) for stream in streams]
                old.process.send_signal(signal.SIGTERM)
                for text, stream in zip(begun, streams):
                    assert text + read(stream) == whole, "a stream was cut by the drain"
                old.wait_end(0)
                c.gateways.remove(old)
                all_serve()
        finally:
            over.set()
        print(f"# {end_clients()} requests to one port while both gateways were replaced")
        check_well(c.gateways[0])


@case
def a_port_that_is_not_shared_is_not_taken():
    with Cluster() as c:
        for role in "prefill", "decode":
            c.worker(role)
        for flags in ([], ["--reuse-port"]):
            owner = c.gateway(*flags)
            other = ["--reuse-port"] if not flags else []
            refused = c.gateway("--port", str(owner.port), *other, wait=False)
            c.gateways.remove(refused)
            refused.wait_end(1)
            assert "cannot listen on" in refused.log(), refused.log_tail()


@case
def a_killed_gateway_takes_no_other_stream_along():
    reference()
    with Cluster() as c:
        gateway = c.start(decode=2)
        dying = c.gateway()
        c.wait_joined(dying, 3)

        def die():
            streams = [dying.stream("/v1/completions", LONG) for _ in range(4)]
            for stream in streams:
                next(stream)
            c.gateways.remove(dying)
            dying.kill()
        check(during(gateway, mid_stream(gateway, die), rounds=1))
        until(lambda: all(node.log().count("gateway joined") == 2 for node in c.nodes), "all knew")
        check_well(gateway)  # the workers hold no page for the one that died
        new = c.gateway()
        c.wait_joined(new, 3)
        check_well(gateway, new)


@case
def workers_come_and_go_under_load():
    reference()
    with Cluster() as c:
        gateway = c.start(prefill=2, decode=2)

        def come_and_go():
            for role, crash in (("decode", False), ("prefill", True), ("decode", True),
                                ("prefill", False)) * ROUNDS:
                joined = gateway.log().count("worker joined")
                c.worker(role)
                until(lambda: gateway.log().count("worker joined") > joined, "it has joined")
                old = c.remove(next(n for n in c.nodes if role in n.command))
                old.crash() if crash else old.end()
        check(during(gateway, come_and_go))
        check_well(gateway)


@case
def the_hub_dies_and_returns_under_load():
    reference()
    with Cluster() as c:
        gateway = c.start()

        def die_and_return():
            c.restart_hub(while_away_s=1.5)
            until(lambda: c.hub.log().count("joined who=") >= 3, "all have come back")
            joined = gateway.log().count("worker joined")
            c.worker("decode")
            until(lambda: gateway.log().count("worker joined") > joined, "a new one joins")
        check(during(gateway, die_and_return))
        assert gateway.log().count("worker joined") == 3, "nobody lost a link"
        check_well(gateway)


@case
def a_frozen_worker_is_left_and_found_again():
    reference()
    with Cluster() as c:
        gateway = c.start(decode=2)
        frozen = c.nodes[1]

        def freeze():
            os.kill(frozen.pid, signal.SIGSTOP)
            until(lambda: "worker is silent" in gateway.log(), "it is noticed", 20)
            os.kill(frozen.pid, signal.SIGCONT)
            until(lambda: gateway.log().count("worker joined") >= 4, "it is back", 20)
        check(during(gateway, freeze))
        check_well(gateway)


# ---- who is not let in -------------------------------------------------------------------------

@case
def what_does_not_fit_is_refused_with_its_reason():
    other = tiny_model(seed=2)
    with Cluster() as c:
        c.start()
        refusals = (
            ("another key", "keys differ", ("decode",), {"WEIR_CLUSTER_KEY": "some other cluster's"}),
            ("no key", "keys differ", ("decode",), {"WEIR_CLUSTER_KEY": ""}),
            ("another model", "not the same model", ("decode", "--model", other), {}),
            ("other KV pages", " differs: ", ("decode", "--kv-dtype", "f32"), {}),
            ("other numerics", "numerics class differs", ("decode", "--activations", "f32"), {}),
            ("another context", "context differs", ("decode", "--context", "512"), {}),
        )
        for what, why, flags, env in refusals:
            before = len(c.hub.log())
            node = Node("worker", "--join", c.address, "--role", *flags, env=env).wait_end(1)
            assert why in node.log(), f"{what}: {node.log_tail()}"
            assert why in c.hub.log()[before:], f"{what}: {c.hub.log()[before:]}"
        gateway = subprocess.run(
            [BIN, "gateway", "--join", c.address, "--model", other, "--port", "0"],
            env={**os.environ, "WEIR_CLUSTER_KEY": KEY}, capture_output=True, text=True, timeout=60)
        assert gateway.returncode == 1 and "not the same model" in gateway.stderr, gateway.stderr


@case
def other_hosts_are_not_let_in_without_a_key():
    env = {k: v for k, v in os.environ.items() if k != "WEIR_CLUSTER_KEY"}
    model = ("--model", tiny_model())
    for words in (("controller", "--listen", "0.0.0.0:0"),
                  ("worker", "--join", "10.1.2.3:7000", *model),
                  ("worker", "--join", "127.0.0.1:7000", "--listen", "0.0.0.0:0", *model),
                  ("gateway", "--join", "10.1.2.3:7000", "--port", "0", *model),
                  ("serve", "--cluster-listen", "10.1.2.3:7000", "--port", "0", *model)):
        done = subprocess.run([BIN, *words], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode in (1, 2), (words, done)
        assert "--cluster-key-file" in done.stderr, (words, done.stderr)
    short = scratch("short-key")
    with open(short, "w", encoding="ascii") as f:
        f.write("too short\n")
    done = subprocess.run([BIN, "controller", "--listen", "0.0.0.0:0", "--cluster-key-file", short],
                          env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and "16 to 4096 bytes" in done.stderr, done.stderr


# ---- two hosts ---------------------------------------------------------------------------------

def two_hosts(host, decode_here=0):
    """Hub, gateway and prefill here; decode there (and, when asked for, here too)."""
    c = Cluster(host.near)
    c.worker("prefill")
    c.worker("decode", host=host)
    for _ in range(decode_here):
        c.worker("decode")
    return c


@case
def two_hosts_answer_like_one():
    reference()
    with Host() as host, two_hosts(host) as c:
        gateway = c.gateway()
        c.wait_joined(gateway, 2)
        check(run_all(gateway))
        assert f"address={host.far}:" in c.hub.log(), "the decode worker is over there"
        until(lambda: gateway.metrics().sum("weir_handoffs_total", role="prefill") > 0,
              "something was handed over")
        host.cable.delay_s, host.cable.loss = 0.015, 0.01
        check(run_all(gateway, workers=24))
        assert host.cable.lost > 0
        host.cable.delay_s = host.cable.loss = 0.0
        check_well(gateway)


LONG = {"prompt": "the water of the long river " * 8, "max_tokens": 700, "ignore_eos": True,
        "temperature": 0}


def read(stream):
    return "".join(e["choices"][0]["text"] for e in stream if e)


def mid_stream(gateway, action):
    """`action()` when the first tokens of four streams have come; they go on as if it had not."""
    whole = read(gateway.stream("/v1/completions", LONG))

    def go():
        streams = [gateway.stream("/v1/completions", LONG) for _ in range(4)]
        begun = [read([next(stream)]) for stream in streams]
        action()
        for first, stream in zip(begun, streams):
            assert first + read(stream) == whole, "a stream has lost or changed something"
    return go


def cut(cut_it, heal_it, away_s):
    """The link between the hosts goes in the middle of streams, and comes back."""
    reference()
    with Host() as host, two_hosts(host) as c:
        gateway = c.gateway()
        c.wait_joined(gateway, 2)

        def away():
            cut_it(host)
            time.sleep(away_s)
            heal_it(host)
        check(during(gateway, mid_stream(gateway, away), rounds=1))
        if away_s > 4:
            assert "worker is silent" in gateway.log(), "the cut was not felt"
        until(lambda: gateway.healthy(), "the host is back")
        check_well(gateway)


@case
def the_link_between_hosts_goes_down_and_comes_up():
    def heal(host):
        host.link("up")
    cut(lambda host: host.link("down"), heal, away_s=1.0)
    cut(lambda host: host.link("down"), heal, away_s=5.0)


@case
def packets_vanish_for_a_while():
    """Half-open: nobody is told, both ends find out by silence."""
    def swallow(host):
        host.cable.swallows = True

    def heal(host):
        host.cable.swallows = False
    if FULL:
        cut(swallow, heal, away_s=1.0)
    cut(swallow, heal, away_s=5.0)


@case
def a_host_that_is_gone_is_done_without():
    reference()
    with Host() as host, two_hosts(host, decode_here=1) as c:
        gateway = c.gateway()
        c.wait_joined(gateway, 3)

        def away():
            host.cable.swallows = True
            until(lambda: "worker is silent" in gateway.log(), "the host is missed", 20)
        check(during(gateway, mid_stream(gateway, away)))
        host.cable.swallows = False
        until(lambda: gateway.log().count("worker joined") >= 4, "the host is back", 30)
        check_well(gateway)


main()
