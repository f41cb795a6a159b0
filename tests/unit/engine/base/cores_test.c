/* cores_test.c -- who may use how many threads, whatever the others do. */
#define _GNU_SOURCE
#include "engine/base/cores.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <unistd.h>

enum { TOTAL = 4 };

/* Three workers on four cores: two of their own for the first, one each for the others. */
typedef struct {
    cores parent;
    cores workers[3];
} machine;

static machine make_machine(void) {
    static const int32_t own[3] = {2, 1, 1};
    machine m;
    diag d;
    cr_assert_eq(cores_create(&m.parent, &d), STATUS_OK, "%s", d.text);
    for (uint32_t i = 0; i < 3; i++) {
        int fd = dup(m.parent.fd);
        cr_assert_eq(cores_open(&m.workers[i], fd, i, own[i], TOTAL, &d), STATUS_OK, "%s", d.text);
    }
    return m;
}

static void close_machine(machine *m) {
    for (int i = 0; i < 3; i++) {
        cores_close(&m->workers[i]);
    }
    cores_close(&m->parent);
}

Test(cores, idle_workers_lend_and_busy_ones_keep_their_own) {
    /* For each set of busy workers, what each worker may use: own + the shares of the idle. */
    machine m = make_machine();
    static const int32_t own[3] = {2, 1, 1};
    for (int busy = 0; busy < 8; busy++) {
        for (int w = 0; w < 3; w++) {
            cores_work(&m.workers[w], busy >> w & 1 ? CORES_DECODES : CORES_IDLE);
        }
        for (int w = 0; w < 3; w++) {
            int32_t expected = TOTAL;
            for (int other = 0; other < 3; other++) {
                expected -= other != w && (busy >> other & 1) ? own[other] : 0;
            }
            cr_expect_eq(cores_threads(&m.workers[w]), expected, "busy %d worker %d", busy, w);
        }
    }
    close_machine(&m);
}

Test(cores, more_workers_than_cores_still_have_one_each) {
    diag d;
    cores parent;
    cores a, b;
    cr_assert_eq(cores_create(&parent, &d), STATUS_OK);
    cr_assert_eq(cores_open(&a, dup(parent.fd), 0, 1, 1, &d), STATUS_OK);
    cr_assert_eq(cores_open(&b, dup(parent.fd), 1, 1, 1, &d), STATUS_OK);
    cores_work(&a, CORES_PROMPTS);
    cr_expect_eq(cores_threads(&b), 1);
    cores_close(&a);
    cores_close(&b);
    cores_close(&parent);
}

Test(cores, prompts_of_others_want_cores_and_their_decoding_does_not) {
    machine m = make_machine();
    static const cores_load loads[] = {CORES_IDLE, CORES_DECODES, CORES_PROMPTS, CORES_DECODES};
    for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++) {
        cores_work(&m.workers[1], loads[i]);
        cr_expect_eq(cores_wanted(&m.workers[0]), loads[i] == CORES_PROMPTS, "load %zu", i);
        cr_expect_not(cores_wanted(&m.workers[1]), "its own prompts");
    }
    close_machine(&m);
}

Test(cores, the_dead_lend_again) {
    machine m = make_machine();
    cores_work(&m.workers[0], CORES_PROMPTS);
    cr_expect_eq(cores_threads(&m.workers[1]), 2);
    cr_expect(cores_wanted(&m.workers[1]));
    cores_clear(&m.parent, 0);
    cr_expect_eq(cores_threads(&m.workers[1]), TOTAL);
    cr_expect_not(cores_wanted(&m.workers[1]));
    close_machine(&m);
}

Test(cores, without_a_board_nothing_is_lent_or_kept) {
    cores alone = {.total = 3, .own = 1};
    cores_work(&alone, CORES_PROMPTS);
    cr_expect_eq(cores_threads(&alone), 3);
    cr_expect_not(cores_wanted(&alone));
    cores_close(&alone);
}

Test(cores, a_descriptor_that_is_no_board_is_refused) {
    diag d;
    cores c;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    cr_expect_eq(cores_open(&c, fd, 0, 1, 1, &d), STATUS_INVALID);
    (void)close(fd);
}
