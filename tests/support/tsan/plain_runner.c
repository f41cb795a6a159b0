/* plain_runner.c -- runs Criterion tests under ThreadSanitizer, without Criterion's own runner.
 *
 * Criterion shares memory with its test processes at addresses that ThreadSanitizer keeps for
 * itself, so its runner cannot start. The tests are plain functions listed in a linker section:
 * this program forks for each, and gives the few functions that the assertion macros call. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the linker makes of the sections that Test and TestSuite fill. */
extern struct criterion_test *__start_cr_tst[];
extern struct criterion_test *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak));
extern struct criterion_suite *__stop_cr_sts[] __attribute__((weak));

enum { EXIT_FAILED = 101, EXIT_SKIPPED = 102 };

static const struct criterion_test *now;
static void *param_now;

void criterion_send_assert(struct criterion_assert_stats *stats) {
    if (!stats->passed) {
        (void)fprintf(stderr, "[----] %s:%u: Assertion Failed\n[----]   %s\n", stats->file,
                      stats->line, stats->message);
    }
}

void criterion_abort_test(void) {
    _exit(EXIT_FAILED);
}

void criterion_skip_test(const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fputc('\n', stderr);
    _exit(EXIT_SKIPPED);
}

void cri_asserts_passed_incr(void) {}

static const struct criterion_test_extra_data *suite_of(const struct criterion_test *t) {
    for (struct criterion_suite **s = __start_cr_sts; s < __stop_cr_sts; s++) {
        if (*s && strcmp((*s)->name, t->category) == 0) {
            return (*s)->data;
        }
    }
    return NULL;
}

void criterion_internal_test_setup(void) {
    const struct criterion_test_extra_data *suite = suite_of(now);
    if (suite && suite->init) {
        suite->init();
    }
    if (now->data->init) {
        now->data->init();
    }
}

void criterion_internal_test_main(void (*fn)(void)) {
    if (now->data->kind_ == CR_TEST_PARAMETERIZED) {
        ((void (*)(void *))fn)(param_now);
    } else {
        fn();
    }
}

void criterion_internal_test_teardown(void) {
    if (now->data->fini) {
        now->data->fini();
    }
    const struct criterion_test_extra_data *suite = suite_of(now);
    if (suite && suite->fini) {
        suite->fini();
    }
}

/* 'p' passed, 'f' failed, 's' skipped. */
static char run_one(const struct criterion_test *t, void *param) {
    now = t;
    param_now = param;
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        t->test();
        exit(0);
    }
    int how = 0;
    if (child < 0 || waitpid(child, &how, 0) != child) {
        return 'f';
    }
    if (WIFEXITED(how) && WEXITSTATUS(how) == EXIT_SKIPPED) {
        return 's';
    }
    const struct criterion_test_extra_data *suite = suite_of(t);
    int signal_wanted = t->data->signal ? t->data->signal : suite ? suite->signal : 0;
    if (signal_wanted) {
        return WIFSIGNALED(how) && WTERMSIG(how) == signal_wanted ? 'p' : 'f';
    }
    return WIFEXITED(how) && WEXITSTATUS(how) == t->data->exit_code ? 'p' : 'f';
}

static bool wanted(const struct criterion_test *t, int argc, char **argv) {
    char name[512];
    (void)snprintf(name, sizeof name, "%s/%s", t->category, t->name);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc) {
            return fnmatch(argv[i + 1], name, FNM_EXTMATCH) == 0;
        }
    }
    return true;
}

static void run_counted(const struct criterion_test *t, void *param, int counts[3]) {
    char verdict = run_one(t, param);
    counts[verdict == 'p' ? 0 : verdict == 'f' ? 1 : 2]++;
    if (verdict != 'p') {
        (void)printf("[%s] %s::%s\n", verdict == 'f' ? "FAIL" : "SKIP", t->category, t->name);
    }
}

int main(int argc, char **argv) {
    int counts[3] = {0};
    for (struct criterion_test **p = __start_cr_tst; p < __stop_cr_tst; p++) {
        const struct criterion_test *t = *p;
        if (!t || t->data->disabled || !wanted(t, argc, argv)) {
            continue;
        }
        if (t->data->kind_ != CR_TEST_PARAMETERIZED) {
            run_counted(t, NULL, counts);
            continue;
        }
        struct criterion_test_params params = t->data->param_();
        for (size_t i = 0; i < params.length; i++) {
            run_counted(t, (char *)params.params + i * params.size, counts);
        }
    }
    (void)printf("[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0 \n",
                 counts[0] + counts[1], counts[0], counts[1]);
    return counts[1] ? 1 : 0;
}
