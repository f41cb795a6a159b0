#!/usr/bin/env python3
"""make_seeds.py OUT -- writes the seeds the corpora started from: OUT/TARGET/seed-NAME.

They are made here, by hand and by formula; nothing is fetched. A target whose input is choices
(core, gate, frame, tokenizer) starts from pseudo-random bytes.
"""

import os
import random
import struct
import sys


def guard():
    host = b"Host: a:1\r\n"
    return {
        "get": b"GET /health HTTP/1.1\r\n" + host + b"\r\n",
        "post": b"POST /v1/chat/completions?x=%41 HTTP/1.1\r\n" + host +
                b"Content-Length: 12\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        "chunked": b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "old": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "both": b"POST / HTTP/1.1\r\n" + host +
                b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "upgrade": b"GET / HTTP/1.1\r\n" + host +
                   b"Connection: Upgrade, x\r\nUpgrade: h2c\r\nAuthorization: Bearer k\r\n\r\n",
        "fold": b"GET / HTTP/1.1\r\n" + host + b"A: b\r\n c\r\n\r\n",
    }


def json():
    sampling = (b'"temperature":0.5,"top_p":0.9,"top_k":5,"min_p":0.1,"seed":-5,"n":2,'
                b'"max_tokens":10,"stop":["a","\\n"],"stop_token_ids":[1,2],"logit_bias":{"5":-1.5},'
                b'"presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.1,'
                b'"stream":true,"stream_options":{"include_usage":true},"user":"u"')
    chat = (b'{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":'
            b'[{"type":"text","text":"\\u00e9\\ud83d\\ude00"}]},{"role":"assistant","content":null,'
            b'"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},'
            b'{"role":"tool","tool_call_id":"1","content":"r"}],"tools":[{"type":"function",'
            b'"function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"none",'
            b'"logprobs":true,"top_logprobs":3,"chat_template_kwargs":{"a":1},'
            b'"add_generation_prompt":true,' + sampling + b'}')
    return {
        "chat": b"\0" + chat,
        "text": b'\1{"prompt":"hello","echo":true,"logprobs":2,' + sampling + b'}',
        "batch": b'\1{"prompt":[[1,2,3],[4]],"max_tokens":1}',
        "texts": b'\1{"prompt":["a","b"],"model":"n","suffix":null}',
        "ids": b'\1{"prompt":[1,999,0]}',
        "tokenize": b'\2{"prompt":"x","add_special_tokens":false,"return_token_strs":true}',
        "tokenize_chat": b'\2{"messages":[{"role":"user","content":"x"}]}',
        "detokenize": b'\3{"tokens":[1,2,3]}',
        "numbers": b'\1{"a":[1e308,-0.0,1E-5,12345678901234567890,[],{}],"b":"\\u0041\\"\\\\\\/"}',
    }


def gguf_str(s):
    return struct.pack("<Q", len(s)) + s


def gguf_file(pairs, tensors, data, version=3):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    for key, kind, value in pairs:
        out += gguf_str(key) + struct.pack("<I", kind) + value
    for name, dims, kind, offset in tensors:
        out += gguf_str(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        out += struct.pack("<IQ", kind, offset)
    return out + b"\0" * (-len(out) % 32) + data


def gguf_strings(values):
    return struct.pack("<IQ", 8, len(values)) + b"".join(map(gguf_str, values))


def gguf():
    scalars = [(b"u8", 0, b"\1"), (b"i8", 1, b"\xff"), (b"u16", 2, b"\1\2"), (b"i16", 3, b"\1\2"),
               (b"u32", 4, b"\1\0\0\0"), (b"i32", 5, b"\xff" * 4),
               (b"f32", 6, struct.pack("<f", 1.5)), (b"bool", 7, b"\1"), (b"str", 8, gguf_str(b"x")),
               (b"u64", 10, b"\2" + b"\0" * 7), (b"i64", 11, b"\xff" * 8),
               (b"f64", 12, struct.pack("<d", 2.0))]
    arrays = [(b"a.u32", 9, struct.pack("<IQ3I", 4, 3, 1, 2, 3)),
              (b"a.str", 9, gguf_strings([b"a", b"", b"bc"]))]
    tensors = [(b"w", (4, 2), 0, 0), (b"q", (32, 1), 2, 32), (b"odd", (1,), 99, 64)]
    words = [(b"general.architecture", 8, gguf_str(b"llama")),
             (b"tokenizer.ggml.model", 8, gguf_str(b"gpt2")),
             (b"tokenizer.ggml.pre", 8, gguf_str(b"smollm")),
             (b"tokenizer.ggml.tokens", 9, gguf_strings([b"a", b"b", b"ab", b"<e>"])),
             (b"tokenizer.ggml.token_type", 9, struct.pack("<IQ4i", 5, 4, 1, 1, 1, 3)),
             (b"tokenizer.ggml.merges", 9, gguf_strings([b"a b"])),
             (b"tokenizer.ggml.eos_token_id", 4, b"\3\0\0\0")]
    return {
        "scalars": gguf_file(scalars, [], b""),
        "arrays": gguf_file(arrays, [], b"", version=2),
        "tensors": gguf_file([(b"general.alignment", 4, b"\x20\0\0\0")], tensors, b"\7" * 128),
        "words": gguf_file(words, [], b""),
    }


FILTERS = """abs attr batch capitalize center count default dictsort escape first float forceescape
    format from_json groupby indent int items join last length list lower map max min reject rejectattr
    replace reverse round safe select selectattr slice sort string sum title tojson trim truncate
    unique upper wordcount""".split()
METHODS = """append capitalize center clear copy count endswith expandtabs extend find format get index
    insert isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace
    istitle isupper items join keys ljust lower lstrip partition pop popitem remove removeprefix
    removesuffix replace reverse rfind rindex rjust rpartition rsplit rstrip setdefault sort split
    splitlines startswith strip swapcase title update upper values zfill""".split()
TESTS = """boolean callable defined divisibleby eq escaped even false filter float ge gt in integer
    iterable le lower lt mapping ne none number odd sameas sequence string test true undefined
    upper""".split()


def jinja_names():
    """Each filter, method and test, without arguments and with some: names are hard to guess."""
    made = {}
    values = ("'a b'", "[3, 1, 2]", "messages", "{'a': 1}", "-2.5")
    for kind, names, form in (("filter", FILTERS, "{{ %s | %s%s }}"),
                              ("method", METHODS, "{{ (%s).%s%s }}"),
                              ("test", TESTS, "{{ %s is %s%s }}")):
        bare = "()" if kind == "method" else ""
        for name in names:
            for i, value in enumerate(values):
                for j, given in enumerate((bare, "('a')", "(2)", "(1, 'x')", "('role', 'eq', 'user')")):
                    text = form % (value, name, given)
                    made[f"{kind}-{name}-{i}{j}"] = text.encode()
    return made


def jinja():
    return {
        **jinja_names(),
        "chatml": b"{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m['content'] | trim }}"
                  b"{% if not loop.last %}\n{% endif %}{% endfor %}"
                  b"{% if add_generation_prompt %}{{ bos_token }}{% endif %}",
        "macro": b"{%- macro f(a, b=2) -%}{{ a }}{{ b }}{%- endmacro -%}"
                 b"{{ f(1) }}{{ f(1, b='x') }}{% set ns = namespace(n=0) %}"
                 b"{% for i in range(5) if i % 2 %}{% set ns.n = ns.n + i %}{{ loop.index }}"
                 b"{% else %}no{% endfor %}{{ ns.n }}",
        "filters": b"{{ [3,1,2] | sort | join(',') | upper }}{{ 'a-b' | replace('-', '_') }}"
                   b"{{ messages | map(attribute='role') | list | tojson(indent=1) }}"
                   b"{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
                   b"{{ 3.14159 | round(2) }}{{ '%s %5.2f' % ('a', 1) }}{{ 'x' | default('y') }}",
        "tests": b"{% if messages is defined and messages is iterable and 1 is odd %}"
                 b"{{ 'abc'[1:] ~ 'abc'[::-1] }}{{ {'a': 1}.items() | list }}{% endif %}"
                 b"{{ raise_exception('no') }}",
        "input": b"{{ a.b[0] }}{{ c | from_json }}\0{\"a\":{\"b\":[1]},\"c\":\"{}\"}",
        "methods": b"{{ 'a b'.split() }}{{ ' x '.strip().upper().startswith('X') }}"
                   b"{{ 'abc'.find('c') }}{{ strftime_now('%Y') }}{% call(x) f() %}{% endcall %}"
                   b"{% filter upper %}x{% endfilter %}{% raw %}{{{% endraw %}{# c #}",
    }


def client():
    ok = b"HTTP/1.1 200 OK\r\n"
    events = b"data: {\"a\":1}\n\ndata:x\r\ndata: y\r\n\r\n: c\n\ndata: [DONE]\n\n"
    return {
        "length": ok + b"Content-Length: %d\r\n\r\n" % len(events) + events,
        "chunked": ok + b"Transfer-Encoding: chunked\r\n\r\n" +
                   b"%x\r\n" % len(events) + events + b"\r\n3;x=y\r\ndat\r\n0\r\nA: b\r\n\r\n",
        "close": b"HTTP/1.0 200 OK\r\n\r\n" + events,
        "refused": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Too Many\r\nRetry-After: 1\r\n"
                   b"Connection: close\r\nContent-Length: 2\r\n\r\n{}",
        "empty": b"HTTP/1.1 204 No Content\r\n\r\n",
    }


def settings():
    return {
        "file": b"\0# c\nport = 9000\n\nhost: \"x\"\nmemory=64k\nshare 0.25\non = true\nkind = tcp\n",
        "flags": b"\1--port=1\n--no-on\n--kind\ntcp\n--memory\n2GiB\n--\nfile",
        "points": b"\2a.b=kill:1@2;c=delay_10;d=error;e=stop",
        "keys": b"\3# keys\nsecret-key-1\nsha256:" + b"0a" * 32 + b"\n\n  padded-key  \r\n",
        "url": b"\4http://localhost:8000/prefix/",
        "url6": b"\4[::1]:1",
    }


def message():
    def head(kind, request=0, attempt=0):
        return struct.pack("<BQI", kind, request, attempt)

    def text(s):
        return struct.pack("<I", len(s)) + s

    params = struct.pack("<fIfffffQIIBBBBBI", 0.5, 3, 0.9, 0.1, 1.1, 0.5, -0.5, 7, 10, 1, 0, 3, 1, 2,
                         0, 1) + struct.pack("<I", 5) + struct.pack("<I", 1) + struct.pack("<If", 6, -1)
    submit = struct.pack("<IQBQII3I", 1, 1, 0, 9, 3, 2, 1, 2, 3) + params
    local = struct.pack("<IQBQII1I", 0xffffffff, 0, 1, 9, 1, 1, 1) + params
    token = struct.pack("<BIIBfBIf", 0, 1, 5, 1, -0.5, 1, 6, -1.0)
    announce = struct.pack("<6I", 1, 0, 0, 2, 0, 3)
    hello = (struct.pack("<IIQBIQIIQIII", 3, 1, 9, 3, 77, 5, 4, 16, 4096, 100, 512, 320) +
             text(b"avx2") + text(b"bf16") + text(b"127.0.0.1:1") + struct.pack("<IQ", 7, 5))
    return {
        "hello": head(1) + hello,
        "peer": head(2) + struct.pack("<IQBBB", 1, 2, 3, 1, 0) + text(b"127.0.0.1:1"),
        "heartbeat": head(3) + struct.pack("<QIIIIQIIIQ", 1, 9, 8, 1, 0, 5, 6, 7, 256, 9) +
        struct.pack("<fffI", 1, 2, 0.5, 9) * 2 +
        struct.pack("<BI21QQ", 1, 1000, *range(21), 3),
        "cached": head(25) + struct.pack("<QBI2Q", 1, 1, 2, 6, 9),
        "resync": head(26),
        "leases": head(4) + struct.pack("<IQIQI", 2, 1, 1, 2, 1),
        "drain": head(5),
        "metrics": head(6) + text(b"WMS1"),
        "roster": head(7) + struct.pack("<IIQB", 1, 3, 4, 1) + text(b"10.0.0.1:1"),
        "goodbye": head(8) + text(b"so long"),
        "submit": head(9, 1, 1) + submit,
        "reserve": head(10, 1, 1) + local,
        "grant": head(11, 1, 1) + struct.pack("<II", 5, 2),
        "queued": head(12, 1, 1) + struct.pack("<I", 100),
        "refused": head(13, 1, 1) + b"\1",
        "announce": head(14, 1, 1) + announce,
        "posted": head(15, 1, 1) + struct.pack("<II", 1, 0),
        "handoff": head(16, 1, 1) + struct.pack("<II", 2, 1) + token,
        "adopted": head(17, 1, 1),
        "tokens": head(19, 1, 1) + struct.pack("<IBI", 16, 1, 2) + token * 2,
        "scores": head(20, 1, 1) + struct.pack("<II", 1, 1) + token,
        "link_lost": head(23, 1, 1) + struct.pack("<I", 3),
        "reject": head(24, 1, 1) + b"\6\x0e" + announce,
    }


def metrics():
    def series(kind, name, help_text, labels, scale, value, bounds=(), counts=()):
        fixed = struct.pack("<BBHHHdQ", kind, len(name), len(help_text), len(labels), len(bounds),
                            scale, value)
        return (fixed + name + help_text + labels + struct.pack(f"<{len(bounds)}Q", *bounds) +
                struct.pack(f"<{len(counts)}Q", *counts))

    one = b"WMS1" + series(1, b"a_total", b"Things.", b'role="p",q="\\"x\\n"', 1.0, 5)
    two = one + series(3, b"b_seconds", b"Times.", b"", 1e-6, 900, (10, 20), (1, 2, 3))
    three = b"WMS1" + series(2, b"c", b"Now.", b"", 1.0, struct.unpack("<Q", struct.pack("<d", 2.5))[0])
    return {"one": struct.pack(">H", len(one)) + one + two,
            "two": struct.pack(">H", len(two)) + two + three}


def wire():
    def frame(body, flags=0):
        return b"WL" + bytes([flags, 0]) + struct.pack("<I", len(body)) + body

    return {"two": frame(b"hello") + frame(b"x" * 100), "empty": frame(b""), "fd": frame(b"a", 1),
            "cut": frame(b"abc")[:-1], "huge": b"WL\0\0\xff\xff\xff\xff"}


def address():
    texts = {"v4": b"10.0.0.1:7000", "v6": b"[::1]:80", "any": b"0.0.0.0:0", "name": b"localhost:1",
             "port": b"1.2.3.4:65536", "open": b"[::1:80", "loop": b"127.9.9.9:7"}
    keys = {"key": b"  0123456789abcdef \n", "short": b"0123456789abcde", "long": b"k" * 5000}
    return {**{n: b"\0" + t for n, t in texts.items()}, **{n: b"\1" + t for n, t in keys.items()}}


def traceparent():
    """First byte: how long the header is; then it, then a tracestate."""
    good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"good": good, "later": b"cc" + good[2:] + b"-more", "upper": good.upper(),
               "zero": good[:36] + b"0" * 16 + good[52:], "ff": b"ff" + good[2:], "cut": good[:-1]}
    return {**{n: bytes([len(h)]) + h + b"rojo=1,congo=t61" for n, h in headers.items()},
            "state": bytes([len(good)]) + good + b"a=\"\\\xff\0,\xc3\xa9" + b"x=1," * 40}


def sealed():
    """First byte: messages or pages; then a choice after the other."""
    send, give = b"\0\x05hello", b"\1\7\2\0"
    post, go, on = b"\0\6", b"\1", b"\3\7\2\0"
    return {"messages": b"\0" + (send + give) * 4, "pages": b"\1" + (post + go + on) * 3,
            "changed": b"\0" + send + give + send + b"\1\0\0\x09\3" + give * 2,
            "repeated": b"\1" + post + go + b"\3\3\1\0" + on * 2}


def safetensors_file(header, data=bytes(24)):
    return struct.pack("<Q", len(header)) + header + data


def safetensors():
    entry = b'"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}'
    a, b = entry % (b"a", b"F32", b"2", 0, 8), entry % (b"b", b"BF16", b"2,4", 8, 24)
    return {
        "two": safetensors_file(b'{"__metadata__":{"format":"pt"},%s,%s}   ' % (a, b)),
        "scalar": safetensors_file(b"{%s}" % (entry % (b"s", b"I64", b"", 0, 8)), bytes(8)),
        "overlap": safetensors_file(b"{%s,%s}" % (a, entry % (b"b", b"F16", b"4", 4, 12))),
        "twice": safetensors_file(b"{%s,%s}" % (a, entry % (b"a", b"F64", b"2", 8, 24))),
        "past": safetensors_file(b"{%s}" % (entry % (b"a", b"F32", b"1,9,1,1", 0, 36))),
        "empty": safetensors_file(b"{}", b""), "short": b"\2\0\0\0\0\0\0\0{",
    }


def hf():
    """config, generation_config, tokenizer, tokenizer_config, template."""
    sizes = (b'"hidden_size":32,"intermediate_size":48,"num_hidden_layers":1,"num_attention_heads":2,'
             b'"vocab_size":300,"max_position_embeddings":128,"eos_token_id":[6]')
    llama = b'{"architectures":["LlamaForCausalLM"],%s,"rope_scaling":{"rope_type":"llama3",' \
            b'"factor":8,"low_freq_factor":1,"high_freq_factor":4,' \
            b'"original_max_position_embeddings":64}}' % sizes
    qwen = b'{"architectures":["Qwen3ForCausalLM"],%s,"head_dim":16,"sliding_window":64,' \
           b'"rope_parameters":{"rope_type":"yarn","factor":4,"rope_theta":1e6}}' % sizes
    added = (b'"added_tokens":[{"id":6,"content":"<end>","special":true},{"id":7,"content":"<call>",'
             b'"special":false}]')
    space = "\u2581".encode()
    level = b'{"type":"ByteLevel","add_prefix_space":false}'
    words = b'"vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4},"merges":["a b",["ab","c"]]'
    plain = (b'{%s,"normalizer":{"type":"NFC"},"pre_tokenizer":%s,"post_processor":{"type":"Sequence",'
             b'"processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing","single":[{"SpecialToken"'
             b':{"id":"<end>"}},{"Sequence":{"id":"A"}}]}]},"model":{"type":"BPE",%s}}') % (
                 added, level, words)
    smollm = b'{%s,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits",' \
             b'"individual_digits":true},%s]},"model":{"type":"BPE",%s}}' % (added, level, words)
    texts = b'"vocab":{"<unk>":0,"<0x61>":1,"%s":2,"b":3,"%sb":4,"c":5},"merges":["%s b"]' % (
        space, space, space)
    model = b'"model":{"type":"BPE","byte_fallback":true,"unk_token":"<unk>",%s}' % texts
    older = b'{%s,"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"%s"},' \
            b'{"type":"Replace","pattern":{"String":" "},"content":"%s"}]},%s}' % (
                added, space, space, model)
    newer = b'{%s,"pre_tokenizer":{"type":"Metaspace","replacement":"%s","prepend_scheme":"first",' \
            b'"split":true},%s}' % (added, space, model)
    settings = b'{"bos_token":"<end>","eos_token":{"content":"<end>"},"chat_template":[{"name":' \
               b'"default","template":"x"}]}'
    ends = b'{"eos_token_id":7}'
    return {"plain": b"\0".join([llama, ends, plain, settings, b"{{ x }}"]),
            "digits": b"\0".join([qwen, b"", smollm, settings]),
            "older": b"\0".join([llama, ends, older, b""]),
            "newer": b"\0".join([qwen, b"{}", newer, settings])}


def noise(seed, count, size):
    """For targets that read choices."""
    state = random.Random(seed)
    return {f"noise{i}": bytes(state.randrange(256) for _ in range(state.randrange(size // 2, size)))
            for i in range(count)}


def main():
    made = {"guard": guard(), "json": json(), "gguf": gguf(), "jinja": jinja(), "client": client(),
            "settings": settings(), "message": message(), "metrics": metrics(), "wire": wire(),
            "address": address(), "traceparent": traceparent(), "safetensors": safetensors(), "hf": hf(),
            "sealed": {**sealed(), **noise(6, 6, 300)},
            "core": noise(1, 8, 600), "gate": noise(2, 8, 600), "frame": noise(3, 4, 200),
            "tokenizer": noise(4, 6, 300), "handshake": noise(5, 6, 60)}
    made["handshake"]["clean"] = bytes(40)
    for target, seeds in made.items():
        folder = os.path.join(sys.argv[1], target)
        os.makedirs(folder, exist_ok=True)
        for name, data in seeds.items():
            with open(os.path.join(folder, f"seed-{name}"), "wb") as f:
                f.write(data)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
