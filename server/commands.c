/* commands.c -- the two text commands. */
#include "server/commands.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/config.h"
#include "engine/base/mem.h"
#include "models/text/chat.h"
#include "models/text/tokenizer.h"

typedef struct {
    const char *model, *file, *separator;
    bool special;
} settings;

#define FIELD(name) offsetof(settings, name)

static const config_option tokenize_options[] = {
    {"model", CONFIG_STRING, FIELD(model), 0, 4095, NULL, NULL, "PATH",
     "GGUF file or Hugging Face folder"},
    {"file", CONFIG_STRING, FIELD(file), 0, 4095, NULL, NULL, "FILE",
     "text to read; default: standard input"},
    {"separator", CONFIG_STRING, FIELD(separator), 0, 255, NULL, NULL, "TEXT",
     "cut the text at each of these and print a line for each part"},
    {"special", CONFIG_BOOL, FIELD(special), 0, 0, "true", NULL, NULL,
     "add the special tokens the model asks for, and recognise those in the text"},
};

static const config_table tokenize_table = {
    "weir tokenize", "Prints the token ids of a text.", tokenize_options,
    sizeof tokenize_options / sizeof tokenize_options[0], NULL};

static const config_option template_options[] = {
    {"separator", CONFIG_STRING, FIELD(separator), 0, 255, NULL, NULL, "TEXT",
     "print this after each rendering"},
};

static const config_table template_table = {
    "weir template",
    "Prints what a chat template renders. An INPUT holds messages, tools, add_generation_prompt "
    "and whatever else the template reads.",
    template_options, sizeof template_options / sizeof template_options[0],
    "TEMPLATE.jinja INPUT.json..."};

static int complain(const char *command, const diag *d) {
    (void)fprintf(stderr, "weir %s: %s\n", command, d->text);
    return 1;
}

/* A whole file, or standard input when `path` is NULL. */
static status read_all(const char *path, strbuf *out, diag *d) {
    FILE *f = path ? fopen(path, "rb") : stdin;
    if (!f) {
        return status_fail_errno(d, STATUS_IO, "%s", path);
    }
    char part[65536];
    size_t n;
    while ((n = fread(part, 1, sizeof part, f)) > 0) {
        if (!strbuf_append(out, part, n)) {
            break;
        }
    }
    bool bad = ferror(f) != 0 || out->failed;
    if (path) {
        (void)fclose(f);
    }
    return bad ? status_fail(d, STATUS_IO, "%s: cannot be read, or is too large",
                             path ? path : "standard input")
               : STATUS_OK;
}

static status print_ids(const tokenizer *t, str text, bool special, diag *d) {
    size_t most = 6 * text.bytes + 2; /* as tokenizer.h says */
    size_t count = 0;
    int32_t *ids = mem_alloc(most, sizeof *ids);
    if (!ids) {
        return status_fail(d, STATUS_NOMEM, "no memory for %zu ids", most);
    }
    status s = tokenizer_encode(t, text, special, special, ids, most, &count, d);
    for (size_t i = 0; s == STATUS_OK && i < count; i++) {
        (void)printf(i ? " %d" : "%d", ids[i]);
    }
    (void)putchar('\n');
    mem_free(ids);
    return s;
}

static status tokenize_parts(const settings *o, const tokenizer *t, str text, diag *d) {
    if (!o->separator || !o->separator[0]) {
        return print_ids(t, text, o->special, d);
    }
    str separator = str_from(o->separator);
    size_t from = 0;
    for (;;) {
        size_t at = str_find(text, separator, from);
        size_t end = at == SIZE_MAX ? text.bytes : at;
        TRY(print_ids(t, str_of(text.data + from, end - from), o->special, d));
        if (at == SIZE_MAX) {
            return STATUS_OK;
        }
        from = at + separator.bytes;
    }
}

static status tokenize(const settings *o, diag *d) {
    gguf *file = NULL;
    tokenizer *t = NULL;
    strbuf text = strbuf_make(COMMANDS_INPUT_BYTES);
    status s = gguf_open(o->model, &file, d);
    if (s == STATUS_OK) {
        s = tokenizer_open(file, &t, d);
    }
    if (s == STATUS_OK) {
        s = read_all(o->file, &text, d);
    }
    if (s == STATUS_OK) {
        s = tokenize_parts(o, t, strbuf_str(&text), d);
    }
    strbuf_close(&text);
    tokenizer_close(t);
    gguf_close(file);
    return s;
}

int commands_tokenize(int argc, char *const *argv) {
    settings o = {.model = getenv("WEIR_DEFAULT_MODEL")};
    config c;
    diag d;
    int code;
    if (config_start(&c, &tokenize_table, argc, argv, &o, &code)) {
        if (!o.model) {
            (void)status_fail(&d, STATUS_INVALID, "--model FILE is needed");
            code = complain("tokenize", &d) + 1;
        } else if (tokenize(&o, &d) != STATUS_OK) {
            code = complain("tokenize", &d);
        }
    }
    config_close(&c);
    return code;
}

static status render_one(const chat *t, const char *path, const char *separator, diag *d) {
    strbuf input = strbuf_make(COMMANDS_INPUT_BYTES);
    strbuf out = strbuf_make(COMMANDS_INPUT_BYTES);
    status s = read_all(path, &input, d);
    if (s == STATUS_OK) {
        s = chat_render_json(t, strbuf_str(&input), clock_wall_us(), COMMANDS_INPUT_BYTES, &out, d);
    }
    if (s == STATUS_OK) {
        (void)fwrite(out.data ? out.data : "", 1, out.bytes, stdout);
    }
    if (separator) {
        if (s != STATUS_OK) { /* of many inputs one may fail: say so in its place */
            (void)printf("error: %s", d->text);
            s = STATUS_OK;
        }
        (void)fputs(separator, stdout);
    }
    strbuf_close(&input);
    strbuf_close(&out);
    return s;
}

static status render_all(const config *c, const settings *o, diag *d) {
    if (c->operands_count < 2) {
        return status_fail(d, STATUS_INVALID, "a template file and at least one input are needed");
    }
    strbuf source = strbuf_make(COMMANDS_INPUT_BYTES);
    chat *t = NULL;
    status s = read_all(c->operands[0], &source, d);
    if (s == STATUS_OK) {
        s = chat_open(strbuf_str(&source), &t, d);
    }
    for (size_t i = 1; s == STATUS_OK && i < c->operands_count; i++) {
        s = render_one(t, c->operands[i], o->separator, d);
    }
    strbuf_close(&source);
    chat_close(t);
    return s;
}

int commands_template(int argc, char *const *argv) {
    settings o = {0};
    config c;
    diag d;
    int code;
    if (config_start(&c, &template_table, argc, argv, &o, &code) &&
        render_all(&c, &o, &d) != STATUS_OK) {
        code = complain("template", &d);
    }
    config_close(&c);
    return code;
}
