/* kvbench.c -- P in this process, D in another; sizes in turn, weir and the raw loop alternately.
 *
 * A transfer counts from P's first send until D has the last arrival (both read one monotonic
 * clock); D has posted everything before, as it has in a server, where the reservation overlaps
 * compute. Transfers are repeated for some time, and the best counts: other work on the machine
 * only ever adds. */
#define _GNU_SOURCE
#include "bench/kvbench.h"

#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/kvend.h"
#include "engine/base/clock.h"
#include "engine/base/config.h"
#include "engine/base/mem.h"
#include "engine/base/wire.h"
#include "kvtransfer/ipc.h"
#include "kvtransfer/nccl.h"
#include "kvtransfer/ncclraw.h"

enum { SIZES_MAX = 32, TOKENS_MAX = 65536, RAW_BYTES = 1 << 18, PAGE_TOKENS = 16 };

typedef struct {
    const char *tokens;
    int64_t layers, kv_heads, head_dim, group_bytes, seconds_ms;
    int32_t transport; /* KVEND_TRANSPORTS: all */
    bool json;
} settings;

#define FIELD(name) offsetof(settings, name)

static const char *const transports[] = {"local", "shm", "tcp", "ipc", "nccl", "all", NULL};

static const config_option options[] = {
    {"transport", CONFIG_ENUM, FIELD(transport), 0, 0, "all", transports, NULL,
     "which one; all: those that this machine has"},
    {"tokens", CONFIG_STRING, FIELD(tokens), 0, 0, "1,16,64,256,1024,4096,16384,65536", NULL,
     "LIST", "prompt lengths"},
    {"layers", CONFIG_INT, FIELD(layers), 1, 256, "30", NULL, NULL, "layers of the model"},
    {"kv-heads", CONFIG_INT, FIELD(kv_heads), 1, 256, "3", NULL, NULL, "its kv heads"},
    {"head-dim", CONFIG_INT, FIELD(head_dim), 16, 256, "64", NULL, NULL, "their size"},
    {"group-bytes", CONFIG_BYTES, FIELD(group_bytes), 4096, 1 << 28, "4m", NULL, NULL,
     "of pages in one group"},
    {"milliseconds", CONFIG_INT, FIELD(seconds_ms), 1, 60000, "300", NULL, NULL,
     "time for each size, and at least three transfers"},
    {"json", CONFIG_BOOL, FIELD(json), 0, 0, "false", NULL, NULL, "one JSON object a line"},
};

static const config_table table = {"weir bench kv",
                                   "How fast KV pages move over each transport, beside the raw "
                                   "way.",
                                   options, sizeof options / sizeof options[0], NULL};

/* What P asks of D's process. */
typedef enum { ASK_TRANSFER, ASK_RAW, ASK_END } ask_kind;

typedef struct {
    ask_kind kind;
    uint32_t tokens;
} ask;

/* Of both processes. */
typedef struct {
    _Atomic int64_t end_us; /* D has the last arrival */
    _Atomic int ready;      /* D's end is open: 1; it could not be: -1 */
    diag why;
} board;

typedef struct {
    const settings *o;
    kvend_transport transport;
    kvend_shape shape;
    bool receiver;
    int sync;                     /* to the other process */
    int raw;                      /* tcp: a socket of the raw loop's own */
    uint8_t id[NCCLRAW_ID_BYTES]; /* ipc, nccl: of the raw loop's communicator */
    ncclraw *raw_nccl;
    uint8_t *raw_bytes; /* tcp: [RAW_BYTES]; local, shm: where memcpy copies to */
    kvend end, other;   /* other: local's D */
    board *board;
} side;

/* ---- the raw ways ---------------------------------------------------------------------------- */

static bool raw_socket(const side *s, uint64_t bytes) {
    while (bytes > 0) {
        size_t part = bytes < RAW_BYTES ? (size_t)bytes : RAW_BYTES;
        ssize_t n =
            s->receiver ? read(s->raw, s->raw_bytes, part) : write(s->raw, s->raw_bytes, part);
        if (n <= 0) {
            return false;
        }
        bytes -= (uint64_t)n;
    }
    return true;
}

/* This side's half of moving the bytes of `tokens` tokens without weir. */
static bool raw_way(side *s, uint32_t tokens) {
    uint64_t bytes = kvend_bytes(&s->end, tokens);
    uint32_t groups = kvend_groups(&s->end, tokens);
    switch (s->transport) {
        case KVEND_TCP:
            return raw_socket(s, bytes);
        case KVEND_IPC:
        case KVEND_NCCL:
            return ncclraw_run(s->raw_nccl, bytes / groups, groups) == STATUS_OK;
        case KVEND_LOCAL:
        case KVEND_SHM:
        case KVEND_TRANSPORTS:
        default:
            if (!s->receiver) {
                kvend_copy(&s->end, tokens, s->raw_bytes);
            }
            return true;
    }
}

/* ---- D's process ----------------------------------------------------------------------------- */

static bool tell(int fd, const void *what, size_t bytes) {
    return write(fd, what, bytes) == (ssize_t)bytes;
}

static bool hear(int fd, void *what, size_t bytes) {
    return read(fd, what, bytes) == (ssize_t)bytes;
}

static void serve(side *s) {
    ask a;
    while (hear(s->sync, &a, sizeof a) && a.kind != ASK_END) {
        bool good = a.kind == ASK_RAW || kvend_post(&s->end, a.tokens) == STATUS_OK;
        if (!good || !tell(s->sync, "", 1)) {
            return;
        }
        good = a.kind == ASK_RAW ? raw_way(s, a.tokens)
                                 : kvend_receive(&s->end, a.tokens) == STATUS_OK;
        s->board->end_us = clock_now_us();
        if (!good || !tell(s->sync, "", 1)) {
            return;
        }
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool tcp_pair(int fds[2]) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good =
        listener >= 0 && fds[0] >= 0 && bind(listener, (struct sockaddr *)&at, sizeof at) == 0 &&
        listen(listener, 1) == 0 && getsockname(listener, (struct sockaddr *)&at, &bytes) == 0 &&
        connect(fds[0], (struct sockaddr *)&at, sizeof at) == 0;
    fds[1] = good ? accept(listener, NULL, NULL) : -1;
    (void)close(listener);
    return fds[1] >= 0;
}

/* Two ranks on one device look like two hosts to NCCL, which refuses them on one. */
static int gpu_of(const side *s) {
    int count = 0;
    diag d;
    if (!kvend_on_device(s->transport)) {
        return 0;
    }
    (void)setenv("NCCL_HOSTID", s->receiver ? "weir-bench-d" : "weir-bench-p", 0);
    return ncclraw_devices(&count, &d) == STATUS_OK && count > 1 && s->receiver ? 1 : 0;
}

static status open_raw(side *s, int gpu, diag *d) {
    uint64_t bytes = s->end.unit * s->shape.layers * KVEND_POOL_PAGES;
    if (kvend_on_device(s->transport)) {
        uint64_t most = s->shape.group_bytes > s->end.unit ? s->shape.group_bytes : s->end.unit;
        if (!s->receiver) {
            TRY(ncclraw_id(s->id, d));
            (void)tell(s->sync, s->id, sizeof s->id);
        } else if (!hear(s->sync, s->id, sizeof s->id)) {
            return status_fail(d, STATUS_CLOSED, "P has gone");
        }
        return ncclraw_open(gpu, s->receiver, s->id, NCCL_CTAS, most, &s->raw_nccl, d);
    }
    s->raw_bytes = mem_calloc(s->transport == KVEND_TCP ? RAW_BYTES : bytes, 1);
    return s->raw_bytes ? STATUS_OK : status_fail(d, STATUS_NOMEM, "no memory for the raw loop");
}

static void close_side(side *s) {
    ncclraw_close(s->raw_nccl);
    kvend_close(&s->end);
    kvend_close(&s->other);
    mem_free(s->raw_bytes);
    if (s->raw >= 0) {
        (void)close(s->raw);
    }
    if (s->sync >= 0) {
        (void)close(s->sync);
    }
}

static status open_side(side *s, int data, diag *d) {
    int gpu = gpu_of(s);
    TRY(kvend_open(&s->end, s->transport, &s->shape, s->receiver, data, gpu, d));
    if (s->transport == KVEND_LOCAL) {
        TRY(kvend_open(&s->other, s->transport, &s->shape, true, -1, 0, d));
        TRY(kvend_join(&s->end, &s->other, d));
    }
    return open_raw(s, gpu, d);
}

static void d_process(side *s, int data) {
    diag d = {.code = STATUS_OK};
    s->receiver = true;
    status opened = open_side(s, data, &d);
    s->board->why = d;
    s->board->ready = opened == STATUS_OK ? 1 : -1;
    if (opened == STATUS_OK) {
        serve(s);
    }
    close_side(s);
    bool hung;
    while (nccl_aborting(&hung) > 0 && !hung) {
        clock_sleep_us(1000);
    }
}

/* ---- measuring ------------------------------------------------------------------------------- */

/* Microseconds of one transfer; negative: it failed. */
static int64_t one(side *s, ask_kind kind, uint32_t tokens) {
    ask a = {kind, tokens};
    char ok;
    if (s->transport == KVEND_LOCAL) {
        if (kind == ASK_TRANSFER && kvend_post(&s->end, tokens) != STATUS_OK) {
            return -1;
        }
    } else if (!tell(s->sync, &a, sizeof a) || !hear(s->sync, &ok, 1)) {
        return -1;
    }
    int64_t from_ns = clock_now_ns();
    bool good = kind == ASK_RAW ? raw_way(s, tokens) : kvend_send(&s->end, tokens) == STATUS_OK;
    int64_t here_ns = clock_now_ns() - from_ns;
    if (s->transport == KVEND_LOCAL || !good) {
        return good ? here_ns / 1000 : -1;
    }
    if (!hear(s->sync, &ok, 1)) {
        return -1;
    }
    bool copied_here = kind == ASK_RAW && s->transport == KVEND_SHM;
    return copied_here ? here_ns / 1000 : s->board->end_us - from_ns / 1000;
}

static void report(const side *s, uint32_t tokens, uint32_t times, int64_t us, int64_t raw_us) {
    double bytes = (double)kvend_bytes(&s->end, tokens);
    double rate = bytes / ((double)(us > 0 ? us : 1) * 1e3);
    double raw = bytes / ((double)(raw_us > 0 ? raw_us : 1) * 1e3);
    const char *name = kvend_names[s->transport];
    if (s->o->json) {
        (void)printf(
            "{\"transport\":\"%s\",\"tokens\":%u,\"bytes\":%.0f,\"groups\":%u,"
            "\"transfers\":%u,\"ms\":%.3f,\"gb_per_second\":%.3f,"
            "\"raw_gb_per_second\":%.3f}\n",
            name, tokens, bytes, kvend_groups(&s->end, tokens), times, (double)us / 1e3, rate, raw);
    } else {
        (void)printf("%-9s %7u %10.2f %7u %10.3f %9.2f %9.2f %6.0f %%\n", name, tokens, bytes / 1e6,
                     kvend_groups(&s->end, tokens), (double)us / 1e3, rate, raw, 100 * rate / raw);
    }
    (void)fflush(stdout);
}

/* Weir and the raw way in turns. */
static bool measure(side *s, uint32_t tokens) {
    int64_t best_us = INT64_MAX, raw_us = INT64_MAX;
    int64_t until_us = clock_now_us() + s->o->seconds_ms * 1000;
    uint32_t times = 0;
    if (kvend_groups(&s->end, tokens) > KVT_JOBS_MAX) {
        (void)printf("%-9s %7u    more than %d groups: give a larger --group-bytes\n",
                     kvend_names[s->transport], tokens, KVT_JOBS_MAX);
        return true;
    }
    for (; times < 3 || clock_now_us() < until_us; times++) {
        int64_t us = one(s, ASK_TRANSFER, tokens);
        int64_t raw = us < 0 ? -1 : one(s, ASK_RAW, tokens);
        if (raw < 0) {
            (void)fprintf(stderr, "%s: a transfer of %u tokens failed%s%s\n",
                          kvend_names[s->transport], tokens,
                          kvend_on_device(s->transport) ? ": " : "",
                          kvend_on_device(s->transport) ? devpair_reason(s->end.channel) : "");
            return false;
        }
        best_us = us < best_us ? us : best_us;
        raw_us = raw < raw_us ? raw : raw_us;
    }
    report(s, tokens, times, best_us, raw_us);
    return true;
}

static bool measure_all(side *s) {
    const char *at = s->o->tokens;
    bool good = true;
    while (good && *at) {
        char *end;
        unsigned long tokens = strtoul(at, &end, 10);
        good = end != at && tokens >= 1 && tokens <= TOKENS_MAX && (*end == ',' || *end == 0);
        if (!good) {
            (void)fprintf(stderr, "--tokens: numbers from 1 to %d, parted by commas\n", TOKENS_MAX);
            break;
        }
        good = measure(s, (uint32_t)tokens);
        at = *end ? end + 1 : end;
    }
    return good;
}

/* D is open, or says why not. */
static bool d_is_there(side *s, pid_t child) {
    while (s->transport != KVEND_LOCAL && s->board->ready == 0 &&
           waitpid(child, NULL, WNOHANG) == 0) {
        clock_sleep_us(1000);
    }
    return s->transport == KVEND_LOCAL || s->board->ready == 1;
}

static bool run_transport(const settings *o, kvend_transport t, board *b) {
    int sync[2] = {-1, -1}, data[2] = {-1, -1}, raw[2] = {-1, -1};
    diag d = {.code = STATUS_OK};
    pid_t child = -1;
    *b = (board){0};
    side s = {.o = o,
              .transport = t,
              .shape = {(uint32_t)o->layers, (uint32_t)o->kv_heads, (uint32_t)o->head_dim,
                        (uint64_t)o->group_bytes},
              .sync = -1,
              .raw = -1,
              .board = b};
    if (t != KVEND_LOCAL) {
        bool sockets = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sync) == 0 &&
                       (t == KVEND_SHM ? wire_pair(data) == STATUS_OK : tcp_pair(data)) &&
                       (t != KVEND_TCP || tcp_pair(raw));
        (void)fflush(stdout);
        child = sockets ? fork() : -1;
        if (child < 0) {
            (void)fprintf(stderr, "%s: no sockets or no process\n", kvend_names[t]);
            return false;
        }
        int mine = child == 0 ? 1 : 0;
        (void)close(sync[1 - mine]);
        (void)close(data[1 - mine]);
        if (raw[0] >= 0) {
            (void)close(raw[1 - mine]);
        }
        s.sync = sync[mine];
        s.raw = raw[mine];
        if (child == 0) {
            d_process(&s, data[1]);
            _exit(0);
        }
    }
    bool open = open_side(&s, data[0], &d) == STATUS_OK && d_is_there(&s, child);
    bool good = open && measure_all(&s);
    if (!open) {
        (void)printf("%-9s not here: %s\n", kvend_names[t], d.text[0] ? d.text : b->why.text);
        good = o->transport == (int32_t)KVEND_TRANSPORTS && kvend_on_device(t);
    }
    close_side(&s);
    if (child > 0) {
        (void)waitpid(child, NULL, 0);
    }
    return good;
}

static int run_all(const settings *o) {
    bool good = true;
    board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b == MAP_FAILED) {
        return 1;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    if (!o->json) {
        (void)printf("%-9s %7s %10s %7s %10s %9s %9s %8s\n", "transport", "tokens", "MB", "groups",
                     "best ms", "GB/s", "raw GB/s", "of raw");
    }
    for (int t = 0; t < KVEND_TRANSPORTS; t++) {
        if (o->transport == (int32_t)KVEND_TRANSPORTS || o->transport == t) {
            good = run_transport(o, (kvend_transport)t, b) && good;
        }
    }
    (void)munmap(b, sizeof *b);
    return good ? 0 : 1;
}

int kvbench(int argc, char *const *argv) {
    settings o;
    config c;
    int code;
    bool starts = config_start(&c, &table, argc, argv, &o, &code);
    if (starts && o.head_dim % PAGE_TOKENS != 0) {
        (void)fprintf(stderr, "weir bench kv: --head-dim: a multiple of 16\n");
        code = 2;
    } else if (starts) {
        code = run_all(&o);
    }
    config_close(&c);
    return code;
}
