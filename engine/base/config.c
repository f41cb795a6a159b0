/* config.c -- walks the flags and the file of an option table. */
#define _GNU_SOURCE
#include "engine/base/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/base/check.h"

/* Where a value came from, for messages: "--port" or "weir.conf:12: port". */
typedef struct {
    char text[160];
    uint8_t rank; /* as config.given */
} origin;

enum { RANK_DEFAULT, RANK_FILE, RANK_FLAG };

static status set_option(config *c, size_t index, const char *text, const origin *from, void *out,
                         diag *d) {
    const config_option *o = &c->table->options[index];
    if (!config_value_store(o, text, (uint8_t *)out + o->offset)) {
        strbuf range = strbuf_make(256);
        config_help_range(o, &range);
        status s = status_fail_param(d, STATUS_INVALID, o->name, "%s: \"%.64s\" is not %s",
                                     from->text, text, range.data ? range.data : "valid");
        strbuf_close(&range);
        return s;
    }
    c->given[index] = from->rank;
    return STATUS_OK;
}

static size_t find_option(const config_table *t, str name) {
    for (size_t i = 0; i < t->options_count; i++) {
        if (str_equal_z(name, t->options[i].name)) {
            return i;
        }
    }
    return SIZE_MAX;
}

/* Edit distance (Levenshtein 1965), one row at a time; names longer than the row are far away. */
static size_t distance(str a, str b) {
    enum { ROW = 64 };
    size_t row[ROW + 1];
    if (a.bytes > ROW || b.bytes > ROW) {
        return SIZE_MAX;
    }
    for (size_t j = 0; j <= b.bytes; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= a.bytes; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.bytes; j++) {
            size_t replace = diagonal + (a.data[i - 1] != b.data[j - 1]);
            diagonal = row[j];
            size_t shorter = row[j] < row[j - 1] ? row[j] : row[j - 1];
            row[j] = replace < shorter + 1 ? replace : shorter + 1;
        }
    }
    return row[b.bytes];
}

static status fail_unknown(const config_table *t, str name, const origin *from, diag *d) {
    const char *nearest = NULL;
    size_t best = name.bytes / 3 + 2;
    for (size_t i = 0; i < t->options_count; i++) {
        size_t far = distance(name, str_from(t->options[i].name));
        if (far < best) {
            best = far;
            nearest = t->options[i].name;
        }
    }
    bool flag = from->rank == RANK_FLAG;
    if (nearest) {
        return status_fail_param(d, STATUS_INVALID, nearest,
                                 "%s: no such option; did you mean %s%s?", from->text,
                                 flag ? "--" : "", nearest);
    }
    return status_fail_param(d, STATUS_INVALID, "", "%s: no such option; see %s --help", from->text,
                             t->command);
}

static status parse_line(config *c, char *line, const char *path, int number, void *out, diag *d) {
    char *end = line;
    /* A comment starts the line or follows a blank, so that values may hold a '#'. */
    while (*end && !(*end == '#' && (end == line || isspace((unsigned char)end[-1])))) {
        end++;
    }
    *end = '\0';
    char *name = line + strspn(line, " \t\r");
    while (end > name && isspace((unsigned char)end[-1])) {
        *--end = '\0';
    }
    if (*name == '\0') {
        return STATUS_OK;
    }
    size_t name_bytes = strcspn(name, " \t=");
    origin from = {.rank = RANK_FILE};
    (void)snprintf(from.text, sizeof from.text, "%.80s:%d: %.*s", path, number,
                   (int)(name_bytes < 48 ? name_bytes : 48), name);
    char *value = name + name_bytes + strspn(name + name_bytes, " \t");
    if (*value != '=') {
        return status_fail_param(d, STATUS_INVALID, "config", "%s: want `name = value`", from.text);
    }
    value += 1 + strspn(value + 1, " \t");
    if (*value == '"' && end - value >= 2 && end[-1] == '"') {
        value++;
        end[-1] = '\0';
    }
    size_t index = find_option(c->table, str_of(name, name_bytes));
    if (index == SIZE_MAX) {
        return fail_unknown(c->table, str_of(name, name_bytes), &from, d);
    }
    if (c->given[index] == RANK_FILE) {
        return status_fail_param(d, STATUS_INVALID, c->table->options[index].name,
                                 "%s: given twice in this file", from.text);
    }
    return set_option(c, index, value, &from, out, d);
}

static status read_whole(config *c, int fd, const char *path, diag *d) {
    for (;;) {
        if (!strbuf_reserve(&c->file, 4096)) {
            return status_fail_param(d, STATUS_LIMIT, "config", "--config %s: larger than %d bytes",
                                     path, CONFIG_FILE_BYTES - 4096);
        }
        ssize_t got = read(fd, c->file.data + c->file.bytes, 4096);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return status_fail_errno(d, STATUS_IO, "--config %s", path);
        }
        c->file.bytes += (size_t)got;
        c->file.data[c->file.bytes] = '\0';
        if (got == 0) {
            return STATUS_OK;
        }
    }
}

static status parse_file(config *c, const char *path, void *out, diag *d) {
    if (c->file.data) {
        return status_fail_param(d, STATUS_INVALID, "config", "--config %s: given twice", path);
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return status_fail_errno(d, STATUS_NOTFOUND, "--config %s", path);
    }
    status s = read_whole(c, fd, path, d);
    (void)close(fd);
    TRY(s);
    if (memchr(c->file.data, '\0', c->file.bytes)) {
        return status_fail_param(d, STATUS_INVALID, "config", "--config %s: not a text file", path);
    }
    char *line = c->file.data;
    for (int number = 1; line; number++) {
        char *next = strchr(line, '\n');
        if (next) {
            *next++ = '\0';
        }
        TRY(parse_line(c, line, path, number, out, d));
        line = next;
    }
    return STATUS_OK;
}

/* One argument taken apart: `--name=value`, `--name`. */
typedef struct {
    str name;
    const char *value; /* after '=', or NULL */
} flag_parts;

static flag_parts take_apart(const char *argument) {
    const char *name = argument + 2;
    const char *equals = strchr(name, '=');
    size_t bytes = equals ? (size_t)(equals - name) : strlen(name);
    return (flag_parts){str_of(name, bytes), equals ? equals + 1 : NULL};
}

/* The index of the option a flag names; `*negated` when it was --no-name of a bool. */
static size_t find_flag(const config_table *t, flag_parts f, bool *negated) {
    *negated = false;
    size_t index = find_option(t, f.name);
    if (index == SIZE_MAX && str_starts_with(f.name, str_from("no-")) && !f.value) {
        index = find_option(t, str_of(f.name.data + 3, f.name.bytes - 3));
        if (index != SIZE_MAX && t->options[index].kind != CONFIG_BOOL) {
            index = SIZE_MAX;
        }
        *negated = index != SIZE_MAX;
    }
    return index;
}

static bool is_flag(const char *argument) {
    return argument[0] == '-' && argument[1] != '\0';
}

/* The value of a flag that needs one: after '=' or the next argument. */
static status value_of(flag_parts f, int argc, char *const *argv, int *at, const origin *from,
                       const char **out, diag *d) {
    *out = f.value;
    if (f.value) {
        return STATUS_OK;
    }
    if (*at + 1 >= argc || strncmp(argv[*at + 1], "--", 2) == 0) {
        return status_fail_param(d, STATUS_INVALID, "", "%s wants a value", from->text);
    }
    *out = argv[++*at];
    return STATUS_OK;
}

/* Handles argv[*at]; files are read in a pass of their own, before all flags. */
static status parse_flag(config *c, int argc, char *const *argv, int *at, bool file_pass, void *out,
                         diag *d) {
    const char *argument = argv[*at];
    origin from = {.rank = RANK_FLAG};
    (void)snprintf(from.text, sizeof from.text, "%.*s", (int)strcspn(argument, "="), argument);
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
        c->help_asked = true;
        return STATUS_OK;
    }
    if (argument[1] != '-') {
        return fail_unknown(c->table, str_from(argument), &from, d);
    }
    flag_parts f = take_apart(argument);
    const char *value;
    if (str_equal_z(f.name, "config")) {
        TRY(value_of(f, argc, argv, at, &from, &value, d));
        return file_pass ? parse_file(c, value, out, d) : STATUS_OK;
    }
    bool negated;
    size_t index = find_flag(c->table, f, &negated);
    if (index == SIZE_MAX) {
        return fail_unknown(c->table, f.name, &from, d);
    }
    if (c->table->options[index].kind == CONFIG_BOOL) {
        value = negated ? "false" : f.value ? f.value : "true";
    } else {
        TRY(value_of(f, argc, argv, at, &from, &value, d));
    }
    return file_pass ? STATUS_OK : set_option(c, index, value, &from, out, d);
}

static status parse_arguments(config *c, int argc, char *const *argv, bool file_pass, void *out,
                              diag *d) {
    bool options_ended = false;
    for (int at = 0; at < argc; at++) {
        if (!options_ended && strcmp(argv[at], "--") == 0) {
            options_ended = true;
        } else if (!options_ended && is_flag(argv[at])) {
            TRY(parse_flag(c, argc, argv, &at, file_pass, out, d));
        } else if (!c->table->operands) {
            return status_fail_param(d, STATUS_INVALID, "", "\"%.64s\": %s takes only options",
                                     argv[at], c->table->command);
        } else if (!file_pass) {
            if (c->operands_count == CONFIG_OPERANDS_MAX) {
                return status_fail(d, STATUS_LIMIT, "more than %d arguments", CONFIG_OPERANDS_MAX);
            }
            c->operands[c->operands_count++] = argv[at];
        }
    }
    return STATUS_OK;
}

status config_parse(config *c, const config_table *t, int argc, char *const *argv, void *out,
                    diag *d) {
    CHECK_LE(t->options_count, CONFIG_OPTIONS_MAX);
    memset(c, 0, sizeof *c);
    c->table = t;
    c->file = strbuf_make(CONFIG_FILE_BYTES);
    for (size_t i = 0; i < t->options_count; i++) {
        const config_option *o = &t->options[i];
        if (o->fallback) {
            /* A default that its own option refuses is a bug in the table. */
            CHECK(config_value_store(o, o->fallback, (uint8_t *)out + o->offset));
        }
    }
    /* The file's values are stored in the first pass, so that every flag wins over it. */
    TRY(parse_arguments(c, argc, argv, true, out, d));
    return parse_arguments(c, argc, argv, false, out, d);
}

bool config_start(config *c, const config_table *t, int argc, char *const *argv, void *out,
                  int *code) {
    diag d;
    if (config_parse(c, t, argc, argv, out, &d) != STATUS_OK) {
        (void)fprintf(stderr, "%s: %s\n", t->command, d.text);
        *code = 2;
        return false;
    }
    *code = 0;
    if (c->help_asked) {
        strbuf help = strbuf_make(1 << 16);
        config_help(t, &help);
        (void)fputs(help.data ? help.data : "", stdout);
        strbuf_close(&help);
    }
    return !c->help_asked;
}

void config_close(config *c) {
    strbuf_close(&c->file);
}

bool config_given(const config *c, const char *name) {
    size_t index = find_option(c->table, str_from(name));
    CHECK(index != SIZE_MAX);
    return c->given[index] != RANK_DEFAULT;
}
