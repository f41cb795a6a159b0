/* config.h -- options from flags and from a file, every value checked.
 *
 * Purpose    A program states its options once, in a table; config_parse fills the program's own
 *            struct from the defaults, then `--config FILE`, then the flags. Each refusal names the
 *            flag or file and line and says what would be valid.
 * Ownership  Text values of flags point into argv; those of a file are the config's, freed by
 *            config_close. Tables are static.
 * Threads    At start-up, one thread.
 * Limits     CONFIG_OPTIONS_MAX options, CONFIG_OPERANDS_MAX operands, CONFIG_FILE_BYTES of file.
 */
#ifndef ENGINE_BASE_CONFIG_H
#define ENGINE_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CONFIG_OPTIONS_MAX = 128, CONFIG_OPERANDS_MAX = 1024, CONFIG_FILE_BYTES = 1 << 20 };

/* What an option's field in the program's struct is. */
typedef enum {
    CONFIG_BOOL,   /* bool: --name, --no-name, --name=true|false */
    CONFIG_INT,    /* int64_t within [min, max] */
    CONFIG_DOUBLE, /* double within [min, max] */
    CONFIG_STRING, /* const char *, at most `max` bytes; NULL when never given and no default */
    CONFIG_ENUM,   /* int32_t: the index in `choices` */
    CONFIG_BYTES   /* int64_t bytes within [min, max]: 4096, 64k, 512MiB, 2g (powers of 1024) */
} config_kind;

typedef struct {
    const char *name; /* without dashes: "kv-transport" */
    config_kind kind;
    size_t offset; /* of the field, offsetof(struct, field) */
    double min;    /* min == max == 0: no bounds beyond the type's */
    double max;
    const char *fallback;       /* the default as text; NULL: the field keeps what it has */
    const char *const *choices; /* CONFIG_ENUM: names, NULL-terminated */
    const char *argument;       /* the word in --help: "FILE"; NULL: by kind */
    const char *help;           /* one sentence; NULL keeps the option out of --help */
} config_option;

typedef struct {
    const char *command; /* "weir serve" */
    const char *summary; /* what it does, for --help */
    const config_option *options;
    size_t options_count;
    const char *operands; /* the words after the options in --help; NULL: none are accepted */
} config_table;

typedef struct {
    strbuf file;                               /* text of --config, cut into strings in place */
    const char *operands[CONFIG_OPERANDS_MAX]; /* arguments that are no options */
    size_t operands_count;
    bool help_asked;                   /* --help or -h was there: config_start prints it */
    uint8_t given[CONFIG_OPTIONS_MAX]; /* 0 default, 1 file, 2 flag */
    const config_table *table;
} config;

/* Reads argv[0 .. argc-1] (no program name, no sub-command) into `out`, the struct the offsets are
 * for. `--` ends the options. On failure `d` has the text and `out` is half filled. */
MUST_USE status config_parse(config *c, const config_table *t, int argc, char *const *argv,
                             void *out, diag *d);
void config_close(config *c);

/* The same at a program's start: false when it is to end with `*code`, because a flag is wrong (2,
 * told on standard error) or --help was there (0, printed). config_close either way. */
bool config_start(config *c, const config_table *t, int argc, char *const *argv, void *out,
                  int *code);

/* True when the option came from a flag or the file, false when it has its default. */
bool config_given(const config *c, const char *name);

/* The --help text. */
void config_help(const config_table *t, strbuf *out);

/* Checks `text` and writes it to the option's field; false when it is no valid value. A string is
 * kept by pointer, so `text` must live as long as the struct. */
MUST_USE bool config_value_store(const config_option *o, const char *text, void *field);

/* Appends what values the option takes: "from 1 to 65535", "one of shm, tcp". */
void config_help_range(const config_option *o, strbuf *out);

#ifdef __cplusplus
}
#endif
#endif
