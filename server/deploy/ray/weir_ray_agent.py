#!/usr/bin/env python3
"""weir_ray_agent.py -- starts and stops weir's workers on an existing Ray cluster.

weir's controller submits this program as one Ray job and then speaks its small HTTP API. Every
worker is a native process under an actor of its own, which Ray places by CPUs, GPUs (whole or
fractions) and labels. Actors are detached and named, and each knows what it runs: an agent that is
restarted finds its workers again, and workers do not end with it. The Jobs API alone will not do:
it starts jobs that were stopped while they waited (ray issue 58353), and a job cannot ask for room
ahead of need.

    PUT    /v1/workers/ID   {"argv": [...], "num_cpus": 1, "num_gpus": 0.5, "resources": {},
                             "labels": {}, "env": {}, "avoid_nodes": [...], "fence": N}
                            201 started, 200 there already, 409 another worker of that name or an
                            older fence
    GET    /v1/workers      {"workers": [{"id", "state", "pid", "exit", "node", "node_ip", "gpus",
                             "asked_s", "ran_s", "ended_s", "why"}], "fence": N}
    DELETE /v1/workers/ID?grace_s=S&fence=N
                            a waiting one is cancelled; a running one gets SIGTERM (it drains), and
                            SIGKILL after S seconds; one that has ended is forgotten
    PUT    /v1/demand       {"bundles": [{"GPU": 1}, ...], "fence": N}: room the cluster should make
    GET    /v1/cluster      {"total": {...}, "free": {...}, "nodes": [...]}
    GET    /health          no token

States: pending, running, draining, exited, cancelled, lost (its actor or node is gone).
All but /health want `Authorization: Bearer TOKEN`, the token being WEIR_AGENT_TOKEN. `fence` is the
controller's fencing token: what carries a lower one than was ever seen is refused.
"""

import argparse
import asyncio
import ctypes
import hmac
import json
import os
import signal
import subprocess
import sys
import time

import ray
from aiohttp import web

NAMESPACE = "weir"
PREFIX = "weir-worker-"
ENDED = ("exited", "cancelled", "lost")
ENDED_KEPT = 200       # records of workers that have ended, the oldest forgotten
PR_SET_PDEATHSIG = 1
FIELDS = {"argv": list, "num_cpus": (int, float), "num_gpus": (int, float), "resources": dict,
          "labels": dict, "env": dict, "avoid_nodes": list, "fence": int}


def clean_environment(extra, gpus):
    """That of a worker: nothing of Ray's own, least of all its token; no GPU if none was asked."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("RAY_", "WEIR_AGENT_"))}
    if not gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
    return {**env, **extra}


@ray.remote(max_restarts=0, max_concurrency=8)
class Worker:
    """A native process, started in the thread that lives as long as the actor: the process is told
    to end when that thread does, so nothing that Ray kills leaves it behind."""

    def __init__(self, spec):
        libc = ctypes.CDLL(None)
        self.spec = spec
        self.started_s = time.time()
        self.process = subprocess.Popen(
            spec["argv"], env=clean_environment(spec["env"], spec["num_gpus"]),
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM))

    def tell(self):
        context = ray.get_runtime_context()
        return {"spec": self.spec, "pid": self.process.pid, "ran_s": self.started_s,
                "node": context.get_node_id(), "node_ip": ray.util.get_node_ip_address(),
                "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}

    def wait(self):
        return self.process.wait()

    def stop(self, grace_s):
        self.process.terminate()
        try:
            return self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Refused(Exception):
    def __init__(self, status, why):
        super().__init__(why)
        self.status = status


def check_spec(body):
    """A worker's specification with every field there; Refused names the one that is wrong."""
    if not isinstance(body, dict):
        raise Refused(400, "the body is no JSON object")
    for name, value in body.items():
        if name not in FIELDS:
            raise Refused(400, f"{name}: no such field")
        if not isinstance(value, FIELDS[name]) or isinstance(value, bool):
            raise Refused(400, f"{name}: wrong type")
    spec = {"num_cpus": 0, "num_gpus": 0, "resources": {}, "labels": {}, "env": {},
            "avoid_nodes": [], **{k: v for k, v in body.items() if k != "fence"}}
    if not spec.get("argv") or not all(isinstance(a, str) for a in spec["argv"]):
        raise Refused(400, "argv: a list of strings that is not empty")
    if not all(isinstance(v, str) for v in spec["env"].values()):
        raise Refused(400, "env: values are strings")
    if spec["num_cpus"] < 0 or spec["num_gpus"] < 0:
        raise Refused(400, "num_cpus, num_gpus: not below 0")
    return spec


class Agent:
    def __init__(self):
        self.workers = {}   # id -> record
        self.fence = 0

    # ---- workers

    async def adopt(self):
        """The workers of an agent before this one."""
        for entry in ray.util.list_named_actors(all_namespaces=True):
            name = entry["name"]
            if entry["namespace"] != NAMESPACE or not name.startswith(PREFIX):
                continue
            ident = name[len(PREFIX):]
            record = self.workers[ident] = {"id": ident, "state": "pending", "asked_s": time.time()}
            record["_actor"] = ray.get_actor(name, namespace=NAMESPACE)
            asyncio.ensure_future(self.follow(record))

    def start(self, ident, spec):
        options = {"name": PREFIX + ident, "namespace": NAMESPACE, "lifetime": "detached",
                   "num_cpus": spec["num_cpus"], "num_gpus": spec["num_gpus"],
                   "resources": spec["resources"] or None}
        labels = dict(spec["labels"])
        if spec["avoid_nodes"]:
            labels["ray.io/node-id"] = f"!in({','.join(spec['avoid_nodes'])})"
        if labels:
            options["label_selector"] = labels
        record = self.workers[ident] = {"id": ident, "state": "pending", "asked_s": time.time(),
                                        "_spec": spec}
        record["_actor"] = Worker.options(**options).remote(spec)
        asyncio.ensure_future(self.follow(record))

    async def follow(self, record):
        """From the wish to the end of a worker."""
        try:
            told = await record["_actor"].tell.remote()
            record["_spec"] = told.pop("spec")
            record.update(told)
            if record["state"] == "pending":
                record["state"] = "running"
            record["exit"] = await record["_actor"].wait.remote()
            record["state"] = "exited"
        except Exception as error:  # whatever ended the actor
            record["state"] = "cancelled" if record["state"] == "draining" and "pid" not in record \
                else "lost"
            record["why"] = str(error).splitlines()[0][:300]
        record["ended_s"] = time.time()
        self.kill(record)
        self.forget_old()

    @staticmethod
    def kill(record):
        try:
            ray.kill(record["_actor"])
        except Exception:  # gone already
            pass

    async def stop(self, record, grace_s):
        record["state"] = "draining"
        if "pid" not in record:
            self.kill(record)  # it never started: nothing to drain
            return
        try:
            await record["_actor"].stop.remote(grace_s)
        except Exception:  # follow() tells how it ended
            pass

    def forget_old(self):
        ended = sorted((r for r in self.workers.values() if r["state"] in ENDED),
                       key=lambda r: r["ended_s"])
        for record in ended[:-ENDED_KEPT]:
            del self.workers[record["id"]]

    # ---- HTTP

    def check_fence(self, fence):
        if fence is None:
            return
        if fence < self.fence:
            raise Refused(409, f"fence {fence} is older than {self.fence}: another controller acts")
        self.fence = fence

    async def put_worker(self, request):
        ident = request.match_info["id"]
        body = await read_json(request)
        spec = check_spec(body)
        self.check_fence(body.get("fence"))
        there = self.workers.get(ident)
        if there and there["state"] not in ENDED:
            if there.get("_spec", spec) != spec:
                raise Refused(409, f"worker {ident} is there with another specification")
            return web.json_response(public(there))
        self.start(ident, spec)
        return web.json_response(public(self.workers[ident]), status=201)

    async def get_workers(self, _):
        return web.json_response({"workers": [public(r) for r in self.workers.values()],
                                  "fence": self.fence})

    async def delete_worker(self, request):
        ident = request.match_info["id"]
        try:
            grace_s = float(request.query.get("grace_s", "30"))
            fence = int(request.query["fence"]) if "fence" in request.query else None
        except ValueError:
            raise Refused(400, "grace_s, fence: numbers") from None
        self.check_fence(fence)
        record = self.workers.get(ident)
        if not record:
            raise Refused(404, f"no worker {ident}")
        if record["state"] in ENDED:
            del self.workers[ident]
        elif record["state"] != "draining":
            asyncio.ensure_future(self.stop(record, grace_s))
            await asyncio.sleep(0)
        return web.json_response(public(record))

    async def put_demand(self, request):
        from ray.autoscaler.sdk import request_resources
        body = await read_json(request)
        bundles = body.get("bundles") if isinstance(body, dict) else None
        if not isinstance(bundles, list) or not all(isinstance(b, dict) for b in bundles):
            raise Refused(400, "bundles: a list of objects")
        self.check_fence(body.get("fence"))
        await asyncio.get_running_loop().run_in_executor(
            None, lambda: request_resources(bundles=bundles))
        return web.json_response({"bundles": bundles})

    async def get_cluster(self, _):
        def look():
            nodes = [{"id": n["NodeID"], "ip": n["NodeManagerAddress"], "alive": n["Alive"],
                      "total": n["Resources"]} for n in ray.nodes()]
            return {"total": ray.cluster_resources(), "free": ray.available_resources(),
                    "nodes": nodes}
        return web.json_response(await asyncio.get_running_loop().run_in_executor(None, look))


def public(record):
    return {k: v for k, v in record.items() if not k.startswith("_")}


async def read_json(request):
    try:
        return await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise Refused(400, "the body is no JSON") from None


def guard(token):
    """Checks the token, and makes errors of refusals."""
    @web.middleware
    async def check(request, handler):
        try:
            given = request.headers.get("Authorization", "")
            if request.path != "/health" and not hmac.compare_digest(
                    given.encode("utf-8", "surrogateescape"), f"Bearer {token}".encode()):
                raise Refused(401, "missing or wrong token")
            return await handler(request)
        except Refused as refused:
            return web.json_response({"error": str(refused)}, status=refused.status)
    return check


async def health(_):
    return web.json_response({"ok": True})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8790)
    options = parser.parse_args()
    token = os.environ.get("WEIR_AGENT_TOKEN", "")
    if len(token) < 16:
        sys.exit("weir_ray_agent: WEIR_AGENT_TOKEN has at least 16 characters")
    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False)
    agent = Agent()
    app = web.Application(middlewares=[guard(token)], client_max_size=1 << 20)
    app.add_routes([web.put("/v1/workers/{id:[A-Za-z0-9_.-]{1,64}}", agent.put_worker),
                    web.get("/v1/workers", agent.get_workers),
                    web.delete("/v1/workers/{id}", agent.delete_worker),
                    web.put("/v1/demand", agent.put_demand),
                    web.get("/v1/cluster", agent.get_cluster),
                    web.get("/health", health)])

    async def begin(_):
        await agent.adopt()

    app.on_startup.append(begin)
    print(f"weir_ray_agent: on http://{options.host}:{options.port}", flush=True)
    web.run_app(app, host=options.host, port=options.port, print=None)


if __name__ == "__main__":
    main()
