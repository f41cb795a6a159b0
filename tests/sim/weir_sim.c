/* weir_sim.c -- runs seeds through the simulator.
 *
 *     weir_sim [--seed N] [--seeds COUNT] [--jobs N] [--replay] [--trace] [--plant NAME] [--crowd]
 *
 * Prints the first failing seed with its reason, or the counts. --jobs: that many processes share
 * the seeds. --replay runs each seed twice and wants the same hash of all that happened. --trace
 * prints what happens, the same bytes for the same seed. --plant switches a bug on (engine/core/
 * planted.h), to see that it is found; --plant list names them. --crowd: far more requests than a
 * full P and a full D have room for, instead of faults.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/core/planted.h"
#include "tests/sim/sim.h"

enum { JOBS_MAX = 64 };

typedef struct {
    uint64_t first, seeds, step;
    bool replay;
    sim_options sim;
} plan;

typedef struct {
    sim_counts counts;
    uint64_t hash;
    uint64_t failed_seed; /* 0: none */
} outcome;

planted_bug planted_now;

#define NAME(bug) #bug,
static const char *const bugs[] = {PLANTED_LIST(NAME)};
#undef NAME

static char running[64];

/* A CHECK of the engine failed: say under which seed. */
static void on_abort(int signal_number) {
    (void)signal_number;
    ssize_t n = write(STDOUT_FILENO, running, strlen(running));
    (void)n;
    _exit(1);
}

static void add(sim_counts *to, const sim_counts *c) {
    const uint64_t *from = (const uint64_t *)c;
    for (size_t i = 0; i < sizeof(*c) / sizeof(uint64_t); i++) {
        ((uint64_t *)to)[i] += from[i];
    }
}

/* One seed: true when all is well. */
static bool run_seed(const plan *p, uint64_t seed, sim_counts *counts, uint64_t *hash) {
    (void)snprintf(running, sizeof(running), "seed %llu: FAIL a check of the engine\n",
                   (unsigned long long)seed);
    sim *s = mem_calloc(1, sizeof(*s));
    if (s == NULL) {
        return false;
    }
    s->options = p->sim;
    s->options.seed = seed;
    bool good = sim_run(s);
    if (!good) {
        (void)printf("seed %llu: FAIL at %.6f s: %s\n", (unsigned long long)seed,
                     (double)s->now_us / 1e6, s->failure);
    }
    sim_close(s);
    add(counts, &s->counts);
    *hash = s->hash;
    mem_free(s);
    return good;
}

static outcome run_seeds(const plan *p) {
    outcome o = {.hash = 0};
    for (uint64_t seed = p->first; seed < p->first + p->seeds; seed += p->step) {
        uint64_t hash;
        uint64_t again;
        bool good = run_seed(p, seed, &o.counts, &hash);
        if (good && p->replay) {
            sim_counts ignored = {0};
            good = run_seed(p, seed, &ignored, &again);
            if (good && again != hash) {
                (void)printf("seed %llu: FAIL another run of it went otherwise\n",
                             (unsigned long long)seed);
                good = false;
            }
        }
        o.hash += rng_mix(hash ^ seed);
        if (!good) {
            o.failed_seed = seed;
            break;
        }
    }
    (void)fflush(stdout);
    return o;
}

/* Seeds go round the processes, so that each has a fair share of the slow ones. */
static int run_jobs(const plan *p, uint64_t jobs, outcome *total) {
    int pipes[JOBS_MAX];
    pid_t pids[JOBS_MAX];
    int bad = 0;
    for (uint64_t j = 0; j < jobs; j++) {
        int ends[2];
        if (pipe(ends) != 0 || (pids[j] = fork()) < 0) {
            return 2;
        }
        if (pids[j] == 0) {
            plan mine = *p;
            mine.first += j;
            mine.seeds -= j < mine.seeds ? j : mine.seeds;
            mine.step = jobs;
            outcome o = run_seeds(&mine);
            ssize_t n = write(ends[1], &o, sizeof(o));
            _exit(n == (ssize_t)sizeof(o) && o.failed_seed == 0 ? 0 : 1);
        }
        (void)close(ends[1]);
        pipes[j] = ends[0];
    }
    for (uint64_t j = 0; j < jobs; j++) {
        outcome o;
        int ended = 1;
        if (read(pipes[j], &o, sizeof(o)) == (ssize_t)sizeof(o)) {
            add(&total->counts, &o.counts);
            total->hash += o.hash;
        }
        (void)waitpid(pids[j], &ended, 0);
        if (ended != 0 && !bad) {
            bad = 1;
            for (uint64_t k = j + 1; k < jobs; k++) {
                (void)kill(pids[k], SIGKILL); /* one failure is enough */
            }
        }
        (void)close(pipes[j]);
    }
    return bad;
}

static void print_counts(const sim_counts *c, uint64_t seeds, uint64_t hash) {
    (void)printf("seeds %llu events %llu messages %llu transfers %llu faults %llu\n",
                 (unsigned long long)seeds, (unsigned long long)c->events,
                 (unsigned long long)c->messages, (unsigned long long)c->transfers,
                 (unsigned long long)c->faults);
    (void)printf(
        "done %llu failed %llu left %llu orphaned %llu attempts %llu retries %llu splits %llu\n",
        (unsigned long long)c->done, (unsigned long long)c->failed, (unsigned long long)c->left,
        (unsigned long long)c->orphaned, (unsigned long long)c->attempts,
        (unsigned long long)c->retries, (unsigned long long)c->splits);
    (void)printf(
        "adoptions %llu handed back %llu preemptions %llu evictions %llu replays %llu junk %llu "
        "cached "
        "%llu flips %llu\nboth full for %llu s\nhash %016llx\n",
        (unsigned long long)c->adoptions, (unsigned long long)c->handed_back,
        (unsigned long long)c->preemptions, (unsigned long long)c->evictions,
        (unsigned long long)c->replays, (unsigned long long)c->junk, (unsigned long long)c->cached,
        (unsigned long long)c->flips, (unsigned long long)(c->crowd_us / 1000000),
        (unsigned long long)hash);
}

static bool plant(const char *name) {
    bool list = strcmp(name, "list") == 0;
    for (int i = 1; i < (int)PLANTED_COUNT; i++) {
        if (list) {
            (void)printf("%s\n", bugs[i]);
        } else if (strcmp(name, bugs[i]) == 0) {
            planted_now = (planted_bug)i;
            return true;
        }
    }
    if (list) {
        exit(0);
    }
    return false;
}

static bool read_options(int argc, char **argv, plan *p, uint64_t *jobs) {
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--trace") == 0) {
            p->sim.trace = true;
        } else if (strcmp(argv[i], "--crowd") == 0) {
            p->sim.crowd = true;
        } else if (strcmp(argv[i], "--replay") == 0) {
            p->replay = true;
        } else if (more && strcmp(argv[i], "--seed") == 0) {
            p->first = strtoull(argv[++i], NULL, 10);
        } else if (more && strcmp(argv[i], "--seeds") == 0) {
            p->seeds = strtoull(argv[++i], NULL, 10);
        } else if (more && strcmp(argv[i], "--jobs") == 0) {
            *jobs = strtoull(argv[++i], NULL, 10);
        } else if (!more || strcmp(argv[i], "--plant") != 0 || !plant(argv[++i])) {
            return false;
        }
    }
    return *jobs >= 1 && *jobs <= JOBS_MAX;
}

int main(int argc, char **argv) {
    plan p = {.first = 1, .seeds = 1, .step = 1};
    uint64_t jobs = 1;
    if (!read_options(argc, argv, &p, &jobs)) {
        (void)fprintf(stderr,
                      "usage: weir_sim [--seed N] [--seeds COUNT] [--jobs N] [--replay] "
                      "[--trace] [--crowd] [--plant NAME|list]\n");
        return 2;
    }
    (void)signal(SIGABRT, on_abort);
    outcome total = {.hash = 0};
    int bad = 0;
    if (jobs == 1) {
        total = run_seeds(&p);
        bad = total.failed_seed != 0;
    } else {
        bad = run_jobs(&p, jobs, &total);
    }
    if (!bad) {
        print_counts(&total.counts, p.seeds, total.hash);
    }
    return bad;
}
