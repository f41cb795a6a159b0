#!/usr/bin/env python3
"""test_chat.py -- the API as the real `openai` client sees it."""

import json
import re

import openai
from weirtest import LABEL, SAMPLE, Server, case, main, real_model, until

SAY = [{"role": "user", "content": "What is the water like today?"}]
PROMPT = "the people of the long water were called"
_server = Server("--activations", "int8")  # one arithmetic: a prompt scores as generation did
client = openai.OpenAI(base_url=_server.url + "/v1", api_key="none", max_retries=0, timeout=60)
MODEL = client.models.list().data[0].id


def chat(**fields):
    return client.chat.completions.create(**{"model": MODEL, "messages": SAY, "temperature": 0,
                                             "max_tokens": 12, **fields})


def complete(prompt=PROMPT, **fields):
    return client.completions.create(**{"model": MODEL, "prompt": prompt, "temperature": 0,
                                        "max_tokens": 12, **fields})


def ids_of(choice):
    return choice.model_extra["token_ids"]


def with_ids(**fields):
    return complete(extra_body={"return_token_ids": True, **fields.pop("extra", {})}, **fields)


def tokenize(text, special=True):
    return _server.post("/tokenize", {"prompt": text, "add_special_tokens": special}).json()


def detokenize(ids):
    return _server.post("/detokenize", {"tokens": ids}).json()["prompt"]


def raises(kind, call, *words):
    try:
        call()
    except kind as error:
        for word in words:
            assert word in str(error), f"{word} not in {error}"
        return error
    raise AssertionError(f"{kind.__name__} expected")


# ---- whole and streamed ------------------------------------------------------------------------

@case
def a_chat_answer_has_the_documented_shape():
    answer = chat()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", answer.id), answer.id
    assert answer.object == "chat.completion" and answer.model == MODEL
    assert len(answer.choices) == 1
    choice = answer.choices[0]
    assert choice.index == 0 and choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None
    usage = answer.usage
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens
    want = _server.post("/tokenize", {"messages": SAY}).json()["count"]
    assert usage.prompt_tokens == want, f"{usage.prompt_tokens} {want}"
    assert 1 <= usage.completion_tokens <= 12


@case
def a_streamed_chat_is_the_whole_one_in_pieces():
    whole = chat(max_tokens=40)
    text, finishes, roles, ids, last = "", [], [], set(), None
    for chunk in chat(max_tokens=40, stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk" and chunk.model == MODEL
        ids.add(chunk.id)
        last = chunk
        if chunk.choices:
            assert len(chunk.choices) == 1 and chunk.usage is None
            text += chunk.choices[0].delta.content or ""
            roles += [chunk.choices[0].delta.role] * bool(chunk.choices[0].delta.role)
            finishes += [chunk.choices[0].finish_reason] * bool(chunk.choices[0].finish_reason)
    assert text == whole.choices[0].message.content
    assert finishes == [whole.choices[0].finish_reason]
    assert roles == ["assistant"] and len(ids) == 1
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens


@case
def a_streamed_completion_is_the_whole_one_in_pieces():
    whole = complete(max_tokens=40)
    chunks = list(complete(max_tokens=40, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    assert all(c.object == "text_completion" for c in chunks)
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == \
        [whole.choices[0].finish_reason]
    assert all(c.usage is None for c in chunks)


@case
def several_choices_are_numbered_and_differ():
    fields = {"n": 3, "temperature": 1.5, "seed": 4, "max_tokens": 20}
    whole = complete(**fields)
    assert [c.index for c in whole.choices] == [0, 1, 2]
    assert len({c.text for c in whole.choices}) == 3
    parts = {}
    for chunk in complete(stream=True, **fields):
        for choice in chunk.choices:
            parts[choice.index] = parts.get(choice.index, "") + choice.text
    assert parts == {c.index: c.text for c in whole.choices}
    assert whole.usage.completion_tokens == sum(
        len(ids_of(c)) for c in complete(**fields, extra_body={"return_token_ids": True}).choices)
    greedy = complete(n=2)
    assert greedy.choices[0].text == greedy.choices[1].text


@case
def several_prompts_are_answered_in_order():
    prompts = ["the water", "an oil", "they made up the long day with"]
    apart = [complete(prompt=p).choices[0].text for p in prompts]
    answer = complete(prompt=prompts)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert [c.text for c in answer.choices] == apart
    assert answer.usage.prompt_tokens == sum(tokenize(p)["count"] for p in prompts)
    twice = complete(prompt=prompts, n=2)
    assert [c.text for c in twice.choices] == [t for t in apart for _ in range(2)]
    parts = {}
    for chunk in complete(prompt=prompts, stream=True):
        for choice in chunk.choices:
            parts[choice.index] = parts.get(choice.index, "") + choice.text
    assert parts == dict(enumerate(apart))


@case
def prompts_of_token_ids_are_the_text_they_stand_for():
    ids = tokenize(PROMPT)["tokens"]
    want = complete().choices[0].text
    assert complete(prompt=ids).choices[0].text == want
    both = complete(prompt=[ids, tokenize("the water")["tokens"]])
    assert both.choices[0].text == want
    assert both.choices[1].text == complete(prompt="the water").choices[0].text
    assert both.usage.prompt_tokens == len(ids) + tokenize("the water")["count"]


@case
def ids_of_answers_are_their_text():
    answer = with_ids(max_tokens=30)
    choice = answer.choices[0]
    assert len(ids_of(choice)) == answer.usage.completion_tokens
    assert choice.model_extra["prompt_token_ids"] == tokenize(PROMPT)["tokens"]
    stop = choice.finish_reason == "stop"
    assert detokenize(ids_of(choice)[:-1] if stop else ids_of(choice)) == choice.text


# ---- log probabilities -------------------------------------------------------------------------

@case
def chat_logprobs_spell_the_answer():
    answer = chat(logprobs=True, top_logprobs=5, max_tokens=30)
    choice = answer.choices[0]
    entries = choice.logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for e in entries:
        assert e.logprob <= 0 and len(e.top_logprobs) == 5
        values = [t.logprob for t in e.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert e.logprob == values[0], "greedy takes the likeliest"
    if choice.finish_reason == "stop":
        entries = entries[:-1]
    spelled = b"".join(bytes(e.bytes) for e in entries)
    assert spelled.decode("utf-8", "replace") == choice.message.content
    streamed = [e for chunk in chat(logprobs=True, top_logprobs=5, max_tokens=30, stream=True)
                if chunk.choices and chunk.choices[0].logprobs
                for e in chunk.choices[0].logprobs.content]
    assert [(e.token, e.logprob) for e in streamed] == \
        [(e.token, e.logprob) for e in choice.logprobs.content]
    assert chat(logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


@case
def completion_logprobs_have_the_legacy_shape():
    choice = complete(logprobs=3, max_tokens=20, extra_body={"ignore_eos": True}).choices[0]
    lp = choice.logprobs
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == 20
    assert len(lp.text_offset) == 20 and lp.text_offset[0] == 0
    assert lp.text_offset == sorted(lp.text_offset)
    for token, value, top in zip(lp.tokens, lp.token_logprobs, lp.top_logprobs):
        assert 3 <= len(top) <= 4 and top[token] == value == max(top.values())
    zero = complete(logprobs=0).choices[0].logprobs
    assert zero.token_logprobs[0] == lp.token_logprobs[0]


@case
def scoring_a_text_gives_what_generating_it_gave():
    """echo, logprobs, max_tokens 0: prompt scores are the scores of generation, bit for bit."""
    ids = tokenize(PROMPT)["tokens"]
    made = with_ids(prompt=ids, max_tokens=24, logprobs=2, extra={"ignore_eos": True}).choices[0]
    scored = complete(prompt=ids + ids_of(made), max_tokens=0, echo=True, logprobs=2)
    choice = scored.choices[0]
    lp = choice.logprobs
    assert len(lp.tokens) == len(ids) + 24 and scored.usage.completion_tokens == 0
    assert lp.token_logprobs[0] is None and lp.top_logprobs[0] is None
    assert all(v < 0 for v in lp.token_logprobs[1:])
    assert lp.token_logprobs[len(ids):] == made.logprobs.token_logprobs
    assert lp.top_logprobs[len(ids):] == made.logprobs.top_logprobs
    assert choice.text == detokenize(ids + ids_of(made)) and choice.finish_reason == "length"


@case
def echo_puts_the_prompt_in_front():
    text = complete(max_tokens=10).choices[0].text
    assert complete(max_tokens=10, echo=True).choices[0].text == PROMPT + text
    parts = [c.choices[0].text for c in complete(max_tokens=10, echo=True, stream=True)]
    assert "".join(parts) == PROMPT + text
    plain = complete(max_tokens=0, echo=True).choices[0]
    assert plain.text == PROMPT and plain.logprobs is None


# ---- ends --------------------------------------------------------------------------------------

def naive_stop(text, stops):
    """The text before the stop string that ends first; of those the first listed."""
    best = None
    for order, stop in enumerate(stops):
        at = text.find(stop)
        if at >= 0 and (best is None or (at + len(stop), order) < best[:2]):
            best = (at + len(stop), order, at, stop)
    return (text, None, None) if best is None else (text[:best[2]], best[3], text[:best[0]])


@case
def stop_strings_end_the_text_wherever_tokens_end():
    extra = {"ignore_eos": True}
    whole = complete(max_tokens=60, temperature=1, seed=3, extra_body=extra).choices[0].text
    plain = [i for i in range(len(whole)) if "\ufffd" not in whole[i:i + 8]]
    checked = 0
    for at in plain[2:40:3]:
        for size in (1, 3, 7):
            stop = whole[at:at + size]
            if len(stop) < size or "\ufffd" in stop:
                continue
            want, hit, included = naive_stop(whole, [stop])
            fields = dict(max_tokens=60, temperature=1, seed=3, stop=stop, extra_body=extra)
            got = complete(**fields).choices[0]
            assert got.text == want, f"{stop!r}: {got.text!r}, not {want!r}"
            assert got.finish_reason == "stop" and got.model_extra["stop_reason"] == hit
            checked += 1
            if size == 3:
                parts = [c.choices[0].text for c in complete(**fields, stream=True)]
                assert "".join(parts) == want
                fields["extra_body"] = {**extra, "include_stop_str_in_output": True}
                assert complete(**fields).choices[0].text == included
    assert checked > 10, checked
    several = [whole[30:33], whole[20:24], "zzzz"]
    want, hit, _ = naive_stop(whole, several)
    got = complete(max_tokens=60, temperature=1, seed=3, stop=several, extra_body=extra).choices[0]
    assert (got.text, got.model_extra["stop_reason"]) == (want, hit)
    none = complete(max_tokens=20, stop=["zzzz"], extra_body=extra).choices[0]
    assert none.finish_reason == "length"


@case
def stop_ids_end_an_answer():
    made = ids_of(with_ids(max_tokens=20, extra={"ignore_eos": True}).choices[0])
    stop = next(i for i in made[3:] if i not in made[:3])
    got = with_ids(max_tokens=20, extra={"ignore_eos": True, "stop_token_ids": [stop]}).choices[0]
    assert ids_of(got) == made[:made.index(stop) + 1] and got.finish_reason == "stop"
    assert got.model_extra["stop_reason"] == stop
    assert got.text == detokenize(made[:made.index(stop)])


@case
def eos_ends_an_answer_unless_told_otherwise():
    eos = next(i for i in range(320) if detokenize([i]) == "<|im_end|>")
    bias = {str(eos): 100}
    got = with_ids(max_tokens=9, logit_bias=bias).choices[0]
    assert ids_of(got) == [eos] and got.finish_reason == "stop" and got.text == ""
    got = with_ids(max_tokens=9, logit_bias=bias, extra={"min_tokens": 5}).choices[0]
    assert len(ids_of(got)) == 6 and eos not in ids_of(got)[:5] and got.finish_reason == "stop"
    got = with_ids(max_tokens=9, logit_bias=bias, extra={"ignore_eos": True}).choices[0]
    assert len(ids_of(got)) == 9 and eos not in ids_of(got) and got.finish_reason == "length"


@case
def one_token_and_the_rest_of_the_context():
    one = complete(max_tokens=1)
    assert one.usage.completion_tokens == 1 and one.choices[0].finish_reason in ("length", "stop")
    assert chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=2).usage.completion_tokens <= 2
    ids = [5] * 1000
    rest = client.completions.create(model=MODEL, prompt=ids, temperature=0, max_tokens=24,
                                     extra_body={"ignore_eos": True})
    assert rest.usage.total_tokens == 1024
    chat_rest = client.chat.completions.create(model=MODEL, messages=SAY, temperature=0,
                                               extra_body={"ignore_eos": True})
    assert chat_rest.usage.total_tokens == 1024 and chat_rest.choices[0].finish_reason == "length"


# ---- sampling ----------------------------------------------------------------------------------

@case
def a_seed_fixes_what_is_drawn():
    fields = {"temperature": 1.5, "max_tokens": 24}
    a, b, c = (complete(seed=s, **fields).choices[0].text for s in (7, 7, 8))
    assert a == b and a != c
    assert complete(**fields).choices[0].text != complete(**fields).choices[0].text


@case
def logit_bias_forces_and_forbids():
    first = ids_of(with_ids(max_tokens=1).choices[0])[0]
    assert first not in ids_of(with_ids(max_tokens=8, logit_bias={str(first): -100}).choices[0])
    assert ids_of(with_ids(max_tokens=5, logit_bias={"77": 100}).choices[0]) == [77] * 5


# ---- errors ------------------------------------------------------------------------------------

@case
def errors_are_the_clients_own_types_and_name_the_field():
    error = raises(openai.NotFoundError, lambda: complete(model="other"), "other")
    assert error.param == "model" and error.status_code == 404
    for fields, param in (({"temperature": 3}, "temperature"), ({"top_p": 0}, "top_p"),
                          ({"n": 0}, "n"), ({"n": 1000}, "n"), ({"max_tokens": -1}, "max_tokens"),
                          ({"logprobs": 500}, "logprobs"), ({"stop": ["a"] * 9}, "stop"),
                          ({"logit_bias": {"99999": 1}}, "logit_bias"),
                          ({"prompt": []}, "prompt"), ({"prompt": [99999]}, "prompt"),
                          ({"prompt": [5] * 1025}, "prompt"),
                          ({"prompt": "the " * 3000}, "prompt"),
                          ({"prompt": [5] * 1024}, "prompt"),
                          ({"prompt": [5] * 1000, "max_tokens": 25}, "max_tokens")):
        error = raises(openai.BadRequestError, lambda: complete(**fields))
        assert error.param == param, f"{fields}: {error.param} {error}"
    error = raises(openai.BadRequestError, lambda: chat(messages=[]))
    assert error.param == "messages"
    error = raises(openai.BadRequestError, lambda: chat(messages=[{"role": "user"}]))
    assert error.param.startswith("messages"), error.param
    error = raises(openai.BadRequestError, lambda: chat(response_format={"type": "json_object"}))
    assert error.param == "response_format"


@case
def keys_are_needed_when_there_are_some():
    with Server("--api-key", "open-sesame") as keyed:
        def user(key):
            return openai.OpenAI(base_url=keyed.url + "/v1", api_key=key, max_retries=0)
        name = user("open-sesame").models.list().data[0].id
        assert user("open-sesame").completions.create(model=name, prompt="a", max_tokens=1).choices
        for key in ("other", "open sesam", "open-sesamee", ""):
            raises(openai.AuthenticationError, lambda: user(key or "x").models.list())
            raises(openai.AuthenticationError,
                   lambda: user(key or "x").completions.create(model=name, prompt="a"))
        assert keyed.get("/metrics").status == 401 and keyed.get("/health").status == 200
        assert keyed.get("/nowhere").status == 401
    with Server(env={"WEIR_API_KEY": "from-the-environment"}) as keyed:
        assert keyed.get("/v1/models").status == 401
        assert keyed.get("/v1/models", {"Authorization": "Bearer from-the-environment"}).status == 200


# ---- the rest of the API -----------------------------------------------------------------------

@case
def models_are_listed_and_found():
    listed = client.models.list().data
    assert len(listed) == 1 and listed[0].object == "model"
    assert client.models.retrieve(MODEL).id == MODEL
    raises(openai.NotFoundError, lambda: client.models.retrieve("other"))
    with Server("--served-model-name", "my model/1") as named:
        user = openai.OpenAI(base_url=named.url + "/v1", api_key="none", max_retries=0)
        assert user.models.list().data[0].id == "my model/1"
        assert user.completions.create(model="my model/1", prompt="a", max_tokens=1).choices


@case
def tokens_go_there_and_back():
    for text in (PROMPT, " two  blanks\n\n\ttab ", "Zażółć gęślą jaźń 水は長い 🌊🏞️ e\u0301", "a" * 999,
                 "<|im_end|> said <|im_start|>", "\u0001\u007f"):
        made = tokenize(text)
        assert made["count"] == len(made["tokens"]) and made["max_model_len"] == 1024
        assert detokenize(made["tokens"]) == text, text
    strs = _server.post("/tokenize", {"prompt": PROMPT, "return_token_strs": True}).json()
    assert "".join(strs["token_strs"]) == PROMPT
    empty = _server.post("/tokenize", {"prompt": ""})
    assert empty.status == 200 and empty.json()["tokens"] == [], empty.body
    messages = _server.post("/tokenize", {"messages": SAY}).json()
    rendered = detokenize(messages["tokens"])
    assert SAY[0]["content"] in rendered and rendered.endswith("assistant\n"), rendered


@case
def version_and_health():
    assert re.fullmatch(r"\d+\.\d+\.\d+", _server.get("/version").json()["version"])
    assert _server.get("/health").status == 200 and _server.get("/ready").status == 200


@case
def metrics_are_prometheus_text():
    complete(max_tokens=3)
    answer = _server.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    helped, typed, seen, finished = set(), {}, set(), set()
    family, buckets = None, {}
    for line in answer.body.decode().splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in helped and len(line.split(None, 3)) == 4, line
            helped.add(name)
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in typed and kind in ("counter", "gauge", "histogram"), line
            finished.add(family)
            assert name not in finished, f"the lines of {name} are not together"
            typed[name], family = kind, name
            continue
        match = SAMPLE.match(line)
        assert match, line
        name, labels, value = match.groups()
        rest = LABEL.sub("", labels or "")
        assert rest == "", f"labels {labels}"
        base = re.sub(r"_(bucket|sum|count)$", "", name) if typed.get(family) == "histogram" else name
        assert base == family and (name, labels) not in seen, line
        seen.add((name, labels))
        number = float(value)
        if typed[family] == "counter":
            assert name.endswith("_total") and number >= 0, line
        if name.endswith("_bucket") and typed[family] == "histogram":
            pairs = dict(LABEL.findall(labels))
            le = float(pairs.pop("le"))
            key = (base, tuple(sorted(pairs.items())))
            buckets.setdefault(key, []).append((le, number))
        if name.endswith("_count") and typed[family] == "histogram":
            key = (base, tuple(sorted(dict(LABEL.findall(labels or "")).items())))
            assert buckets[key][-1] == (float("inf"), number), line
    for key, rows in buckets.items():
        assert [r[0] for r in rows] == sorted(r[0] for r in rows), key
        assert [r[1] for r in rows] == sorted(r[1] for r in rows), key
    roles = {dict(LABEL.findall(labels or "")).get("role") for _, labels in seen}
    assert {"prefill", "decode"} <= roles, roles
    assert typed["weir_kv_bytes_received_total"] == "counter"


@case
def counters_count_what_was_asked():
    with Server() as fresh:
        for i in range(5):
            body = {"prompt": f"the water {i}", "max_tokens": 4, "ignore_eos": True,
                    "temperature": 0}
            assert fresh.post("/v1/completions", body).status == 200
        until(lambda: fresh.metrics().sum("weir_requests_finished_total", role="decode") == 5,
              "five requests are counted", 10)
        m = fresh.metrics()
        assert m.sum("weir_generated_tokens_total") == 20, m.all("weir_generated_tokens_total")
        assert m.sum("weir_requests_total", end="ok") == 5, m.all("weir_requests_total")
        assert m.sum("weir_request_seconds_count") == 5


# ---- a real model ------------------------------------------------------------------------------

@case
def a_real_model_answers():
    with Server(model=real_model()) as real:
        user = openai.OpenAI(base_url=real.url + "/v1", api_key="none", max_retries=0, timeout=100)
        name = user.models.list().data[0].id
        text = user.completions.create(model=name, prompt="The capital of France is", max_tokens=8,
                                       temperature=0).choices[0].text
        assert "Paris" in text, text
        asked = [{"role": "user", "content": "What is 2+2?"}]
        answer = user.chat.completions.create(model=name, max_tokens=24, temperature=0,
                                              messages=asked)
        rendered = real.post("/tokenize", {"messages": asked, "return_token_strs": True}).json()
        assert answer.usage.prompt_tokens == rendered["count"]
        assert "".join(rendered["token_strs"]) == (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
            "<|im_start|>assistant\n")
        assert "4" in answer.choices[0].message.content, answer


@case
def the_server_ends_well_after_all_this():
    _server.check_pages_free()
    _server.stop()


main()
