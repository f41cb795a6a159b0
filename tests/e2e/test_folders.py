#!/usr/bin/env python3
"""test_folders.py -- a Hugging Face folder wherever a GGUF file can stand: served, tokenised, benched.

The folders are those of tests/golden/hf_folders.py; the tokens that `transformers` generates from
them greedily lie in tests/golden/hf_logits.txt.
"""

import json
import os
import subprocess
import sys

from weirtest import BIN, HANG_S, ROOT, Server, case, generate, main, scratch

GOLDEN = os.path.join(ROOT, "tests", "golden")
sys.path.insert(0, GOLDEN)
import hf_folders  # noqa: E402  (beside the golden file, not beside this one)

PROMPT_TOKENS = 16  # GREEDY_PROMPT of make_hf_logits.py


def folder(name):
    path = scratch(name)
    if not os.path.exists(path):
        hf_folders.write(path, name)
    return path


def greedy(name):
    with open(os.path.join(GOLDEN, "hf_logits.txt"), encoding="ascii") as f:
        return next([int(x) for x in line.split()[2:]] for line in f
                    if line.startswith(name + " greedy "))


def weir(*args, **options):
    return subprocess.run([BIN, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=HANG_S, check=False, **options)


@case
def every_family_generates_what_transformers_does():
    for name in ("llama-sharded-biases", "llama-untied-llama3", "mistral-no-window", "qwen2",
                 "qwen2-sharded-yarn", "qwen3"):
        want = greedy(name)
        prompt = hf_folders.tokens(name)[0][:PROMPT_TOKENS]
        with Server("--kv-dtype", "f32", model=folder(name)) as server:
            result = generate(server, "/v1/completions",
                              {"prompt": prompt, "max_tokens": len(want), "temperature": 0,
                               "ignore_eos": True})
            assert result.ids == [want], (name, result.ids, want)


@case
def a_folder_is_known_by_its_name_and_carries_its_template():
    with Server("--weights", "q8_0", model=folder("llama") + "/") as server:
        names = [m["id"] for m in server.get("/v1/models").json()["data"]]
        assert names == ["llama"], names
        chat = [{"role": "user", "content": "the and of"}]
        templated = server.post("/tokenize", {"messages": chat}).json()["tokens"]
        plain = server.post("/tokenize", {"prompt": "user: the and of<|end|>assistant:"})
        assert templated == plain.json()["tokens"], (templated, plain.body)
        assert hf_folders.VOCAB - 2 in templated
        answer = server.post("/v1/chat/completions", {"messages": chat, "max_tokens": 4})
        assert answer.status == 200, answer.body


@case
def tokenize_reads_a_folder():
    done = weir("tokenize", "--model", folder("llama"), input="the<|stop|>band".encode())
    vocab = hf_folders.tokenizer()["model"]["vocab"]
    want = [vocab["the"], hf_folders.VOCAB - 1, vocab["b"], vocab["and"]]
    assert done.returncode == 0, done.stderr
    assert [int(x) for x in done.stdout.split()] == want, (done.stdout, want)


@case
def bench_engine_reads_a_folder():
    done = weir("bench", "engine", "--model", folder("qwen3"), "--prompt", "16", "--gen", "4",
                "--repeat", "1", "--threads", "1", "--json")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    for line in done.stdout.splitlines():
        json.loads(line)


@case
def what_is_wrong_with_a_folder_is_said_with_its_path():
    path = scratch("spoilt")
    hf_folders.write(path, "qwen2")
    os.truncate(os.path.join(path, "model.safetensors"), 50000)
    done = weir("serve", "--port", "0", "--model", path, stdin=subprocess.DEVNULL)
    text = done.stderr.decode()
    assert done.returncode in (1, 2) and path in text and "cut short" in text, text


main()
