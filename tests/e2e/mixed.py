"""mixed.py -- requests of every kind, the same ones every time: what exactness is tested with."""

import random

WORDS = ("the of and to in is that it was for on are as with his they at be this from have or by one "
         "had not but what all were when we there can an your which their said if do will each about "
         "how up out them then she many some so these would other into has more her two like him see "
         "time could no make than first been its who now people my made over did down only way find "
         "use may water long little very after words called just where most know").split()


def text_of(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def sampling(rng):
    """Greedy, or seeded with a mix of the things that change what is drawn."""
    if rng.random() < 0.4:
        return {"temperature": 0}
    fields = {"temperature": rng.choice([0.3, 0.8, 1.0, 1.5]), "seed": rng.randrange(1 << 40)}
    for name, values, chance in (("top_p", [0.5, 0.9, 0.99], 0.4), ("top_k", [1, 5, 40], 0.3),
                                 ("min_p", [0.02, 0.2], 0.2),
                                 ("presence_penalty", [-0.5, 0.7], 0.2),
                                 ("frequency_penalty", [0.4, 1.2], 0.2),
                                 ("repetition_penalty", [1.1, 1.3], 0.2)):
        if rng.random() < chance:
            fields[name] = rng.choice(values)
    return fields


def requests(count, seed=1, words_max=150, tokens_max=40, vocabulary=320):
    """[(path, body)]: chats and completions, texts and ids, shared prefixes, n > 1, logprobs, streams."""
    rng = random.Random(seed)
    shared = [text_of(rng, words) for words in (10, 40, 90)]
    jobs = []
    for i in range(count):
        body = {"max_tokens": rng.choice([1, 2, 3, 8, 16, tokens_max]), "stream": rng.random() < 0.5}
        body.update(sampling(rng))
        if rng.random() < 0.2:
            body["n"] = rng.choice([2, 3])
        if rng.random() < 0.3:
            body["ignore_eos"] = True
        scored = rng.random() < 0.2
        words = rng.choice([1, 2, 5, 17, 40, 80, words_max])
        prompt = text_of(rng, rng.randint(1, words))
        if rng.random() < 0.4:
            prompt = rng.choice(shared) + " " + prompt
        if rng.random() < 0.5:
            if scored:
                body.update({"logprobs": True, "top_logprobs": rng.choice([0, 3])})
            messages = [{"role": "user", "content": prompt}]
            if rng.random() < 0.3:
                messages.insert(0, {"role": "system", "content": shared[0]})
            jobs.append(("/v1/chat/completions", {**body, "messages": messages}))
            continue
        if scored:
            body.update({"logprobs": rng.choice([0, 3])})
        elif rng.random() < 0.1:
            body["echo"] = True
        if rng.random() < 0.3:
            ids = [rng.randrange(3, vocabulary) for _ in range(rng.randint(1, 2 * words))]
            jobs.append(("/v1/completions", {**body, "prompt": ids}))
        else:
            jobs.append(("/v1/completions", {**body, "prompt": prompt}))
    return jobs


def scored(count, seed=2):
    """[(path, body)]: prompts whose own tokens are scored too."""
    rng = random.Random(seed)
    return [("/v1/completions", {"prompt": text_of(rng, rng.choice([1, 3, 20, 100])), "echo": True,
                                 "logprobs": rng.choice([0, 3]), "stream": rng.random() < 0.5,
                                 "max_tokens": rng.choice([0, 1, 10]), **sampling(rng)})
            for _ in range(count)]
