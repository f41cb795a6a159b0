/* hfweights.c -- the weights of a Hugging Face folder, under the names of a GGUF file. */
#define _GNU_SOURCE
#include "models/file/hfweights.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "models/file/halffloat.h"
#include "models/file/jsonfile.h"

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

enum {
    PATH_BYTES = 4096,
    NAME_BYTES = 96,
    INDEX_BYTES_MAX = 64 << 20,
    VECTOR_ELEMENTS_MAX = 1 << 24
};

/* ---- files ---------------------------------------------------------------------------------- */

static status open_shard(const char *folder, const char *name, hfweights *w, diag *d) {
    char path[PATH_BYTES];
    hfweights_shard *s = &w->shards[w->shards_count];
    int bytes = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (bytes < 0 || bytes >= (int)sizeof path) {
        return status_fail(d, STATUS_INVALID, "the path of %.200s is too long", name);
    }
    s->name = mem_dup(name, strlen(name));
    if (s->name == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory to open %s", path);
    }
    w->shards_count++;
    TRY(mapfile_open(path, &s->map, d));
    return safetensors_read(s->map.data, s->map.bytes, s->name, &s->tensors, d);
}

static hfweights_shard *find_shard(const hfweights *w, const char *name) {
    for (uint32_t i = 0; i < w->shards_count; i++) {
        if (strcmp(w->shards[i].name, name) == 0) {
            return &w->shards[i];
        }
    }
    return NULL;
}

/* An index comes from outside: what it names must lie in the folder. */
static bool is_plain_name(const char *name) {
    return name[0] != 0 && name[0] != '.' && strchr(name, '/') == NULL &&
           str_ends_with(str_from(name), str_from(".safetensors"));
}

static status open_indexed(const char *folder, const cJSON *index, hfweights *w, diag *d) {
    const cJSON *map = jsonfile_member(index, "weight_map");
    if (!cJSON_IsObject(map)) {
        return status_fail(d, STATUS_CORRUPT, INDEX ": \"weight_map\" must be an object");
    }
    const hfweights_shard *shard = NULL;
    for (const cJSON *entry = map->child; entry != NULL; entry = entry->next) {
        if (!cJSON_IsString(entry) || !is_plain_name(entry->valuestring)) {
            return status_fail(d, STATUS_CORRUPT,
                               INDEX
                               ": tensor '%.80s' must be in a .safetensors file of the "
                               "folder, not in '%.80s'",
                               entry->string,
                               cJSON_IsString(entry) ? entry->valuestring : "a value");
        }
        if (shard == NULL || strcmp(shard->name, entry->valuestring) != 0) {
            shard = find_shard(w, entry->valuestring);
        }
        if (shard == NULL) {
            if (w->shards_count == HFWEIGHTS_SHARDS_MAX) {
                return status_fail(d, STATUS_LIMIT, INDEX ": more than %d files",
                                   HFWEIGHTS_SHARDS_MAX);
            }
            TRY(open_shard(folder, entry->valuestring, w, d));
            shard = &w->shards[w->shards_count - 1];
        }
        if (safetensors_find(&shard->tensors, entry->string) == NULL) {
            return status_fail(d, STATUS_CORRUPT, INDEX ": tensor '%.80s' is not in %.80s",
                               entry->string, entry->valuestring);
        }
    }
    return STATUS_OK;
}

static status open_files(const char *folder, hfweights *w, diag *d) {
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/" SINGLE, folder);
    if (access(path, F_OK) == 0) {
        return open_shard(folder, SINGLE, w, d);
    }
    cJSON *index;
    status s = jsonfile_open(folder, INDEX, INDEX_BYTES_MAX, &index, d);
    if (s == STATUS_NOTFOUND) {
        return status_fail(d, s, "%s: there is neither " SINGLE " nor " INDEX, folder);
    }
    TRY(s);
    s = open_indexed(folder, index, w, d);
    jsonfile_close(index);
    return s;
}

status hfweights_open(const char *folder, hfweights *out, diag *d) {
    hfweights w = {.shards = mem_calloc(HFWEIGHTS_SHARDS_MAX, sizeof *w.shards)};
    status s = w.shards != NULL ? open_files(folder, &w, d)
                                : status_fail(d, STATUS_NOMEM, "no memory to open %s", folder);
    if (s != STATUS_OK) {
        hfweights_close(&w);
        return s;
    }
    *out = w;
    return STATUS_OK;
}

void hfweights_close(hfweights *w) {
    for (uint32_t i = 0; i < w->shards_count; i++) {
        safetensors_free(&w->shards[i].tensors);
        mapfile_close(&w->shards[i].map);
        mem_free(w->shards[i].name);
    }
    for (uint64_t i = 0; i < w->vectors_count; i++) {
        mem_free(w->vectors[i]);
    }
    mem_free(w->shards);
    mem_free(w->vectors);
    mem_free(w->places);
    *w = (hfweights){0};
}

/* ---- names ---------------------------------------------------------------------------------- */

/* Outside the layers, and after "model.layers.N." and "blk.N.". */
static const struct {
    const char *hf, *gguf;
} globals[] = {{"model.embed_tokens.weight", "token_embd.weight"},
               {"model.norm.weight", "output_norm.weight"},
               {"lm_head.weight", "output.weight"}};

typedef enum {
    NEEDED,
    NEEDED_BIAS,
    NEEDED_HEAD_NORM,
    NEEDED_PLAIN, /* of all but Gemma, */
    NEEDED_GEMMA, /* which has another tensor of that name */
    OPTIONAL
} need;

static const struct {
    const char *hf, *gguf;
    need need;
} locals[] = {{"input_layernorm.weight", "attn_norm.weight", NEEDED},
              {"self_attn.q_proj.weight", "attn_q.weight", NEEDED},
              {"self_attn.k_proj.weight", "attn_k.weight", NEEDED},
              {"self_attn.v_proj.weight", "attn_v.weight", NEEDED},
              {"self_attn.o_proj.weight", "attn_output.weight", NEEDED},
              {"post_attention_layernorm.weight", "ffn_norm.weight", NEEDED_PLAIN},
              {"post_attention_layernorm.weight", "post_attention_norm.weight", NEEDED_GEMMA},
              {"pre_feedforward_layernorm.weight", "ffn_norm.weight", NEEDED_GEMMA},
              {"post_feedforward_layernorm.weight", "post_ffw_norm.weight", NEEDED_GEMMA},
              {"mlp.gate_proj.weight", "ffn_gate.weight", NEEDED},
              {"mlp.up_proj.weight", "ffn_up.weight", NEEDED},
              {"mlp.down_proj.weight", "ffn_down.weight", NEEDED},
              {"self_attn.q_proj.bias", "attn_q.bias", NEEDED_BIAS},
              {"self_attn.k_proj.bias", "attn_k.bias", NEEDED_BIAS},
              {"self_attn.v_proj.bias", "attn_v.bias", NEEDED_BIAS},
              {"self_attn.q_norm.weight", "attn_q_norm.weight", NEEDED_HEAD_NORM},
              {"self_attn.k_norm.weight", "attn_k_norm.weight", NEEDED_HEAD_NORM},
              {"self_attn.o_proj.bias", "attn_output.bias", OPTIONAL},
              {"mlp.gate_proj.bias", "ffn_gate.bias", OPTIONAL},
              {"mlp.up_proj.bias", "ffn_up.bias", OPTIONAL},
              {"mlp.down_proj.bias", "ffn_down.bias", OPTIONAL}};

enum { LOCALS = sizeof locals / sizeof locals[0], GLOBALS = sizeof globals / sizeof globals[0] };

/* Its name in a GGUF file; false when no family has such a tensor. */
static bool translate(const char *hf, const hfconfig *c, char name[NAME_BYTES]) {
    static const char head[] = "model.layers.";
    for (int i = 0; i < GLOBALS; i++) {
        if (strcmp(hf, globals[i].hf) == 0) {
            (void)snprintf(name, NAME_BYTES, "%s", globals[i].gguf);
            return true;
        }
    }
    const str full = str_from(hf);
    size_t dot = str_find(full, str_from("."), sizeof head - 1);
    int64_t layer;
    if (!str_starts_with(full, str_from(head)) || dot == SIZE_MAX ||
        !str_to_i64(str_of(hf + sizeof head - 1, dot - (sizeof head - 1)), 0, 99999, &layer)) {
        return false;
    }
    for (int i = 0; i < LOCALS; i++) {
        const bool other = locals[i].need == (c->gemma ? NEEDED_PLAIN : NEEDED_GEMMA);
        if (!other && strcmp(hf + dot + 1, locals[i].hf) == 0) {
            (void)snprintf(name, NAME_BYTES, "blk.%d.%s", (int)layer, locals[i].gguf);
            return true;
        }
    }
    return false;
}

/* The name that a text model's tensor would have in a folder of its own; that of the image tower
 * beside it stays. */
static const char *text_name(const char *hf, const hfconfig *c, char name[NAME_BYTES]) {
    static const char older[] = "language_model.", newer[] = "model.language_model.";
    if (c->nested && strncmp(hf, older, sizeof older - 1) == 0) {
        return hf + sizeof older - 1;
    }
    if (c->nested && strncmp(hf, newer, sizeof newer - 1) == 0) {
        (void)snprintf(name, NAME_BYTES, "model.%s", hf + sizeof newer - 1);
        return name;
    }
    return hf;
}

static bool is_of_images(const char *hf) {
    static const char *const heads[] = {"vision_tower.", "multi_modal_projector.",
                                        "model.vision_tower.", "model.multi_modal_projector."};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        if (strncmp(hf, heads[i], strlen(heads[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* Tensors that may be there and mean nothing: rotary tables of old exports, an output matrix beside
 * the flag that says it is the embedding, and what looks at images. */
static bool is_ignored(const char *hf, const hfconfig *c) {
    return (c->nested && is_of_images(hf)) ||
           str_ends_with(str_from(hf), str_from(".rotary_emb.inv_freq")) ||
           (c->tied && strcmp(hf, "lm_head.weight") == 0);
}

/* ---- tensors -------------------------------------------------------------------------------- */

/* Each element and `more`. */
static status to_floats(hfweights *w, const safetensors_tensor *t, float more, gguf_place *place,
                        diag *d) {
    if (t->dims[0] > VECTOR_ELEMENTS_MAX) {
        return status_fail(d, STATUS_LIMIT, "tensor '%.80s' has %" PRIu64 " elements", t->name,
                           t->dims[0]);
    }
    float *floats = mem_alloc(t->dims[0], sizeof *floats);
    if (floats == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for tensor '%.80s'", t->name);
    }
    w->vectors[w->vectors_count++] = floats;
    for (uint64_t i = 0; i < t->dims[0]; i++) {
        if (t->type == GGUF_F32) {
            memcpy(&floats[i], t->data + i * sizeof floats[i], sizeof floats[i]);
        } else {
            uint16_t bits = (uint16_t)(t->data[2 * i] | t->data[2 * i + 1] << 8);
            floats[i] = t->type == GGUF_F16 ? halffloat_f16(bits) : halffloat_bf16(bits);
        }
        floats[i] += more;
    }
    *place = (gguf_place){(const uint8_t *)floats, t->dims[0] * sizeof *floats};
    return STATUS_OK;
}

static status put_tensor(hfweights *w, const safetensors_tensor *t, const hfconfig *c,
                         ggufmake *keys, diag *d) {
    char name[NAME_BYTES], own[NAME_BYTES];
    const char *hf = text_name(t->name, c, own);
    if (is_ignored(hf, c)) {
        return STATUS_OK;
    }
    if (!translate(hf, c, name)) {
        return status_fail(d, STATUS_UNSUPPORTED, "tensor '%.80s' is not part of a %s model",
                           t->name, c->arch);
    }
    if (!t->supported) {
        return status_fail(d, STATUS_UNSUPPORTED,
                           "tensor '%.80s' has the dtype %s: F32, F16 and BF16 are supported",
                           t->name, t->dtype);
    }
    gguf_place *place = &w->places[w->places_count++];
    *place = (gguf_place){t->data, t->bytes};
    gguf_type type = t->type;
    /* Gemma's norms multiply by one more than what is stored. */
    const bool less_one = c->gemma && str_ends_with(str_from(name), str_from("norm.weight"));
    if (t->dims_count == 1 && (type != GGUF_F32 || less_one)) {
        type = GGUF_F32;
        TRY(to_floats(w, t, less_one ? 1 : 0, place, d));
    }
    ggufmake_tensor(keys, name, t->dims_count, t->dims, type);
    return STATUS_OK;
}

status hfweights_put(hfweights *w, const hfconfig *c, ggufmake *keys, diag *d) {
    uint64_t count = 0;
    for (uint32_t i = 0; i < w->shards_count; i++) {
        count += w->shards[i].tensors.count;
    }
    w->places = mem_calloc(count, sizeof *w->places);
    w->vectors = mem_calloc(count, sizeof *w->vectors);
    if (w->places == NULL || w->vectors == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for %" PRIu64 " tensors", count);
    }
    for (uint32_t i = 0; i < w->shards_count; i++) {
        const safetensors *s = &w->shards[i].tensors;
        for (uint64_t k = 0; k < s->count; k++) {
            TRY(put_tensor(w, &s->tensors[k], c, keys, d));
        }
    }
    return STATUS_OK;
}

/* ---- completeness --------------------------------------------------------------------------- */

static status missing(const char *name, diag *d) {
    return status_fail(d, STATUS_NOTFOUND, "tensor '%s' is missing", name);
}

static bool is_needed(need n, const hfconfig *c) {
    return n == NEEDED || (n == NEEDED_BIAS && c->biases) ||
           (n == NEEDED_HEAD_NORM && c->head_norms) ||
           n == (c->gemma ? NEEDED_GEMMA : NEEDED_PLAIN);
}

status hfweights_complete(const gguf_file *file, const hfconfig *c, diag *d) {
    char name[NAME_BYTES];
    for (int i = 0; i < GLOBALS; i++) {
        bool needed = !c->tied || strcmp(globals[i].gguf, "output.weight") != 0;
        if (needed && gguf_read_find_tensor(file, str_from(globals[i].gguf)) == NULL) {
            return missing(globals[i].hf, d);
        }
    }
    for (int32_t layer = 0; layer < c->layers; layer++) {
        for (int i = 0; i < LOCALS; i++) {
            (void)snprintf(name, sizeof name, "blk.%d.%s", layer, locals[i].gguf);
            if (is_needed(locals[i].need, c) &&
                gguf_read_find_tensor(file, str_from(name)) == NULL) {
                (void)snprintf(name, sizeof name, "model.layers.%d.%s", layer, locals[i].hf);
                return missing(name, d);
            }
        }
    }
    return STATUS_OK;
}
