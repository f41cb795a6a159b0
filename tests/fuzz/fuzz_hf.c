/* fuzz_hf.c -- the JSON of a Hugging Face folder: config.json, generation_config.json,
 * tokenizer.json, tokenizer_config.json and the template, with zero bytes between. What is accepted
 * composes a model file, and a tokenizer that opens on it gives text back. */
#define _GNU_SOURCE
#include <unistd.h>

#include "engine/base/mem.h"
#include "models/file/hftokens.h"
#include "models/file/jsonfile.h"
#include "models/text/detok.h"
#include "models/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

enum { PARTS = 4 };

static void check_said(const diag *d, status s) {
    CHECK(d->code == s && d->text[0] != 0 && str_utf8_valid(str_from(d->text)));
}

/* The next part, up to a zero byte. */
static str next_part(str *left) {
    const char *zero = left->bytes > 0 ? memchr(left->data, 0, left->bytes) : NULL;
    size_t bytes = zero != NULL ? (size_t)(zero - left->data) : left->bytes;
    str part = str_of(left->data, bytes);
    size_t used = bytes + (zero != NULL);
    *left = str_of(left->data + used, left->bytes - used);
    return part;
}

/* Every text has ids within the vocabulary, no more than are promised, and they stand for UTF-8. */
static void check_tokenizer(const tokenizer *t) {
    static const char *const texts[] = {"", "abc abc", "  a<end>b c\n", "h\xc3\xa9 7\xff <call>"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        int32_t ids[256];
        size_t count;
        diag d = {.code = STATUS_OK};
        str text = str_from(texts[i]);
        status s = tokenizer_encode(t, text, true, true, ids, 256, &count, &d);
        CHECK(s == STATUS_OK && count <= 6 * text.bytes + 2);
        strbuf out = strbuf_make(1 << 20);
        detok stream = detok_make(false);
        for (size_t k = 0; k < count; k++) {
            CHECK(ids[k] >= 0 && ids[k] < tokenizer_vocab_count(t));
            CHECK(detok_feed(&stream, t, ids[k], &out));
        }
        CHECK(detok_flush(&stream, &out) && str_utf8_valid(strbuf_str(&out)));
        strbuf_close(&out);
    }
}

static void check_composed(const ggufmake *keys) {
    char path[64];
    int fd = fuzz_file(strbuf_str(&keys->out), path);
    gguf *g;
    tokenizer *t;
    diag d = {.code = STATUS_OK};
    CHECK(gguf_open(path, &g, &d) == STATUS_OK);
    status s = tokenizer_open(g, &t, &d);
    if (s == STATUS_OK) {
        check_tokenizer(t);
        tokenizer_close(t);
    } else {
        check_said(&d, s);
    }
    gguf_close(g);
    (void)close(fd);
}

FUZZ_TARGET(hf, FUZZ_ALLOWANCE_BYTES) {
    static const char *const names[PARTS] = {"config.json", "generation_config.json",
                                             "tokenizer.json", "tokenizer_config.json"};
    str left = str_of((const char *)data, bytes);
    cJSON *parts[PARTS] = {NULL};
    diag d = {.code = STATUS_OK};
    for (int i = 0; i < PARTS; i++) {
        status s = jsonfile_parse(next_part(&left), names[i], &parts[i], &d);
        if (s != STATUS_OK) {
            check_said(&d, s);
        }
    }
    if (parts[0] != NULL && parts[2] != NULL) {
        hfconfig config;
        ggufmake keys = ggufmake_start();
        hftokens_input in = {parts[2], parts[3], left.bytes > 0 ? left : str_of(NULL, 0)};
        status s = hfconfig_read(parts[0], parts[1], &config, &keys, &d);
        s = s == STATUS_OK ? hftokens_put(&in, &config, &keys, &d) : s;
        s = s == STATUS_OK ? ggufmake_finish(&keys, &d) : s;
        if (s == STATUS_OK) {
            check_composed(&keys);
        } else {
            check_said(&d, s);
        }
        ggufmake_close(&keys);
    }
    for (int i = 0; i < PARTS; i++) {
        jsonfile_close(parts[i]);
    }
}
