/* weir_model.c -- runs the protocol's model.
 *
 *     weir_model commit | full          every configuration of that set must be clean
 *     weir_model rules                  each rule taken away must give a counterexample
 *     weir_model NAME=VALUE ...         one configuration; off=RULE takes a rule away
 *
 * Prints `ok NAME` or `not ok NAME - why` a line, with states and seconds; a violation with the
 * shortest way to it. README.md lists the names.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "tests/model/protomodel.h"

enum { STATES_MAX = 4000000, FULL_STATES_MAX = 16000000 };

#define RULE_NAME(name, text) #name,
static const char *const rule_names[] = {RULES(RULE_NAME)};
#undef RULE_NAME
#define RULE_TEXT(name, text) text,
static const char *const rule_texts[] = {RULES(RULE_TEXT)};
#undef RULE_TEXT

static const struct {
    const char *name;
    int *number; /* of `now` */
    bool *flag;
    uint8_t *byte;
} options[] = {
    {"gateways", &now.gateways, NULL, NULL},
    {"prefills", &now.prefills, NULL, NULL},
    {"decodes", &now.decodes, NULL, NULL},
    {"requests", &now.requests, NULL, NULL},
    {"pages", &now.prompt_pages, NULL, NULL},
    {"pool_p", &now.pool_p, NULL, NULL},
    {"pool_d", &now.pool_d, NULL, NULL},
    {"tokens", &now.tokens, NULL, NULL},
    {"grow", &now.grow_at, NULL, NULL},
    {"shared", &now.shared, NULL, NULL},
    {"local", NULL, &now.local, NULL},
    {"keep_p", NULL, &now.keep_p, NULL},
    {"faults", NULL, NULL, &now.faults},
    {"crash", NULL, NULL, &now.budget[FAULT_CRASH]},
    {"freeze", NULL, NULL, &now.budget[FAULT_FREEZE]},
    {"link", NULL, NULL, &now.budget[FAULT_LINK]},
    {"cancel", NULL, NULL, &now.budget[FAULT_CANCEL]},
    {"preempt", NULL, NULL, &now.budget[FAULT_PREEMPT]},
    {"lease", NULL, NULL, &now.budget[FAULT_LEASE]},
    {"refuse", NULL, NULL, &now.budget[FAULT_REFUSE]},
    {"gateway", NULL, NULL, &now.budget[FAULT_GATEWAY]},
    {"drain", NULL, NULL, &now.budget[FAULT_DRAIN]},
};

static bool set_off(const char *name, size_t bytes) {
    for (int i = 0; i < (int)RULES_COUNT; i++) {
        if (strlen(rule_names[i]) == bytes && strncmp(rule_names[i], name, bytes) == 0) {
            now.off |= 1u << i;
            return true;
        }
    }
    return false;
}

/* One NAME=VALUE; false: no such thing. */
static bool set(const char *text, size_t bytes) {
    const char *equals = memchr(text, '=', bytes);
    if (!equals) {
        return false;
    }
    size_t name = (size_t)(equals - text);
    if (name == 3 && strncmp(text, "off", 3) == 0) {
        return set_off(equals + 1, bytes - name - 1);
    }
    long value = strtol(equals + 1, NULL, 10);
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if (strlen(options[i].name) != name || strncmp(options[i].name, text, name) != 0) {
            continue;
        }
        if (options[i].number) {
            *options[i].number = (int)value;
        } else if (options[i].flag) {
            *options[i].flag = value != 0;
        } else {
            *options[i].byte = (uint8_t)value;
        }
        return true;
    }
    return false;
}

/* The plainest configuration, and then what `text` says. */
static bool configure(const char *text) {
    now = (config){.gateways = 1,
                   .prefills = 2,
                   .decodes = 2,
                   .requests = 1,
                   .prompt_pages = 1,
                   .pool_p = 1,
                   .pool_d = 1,
                   .tokens = 3,
                   .faults = 1};
    for (const char *at = text; *at;) {
        size_t bytes = strcspn(at, " ");
        if (bytes && !set(at, bytes)) {
            (void)fprintf(stderr, "weir_model: what is \"%.*s\"?\n", (int)bytes, at);
            return false;
        }
        at += bytes + (at[bytes] == ' ' ? 1 : 0);
    }
    return now.gateways <= GATEWAYS_MAX && now.prefills <= PREFILLS_MAX &&
           now.decodes <= DECODES_MAX && now.requests <= REQUESTS_MAX &&
           now.prompt_pages <= PROMPT_PAGES_MAX && now.pool_p <= PAGES_MAX &&
           now.pool_d <= PAGES_MAX && now.tokens <= 7;
}

static bool must_be_clean(const char *text, uint32_t states_max) {
    if (!configure(text)) {
        return false;
    }
    int64_t from = clock_now_us();
    search_result r = search_run(states_max, true);
    double seconds = (double)(clock_now_us() - from) / 1e6;
    bool good = r.finished && !r.violation;
    (void)printf("%s %s%s%s  # %u states, %llu moves, %.1f s\n", good ? "ok" : "not ok", text,
                 good ? "" : " - ",
                 good          ? ""
                 : r.violation ? r.violation
                               : "too many states",
                 r.states, (unsigned long long)r.moves, seconds);
    (void)fflush(stdout);
    return good;
}

static const char *const commit_set[] = {
    "crash=1 freeze=1 link=1 cancel=1 preempt=1 lease=1 refuse=1",
    "pages=2 pool_p=2 pool_d=2 crash=1 freeze=1 link=1 cancel=1 preempt=1 lease=1 refuse=1",
    "requests=2 prefills=1 decodes=1 faults=0",
    "requests=2 prefills=1 decodes=1 pages=2 pool_p=2 pool_d=2 tokens=2 faults=0",
    "requests=2 prefills=1 decodes=1 cancel=1 preempt=1 refuse=1 lease=1 tokens=2",
    "requests=2 prefills=1 decodes=1 gateways=2 gateway=1 tokens=2",
    "gateways=2 gateway=1 crash=1",
    "requests=2 prefills=1 decodes=1 local=1 pool_d=2 tokens=2 cancel=1 preempt=1",
    "local=1 crash=1 freeze=1 link=1 cancel=1 preempt=1 lease=1 refuse=1",
    "requests=2 prefills=1 decodes=1 pool_p=2 pool_d=3 grow=2 tokens=4 faults=0",
    "requests=2 prefills=1 decodes=1 pages=2 pool_p=3 pool_d=3 shared=3 tokens=2 cancel=1",
    "requests=2 prefills=1 decodes=1 pages=2 pool_p=2 pool_d=2 shared=3 tokens=2 faults=0",
    "pages=2 pool_p=2 pool_d=2 drain=1",
    "prefills=1 local=1 tokens=2 drain=1",
};

static const char *const full_set[] = {
    "prefills=1 pages=2 pool_p=2 pool_d=2 faults=2 crash=1 link=1 cancel=1 lease=1 tokens=2",
    "prefills=1 faults=2 crash=2 link=1 cancel=1 tokens=2",
    "faults=2 freeze=1 link=1 keep_p=1 tokens=2",
    "faults=2 freeze=1 cancel=1 keep_p=1 tokens=2",
    "faults=2 drain=1 crash=1 link=1 cancel=1 keep_p=1 tokens=2",
    "faults=2 drain=1 freeze=1 keep_p=1 tokens=2",
    "requests=2 prefills=1 decodes=1 pool_d=2 tokens=2 local=1 drain=1",
    "local=1 faults=2 crash=1 link=1 cancel=1 preempt=1 keep_p=1 tokens=2",
    "requests=2 prefills=1 pages=2 pool_p=2 pool_d=2 tokens=2 faults=0",
    "requests=2 prefills=1 tokens=2 cancel=1 preempt=1 refuse=1 lease=1 keep_p=1",
    "requests=2 prefills=1 tokens=2 crash=1 keep_p=1",
    "requests=2 decodes=1 tokens=2 crash=1 keep_p=1",
    "requests=2 prefills=1 decodes=1 tokens=2 crash=1 link=1 lease=1 keep_p=1",
    "requests=2 prefills=1 decodes=1 local=1 pool_d=2 tokens=2 crash=1 link=1 lease=1",
    "requests=2 gateways=2 prefills=1 decodes=1 tokens=2 faults=2 gateway=1 cancel=1 link=1",
    "requests=2 gateways=2 prefills=1 decodes=1 tokens=2 faults=2 gateway=1 crash=1",
    "requests=2 prefills=1 decodes=1 pool_p=2 pool_d=3 grow=2 tokens=3 cancel=1 lease=1",
    "requests=2 prefills=1 decodes=1 pages=2 pool_p=3 pool_d=3 shared=3 tokens=2 link=1 lease=1",
    "requests=2 prefills=1 decodes=1 pages=2 pool_p=3 pool_d=3 shared=3 tokens=2 crash=1",
    "requests=2 prefills=1 decodes=1 pages=2 pool_p=3 pool_d=4 shared=3 grow=2 tokens=3 cancel=1",
};

/* Where each rule is missed. */
static const struct {
    rule off;
    const char *text;
} missed[] = {
    {RULE_PARK, "faults=0"},
    {RULE_FIRST, "crash=1"},
    {RULE_REPLAY, "crash=1"},
    {RULE_BUMP, "freeze=1"},
    {RULE_JUNK, "cancel=1"},
    {RULE_REFUSEG, "refuse=1"},
    {RULE_EVICT, "requests=2 prefills=1 decodes=1 tokens=2 lease=1"},
    {RULE_SUPERSEDE, "refuse=1 link=1 lease=1 crash=1"},
    {RULE_TELLLEASE, "lease=1"},
    {RULE_FULLSUBMIT, "freeze=1"},
    {RULE_TEAR, "freeze=1"},
    {RULE_SOURCEPIN, "lease=1"},
    {RULE_ADOPTALL, "faults=0 pages=2 pool_p=2 pool_d=2"},
    {RULE_AGE, "requests=2 prefills=1 decodes=1 tokens=2 faults=0"},
    {RULE_HOLD, "requests=2 prefills=1 decodes=1 pages=2 pool_p=3 pool_d=3 shared=3 faults=0"},
    {RULE_COMPLETE, "requests=2 prefills=1 decodes=1 pages=2 pool_p=3 pool_d=3 shared=3 faults=0"},
    {RULE_FORGET, "requests=2 prefills=1 decodes=1 pages=2 pool_p=2 pool_d=2 shared=1 preempt=1"},
    {RULE_ALLORNONE, "requests=2 prefills=1 decodes=1 pages=2 pool_p=4 pool_d=2 tokens=2 lease=1"},
    {RULE_PROGRESS, "requests=2 prefills=1 decodes=1 pool_p=2 pool_d=3 grow=2 tokens=4 faults=0"},
    {RULE_DRAINED, "prefills=1 decodes=1 drain=1 tokens=2"},
};

static bool rule_is_missed(rule off, const char *text, bool print) {
    if (!configure(text)) {
        return false;
    }
    now.off |= 1u << off;
    int64_t from = clock_now_us();
    search_result r = search_run(STATES_MAX, print);
    double seconds = (double)(clock_now_us() - from) / 1e6;
    (void)printf("%s without_%s%s  # %s; %s; %u states, %.1f s\n", r.violation ? "ok" : "not ok",
                 rule_names[off], r.violation ? "" : " - nothing goes wrong", rule_texts[off],
                 r.violation ? r.violation : "", r.states, seconds);
    (void)fflush(stdout);
    return r.violation != NULL;
}

int main(int argc, char **argv) {
    bool good = argc > 1;
    if (argc == 2 && (strcmp(argv[1], "commit") == 0 || strcmp(argv[1], "full") == 0)) {
        bool all = strcmp(argv[1], "full") == 0;
        for (size_t i = 0; i < sizeof commit_set / sizeof *commit_set; i++) {
            good = must_be_clean(commit_set[i], STATES_MAX) && good;
        }
        for (size_t i = 0; all && i < sizeof full_set / sizeof *full_set; i++) {
            good = must_be_clean(full_set[i], FULL_STATES_MAX) && good;
        }
    } else if (argc >= 2 && strcmp(argv[1], "rules") == 0) {
        for (size_t i = 0; i < sizeof missed / sizeof *missed; i++) {
            good = rule_is_missed(missed[i].off, missed[i].text, argc == 3) && good;
        }
    } else {
        char text[512] = "";
        for (int i = 1; i < argc; i++) {
            size_t used = strlen(text);
            (void)snprintf(text + used, sizeof text - used, "%s%s", i > 1 ? " " : "", argv[i]);
        }
        good = good && must_be_clean(text, FULL_STATES_MAX);
    }
    if (argc < 2) {
        (void)fprintf(stderr, "usage: weir_model commit | full | rules | NAME=VALUE ...\n");
        return 2;
    }
    return good ? 0 : 1;
}
