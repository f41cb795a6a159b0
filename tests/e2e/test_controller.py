#!/usr/bin/env python3
"""test_controller.py -- `weir controller`: it sizes the pools of a cluster; nothing depends on it.

Workers are of the timed backend where a load is needed that a small machine could not make with real
compute. Requests come through gateways of their own; the controller hears of them from those.
"""

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request

from controllers import Controlled, Controller, our_workers
from hosts import Cluster, free_port
from loads import SLOW, SLOWER, Load, slow_profile
from weirtest import (FULL, ROOT, Skip, alive, case, command_line, generate, main, scratch,
                      tiny_model, until)

AWAY_S = 600 if FULL else 12  # longer than anybody here waits for a sign of life


def timed_words(profile=SLOW):
    return ("--backend", "timed", "--profile", slow_profile(profile), "--model", tiny_model(),
            "--threads", "1")


def only_in_full():
    """What another case does too, in passing."""
    if not FULL:
        raise Skip("of the full tier")


LOCAL = ("--driver", "local", "--scale-hold-s", "5")


def served_without(load, what):
    """Requests go on for AWAY_S, none fails."""
    begun, done = time.monotonic(), load.done
    while time.monotonic() - begun < AWAY_S:
        before = load.done
        until(lambda: load.done > before + 3 or load.errors, "requests go on")
        assert not load.errors, load.errors
        time.sleep(1)
    print(f"# {load.done - done} requests in {time.monotonic() - begun:.0f} s without {what}, none "
          f"failed", flush=True)


@case
def loads_of_two_gateways_add_and_size_the_pools():
    only_in_full()
    with Controlled(*LOCAL, "--prefill-max", "5", "--decode-max", "3",
                    words=timed_words()) as cluster:
        until(lambda: len(cluster.hub.serving()) == 2, "the least there may be")
        gateways = [cluster.gateway(), cluster.gateway()]
        with Load(gateways[0], 6, 300, 2), Load(gateways[1], 6, 300, 2):
            until(lambda: cluster.hub.pool("prefill")["serving"] >= 3, "prefill grows")
            state = cluster.hub.state()
            assert state["ttft_ms_p50"] > 0 and state["requests_per_s"] > 0, state
            assert cluster.hub.pool("decode")["serving"] == 1, cluster.hub.state()["decisions"]
        until(lambda: cluster.hub.pool("prefill")["serving"] == 1, "prefill shrinks", 120)


@case
def from_zero_and_back_with_requests_held_at_the_gateways():
    with Controlled(*LOCAL, "--prefill-min", "0", "--decode-min", "0", "--scale-idle-s", "5",
                    words=timed_words()) as cluster:
        gateway = cluster.gateway()
        assert not cluster.hub.state()["workers"] and gateway.healthy()
        for _ in range(2 if FULL else 1):
            with Load(gateway, 2, 20, 4):
                until(lambda: len(cluster.hub.serving()) >= 2, "workers start")
            until(lambda: not cluster.hub.state()["workers"], "all have gone", 120)


@case
def a_controller_that_is_lost_is_not_missed_and_finds_what_runs():
    flags = ("--driver", "local", "--prefill-min", "2", "--decode-min", "2")
    with Controlled(*flags, words=timed_words()) as cluster:
        until(lambda: len(cluster.hub.serving()) == 4, "all have joined")
        gateway = cluster.gateway()
        assert cluster.hub.order("flip", worker=0, role="decode").status == 200
        until(lambda: cluster.hub.serving().get(0) == "decode", "its role has changed")
        until(lambda: len(cluster.hub.serving()) == 5, "prefill has its minimum again")
        before = our_workers(cluster.address)
        with Load(gateway, 4, 20, 4) as load:
            cluster.hub.crash()
            served_without(load, "a controller")
            done = load.done
            cluster.hub = Controller(*flags, listen=cluster.address, words=timed_words())
            until(lambda: len(cluster.hub.serving()) == 5, "it knows them all again")
            assert cluster.hub.serving()[0] == "decode", "as they are, not as they were started"
            until(lambda: load.done > done + 20 or load.errors, "requests go on")
        assert our_workers(cluster.address) == before, "nobody was restarted"
        cluster.hub.ordered("drain", worker=1)
        until(lambda: before[1] not in our_workers(cluster.address), "what it found, it can end")


@case
def a_worker_that_dies_is_replaced():
    with Controlled(*LOCAL, words=timed_words()) as cluster:
        until(lambda: len(cluster.hub.serving()) == 2, "the least there may be")
        gateway = cluster.gateway()
        with Load(gateway, 2, 20, 4):
            victim = our_workers(cluster.address)[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda: not alive(victim) and len(cluster.hub.serving()) == 2, "a new one serves")


def held(pid):
    """What a worker was given: its cores, its GPU and part, its share of the SMs."""
    words = command_line(pid)
    said = {a: b for a, b in zip(words, words[1:]) if a.startswith("--")}
    with open(f"/proc/{pid}/environ", "rb") as f:
        env = dict(v.split("=", 1) for v in f.read().decode().split("\0") if "=" in v)
    return (frozenset(os.sched_getaffinity(pid)), said.get("--device"), said.get("--device-share"),
            said.get("--memory-fraction"), env.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"))


@case
def workers_get_cores_and_parts_of_gpus_that_nobody_else_has():
    usable = os.sched_getaffinity(0)
    if len(usable) < 2:
        raise Skip("one core only")
    mps = scratch("mps")
    os.mkdir(mps)
    open(os.path.join(mps, "control"), "w", encoding="ascii").close()  # as its daemon makes it
    flags = ("--driver", "local", "--pin-cpus", str(len(usable) // 2), "--gpu-devices", "0,3",
             "--worker-gpus", "0.4", "--prefill-min", "2", "--decode-min", "2", "--prefill-max", "4",
             "--decode-max", "4")
    env = {"CUDA_MPS_PIPE_DIRECTORY": mps}
    hub = Controller(*flags, words=timed_words(), env=env)
    until(lambda: len(hub.serving()) == 4, "as many as the GPUs hold")
    first = {pid: held(pid) for pid in our_workers(hub.address)}
    assert sorted(h[1] for h in first.values()) == ["0", "0", "3", "3"], first
    assert {h[2:] for h in first.values()} == {("0.400", "0.3600", "40")}, first
    pinned = [h[0] for h in first.values() if h[0] != usable]
    assert len(pinned) == 2 and not pinned[0] & pinned[1], first
    hub.ordered("scale", role="decode", min=3)
    until(lambda: "none of 2 GPUs has 0.4 left" in hub.log(), "there is no room for a fifth")
    # The next controller knows what is taken, and what is free again.
    victim = next(pid for pid, h in first.items() if h[0] != usable)
    hub.crash()
    os.kill(victim, signal.SIGKILL)
    hub = Controller(*flags, listen=hub.address, words=timed_words(), env=env)
    until(lambda: len(hub.serving()) == 4, "one was missing")
    now = {pid: held(pid) for pid in our_workers(hub.address)}
    new = [pid for pid in now if pid not in first]
    assert len(new) == 1 and now[new[0]] == first[victim], (first, now)
    hub.all_done()


@case
def hands_started_workers_are_flipped_and_drained_but_not_started():
    with Cluster(flags=("--http", "127.0.0.1:0", "--autoscale")) as cluster:
        hub = cluster.hub
        port = int(re.search(r"dashboard: http://127.0.0.1:(\d+)", hub.log()).group(1))
        controller = Controller.__new__(Controller)
        controller.port = port
        for _ in range(3):
            cluster.worker("prefill", "--flips")
        worker = cluster.worker("decode")
        gateway = cluster.gateway()
        cluster.wait_joined(gateway, 4)
        until(lambda: len(controller.serving()) == 4, "it sees them")
        one = next(w for w in controller.state()["workers"] if w["role"] == "prefill")
        controller.ordered("flip", worker=one["id"], role="decode")
        until(lambda: list(controller.serving().values()).count("decode") == 2, "a role changes")
        generate(gateway, "/v1/completions", {"prompt": "the water " * 9, "max_tokens": 4})
        fixed = next(w for w in controller.state()["workers"] if not w["flips"])
        answer = controller.order("flip", worker=fixed["id"], role="prefill")
        assert answer.status == 400, "it was started for one role"
        assert controller.order("drain", worker=fixed["id"]).status == 200
        cluster.remove(worker).wait_end()
        until(lambda: len(controller.serving()) == 3, "it has gone")
        generate(gateway, "/v1/completions", {"prompt": "the water " * 9, "max_tokens": 4})


@case
def keys_are_asked_for_and_models_are_not_served():
    controller = Controller("--dry-run", env={"WEIR_API_KEY": "secret-key-1"})
    keyed = {"Authorization": "Bearer secret-key-1"}
    for path in ("/controller/state", "/metrics"):
        assert controller.request("GET", path).status == 401
        assert controller.request("GET", path, headers=keyed).status == 200
    for path in ("/health", "/ready", "/dashboard"):
        assert controller.request("GET", path).status == 200
    assert controller.request("POST", "/controller/scale", {}, None).status == 401
    body = {"model": "x", "prompt": "y"}
    assert controller.request("POST", "/v1/completions", body, keyed).status == 404
    text = controller.request("GET", "/metrics", headers=keyed).body.decode()
    for name in ("weir_hub_workers", "weir_pool_wanted", "weir_controller_leads 1"):
        assert name in text, text
    controller.end()


@case
def of_two_controllers_one_acts_and_members_follow_it():
    only_in_full()
    lease = scratch("lease")
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    hubs = ",".join(addresses)
    flags = (*LOCAL, "--lease", lease, "--lease-s", "2", "--hubs", hubs)
    first = Controller(*flags, listen=addresses[0], words=timed_words())
    until(lambda: first.state()["leads"], "the first leads")
    second = Controller(*flags, listen=addresses[1], words=timed_words())
    until(lambda: len(first.serving()) == 2, "workers have joined the one that leads")
    assert second.request("GET", "/ready").status == 503
    assert second.order("scale", role="decode", workers=3).status == 409
    cluster = Cluster.__new__(Cluster)
    cluster.address, cluster.gateways = hubs, []
    gateway = cluster.gateway()
    before = our_workers(hubs)
    token = first.state()["token"]
    with Load(gateway, 2, 20, 4):
        os.kill(first.pid, signal.SIGSTOP)
        until(lambda: second.state()["leads"] and len(second.serving()) == 2, "the second took over")
        assert second.state()["token"] > token
        second.ordered("scale", role="decode", min=2)
        until(lambda: second.pool("decode")["serving"] == 2, "and acts")
        os.kill(first.pid, signal.SIGCONT)
        until(lambda: not first.state()["leads"], "the first has noticed")
        time.sleep(2)
        assert len(second.serving()) == 3 and set(before) <= set(our_workers(hubs))
    gateway.stop()
    first.end()
    second.all_done()
    assert not our_workers(hubs)


def flip_seconds(controller, gateways):
    """Flips a prefill worker under load: until its role has changed, and until it got a request."""
    worker = next(w["id"] for w in controller.state()["workers"]
                  if w["role"] == "prefill" and w["phase"] == "serving")
    start = time.monotonic()
    assert controller.order("flip", worker=worker, role="decode").status == 200
    until(lambda: any(f"worker has another role worker={worker} role=decode" in g.log()
                      for g in gateways), "a gateway has heard of it")
    changed = time.monotonic() - start
    until(lambda: any(d.get("decode") == worker for g in gateways
                      for d in g.get("/debug/route").json()["decisions"][:40]),
          "it is chosen to decode")
    chosen = time.monotonic() - start
    until(lambda: any(g.metrics().sum("weir_adoptions_total", role="decode", worker=str(worker))
                      for g in gateways), "and decodes")
    return worker, changed, chosen


@case
def dozens_of_workers_follow_two_ramps_and_nothing_fails():
    with Controlled(*LOCAL, "--prefill-min", "8", "--decode-min", "8", "--prefill-max", "16",
                    "--decode-max", "16", words=timed_words(SLOWER)) as cluster:
        hub = cluster.hub
        until(lambda: len(hub.serving()) == 16, "the least there may be")
        gateways = [cluster.gateway(), cluster.gateway()]
        with Load(gateways[0], 20, 60, 2) as one, Load(gateways[1], 20, 60, 2) as other:
            until(lambda: hub.pool("prefill")["serving"] >= 11, "prefill grows")
            assert hub.pool("decode")["serving"] == 8, hub.state()["decisions"]
            print(f"# {len(hub.serving())} workers after a ramp of prompts", flush=True)
            worker, changed, chosen = flip_seconds(hub, gateways)
            print(f"# worker {worker} flipped: its gateways knew after {changed:.3f} s, a request "
                  f"of the new role was sent to it after {chosen:.3f} s", flush=True)
        done = one.done + other.done
        until(lambda: hub.pool("prefill")["serving"] == 8, "prefill shrinks", 120)
        with Load(gateways[0], 40, 1, 30) as one, Load(gateways[1], 40, 1, 30) as other:
            until(lambda: hub.pool("decode")["serving"] >= 10, "decode grows")
            assert hub.pool("prefill")["serving"] == 8, hub.state()["decisions"]
        done += one.done + other.done
        until(lambda: hub.pool("decode")["serving"] == 8, "decode shrinks", 120)
        print(f"# {done} requests, none failed", flush=True)


class Etcd:
    """A real one, alone, on loopback."""

    def __init__(self):
        unpacked = os.path.join(ROOT, ".deps", "etcd", "usr", "bin", "etcd")
        self.program = shutil.which("etcd") or unpacked
        if not os.access(self.program, os.X_OK):
            raise Skip("there is no etcd (Debian: etcd-server)")
        self.port, self.peer = free_port(), free_port()
        self.data = scratch("etcd")
        self.process = None
        self.start()

    def start(self):
        url, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.peer}"
        with open(scratch("etcd.log"), "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "--name", "one", "--data-dir", self.data, "--listen-client-urls", url,
                 "--advertise-client-urls", url, "--listen-peer-urls", peer,
                 "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}",
                 "--log-level", "error"], stdout=log, stderr=log,
                env={k: v for k, v in os.environ.items() if not k.startswith("ETCD_")})

        def answers():
            try:
                return urllib.request.urlopen(f"{url}/health", timeout=2).status == 200
            except OSError:
                return False
        until(answers, "etcd answers")

    def end(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def leaders(controllers):
    return [c for c in controllers if alive(c.pid) and c.state()["leads"]]


@case
def the_lease_is_in_etcd_and_nothing_waits_for_it():
    with Etcd() as etcd:
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        hubs = ",".join(addresses)
        flags = (*LOCAL, "--lease", f"etcd://127.0.0.1:{etcd.port}/weir/leader", "--lease-s", "3",
                 "--hubs", hubs)
        pair = [Controller(*flags, listen=a, words=timed_words()) for a in addresses]
        until(lambda: leaders(pair), "one leads")
        first = leaders(pair)[0]
        second = next(c for c in pair if c is not first)
        until(lambda: len(first.serving()) == 2, "workers have joined it")
        assert leaders(pair) == [first] and second.order("drain", worker=0).status == 409
        cluster = Cluster.__new__(Cluster)
        cluster.address, cluster.gateways = hubs, []
        gateway = cluster.gateway()
        before, token = our_workers(hubs), first.state()["token"]
        with Load(gateway, 2, 20, 4) as load:
            # etcd stands still: the leader stops to act, and nobody else begins.
            etcd.process.send_signal(signal.SIGSTOP)
            until(lambda: not leaders(pair), "nobody leads")
            assert first.order("scale", role="decode", min=2).status == 409
            done = load.done
            until(lambda: load.done > done + 20 or load.errors, "requests go on")
            assert not leaders(pair)
            etcd.process.send_signal(signal.SIGCONT)
            until(lambda: leaders(pair), "one leads again")
            # etcd is gone, and comes back with what it knew.
            etcd.end()
            until(lambda: not leaders(pair), "nobody leads")
            served_without(load, "etcd")
            etcd.start()
            until(lambda: leaders(pair), "one leads again")
            leader = leaders(pair)[0]
            until(lambda: len(leader.serving()) == 2, "and knows everybody")
            middle = leader.state()["token"]
            assert middle >= token
            # The leader is gone.
            leader.crash()
            other = first if leader is not first else second
            until(lambda: leaders([other]), "the other takes over")
            assert other.state()["token"] > middle
            until(lambda: len(other.serving()) == 2, "and knows everybody")
            other.ordered("scale", role="decode", min=2)
            until(lambda: other.pool("decode")["serving"] == 2, "and acts")
        assert set(before) <= set(our_workers(hubs)), "nobody was restarted"
        gateway.stop()
        other.all_done()
        assert not our_workers(hubs)


if __name__ == "__main__":
    main(at_once=3)
