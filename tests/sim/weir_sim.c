/* weir_sim.c -- runs seeds through the simulator.
 *
 *     weir_sim [--seed N] [--seeds COUNT] [--trace] [--plant NAME]
 *
 * Prints the first failing seed with its reason, or the counts. --trace prints what happens, the
 * same bytes for the same seed. --plant breaks the shell on purpose, to see that it is found.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/sim/sim.h"

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

static void print_counts(const sim_counts *c, uint64_t seeds, uint64_t hash) {
    (void)printf("seeds %llu events %llu messages %llu transfers %llu faults %llu\n",
                 (unsigned long long)seeds, (unsigned long long)c->events,
                 (unsigned long long)c->messages, (unsigned long long)c->transfers,
                 (unsigned long long)c->faults);
    (void)printf("done %llu failed %llu left %llu attempts %llu retries %llu splits %llu\n",
                 (unsigned long long)c->done, (unsigned long long)c->failed,
                 (unsigned long long)c->left, (unsigned long long)c->attempts,
                 (unsigned long long)c->retries, (unsigned long long)c->splits);
    (void)printf(
        "adoptions %llu preemptions %llu evictions %llu replays %llu junk %llu cached "
        "%llu\nhash %016llx\n",
        (unsigned long long)c->adoptions, (unsigned long long)c->preemptions,
        (unsigned long long)c->evictions, (unsigned long long)c->replays,
        (unsigned long long)c->junk, (unsigned long long)c->cached, (unsigned long long)hash);
}

int main(int argc, char **argv) {
    uint64_t first = 1;
    uint64_t seeds = 1;
    sim_options options = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--trace") == 0) {
            options.trace = true;
        } else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0) {
            first = strtoull(argv[++i], NULL, 10);
        } else if (i + 1 < argc && strcmp(argv[i], "--seeds") == 0) {
            seeds = strtoull(argv[++i], NULL, 10);
        } else if (i + 1 < argc && strcmp(argv[i], "--plant") == 0) {
            options.plant = argv[++i];
        } else {
            (void)fprintf(stderr,
                          "usage: weir_sim [--seed N] [--seeds COUNT] [--trace] [--plant NAME]\n");
            return 2;
        }
    }
    (void)signal(SIGABRT, on_abort);
    static sim_counts total;
    uint64_t hash = 0;
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        (void)snprintf(running, sizeof(running), "seed %llu: FAIL aborted\n",
                       (unsigned long long)seed);
        sim *s = mem_calloc(1, sizeof(*s));
        if (s == NULL) {
            return 2;
        }
        s->options = options;
        s->options.seed = seed;
        bool good = sim_run(s);
        if (!good) {
            (void)printf("seed %llu: FAIL at %.6f s: %s\n", (unsigned long long)seed,
                         (double)s->now_us / 1e6, s->failure);
        }
        sim_close(s);
        add(&total, &s->counts);
        hash = rng_mix(hash ^ s->hash);
        mem_free(s);
        if (!good) {
            return 1;
        }
    }
    print_counts(&total, seeds, hash);
    return 0;
}
