#!/usr/bin/env python3
"""test_soak.py -- 64 streams at a time for minutes: memory and descriptors stay flat. Full tier.

WEIR_SOAK_S sets the seconds (default 300).
"""

import os
import random
import statistics
import threading
import time

import mixed
from weirtest import (FULL, Server, Skip, case, children, fd_count, generate, main,
                      memory_bytes, until)

SECONDS = int(os.environ.get("WEIR_SOAK_S", "300"))
STREAMS = 64
RING_BYTES = 32 << 20  # from the one P to the one D
jobs = mixed.requests(300, seed=21)


def slope(points):
    """Least squares: bytes a second."""
    times, values = zip(*points)
    mean_t, mean_v = statistics.fmean(times), statistics.fmean(values)
    return (sum((t - mean_t) * (v - mean_v) for t, v in points)
            / sum((t - mean_t) ** 2 for t in times))


def client(server, number, end, counts, errors):
    rng = random.Random(number)
    try:
        while time.monotonic() < end:
            path, body = rng.choice(jobs)
            if rng.random() < 0.05:  # some leave
                stream = server.stream(path, {**body, "max_tokens": 100})
                next(stream)
                stream.close()
            else:
                result = generate(server, path, {**body, "stream": True})
                counts[number] += sum(map(len, result.ids))
    except BaseException as error:
        errors.append(error)


def watch(server, end):
    """Samples of the memory of each process: (seconds, own bytes, shared bytes)."""
    pids = [server.pid, *sorted(children(server.pid))]
    start = time.monotonic()
    samples = {pid: [] for pid in pids}
    while time.monotonic() < end:
        for pid in pids:
            samples[pid].append((time.monotonic() - start, *memory_bytes(pid)))
        time.sleep(min(1, SECONDS / 60))
    return samples


def descriptors(server):
    return [fd_count(p) for p in [server.pid, *sorted(children(server.pid))]]


@case
def memory_and_descriptors_stay_flat():
    if not FULL and "WEIR_SOAK_S" not in os.environ:
        raise Skip("in the full tier")
    # A small pool: pages are reused all the time, and their memory is all touched early.
    with Server("--threads", "1", "--kv-memory", "8m") as server:
        server.get("/health")
        before = descriptors(server)
        end = time.monotonic() + SECONDS
        counts, errors = [0] * STREAMS, []
        threads = [threading.Thread(target=client, args=(server, i, end, counts, errors))
                   for i in range(STREAMS)]
        for t in threads:
            t.start()
        samples = watch(server, end)
        for t in threads:
            t.join()
        assert not errors, errors[:3]
        server.check_pages_free()
        until(lambda: server.metrics().sum("weir_http_connections") <= 1, "connections close", 90)
        # A connection of the start may have been counted before.
        until(lambda: all(map(int.__le__, descriptors(server), before)),
              f"descriptors: {before} before, {descriptors(server)} after", 20)
        print(f"# {sum(counts)} tokens, {sum(counts) / SECONDS:.0f} a second")
        for pid, points in samples.items():
            settled = points[len(points) // 3:]
            own = [p[1] for p in settled]
            grows = slope([p[:2] for p in settled]) * 3600 / 1e6
            print(f"# pid {pid}: {own[0] / 1e6:.1f} to {own[-1] / 1e6:.1f} MB of its own, "
                  f"{grows:+.1f} MB an hour; {points[-1][2] / 1e6:.1f} MB shared")
            gained = statistics.fmean(own[-5:]) - statistics.fmean(own[:5])
            assert gained < 4e6, f"pid {pid} grew by {gained / 1e6:.1f} MB in {SECONDS} s"
            assert points[-1][2] < RING_BYTES + 1e6, "more is shared than one KV ring"
        assert server.metrics().sum("weir_requests_total", end="failed") == 0


main()
