/* config_test.c -- one option table, fed good and bad flags and files. */
#define _GNU_SOURCE
#include "engine/base/config.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    bool verbose;
    bool cache;
    int64_t port;
    double ratio;
    const char *model;
    int32_t transport;
    int64_t memory_bytes;
    int64_t free_count;
    double free_real;
} settings;

static const char *const transports[] = {"shm", "tcp", "local", NULL};

#define AT(field) offsetof(settings, field)

static const config_option options[] = {
    {.name = "verbose",
     .kind = CONFIG_BOOL,
     .offset = AT(verbose),
     .fallback = "false",
     .help = "say more"},
    {.name = "prefix-cache",
     .kind = CONFIG_BOOL,
     .offset = AT(cache),
     .fallback = "true",
     .help = "keep prefixes"},
    {.name = "port",
     .kind = CONFIG_INT,
     .offset = AT(port),
     .min = 0,
     .max = 65535,
     .fallback = "8000",
     .help = "where to listen"},
    {.name = "ratio",
     .kind = CONFIG_DOUBLE,
     .offset = AT(ratio),
     .min = 0,
     .max = 1,
     .fallback = "0.5",
     .help = "a share"},
    {.name = "model",
     .kind = CONFIG_STRING,
     .offset = AT(model),
     .max = 64,
     .argument = "FILE",
     .help = "which model"},
    {.name = "kv-transport",
     .kind = CONFIG_ENUM,
     .offset = AT(transport),
     .choices = transports,
     .fallback = "tcp",
     .help = "how pages move"},
    {.name = "memory",
     .kind = CONFIG_BYTES,
     .offset = AT(memory_bytes),
     .min = 1024,
     .max = 0x1p40,
     .fallback = "64MiB",
     .help = "how much"},
    {.name = "free-count",
     .kind = CONFIG_INT,
     .offset = AT(free_count),
     .help = "any whole number"},
    {.name = "free-real", .kind = CONFIG_DOUBLE, .offset = AT(free_real)},
};

static const config_table table = {.command = "weir try",
                                   .summary = "Tries options.",
                                   .options = options,
                                   .options_count = sizeof options / sizeof options[0],
                                   .operands = "FILE..."};

/* Splits at blanks and parses. */
static status parse(const char *line, config *c, settings *s, diag *d) {
    static char copy[4096];
    static char *argv[64];
    int argc = 0;
    (void)snprintf(copy, sizeof copy, "%s", line);
    char *save = NULL;
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        argv[argc++] = word;
    }
    *s = (settings){0};
    *d = (diag){0};
    return config_parse(c, &table, argc, argv, s, d);
}

Test(config, defaults_fill_the_struct) {
    config c;
    settings s;
    diag d;
    cr_assert_eq(parse("", &c, &s, &d), STATUS_OK);
    cr_assert(!s.verbose && s.cache && s.port == 8000 && s.ratio == 0.5 && s.model == NULL);
    cr_assert(s.transport == 1 && s.memory_bytes == 64 << 20 && s.free_count == 0);
    cr_assert_not(config_given(&c, "port"));
    config_close(&c);
}

Test(config, every_form_of_a_flag_is_understood) {
    config c;
    settings s;
    diag d;
    cr_assert_eq(parse("--verbose --no-prefix-cache --port 0 in.txt --ratio=1 --model m.gguf "
                       "--kv-transport=local --memory 1.5k --free-count -7 --free-real -2.5e3 "
                       "- -- --port",
                       &c, &s, &d),
                 STATUS_OK, "%s", d.text);
    cr_assert(s.verbose && !s.cache && s.port == 0 && s.ratio == 1 && s.transport == 2);
    cr_assert_str_eq(s.model, "m.gguf");
    cr_assert(s.memory_bytes == 1536 && s.free_count == -7 && s.free_real == -2500);
    cr_assert_eq(c.operands_count, 3);
    cr_assert_str_eq(c.operands[0], "in.txt");
    cr_assert_str_eq(c.operands[1], "-");
    cr_assert_str_eq(c.operands[2], "--port");
    cr_assert(config_given(&c, "port"));
    config_close(&c);
}

Test(config, byte_sizes_are_powers_of_1024) {
    static const struct {
        const char *text;
        int64_t bytes; /* -1: refused */
    } rows[] = {
        {"1024", 1024},  {"1k", 1024},        {"1K", 1024},      {"1KB", 1024},     {"1KiB", 1024},
        {"2m", 2 << 20}, {"3GiB", 3ll << 30}, {"1t", 1ll << 40}, {"0.5m", 1 << 19}, {"1023", -1},
        {"1025g", -1},   {"1x", -1},          {"k", -1},         {"1kk", -1},       {"1kib", -1},
        {"-1k", -1},     {"1e3k", -1},        {"1..5k", -1},     {"9999999t", -1},  {"1 k", -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        settings s = {0};
        bool ok = config_value_store(&options[6], rows[i].text, &s.memory_bytes);
        cr_assert_eq(ok, rows[i].bytes >= 0, "%s", rows[i].text);
        cr_assert(!ok || s.memory_bytes == rows[i].bytes, "%s", rows[i].text);
    }
}

Test(config, bad_flags_are_refused_with_what_would_be_valid) {
    static const struct {
        const char *line;
        const char *says; /* in the text */
    } rows[] = {
        {"--port 65536", "--port: \"65536\" is not from 0 to 65535"},
        {"--port -1", "--port: \"-1\" is not from 0 to 65535"},
        {"--port 80x", "--port: \"80x\" is not from 0 to 65535"},
        {"--port=", "--port: \"\" is not from 0 to 65535"},
        {"--port", "--port wants a value"},
        {"--port --verbose", "--port wants a value"},
        {"--ratio nan", "--ratio: \"nan\" is not from 0 to 1"},
        {"--ratio 1.01", "--ratio: \"1.01\" is not from 0 to 1"},
        {"--verbose=maybe", "--verbose: \"maybe\" is not true or false"},
        {"--kv-transport rdma", "is not one of shm, tcp, local"},
        {"--memory 1", "--memory: \"1\" is not from 1KiB to 1TiB"},
        {"--free-count 1.5", "--free-count: \"1.5\" is not a whole number"},
        {"--model 01234567890123456789012345678901234567890123456789012345678901234",
         "is not text of at most 64 bytes"},
        {"--prot 80", "--prot: no such option; did you mean --port?"},
        {"--kv-transprot tcp", "did you mean --kv-transport?"},
        {"--zebra", "--zebra: no such option; see weir try --help"},
        {"--no-port", "--no-port: no such option"},
        {"--no-verbose=true", "no such option"},
        {"-v", "-v: no such option"},
        {"--config /nonexistent/weir.conf", "--config /nonexistent/weir.conf: No such file"},
        {"--config", "--config wants a value"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        config c;
        settings s;
        diag d;
        cr_assert_neq(parse(rows[i].line, &c, &s, &d), STATUS_OK, "%s", rows[i].line);
        cr_assert_not_null(strstr(d.text, rows[i].says), "%s\n  says: %s\n  want: %s", rows[i].line,
                           d.text, rows[i].says);
        config_close(&c);
    }
}

static status parse_with_file(const char *text, size_t bytes, const char *flags, config *c,
                              settings *s, diag *d) {
    char path[] = "/tmp/weir-config-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, bytes) == (ssize_t)bytes);
    (void)close(fd);
    char line[256];
    (void)snprintf(line, sizeof line, "%s --config %s", flags, path);
    status r = parse(line, c, s, d);
    (void)unlink(path);
    return r;
}

Test(config, flags_win_over_the_file_and_the_file_over_defaults) {
    static const char text[] =
        "# a comment\n"
        "\n"
        "port = 9000   # trailing\n"
        "  ratio=0.25\r\n"
        "model = \"my model#1.gguf\"\n"
        "verbose = yes\n"
        "prefix-cache = off";
    config c;
    settings s;
    diag d;
    cr_assert_eq(parse_with_file(text, sizeof text - 1, "--port 1 --no-verbose", &c, &s, &d),
                 STATUS_OK, "%s", d.text);
    cr_assert(s.port == 1 && s.ratio == 0.25 && !s.verbose && !s.cache);
    cr_assert_str_eq(s.model, "my model#1.gguf");
    cr_assert(config_given(&c, "ratio") && !config_given(&c, "memory"));
    config_close(&c);
}

Test(config, bad_files_are_refused_with_the_line) {
    static const struct {
        const char *text;
        size_t bytes;
        const char *says;
    } rows[] = {
        {"port = 1\nport = 2\n", 0, ":2: port: given twice"},
        {"\n\nport 80\n", 0, ":3: port: want `name = value`"},
        {"port = 70000\n", 0, ":1: port: \"70000\" is not from 0 to 65535"},
        {"prot = 1\n", 0, ":1: prot: no such option; did you mean port?"},
        {"= 1\n", 0, ":1: : no such option"},
        {"config = other\n", 0, "no such option"},
        {"port = 1\0\n", 10, "not a text file"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        config c;
        settings s;
        diag d;
        size_t bytes = rows[i].bytes ? rows[i].bytes : strlen(rows[i].text);
        cr_assert_neq(parse_with_file(rows[i].text, bytes, "", &c, &s, &d), STATUS_OK);
        cr_assert_not_null(strstr(d.text, rows[i].says), "row %zu says: %s", i, d.text);
        config_close(&c);
    }
}

Test(config, a_file_without_end_is_refused) {
    config c;
    settings s;
    diag d;
    cr_assert_eq(parse("--config /dev/zero", &c, &s, &d), STATUS_LIMIT);
    config_close(&c);
}

Test(config, operands_are_refused_where_none_are_taken) {
    config_table none = table;
    none.operands = NULL;
    config c;
    settings s = {0};
    diag d;
    char *argv[] = {(char *)"stray"};
    cr_assert_eq(config_parse(&c, &none, 1, argv, &s, &d), STATUS_INVALID);
    cr_assert_not_null(strstr(d.text, "stray"));
    config_close(&c);
}

Test(config, a_start_goes_on_or_ends_with_a_status) {
    static const struct {
        const char *argument;
        bool goes_on;
        int code;
    } cases[] = {{"--port=80", true, 0}, {"--help", false, 0}, {"--prot=80", false, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        config c;
        settings s = {0};
        int code = -1;
        char *argv[] = {(char *)cases[i].argument};
        cr_expect_eq(config_start(&c, &table, 1, argv, &s, &code), cases[i].goes_on);
        cr_expect_eq(code, cases[i].code, "%s: %d", cases[i].argument, code);
        config_close(&c);
    }
}

Test(config, help_lists_every_option_with_range_and_default) {
    config c;
    settings s;
    diag d;
    cr_assert_eq(parse("--help", &c, &s, &d), STATUS_OK);
    cr_assert(c.help_asked);
    config_close(&c);
    strbuf b = strbuf_make(1 << 16);
    config_help(&table, &b);
    static const char *const says[] = {
        "usage: weir try [options] FILE...",
        "Tries options.",
        "--[no-]prefix-cache",
        "--verbose ",
        "--port N",
        "(from 0 to 65535; default 8000)",
        "--model FILE",
        "(one of shm, tcp, local; default tcp)",
        "(from 1KiB to 1TiB; default 64MiB)",
        "--config FILE",
        "--help",
    };
    for (size_t i = 0; i < sizeof says / sizeof says[0]; i++) {
        cr_assert_not_null(strstr(b.data, says[i]), "%s is not in:\n%s", says[i], b.data);
    }
    cr_assert_null(strstr(b.data, "free-real"), "an option without help stays out");
    strbuf_close(&b);
}
