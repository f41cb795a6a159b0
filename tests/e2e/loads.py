"""loads.py -- workers that take their time, and clients that leave none of it unused."""

import threading

from weirtest import HANG_S, generate, scratch

SLOW = ("prefill-us = 1000\nprefill-token-us = 400\nprefill-context-us = 0\ndecode-us = 15000\n"
        "decode-seq-us = 3000\ndecode-context-us = 0\nkv-gbps = 10\nkv-bytes-per-token = 20000\n")


# Short prompts that take long, so that few requests a second are a load for many workers.
SLOWER = SLOW.replace("token-us = 400", "token-us = 2000").replace(
    "decode-us = 15000", "decode-us = 40000").replace("seq-us = 3000", "seq-us = 12000")


def slow_profile(text=SLOW):
    path = scratch("slow.profile")
    with open(path, "w", encoding="ascii") as f:
        f.write(text)
    return path


class Load:
    """Requests one after the other on some threads, until it is left; none may fail."""

    def __init__(self, server, threads, prompt, tokens):
        self.server, self.prompt, self.tokens = server, prompt, tokens
        self.stop, self.done, self.errors = False, 0, []
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(threads)]

    def run(self, number):
        turn = 0
        while not self.stop:
            turn += 1
            try:
                generate(self.server, "/v1/completions",
                         {"prompt": f"{number} {turn} " + "water " * self.prompt,
                          "max_tokens": self.tokens, "ignore_eos": True})
                self.done += 1
            except Exception as error:
                self.errors.append(repr(error))
                return

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop = True
        for thread in self.threads:
            thread.join(HANG_S)
        assert not self.errors, self.errors[:3]
        assert self.done > 0
