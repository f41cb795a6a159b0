/* weir_kvrun.c -- runs schedules of pages over NCCL and IPC, a process each.
 *
 *     weir_kvrun [--seed N] [--seeds COUNT] [--jobs N] [--trace] [--plant NAME]
 *
 * Prints the first failing seed with its reason, or the counts. --plant switches a bug on
 * (kvtransfer/kvtplanted.h), to see that it is found; --plant list names them.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "kvtransfer/kvtplanted.h"
#include "tests/kvrun/kvrun.h"

enum { JOBS_MAX = 16, HANGS_S = 60 };

typedef struct {
    uint64_t seed;
    char why[240];
} failure;

/* Of all processes. */
typedef struct {
    kvrun_counts counts[JOBS_MAX];
    failure failures[JOBS_MAX]; /* seed 0: none */
} board;

typedef struct {
    uint64_t first, seeds;
    unsigned jobs;
    bool trace;
} plan;

#define NAME(bug) #bug,
static const char *const bugs[] = {KVTPLANTED_LIST(NAME)};
#undef NAME

static void add(kvrun_counts *to, const kvrun_counts *from) {
    for (size_t i = 0; i < sizeof *to / sizeof(uint64_t); i++) {
        ((uint64_t *)to)[i] += ((const uint64_t *)from)[i];
    }
}

/* In a process of its own. */
static int one_seed(board *b, unsigned job, uint64_t seed, bool trace) {
    kvrun *k = mem_alloc(1, sizeof *k);
    kvrun_counts counts;
    (void)alarm(HANGS_S);
    if (!k) {
        return 1;
    }
    bool good = kvrun_run(k, seed, trace, &counts);
    add(&b->counts[job], &counts);
    memcpy(b->failures[job].why, k->why, sizeof k->why);
    mem_free(k);
    return good ? 0 : 1;
}

static void run_job(board *b, const plan *p, unsigned job) {
    failure *f = &b->failures[job];
    for (uint64_t seed = p->first + job; seed < p->first + p->seeds; seed += p->jobs) {
        int ended = 0;
        (void)fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            int code = one_seed(b, job, seed, p->trace);
            (void)fflush(stdout);
            _exit(code);
        }
        (void)waitpid(child, &ended, 0);
        if (ended != 0) {
            f->seed = seed;
            if (!f->why[0]) {
                (void)snprintf(f->why, sizeof f->why, "it ended by signal %d", WTERMSIG(ended));
            }
            return;
        }
    }
}

static int report(const board *b, const plan *p) {
    kvrun_counts all = {0};
    const failure *first = NULL;
    for (unsigned j = 0; j < p->jobs; j++) {
        const failure *f = &b->failures[j];
        add(&all, &b->counts[j]);
        if (f->seed && (!first || f->seed < first->seed)) {
            first = f;
        }
    }
    if (first) {
        (void)printf("seed %llu: FAIL %s\n", (unsigned long long)first->seed, first->why);
        return 1;
    }
    (void)printf(
        "%llu schedules: %llu groups posted, %llu arrived, %llu empty, %llu failed; "
        "%llu channels, %llu of them over IPC, %llu stale; %llu deaths, %llu losses, %llu freezes, "
        "%llu leaves, %llu faults of NCCL, %llu busy schedulers\n",
        (unsigned long long)p->seeds, (unsigned long long)all.jobs, (unsigned long long)all.arrived,
        (unsigned long long)all.junk, (unsigned long long)all.failed,
        (unsigned long long)all.channels, (unsigned long long)all.ipc,
        (unsigned long long)all.stale, (unsigned long long)all.kills,
        (unsigned long long)all.losses, (unsigned long long)all.freezes,
        (unsigned long long)all.leaves, (unsigned long long)all.faults,
        (unsigned long long)all.gates);
    return 0;
}

static bool plant(const char *name) {
    for (int i = 0; i < KVTPLANTED_COUNT; i++) {
        if (strcmp(name, "list") == 0 && i > 0) {
            (void)printf("%s\n", bugs[i]);
        }
        if (strcmp(name, bugs[i]) == 0) {
            kvtplanted_now = (kvtplanted_bug)i;
            return true;
        }
    }
    return false;
}

static bool read_options(int count, char **words, plan *p) {
    for (int i = 1; i < count; i++) {
        const char *value = i + 1 < count ? words[i + 1] : "";
        if (strcmp(words[i], "--trace") == 0) {
            p->trace = true;
            continue;
        }
        i++;
        if (strcmp(words[i - 1], "--seed") == 0) {
            p->first = strtoull(value, NULL, 10);
        } else if (strcmp(words[i - 1], "--seeds") == 0) {
            p->seeds = strtoull(value, NULL, 10);
        } else if (strcmp(words[i - 1], "--jobs") == 0) {
            p->jobs = (unsigned)strtoul(value, NULL, 10);
        } else if (strcmp(words[i - 1], "--plant") != 0 || !plant(value)) {
            return false;
        }
    }
    return p->jobs >= 1 && p->jobs <= JOBS_MAX && p->first > 0;
}

int main(int count, char **words) {
    plan p = {.first = 1, .seeds = 1, .jobs = 1};
    (void)setenv("EMU_DEVICES", "8", 1);
    if (!read_options(count, words, &p)) {
        return count == 3 && strcmp(words[2], "list") == 0 ? 0 : 2;
    }
    board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b == MAP_FAILED) {
        return 1;
    }
    for (unsigned j = 0; j < p.jobs; j++) {
        if (fork() == 0) {
            run_job(b, &p, j);
            _exit(0);
        }
    }
    while (wait(NULL) > 0) {
    }
    return report(b, &p);
}
