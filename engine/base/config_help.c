/* config_help.c -- the --help text of an option table, and an option's valid values in words. */
#include <math.h>

#include "engine/base/config.h"

static void put_number(const config_option *o, double value, strbuf *out) {
    static const char suffixes[] = " KMGT";
    int power = 0;
    if (o->kind == CONFIG_BYTES && value > 0) {
        while (power < 4 && fmod(value, 1024) == 0) {
            value /= 1024;
            power++;
        }
    }
    (void)strbuf_printf(out, "%.15g", value);
    if (power) {
        (void)strbuf_printf(out, "%ciB", suffixes[power]);
    }
}

static bool has_bounds(const config_option *o) {
    return o->min != 0 || o->max != 0;
}

void config_help_range(const config_option *o, strbuf *out) {
    switch (o->kind) {
        case CONFIG_BOOL:
            (void)strbuf_append_z(out, "true or false");
            return;
        case CONFIG_ENUM:
            (void)strbuf_append_z(out, "one of ");
            for (size_t i = 0; o->choices[i]; i++) {
                (void)strbuf_printf(out, "%s%s", i ? ", " : "", o->choices[i]);
            }
            return;
        case CONFIG_STRING:
            if (o->max > 0) {
                (void)strbuf_printf(out, "text of at most %.0f bytes", o->max);
            } else {
                (void)strbuf_append_z(out, "text");
            }
            return;
        case CONFIG_INT:
        case CONFIG_DOUBLE:
        case CONFIG_BYTES:
            break;
    }
    if (!has_bounds(o)) {
        (void)strbuf_append_z(out, o->kind == CONFIG_INT     ? "a whole number"
                                   : o->kind == CONFIG_BYTES ? "a number of bytes"
                                                             : "a number");
        return;
    }
    (void)strbuf_append_z(out, "from ");
    put_number(o, o->min, out);
    (void)strbuf_append_z(out, " to ");
    put_number(o, o->max, out);
}

static const char *argument_of(const config_option *o) {
    if (o->argument) {
        return o->argument;
    }
    switch (o->kind) {
        case CONFIG_BOOL:
            return "";
        case CONFIG_INT:
        case CONFIG_DOUBLE:
            return "N";
        case CONFIG_STRING:
            return "TEXT";
        case CONFIG_ENUM:
            return "NAME";
        case CONFIG_BYTES:
            return "BYTES";
    }
    return "";
}

enum { HELP_COLUMN = 32, HELP_WIDTH = 100 };

/* Appends `text` broken at blanks, each further line indented to HELP_COLUMN. */
static void put_wrapped(str text, size_t column, strbuf *out) {
    size_t at = 0;
    while (at < text.bytes) {
        size_t end = str_find(text, str_from(" "), at);
        if (end == SIZE_MAX) {
            end = text.bytes;
        }
        size_t word = end - at;
        if (column > HELP_COLUMN && column + 1 + word > HELP_WIDTH) {
            (void)strbuf_printf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            (void)strbuf_append_char(out, ' ');
            column++;
        }
        (void)strbuf_append(out, text.data + at, word);
        column += word;
        at = end + 1;
    }
    (void)strbuf_append_char(out, '\n');
}

static void put_option(const config_option *o, strbuf *out) {
    size_t start = out->bytes;
    bool on = o->kind == CONFIG_BOOL && o->fallback && str_equal_z(str_from(o->fallback), "true");
    const char *argument = argument_of(o);
    (void)strbuf_printf(out, "  --%s%s%s%s", on ? "[no-]" : "", o->name, *argument ? " " : "",
                        argument);
    size_t column = out->bytes - start;
    if (column + 1 > HELP_COLUMN) {
        (void)strbuf_append_char(out, '\n');
        column = 0;
    }
    (void)strbuf_printf(out, "%*s", (int)(HELP_COLUMN - column), "");
    strbuf text = strbuf_make(4096);
    (void)strbuf_append_z(&text, o->help);
    bool says_range = o->kind == CONFIG_ENUM || (has_bounds(o) && o->kind != CONFIG_STRING);
    if (says_range || (o->fallback && o->kind != CONFIG_BOOL)) {
        (void)strbuf_append_z(&text, " (");
        if (says_range) {
            config_help_range(o, &text);
        }
        if (o->fallback) {
            (void)strbuf_printf(&text, "%sdefault %s", says_range ? "; " : "",
                                *o->fallback ? o->fallback : "empty");
        }
        (void)strbuf_append_z(&text, ")");
    }
    put_wrapped(strbuf_str(&text), HELP_COLUMN, out);
    strbuf_close(&text);
}

void config_help(const config_table *t, strbuf *out) {
    (void)strbuf_printf(out, "usage: %s [options]%s%s\n\n%s\n\noptions:\n", t->command,
                        t->operands ? " " : "", t->operands ? t->operands : "", t->summary);
    for (size_t i = 0; i < t->options_count; i++) {
        if (t->options[i].help) {
            put_option(&t->options[i], out);
        }
    }
    static const config_option always[] = {
        {.name = "config",
         .kind = CONFIG_STRING,
         .argument = "FILE",
         .help = "read options from FILE, a `name = value` a line; flags win over it"},
        {.name = "help", .kind = CONFIG_BOOL, .help = "print this text"},
    };
    put_option(&always[0], out);
    put_option(&always[1], out);
}
