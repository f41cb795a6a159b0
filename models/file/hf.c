/* hf.c -- opens a downloaded Hugging Face folder as the GGUF a converter would have written. */
#define _GNU_SOURCE
#include "models/file/hf.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "models/file/hftokens.h"
#include "models/file/hfweights.h"
#include "models/file/jsonfile.h"

enum { PATH_BYTES = 4096 };

struct hf {
    hfweights weights;
    ggufmake keys;
};

/* What is read and let go while opening. */
typedef struct {
    cJSON *config, *generation, *tokenizer, *settings;
    mapfile chat_template;
} parts;

bool hf_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static status open_if_there(const char *folder, const char *name, uint64_t bytes_max, cJSON **out,
                            diag *d) {
    status s = jsonfile_open(folder, name, bytes_max, out, d);
    return s == STATUS_NOTFOUND ? STATUS_OK : s;
}

static status open_template(const char *folder, mapfile *out, diag *d) {
    char path[PATH_BYTES];
    int bytes = snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    if (bytes < 0 || bytes >= (int)sizeof path || access(path, F_OK) != 0) {
        return STATUS_OK;
    }
    TRY(mapfile_open(path, out, d));
    if (out->bytes > HF_TEMPLATE_BYTES_MAX) {
        return status_fail(d, STATUS_LIMIT, "%s: %zu bytes, at most %d are allowed", path,
                           out->bytes, HF_TEMPLATE_BYTES_MAX);
    }
    return STATUS_OK;
}

static status open_parts(const char *folder, parts *p, diag *d) {
    TRY(jsonfile_open(folder, "config.json", HF_CONFIG_BYTES_MAX, &p->config, d));
    TRY(open_if_there(folder, "generation_config.json", HF_CONFIG_BYTES_MAX, &p->generation, d));
    TRY(jsonfile_open(folder, "tokenizer.json", HF_TOKENIZER_BYTES_MAX, &p->tokenizer, d));
    TRY(open_if_there(folder, "tokenizer_config.json", HF_SETTINGS_BYTES_MAX, &p->settings, d));
    return open_template(folder, &p->chat_template, d);
}

static void close_parts(parts *p) {
    jsonfile_close(p->config);
    jsonfile_close(p->generation);
    jsonfile_close(p->tokenizer);
    jsonfile_close(p->settings);
    mapfile_close(&p->chat_template);
}

static status compose(const char *folder, const parts *p, hf *h, gguf_file *file, diag *d) {
    const hftokens_input in = {p->tokenizer, p->settings,
                               str_of((const char *)p->chat_template.data, p->chat_template.bytes)};
    hfconfig config;
    TRY(hfconfig_read(p->config, p->generation, &config, &h->keys, d));
    TRY(hftokens_put(&in, &config, &h->keys, d));
    TRY(hfweights_open(folder, &h->weights, d));
    TRY(hfweights_put(&h->weights, &config, &h->keys, d));
    TRY(ggufmake_finish(&h->keys, d));
    TRY(gguf_read_placed((const uint8_t *)h->keys.out.data, h->keys.out.bytes, h->weights.places,
                         h->weights.places_count, file, d));
    status s = hfweights_complete(file, &config, d);
    if (s != STATUS_OK) {
        gguf_read_free(file);
    }
    return s;
}

status hf_open(const char *folder, gguf_file *file, hf **out, diag *d) {
    hf *h = mem_calloc(1, sizeof *h);
    if (h == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory to open %s", folder);
    }
    parts p = {0};
    h->keys = ggufmake_start();
    status s = open_parts(folder, &p, d);
    if (s == STATUS_OK) {
        s = compose(folder, &p, h, file, d);
    }
    close_parts(&p);
    if (s != STATUS_OK) {
        hf_close(h);
        return s;
    }
    *out = h;
    return STATUS_OK;
}

void hf_close(hf *h) {
    if (h != NULL) {
        hfweights_close(&h->weights);
        ggufmake_close(&h->keys);
        mem_free(h);
    }
}
