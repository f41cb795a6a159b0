#!/usr/bin/env python3
"""test_judge.py -- the judge of a chaos run must see each way in which an answer can be wrong."""

import asyncio
import json
import sys

from client import FIN, Call, Heard, compare, judge
from cluster import LINE, Event
from soak import slope

failed = []


def check(name, good, note=""):
    print(f"ok {name}" if good else f"not ok {name} - {note}")
    if not good:
        failed.append(name)


def want():
    heard = Heard(1)
    heard.ids, heard.text, heard.finish = [[5, 6, 7]], ["abc"], ["length"]
    heard.usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    return heard


def event(ids, text, finish=None, usage=None):
    body = {"choices": [{"index": 0, "text": text, "token_ids": ids, "finish_reason": finish}]}
    return {**body, "usage": usage} if usage else body


GOOD = [event([5], "a"), event([6, 7], "bc", "length"),
        {"choices": [], "usage": want().usage}, None]


def stream(events, end=True, status=200, leave=None, leave_after=0, pieces=7):
    """A Call that heard these events, a few bytes at a time."""
    class Transport:
        def write(self, data):
            pass

        def get_extra_info(self, name):
            return None

        def close(self):
            pass
        abort = close

    async def go():
        call = Call(asyncio.get_running_loop(), "/v1/completions", {}, leave, leave_after)
        call.connection_made(Transport())
        head = (f"HTTP/1.1 {status} X\r\nContent-Type: text/event-stream\r\n"
                "Transfer-Encoding: chunked\r\n\r\n").encode()
        body = b""
        for e in events:
            line = b"data: " + (b"[DONE]" if e is None else json.dumps(e).encode()) + b"\n\n"
            body += b"%x\r\n%s\r\n" % (len(line), line)
        data = head + body + (b"0\r\n\r\n" if end else b"")
        for at in range(0, len(data), pieces):
            call.data_received(data[at:at + pieces])
        call.connection_lost(None)
        return call
    return asyncio.run(go())


def kind(*arguments, **named):
    verdict = judge(stream(*arguments, **named), 1, want())
    return verdict and verdict[0]


def main():
    for pieces in (1, 3, 7, 1000):
        check(f"a_good_stream_in_pieces_of_{pieces}", kind(GOOD, pieces=pieces) is None)
    usage = GOOD[2]
    rows = {
        "a_wrong_token": ([event([5], "a"), event([6, 8], "bc", "length"), usage, None], "wrong"),
        "a_repeated_token": ([event([5], "a"), event([5, 6, 7], "bc", "length"), usage, None],
                             "repeated"),
        "a_repeated_piece": ([event([5, 6], "a"), event([5, 6, 7], "bc", "length"), usage, None],
                             "repeated"),
        "a_missing_last_token": ([event([5], "a"), event([6], "bc", "length"), usage, None],
                                 "missing"),
        "a_missing_middle_token": ([event([5], "a"), event([7], "bc", "length"), usage, None],
                                   "missing"),
        "other_text": ([event([5], "a"), event([6, 7], "bd", "length"), usage, None], "wrong"),
        "another_end": ([event([5], "a"), event([6, 7], "bc", "stop"), usage, None], "wrong"),
        "no_done": (GOOD[:3], "failed"),
        "two_dones": ([*GOOD, None], "failed"),
        "something_after_done": ([*GOOD[:2], None, usage], "failed"),
        "no_finish_reason": ([event([5], "a"), event([6, 7], "bc"), usage, None], "failed"),
        "two_finish_reasons": ([event([5, 6, 7], "abc", "length"), event([], "", "length"), usage,
                                None], "failed"),
        "a_token_after_the_end": ([event([5, 6], "ab", "length"), event([7], "c"), usage, None],
                                  "failed"),
        "an_error_event": ([event([5], "a"), {"error": {"message": "x"}}, None], "failed"),
        "usage_that_is_wrong": ([*GOOD[:2], {"choices": [], "usage": {
            "prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}}, None], "wrong"),
        "no_usage": ([*GOOD[:2], None], "wrong"),
        "usage_twice": ([*GOOD[:3], usage, None], "failed"),
    }
    for name, (events, expected) in rows.items():
        got = kind(events)
        check(name, got == expected, f"{got}, not {expected}")
    check("a_cut_stream", kind(GOOD, end=False) == "failed")
    check("a_status_that_is_not_200", kind([], status=503) == "failed")
    check("a_client_that_left_with_a_beginning", kind(GOOD, leave=FIN, leave_after=1) is None)
    check("a_client_that_left_with_a_wrong_token",
          kind([event([9], "a")], leave=FIN, leave_after=1) == "wrong")
    check("a_long_loss_is_missing", compare([1, 2, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8]) == "missing")
    line = ('2026-01-01T00:00:00.000Z warn  decode-1 failpoint: acts point=decode.on_handoff '
            'action=kill pid=12 now_us=34')
    told = Event(0.0, *LINE.match(line).groups()[1:])
    check("a_log_line", (told.process, told.component, told.fields["point"], told.fields["pid"])
          == ("decode-1", "failpoint", "decode.on_handoff", "12"))
    steep, upper = slope([(minute, 1000 + 100 * minute) for minute in range(20)])
    check("a_leak_has_its_slope", abs(steep - 0.1024) < 1e-9 and abs(upper - 0.1024) < 1e-6, steep)
    steep, upper = slope([(minute, 1000 + minute % 2) for minute in range(20)])
    check("flat_memory_has_none", abs(steep) < 1e-3 and upper < 1e-3, steep)
    sys.exit(1 if failed else 0)


main()
