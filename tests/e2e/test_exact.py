#!/usr/bin/env python3
"""test_exact.py -- the same requests give the same tokens however the work is divided.

200 mixed requests, token for token: disaggregated at several loads, aggregated, other chunks, other
thread counts, more workers, with KV damaged on its way. And proof that the KV really moved.
"""

import mixed
from weirtest import Server, case, generate, main, parallel, real_model, until

COUNT = 200
LAYERS, LAYER_PAGE_BYTES, PAGE_TOKENS = 2, 16 * 2 * 2 * 16 * 2, 16  # the tiny model's, KV in f16
DISAGGREGATED = ("--local-prefill-max", "0", "--threads", "1")
F16 = ("--kv-dtype", "f16")  # where pages and their bytes are counted

jobs = mixed.requests(COUNT)
expected = []


def run(server, workers, which=None):
    return parallel(which or jobs, lambda job: generate(server, *job), workers)


def check(got, want=None, which=None):
    for i, (a, b) in enumerate(zip(got, want or expected)):
        assert a.key() == b.key(), (
            f"request {i} {(which or jobs)[i]} differs:\n got {a.key()}\nwant {b.key()}")


def reference():
    """What everything else is compared with: one request at a time, one thread."""
    if not expected:
        with Server(*DISAGGREGATED) as server:
            expected.extend(run(server, 1))
            check_moved(server)
            server.check_pages_free()
        lengths = {len(ids) for r in expected for ids in r.ids}
        assert len(lengths) > 5 and max(lengths) >= 40, "a mix of lengths"
        different = {tuple(r.ids[0]) for r in expected}
        assert len(different) > COUNT // 2, "the model says different things"


def check_moved(server):
    """All KV that P sent has come to D, and D computed no prompt. Workers tell their numbers within
    a moment, not at once."""
    def numbers():
        m = server.metrics()
        return (m.sum("weir_kv_bytes_sent_total", role="prefill"),
                m.sum("weir_kv_bytes_received_total", role="decode"),
                m.sum("weir_handoffs_total", role="prefill"),
                m.sum("weir_adoptions_total", role="decode"))

    def settled():
        sent, received, handoffs, adoptions = numbers()
        return sent == received > 0 and handoffs == adoptions > 0
    until(settled, f"as much KV comes as goes: {numbers()}", 10)
    m = server.metrics()
    assert m.sum("weir_prompt_tokens_computed_total", role="decode") == 0, "D computed a prompt"
    assert m.sum("weir_prompt_tokens_computed_total", role="prefill") > 0
    assert m.sum("weir_kv_groups_damaged_total") == 0
    return m


def compare(*flags, workers=8, moved=False, env=None):
    reference()
    with Server(*flags, env=env) as server:
        check(run(server, workers))
        if moved:
            check_moved(server)
        server.check_pages_free()
        return server.metrics()


@case
def one_request_at_a_time_twice():
    compare(*DISAGGREGATED, workers=1, moved=True)


@case
def disaggregated_8_at_a_time():
    compare(*DISAGGREGATED, workers=8, moved=True)


@case
def disaggregated_32_at_a_time():
    compare(*DISAGGREGATED, workers=32, moved=True)


@case
def decoding_that_lends_its_cores():
    """However long it may be held back for the sake of prompts, it goes on when there are none."""
    compare("--local-prefill-max", "0", "--threads", "2", "--decode-pace-ms", "10000", workers=8,
            moved=True)


@case
def default_local_prefill():
    compare("--threads", "1", workers=8)


@case
def aggregated():
    m = compare("--aggregated", "--threads", "1", workers=8)
    assert not m.all("weir_kv_bytes_sent_total") or m.sum("weir_kv_bytes_sent_total") == 0


@case
def two_of_each():
    m = compare(*DISAGGREGATED, "--prefill", "2", "--decode", "2", workers=16)
    computed = m.all("weir_prompt_tokens_computed_total", role="prefill")
    adopted = m.all("weir_adoptions_total", role="decode")
    assert len(computed) == 2 and min(computed) > 0, computed
    assert len(adopted) == 2 and min(adopted) > 0, adopted
    assert m.sum("weir_prompt_tokens_computed_total", role="decode") == 0


def cache_of(dtype, page_bytes):
    """Disaggregated as aggregated; as many bytes a page as the dtype should take."""
    some = jobs[:60]
    flags = ("--kv-dtype", dtype)
    with Server(*DISAGGREGATED, *flags) as server:
        want = run(server, 6, some)
        m = check_moved(server)
        moved = m.sum("weir_kv_bytes_received_total", role="decode")
        assert moved % (LAYERS * page_bytes) == 0, f"{moved} bytes in pages of {page_bytes}"
        server.check_pages_free()
    with Server(*flags, "--aggregated", "--threads", "2", "--prefill-chunk", "32") as server:
        check(run(server, 8, some), want, some)


@case
def cache_of_f32():
    cache_of("f32", 2 * LAYER_PAGE_BYTES)


@case
def cache_of_bf16():
    cache_of("bf16", LAYER_PAGE_BYTES)


@case
def cache_of_int8():
    """Half of f16, and 64 bytes of scales a kv head."""
    cache_of("int8", LAYER_PAGE_BYTES // 2 + 2 * 64)


@case
def cache_of_fp8():
    cache_of("fp8", LAYER_PAGE_BYTES // 2)


@case
def blocks_of_unequal_sizes():
    """P's pages come in other blocks than D's, on host transports; prompts that share beginnings are
    found again on both sides."""
    for p, d, transport in ((16, 64, "shm"), (128, 32, "tcp"), (48, 256, "shm")):
        m = compare(*DISAGGREGATED, "--kv-transport", transport, "--kv-block-tokens", str(p),
                    "--kv-block-tokens-decode", str(d), moved=True)
        cached = m.sum("weir_prompt_tokens_cached_total", role="prefill")
        assert cached > 0 and cached % p == 0
        assert m.sum("weir_kv_links", transport=transport) == 2


@case
def chunks_of_32_tokens():
    compare(*DISAGGREGATED, "--prefill-chunk", "32", moved=True)


@case
def chunks_of_512_tokens():
    compare(*DISAGGREGATED, "--prefill-chunk", "512", moved=True)


@case
def two_threads():
    compare("--local-prefill-max", "0", "--threads", "2", moved=True)


@case
def few_pages_so_that_requests_wait_and_are_preempted():
    """256 pages for requests that want about fifty each, 32 at a time."""
    many = [(path, {**body, "max_tokens": 120, "ignore_eos": True})
            for path, body in mixed.requests(40, seed=3)]
    with Server("--threads", "1", *F16) as server:
        want = run(server, 8, many)
    with Server(*DISAGGREGATED, *F16, "--kv-memory", "1m", "--max-seqs", "64") as server:
        assert server.metrics().all("weir_kv_pages") == [256, 256]
        check(run(server, 32, many), want, many)
        m = server.metrics()
        counts = {name: m.sum(f"weir_{name}_total")
                  for name in ("preemptions", "evictions", "refusals")}
        assert counts["preemptions"] > 0, counts
        server.check_pages_free()


@case
def scores_of_prompts_are_the_same_everywhere():
    some = mixed.scored(40)
    with Server(*DISAGGREGATED) as server:
        want = run(server, 1, some)
        assert all(r.scores[0] for r in want)
    for flags in (DISAGGREGATED, ("--aggregated", "--threads", "1"), ("--threads", "2"),
                  (*DISAGGREGATED, "--prefill-chunk", "32")):
        with Server(*flags) as server:
            check(run(server, 8, some), want, some)


@case
def damaged_kv_is_found_and_does_not_change_an_answer():
    reference()
    with Server(*DISAGGREGATED, env={"WEIR_FAILPOINTS": "kvt.damage=error:1@3"}) as server:
        check(run(server, 4))
        until(lambda: server.metrics().sum("weir_kv_groups_damaged_total", role="decode") == 1,
              "the damage is counted", 10)
        server.check_pages_free()


@case
def kv_bytes_are_the_pages_of_the_prompts():
    """Without prefix hits every page of every prompt moves exactly once."""
    # A request of one token ends where it was prefilled.
    own = [(path, {**body, "cache_salt": f"s{i}", "max_tokens": 2, "ignore_eos": True})
           for i, (path, body) in enumerate(jobs[:80])]
    with Server(*DISAGGREGATED, *F16) as server:
        pages = 0
        for path, body in own:
            text = {k: v for k, v in body.items() if k in ("messages", "prompt")}
            if isinstance(text.get("prompt"), list):
                tokens = len(text["prompt"])
            else:
                tokens = server.post("/tokenize", text).json()["count"]
            pages += -(-tokens // PAGE_TOKENS)
        results = run(server, 8, own)
        assert all(r.cached == 0 for r in results)
        m = check_moved(server)
        moved = m.sum("weir_kv_bytes_received_total", role="decode")
        assert moved == pages * LAYERS * LAYER_PAGE_BYTES, (
            f"{moved} bytes, {pages} pages of {LAYERS * LAYER_PAGE_BYTES}")


@case
def shared_prefixes_move_once():
    """The second of two equal prompts sends only what D does not hold yet."""
    prompt = "the water is long and the people know what words were called " * 10
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0}
    with Server(*DISAGGREGATED, *F16) as server:
        first = generate(server, "/v1/completions", body)
        before = check_moved(server).sum("weir_kv_bytes_received_total")
        second = generate(server, "/v1/completions", body)
        until(lambda: server.metrics().sum("weir_adoptions_total") == 2, "the second is adopted")
        after = check_moved(server).sum("weir_kv_bytes_received_total")
        assert first.key() == second.key()
        assert second.cached > 0
        assert after - before <= LAYERS * LAYER_PAGE_BYTES, f"{after - before} bytes again"


@case
def real_model_disaggregated_as_aggregated():
    few = [(path, {**body, "max_tokens": min(body["max_tokens"], 12)})
           for path, body in mixed.requests(14, seed=5, words_max=60, vocabulary=49152)]
    model = real_model()
    with Server("--local-prefill-max", "0", "--threads", "2", model=model) as server:
        want = run(server, 4, few)
        check_moved(server)
    with Server("--aggregated", "--threads", "1", "--prefill-chunk", "64", model=model) as server:
        check(run(server, 6, few), want, few)


main()
