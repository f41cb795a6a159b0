/* main.c -- the `weir` command: picks the sub-command. The only file that sees all layers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench/engine.h"
#include "bench/kernels.h"
#include "bench/kvbench.h"
#include "bench/loadgen.h"
#include "bench/routebench.h"
#include "engine/base/config.h"
#include "engine/base/failpoint.h"
#include "engine/base/log.h"
#include "engine/worker/timedprofile.h"
#include "engine/worker/worker.h"
#include "models/text/tokenizer.h"
#include "server/commands.h"
#include "server/control/controller.h"
#include "server/gateway/pool.h"
#include "server/serve.h"
#include "server/version.h"
#include "server/workerflags.h"

typedef struct {
    const char *model, *backend, *profile, *trace, *join, *listen, *key_file;
    int64_t worker, epoch, queue_ms, drain_ms, link_fd, cores_fd, threads, threads_own, kv_bytes,
        context, seqs, chunk, kv_pairs, pace_ms, kv_block;
    int32_t role, kv_dtype, activations, weights, kv_transport, log_level;
    int64_t decode_share;
    bool log_json, deterministic, multiplex;
    int64_t device, ranks;
    double memory_fraction, device_share;
    const char *price_table;
    bool flips;
} worker_settings;

#define FIELD(name) offsetof(worker_settings, name)

static const char *const roles[] = {"prefill", "decode", "both", NULL};

static const config_option worker_flags[] = {
    {"role", CONFIG_ENUM, FIELD(role), 0, 0, "both", roles, NULL, "which phases it runs"},
    {"flips", CONFIG_BOOL, FIELD(flips), 0, 0, "false", NULL, NULL,
     "its role can be changed while it runs"},
    {"join", CONFIG_STRING, FIELD(join), 0, 1023, NULL, NULL, "HOST:PORT,...",
     "join the cluster whose hub is there; with several controllers, all their addresses"},
    {"listen", CONFIG_STRING, FIELD(listen), 0, 255, NULL, NULL, "HOST:PORT",
     "where other hosts reach this worker; default: the address from which it reaches the hub, on "
     "a free port"},
    {"cluster-key-file", CONFIG_STRING, FIELD(key_file), 0, 4095, NULL, NULL, "FILE",
     "the cluster's key (or WEIR_CLUSTER_KEY); needed unless all addresses are loopback"},
    {"worker", CONFIG_INT, FIELD(worker), -1, LIMIT_WORKERS - 1, "-1", NULL, NULL,
     "its number; -1: the hub gives it one"},
    {"epoch", CONFIG_INT, FIELD(epoch), 0, 0x1p62, "0", NULL, NULL,
     "which life of that worker this is; grows; 0: makes one"},
    {"link-fd", CONFIG_INT, FIELD(link_fd), -1, 1 << 20, "-1", NULL, NULL,
     "descriptor of the socket to the gateway that started it"},
    {"model", CONFIG_STRING, FIELD(model), 0, 4095, NULL, NULL, "PATH",
     "GGUF file or Hugging Face folder"},
    {"backend", CONFIG_STRING, FIELD(backend), 0, 31, "auto", NULL, "NAME",
     "where the model runs: cpu, cuda, or timed, which sleeps instead; auto: cuda where there is a "
     "GPU, else cpu"},
    {"device", CONFIG_INT, FIELD(device), 0, 1023, "0", NULL, NULL, "which GPU"},
    {"tensor-parallel-size", CONFIG_INT, FIELD(ranks), 1, WORKERFLAGS_RANKS_MAX, "1", NULL, NULL,
     WORKERFLAGS_RANKS},
    {"memory-fraction", CONFIG_DOUBLE, FIELD(memory_fraction), 0.001, 1, "0.9", NULL, NULL,
     "of the GPU's memory, what this worker takes in all: weights, workspaces, KV cache"},
    {"device-share", CONFIG_DOUBLE, FIELD(device_share), 0, 1024, "0", NULL, NULL,
     "GPUs, or cores, that count as this worker's in the accounts of waste; 0: what follows from "
     "--memory-fraction or --threads-own"},
    {"price-table", CONFIG_STRING, FIELD(price_table), 0, 4095, NULL, NULL, "FILE",
     "lines DEVICE = PRICE [TFLOPS [GBPS]]: an hour of a GPU or core (cuda, sm_90, cpu, timed, "
     "...), and its peaks"},
    {"deterministic", CONFIG_BOOL, FIELD(deterministic), 0, 0, "false", NULL, NULL,
     "on a GPU, the same tokens however work is divided and batched"},
    {"profile", CONFIG_STRING, FIELD(profile), 0, 4095, NULL, NULL, "FILE",
     "of the timed backend: how long steps and transfers take; default: one Xeon thread"},
    {"threads", CONFIG_INT, FIELD(threads), 0, LIMIT_THREADS, "0", NULL, NULL,
     "compute threads; 0: one a CPU that the affinity mask and the cgroup's quota allow"},
    {"threads-own", CONFIG_INT, FIELD(threads_own), 1, LIMIT_THREADS, "1", NULL, NULL,
     "threads it keeps while the other workers of this machine are busy"},
    {"cores-fd", CONFIG_INT, FIELD(cores_fd), -1, 1 << 20, "-1", NULL, NULL,
     "descriptor of the board on which local workers lend each other cores"},
    {"pd-multiplex", CONFIG_BOOL, FIELD(multiplex), 0, 0, "false", NULL, NULL,
     "with --role both: prompts and decoding run side by side over one KV cache, each on a part of "
     "the cores and on all of them while the other is idle"},
    {"pd-decode-share", CONFIG_INT, FIELD(decode_share), 0, 90, "33", NULL, NULL,
     WORKERFLAGS_DECODE_SHARE},
    {"decode-pace-ms", CONFIG_INT, FIELD(pace_ms), 0, 10000, "0", NULL, NULL, WORKERFLAGS_PACE},
    {"kv-memory", CONFIG_BYTES, FIELD(kv_bytes), 0, 0x1p50, "0", NULL, NULL,
     "KV cache; 0: on a GPU what --memory-fraction leaves, else 1g"},
    {"kv-block-tokens", CONFIG_INT, FIELD(kv_block), LIMIT_PAGE_TOKENS,
     LIMIT_BLOCK_PAGES *LIMIT_PAGE_TOKENS, "16", NULL, NULL, WORKERFLAGS_KV_BLOCK},
    {"kv-dtype", CONFIG_ENUM, FIELD(kv_dtype), 0, 0, "auto", workerflags_kv_dtypes, NULL,
     "dtype of the cache; auto: int8 on the CPU, f16 elsewhere"},
    {"weights", CONFIG_ENUM, FIELD(weights), 0, 0, "file", workerflags_weights, NULL,
     "how weights of F32, F16 and BF16 are kept: as the file has them, or as Q8_0"},
    {"activations", CONFIG_ENUM, FIELD(activations), 0, 0, "auto", workerflags_activations, NULL,
     "how activations meet weights; bf16, mixed (prompts bf16, the rest int8): with AMX-BF16; "
     "auto: mixed there, else int8"},
    {"kv-transport", CONFIG_ENUM, FIELD(kv_transport), 0, 0, "auto", workerflags_kv_transports,
     NULL, "what may carry KV to and from other workers; auto: the best that both have"},
    {"kv-pairs-max", CONFIG_INT, FIELD(kv_pairs), 0, LIMIT_WORKERS, "32", NULL, NULL,
     "NCCL communicators at once: beyond it the pair that has been idle longest gives its up; 0: "
     "no "
     "limit"},
    {"context", CONFIG_INT, FIELD(context), 0, LIMIT_CONTEXT_TOKENS, "0", NULL, NULL,
     "longest sequence; 0: what the model was trained for"},
    {"max-seqs", CONFIG_INT, FIELD(seqs), 1, 1024, "64", NULL, NULL, "sequences decoded at once"},
    {"prefill-chunk", CONFIG_INT, FIELD(chunk), 16, 8192, "256", NULL, NULL,
     "prompt tokens of a step"},
    {"trace", CONFIG_STRING, FIELD(trace), 0, 4000, NULL, NULL, "DIR",
     "leave the newest spans here as Chrome trace JSON at the end"},
    {"queue-timeout-ms", CONFIG_INT, FIELD(queue_ms), 1, 3600000, "300000", NULL, NULL,
     "how long a request waits for KV pages before it is refused"},
    {"drain-timeout-ms", CONFIG_INT, FIELD(drain_ms), 0, 3600000, "30000", NULL, NULL,
     "how long requests may go on after SIGTERM; then others finish them"},
    {"log-level", CONFIG_ENUM, FIELD(log_level), 0, 0, "info", log_level_names, NULL,
     "least level logged"},
    {"log-json", CONFIG_BOOL, FIELD(log_json), 0, 0, "false", NULL, NULL, "log lines as JSON"},
};

static const config_table worker_table = {"weir worker",
                                          "One model replica. `weir serve` starts these, and they "
                                          "end with it; with --join one serves the "
                                          "gateways of a cluster.",
                                          worker_flags,
                                          sizeof worker_flags / sizeof worker_flags[0], NULL};

/* The ids that end a generation come from the tokeniser, which the worker layer does not know. */
static status find_eog(const char *path, int32_t eog[16], int32_t *count, diag *d) {
    gguf *file;
    tokenizer *t;
    TRY(gguf_open(path, &file, d));
    status s = tokenizer_open(file, &t, d);
    gguf_close(file);
    if (s != STATUS_OK) {
        return s;
    }
    *count = 0;
    for (int32_t id = 0; id < tokenizer_vocab_count(t) && *count < 16; id++) {
        if (tokenizer_is_eog(t, id)) {
            eog[(*count)++] = id;
        }
    }
    tokenizer_close(t);
    return STATUS_OK;
}

/* Joining needs the hub's address, and the key wherever other hosts could come in. */
static status read_cluster(const worker_settings *o, worker_options *w, diag *d) {
    w->joins = o->join != NULL;
    w->listens = o->listen != NULL;
    if (!w->joins && o->link_fd < 0) {
        return status_fail(d, STATUS_INVALID, "--join HOST:PORT is needed");
    }
    if (!w->joins && !w->listens) {
        return STATUS_OK;
    }
    TRY(clusterkey_read(o->key_file, &w->key, d));
    if (w->joins) {
        TRY(member_hubs_read(&w->key, o->join, "join", &w->hubs, d));
    }
    return w->listens ? clusterkey_address(&w->key, o->listen, "listen", &w->listen, d) : STATUS_OK;
}

static status run_worker(const worker_settings *o, const char *name, diag *d) {
    static const uint32_t role_bits[] = {MESSAGE_ROLE_PREFILL, MESSAGE_ROLE_DECODE,
                                         MESSAGE_ROLE_PREFILL | MESSAGE_ROLE_DECODE};
    int32_t eog[16];
    worker_options w = {.model_path = o->model,
                        .backend = o->backend,
                        .device = (int32_t)o->device,
                        .ranks = (int32_t)o->ranks,
                        .memory_fraction = o->memory_fraction,
                        .deterministic = o->deterministic,
                        .device_share = o->device_share,
                        .price_table = o->price_table,
                        .profile_path = o->profile,
                        .roles = role_bits[o->role] | (o->flips ? MESSAGE_ROLE_FLIPS : 0u),
                        .worker = o->worker < 0 ? MESSAGE_NO_WORKER : (uint32_t)o->worker,
                        .epoch = (uint64_t)o->epoch,
                        .gateway_fd = (int)o->link_fd,
                        .threads = (int32_t)o->threads,
                        .threads_own = (int32_t)o->threads_own,
                        .cores_fd = (int)o->cores_fd,
                        .multiplex = o->multiplex,
                        .decode_percent = (int32_t)o->decode_share,
                        .pace_us = o->pace_ms * 1000,
                        .kv_type = (backend_kv_type)o->kv_dtype,
                        .weights = (model_weights)o->weights,
                        .activations = (backend_activations)o->activations,
                        .kv_bytes = (uint64_t)o->kv_bytes,
                        .block_tokens = (uint32_t)o->kv_block,
                        .context_tokens = (int32_t)o->context,
                        .seqs_max = (int32_t)o->seqs,
                        .prefill_chunk_tokens = (int32_t)o->chunk,
                        .queue_us = o->queue_ms * 1000,
                        .drain_us = o->drain_ms * 1000,
                        .kv_transports = o->kv_transport ? 1u << (o->kv_transport - 1) : 0,
                        .kv_pairs_max = (uint32_t)o->kv_pairs,
                        .ring_bytes = strcmp(o->backend, "timed") ? 32 << 20 : 1 << 20,
                        .group_bytes = 4 << 20,
                        .trace_directory = o->trace,
                        .name = name,
                        .eog = eog};
    if (o->multiplex && w.roles != role_bits[2]) {
        return status_fail_param(d, STATUS_INVALID, "pd-multiplex",
                                 "--pd-multiplex needs --role both");
    }
    TRY(failpoint_setup_env(d));
    TRY(failpoint_listen(name, d));
    TRY(read_cluster(o, &w, d));
    TRY(find_eog(o->model, eog, &w.eog_count, d));
    return worker_run(&w, d);
}

static int worker_main(int argc, char *const *argv) {
    worker_settings o = {0};
    config c;
    diag d;
    int code;
    bool starts = config_start(&c, &worker_table, argc, argv, &o, &code);
    if (starts && !o.model && !(o.model = getenv("WEIR_DEFAULT_MODEL"))) {
        (void)fprintf(stderr, "weir worker: --model FILE is needed\n");
        code = 2;
    } else if (starts) {
        char name[32];
        bool numbered = o.worker >= 0;
        (void)snprintf(name, sizeof name, "%s-%s%d", roles[o.role], numbered ? "" : "pid",
                       numbered ? (int)o.worker : (int)getpid());
        log_setup((log_level)o.log_level, o.log_json, name);
        if (run_worker(&o, name, &d) != STATUS_OK) {
            LOG(ERROR, "worker", "ends", "why=\"%s\"", d.text);
            code = 1;
        }
    }
    config_close(&c);
    return code;
}

/* Only workers know what a profile is. */
static status check_profile(const char *path, diag *d) {
    timedprofile read;
    return timedprofile_read(path, &read, d);
}

static int serve(int argc, char *const *argv) {
    return serve_main(argc, argv, check_profile);
}

static int controller(int argc, char *const *argv) {
    return controller_main(argc, argv, VERSION_TEXT);
}

static int version_main(int argc, char *const *argv) {
    (void)argc;
    (void)argv;
    (void)printf("weir %s\n", VERSION_TEXT);
    return 0;
}

typedef struct {
    const char *name;
    int (*run)(int argc, char *const *argv);
    const char *help;
} command;

static int usage(FILE *to, const char *program, const command *list, size_t count) {
    (void)fprintf(to, "usage: %s COMMAND [options]   (%s COMMAND --help tells more)\n\n", program,
                  program);
    for (size_t i = 0; i < count; i++) {
        (void)fprintf(to, "  %-11s %s\n", list[i].name, list[i].help);
    }
    return to == stdout ? 0 : 2;
}

/* Runs the command that the first word names, with the words after it. */
static int dispatch(const char *program, const command *list, size_t count, int argc,
                    char *const *argv) {
    if (argc < 1) {
        return usage(stderr, program, list, count);
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0 ||
        strcmp(argv[0], "help") == 0) {
        return usage(stdout, program, list, count);
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(argv[0], list[i].name) == 0) {
            return list[i].run(argc - 1, argv + 1);
        }
    }
    (void)fprintf(stderr, "%s: there is no command \"%s\"\n\n", program, argv[0]);
    return usage(stderr, program, list, count);
}

static int bench_main(int argc, char *const *argv) {
    static const command list[] = {
        {"engine", engine_bench, "prefill and decode of a model, without a server"},
        {"kernels", kernels_bench, "the operators that a model is made of"},
        {"kv", kvbench, "KV pages over each transport"},
        {"route", routebench, "what a routing decision costs, and what it is worth"},
        {"serve", loadgen_main, "load on a running server over HTTP"},
    };
    return dispatch("weir bench", list, sizeof list / sizeof list[0], argc, argv);
}

/* Every client and every link takes descriptors, and nothing here uses select(), for which the soft
 * limit is kept low. */
static void raise_descriptors(void) {
    const rlim_t enough = 1 << 16;
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max && r.rlim_cur < enough) {
        r.rlim_cur = r.rlim_max < enough ? r.rlim_max : enough;
        (void)setrlimit(RLIMIT_NOFILE, &r); /* else there are as many as there were */
    }
}

int main(int argc, char **argv) {
    static const command list[] = {
        {"serve", serve, "serve a model: gateway and local workers"},
        {"gateway", serve_gateway_main, "an HTTP front end for the workers of a cluster"},
        {"worker", worker_main, "one model replica: started by serve, or joins a cluster"},
        {"controller", controller, "the hub of a cluster, which sizes its pools"},
        {"bench", bench_main, "measure the engine or a running server"},
        {"tokenize", commands_tokenize, "print the token ids of a text"},
        {"template", commands_template, "print what a chat template renders"},
        {"version", version_main, "print the version"},
    };
    raise_descriptors();
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        return version_main(0, NULL);
    }
    return dispatch("weir", list, sizeof list / sizeof list[0], argc - 1, argv + 1);
}
