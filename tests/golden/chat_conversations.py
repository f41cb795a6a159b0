"""Conversations for check_chat.py: what requests to a chat model look like, and odd ones."""

import itertools

TEXTS = [
    "Hi", "What's the \"weather\" in Paris?", "  padded\n\nlines \n", "Grüße, 你好 😀 <b>&amp;</b>",
    "<think>\nlet me see\n</think>\n\nThe answer", "a </think> b </think> c", "",
    "{{ not }} {% code %}", "[INST] x [/INST] <|im_end|>"
]

TOOLS = [{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather.\nSecond line.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where, e.g. \"São Paulo\""},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "array", "items": {"type": "integer"}, "description": "Days"},
                "where": {"type": "object", "properties": {"lat": {"type": "number"},
                                                           "lon": {"type": ["number", "null"]}},
                          "required": ["lat"]},
                "exact": {"type": "boolean"},
            },
            "required": ["city"],
        },
        "return": {"type": "string"},
    },
}, {
    "type": "function",
    "function": {"name": "now", "description": "The time", "parameters": {"type": "object",
                                                                          "properties": {}}},
}]


def call(name, arguments, number=0):
    return {"id": f"call0000{number}"[:9], "type": "function",
            "function": {"name": name, "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def parts(*texts):
    return [{"type": "text", "text": t} for t in texts]


WEATHER = {"city": "Paris", "days": [1, 2], "exact": True, "unit": None}


def message_lists():
    """(name, messages)"""
    for number, text in enumerate(TEXTS):
        yield f"user{number}", [user(text)]
        yield f"turns{number}", [user("Q1"), assistant(text), user("Q2")]
    long = [m for i in range(6) for m in (user(f"q{i}"), assistant(TEXTS[i]))]
    yield "long", long + [user("end")]
    yield "ends_with_assistant", [user("Q"), assistant("A, to be continued")]
    yield "two_users", [user("a"), user("b")]
    yield "assistant_first", [assistant("welcome"), user("x")]
    yield "reasoning", [user("Q"), assistant("A", reasoning_content="because\nof this"), user("R"),
                        assistant("B", reasoning_content=""), user("S")]
    yield "thinking", [user("Q"), assistant("A", thinking="hmm"), user("R")]
    yield "parts", [user(parts("one", "two")), assistant(parts("three")), user("four")]
    yield "image", [user([{"type": "image"}, {"type": "text", "text": "see"}])]
    yield "image_url", [user([{"type": "text", "text": "see"},
                              {"type": "image_url", "image_url": {"url": "http://x/y.png"}}])]
    yield "null_content", [user("Q"), assistant(None), user("R")]
    yield "no_content", [user("Q"), {"role": "assistant"}, user("R")]
    yield "developer", [{"role": "developer", "content": "be nice"}, user("Q")]
    yield "odd_role", [{"role": "critic", "content": "no"}, user("Q")]
    yield "named", [{"role": "user", "content": "Q", "name": "ann"}]
    yield "empty", []
    for name, arguments in (("object", WEATHER), ("text", '{"city": "Paris", "days": [1]}'),
                            ("none", {})):
        calls = [call("get_weather", arguments)]
        yield f"call_{name}", [user("Weather?"), assistant("", tool_calls=calls)]
        yield f"result_{name}", [
            user("Weather?"), assistant(None, tool_calls=calls),
            {"role": "tool", "content": "{\"t\": 21.5}", "name": "get_weather",
             "tool_call_id": "call00000"},
            assistant("21.5 degrees"), user("Thanks")]
    two = [call("get_weather", WEATHER), call("now", {}, 1)]
    yield "two_calls", [
        user("Both"), assistant("I look.", tool_calls=two, reasoning_content="need both"),
        {"role": "tool", "content": "sunny", "name": "get_weather", "tool_call_id": "call00000"},
        {"role": "tool", "content": "12:00", "name": "now", "tool_call_id": "call00001"}]
    yield "parts_result", [
        user("Both"), assistant("", tool_calls=two[:1]),
        {"role": "tool", "content": parts("r1", "r2"), "tool_call_id": "call00000"}]
    yield "object_result", [
        user("Both"), assistant(None, tool_calls=two[:1]),
        {"role": "tool", "content": {"a": [1, {"b": None}]}, "name": "get_weather",
         "tool_call_id": "call00000"}]
    yield "flat_call", [user("x"), assistant(None, tool_calls=[{"name": "now", "arguments": {}}])]


VARIABLES = [{}, {"enable_thinking": False},
             {"enable_thinking": True, "tools_in_user_message": False},
             {"date_string": "1 Jan 2025", "reasoning_effort": "high", "custom_tools": None,
              "functions": "[]", "datetime": "now"},
             {"documents": [{"title": "T1", "text": "Some text."},
                            {"title": "T2", "text": "More."}]},
             {"thinking": True, "preserve_thinking": True, "reasoning_effort": "low",
              "model_identity": "You are a test.", "builtin_tools": ["browser", "python"]}]


def conversations():
    """Inputs of a render: messages with and without system, tools, prompt, further variables."""
    systems = [None, "You are terse.\n"]
    number = 0
    for (name, messages), system in itertools.product(message_lists(), systems):
        full = ([{"role": "system", "content": system}] if system else []) + messages
        calls = any("tool_calls" in m or m["role"] == "tool" for m in messages)
        tool_lists = [TOOLS, None] if calls or number % 4 == 0 else [None]
        for tools, prompt in itertools.product(tool_lists, (True, False)):
            more = VARIABLES[number % len(VARIABLES)]
            number += 1
            value = {"messages": full, "add_generation_prompt": prompt, "bos_token": "<s>",
                     "eos_token": "</s>", **more, "_name": name}
            if tools:
                value["tools"] = tools
            elif number % 3:
                value["tools"] = None
            yield value
    yield {"messages": [{"role": "system", "content": parts("sys1", "sys2")}, user("x")],
           "add_generation_prompt": True, "_name": "system_parts"}
    yield {"messages": [{"role": "system", "content": ""}, user("x")], "tools": [],
           "add_generation_prompt": True, "_name": "empty_system"}
    yield {"messages": [user("x")], "_name": "bare"}
    yield {"_name": "nothing"}


def describe(value):
    tools = "tools" if value.get("tools") else "no tools"
    system = any(m.get("role") == "system" for m in value.get("messages", []))
    return (f"{value['_name']}{' with system' if system else ''}, {tools}, "
            f"prompt {value.get('add_generation_prompt')}")
