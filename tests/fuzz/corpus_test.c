/* corpus_test.c -- every input that a fuzzer found worth keeping, or that once broke something,
 * goes through its target again. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>

#include "engine/base/mem.h"
#include "tests/fuzz/fuzz.h"

enum { INPUT_BYTES_MAX = 1 << 16 };

typedef int (*target)(const uint8_t *data, size_t bytes);

static void replay_file(const char *path, target one) {
    char *bytes = mem_alloc(INPUT_BYTES_MAX, 1);
    FILE *f = fopen(path, "re");
    cr_assert(f != NULL && bytes != NULL, "%s", path);
    size_t n = fread(bytes, 1, INPUT_BYTES_MAX, f);
    cr_assert(feof(f), "%s is too long for a corpus", path);
    (void)fclose(f);
    char *exact = fuzz_copy(str_of(bytes, n));
    mem_free(bytes);
    (void)fprintf(stderr, "%s\n", path); /* the last one is the one that broke it */
    (void)one((const uint8_t *)exact, n);
    mem_free(exact);
}

static void replay(const char *name, target one) {
    char folder[512];
    (void)snprintf(folder, sizeof folder, WEIR_SOURCE_DIR "/tests/fuzz/corpus/%s", name);
    DIR *d = opendir(folder);
    cr_assert(d != NULL, "%s", folder);
    int files = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.') {
            char path[1024];
            (void)snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
            replay_file(path, one);
            files++;
        }
    }
    (void)closedir(d);
    cr_assert_gt(files, 0, "%s is empty", folder);
    (void)one((const uint8_t *)"", 0);
}

#define TARGET(name)                                          \
    int fuzz_##name##_one(const uint8_t *data, size_t bytes); \
    static void replay_##name(void) {                         \
        replay(#name, fuzz_##name##_one);                     \
    }

TARGET(address)
TARGET(client)
TARGET(core)
TARGET(frame)
TARGET(gate)
TARGET(gguf)
TARGET(guard)
TARGET(handshake)
TARGET(hf)
TARGET(jinja)
TARGET(json)
TARGET(message)
TARGET(metrics)
TARGET(safetensors)
TARGET(sealed)
TARGET(settings)
TARGET(tokenizer)
TARGET(traceparent)
TARGET(wire)

Test(corpus, address) {
    replay_address();
}
Test(corpus, client) {
    replay_client();
}
Test(corpus, core) {
    replay_core();
}
Test(corpus, frame) {
    replay_frame();
}
Test(corpus, gate) {
    replay_gate();
}
Test(corpus, gguf) {
    replay_gguf();
}
Test(corpus, guard) {
    replay_guard();
}
Test(corpus, handshake) {
    replay_handshake();
}
Test(corpus, hf) {
    replay_hf();
}
Test(corpus, jinja) {
    replay_jinja();
}
Test(corpus, json) {
    replay_json();
}
Test(corpus, message) {
    replay_message();
}
Test(corpus, metrics) {
    replay_metrics();
}
Test(corpus, safetensors) {
    replay_safetensors();
}
Test(corpus, sealed) {
    replay_sealed();
}
Test(corpus, settings) {
    replay_settings();
}
Test(corpus, tokenizer) {
    replay_tokenizer();
}
Test(corpus, traceparent) {
    replay_traceparent();
}
Test(corpus, wire) {
    replay_wire();
}
