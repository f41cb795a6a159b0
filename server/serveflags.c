/* serveflags.c -- what can be set, its range, its default, and its line in --help. */
#include "server/serveflags.h"

#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "server/workerflags.h"

const char *const serveflags_backends[] = {"auto", "cpu", "cuda", "timed", NULL};
static const char *const routings[] = {"cost", "random", "round-robin", NULL};

#define FIELD(name) offsetof(serveflags, name)

enum { POOL_MAX = LIMIT_WORKERS / 2 }; /* workers of a role: both pools fit */

/* What both commands have: a model to know by, an address, limits. */
#define NAME_FLAGS                                                                          \
    {"host", CONFIG_STRING, FIELD(host),           0, 255, "127.0.0.1",                     \
     NULL,   "ADDRESS",     "address to listen on"},                                        \
        {"port", CONFIG_INT, FIELD(port),                                                   \
         0,      65535,      "8000",                                                        \
         NULL,   NULL,       "port to listen on; 0 takes a free one"},                      \
        {"model", CONFIG_STRING, FIELD(model),                                              \
         0,       4095,          NULL,                                                      \
         NULL,    "PATH",        "GGUF file or Hugging Face folder to serve"},              \
    {                                                                                       \
        "served-model-name", CONFIG_STRING, FIELD(served_name), 1, 255, NULL, NULL, "NAME", \
            "name clients use; default: the name of the file (without .gguf) or folder"     \
    }

#define FRONT_FLAGS                                                                                \
    {"context",                                                                                    \
     CONFIG_INT,                                                                                   \
     FIELD(context),                                                                               \
     0,                                                                                            \
     LIMIT_CONTEXT_TOKENS,                                                                         \
     "0",                                                                                          \
     NULL,                                                                                         \
     NULL,                                                                                         \
     "longest prompt and answer together, in tokens; 0: what the model was trained for"},          \
        {"local-prefill-max",                                                                      \
         CONFIG_INT,                                                                               \
         FIELD(local_prefill_max),                                                                 \
         0,                                                                                        \
         LIMIT_CONTEXT_TOKENS,                                                                     \
         "16",                                                                                     \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "a prompt whose uncached part is not longer is computed where it is decoded"},            \
        {"route",                                                                                  \
         CONFIG_ENUM,                                                                              \
         FIELD(route),                                                                             \
         0,                                                                                        \
         0,                                                                                        \
         "cost",                                                                                   \
         routings,                                                                                 \
         NULL,                                                                                     \
         "how workers are chosen; the others are for finding out whether routing is to blame"},    \
        {"max-requests",                                                                           \
         CONFIG_INT,                                                                               \
         FIELD(requests),                                                                          \
         1,                                                                                        \
         4096,                                                                                     \
         "512",                                                                                    \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "requests under way or waiting; more are answered 503"},                                  \
        {"max-requests-per-key",                                                                   \
         CONFIG_INT,                                                                               \
         FIELD(key_requests),                                                                      \
         0,                                                                                        \
         4096,                                                                                     \
         "0",                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "of those, one API key's; more are answered 429; 0: all with one key, else half"},        \
        {"ttft-slo-ms",                                                                            \
         CONFIG_INT,                                                                               \
         FIELD(ttft_slo_ms),                                                                       \
         0,                                                                                        \
         3600000,                                                                                  \
         "30000",                                                                                  \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "what would wait longer for its first token is answered 503 at once; 0: nothing is"},     \
        {"max-connections",                                                                        \
         CONFIG_INT,                                                                               \
         FIELD(connections),                                                                       \
         1,                                                                                        \
         16384,                                                                                    \
         "1024",                                                                                   \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "open HTTP connections; more are answered 503"},                                          \
        {"text-threads",                                                                           \
         CONFIG_INT,                                                                               \
         FIELD(text_threads),                                                                      \
         1,                                                                                        \
         16,                                                                                       \
         "1",                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "threads that render templates and tokenise"},                                            \
        {"http-threads",                                                                           \
         CONFIG_INT,                                                                               \
         FIELD(http_threads),                                                                      \
         1,                                                                                        \
         16,                                                                                       \
         "1",                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "threads that read and write HTTP"},                                                      \
        {"api-key",                                                                                \
         CONFIG_STRING,                                                                            \
         FIELD(api_key),                                                                           \
         0,                                                                                        \
         255,                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "KEY",                                                                                    \
         "require this key (visible in the process list: prefer --api-key-file or WEIR_API_KEY)"}, \
        {"api-key-file",                                                                           \
         CONFIG_STRING,                                                                            \
         FIELD(api_key_file),                                                                      \
         0,                                                                                        \
         4095,                                                                                     \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "FILE",                                                                                   \
         "require one of these keys, one a line"},                                                 \
        {"metrics-open", CONFIG_BOOL, FIELD(metrics_open),    0, 0, "false",                       \
         NULL,           NULL,        "/metrics needs no key"},                                    \
        {"drain-timeout-ms",                                                                       \
         CONFIG_INT,                                                                               \
         FIELD(drain_ms),                                                                          \
         0,                                                                                        \
         3600000,                                                                                  \
         "30000",                                                                                  \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "how long requests may go on after SIGTERM"},                                             \
        {"heartbeat-timeout-ms",                                                                   \
         CONFIG_INT,                                                                               \
         FIELD(silence_ms),                                                                        \
         500,                                                                                      \
         600000,                                                                                   \
         "3000",                                                                                   \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "a worker this quiet is killed and its requests go elsewhere"},                           \
        {"queue-timeout-ms",                                                                       \
         CONFIG_INT,                                                                               \
         FIELD(pending_ms),                                                                        \
         1,                                                                                        \
         3600000,                                                                                  \
         "300000",                                                                                 \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "how long a request waits for workers or KV pages before it is answered 503"},            \
        {"trace",                                                                                  \
         CONFIG_STRING,                                                                            \
         FIELD(trace),                                                                             \
         0,                                                                                        \
         4000,                                                                                     \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "DIR",                                                                                    \
         "each process leaves its newest spans in DIR as Chrome trace JSON when it ends"},         \
        {"otlp-endpoint",                                                                          \
         CONFIG_STRING,                                                                            \
         FIELD(otlp_endpoint),                                                                     \
         0,                                                                                        \
         900,                                                                                      \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "URL",                                                                                    \
         "send traces of requests to the OpenTelemetry collector there (http://host:4318)"},       \
        {"otlp-headers",                                                                           \
         CONFIG_STRING,                                                                            \
         FIELD(otlp_headers),                                                                      \
         0,                                                                                        \
         4095,                                                                                     \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "NAME=VALUE,...",                                                                         \
         "with each batch, values percent-encoded; for keys prefer OTEL_EXPORTER_OTLP_HEADERS: "   \
         "flags are visible in the process list"},                                                 \
        {"otlp-sample",                                                                            \
         CONFIG_DOUBLE,                                                                            \
         FIELD(otlp_sample),                                                                       \
         0,                                                                                        \
         1,                                                                                        \
         "1",                                                                                      \
         NULL,                                                                                     \
         "RATIO",                                                                                  \
         "of requests that come without a traceparent, the share that is traced"},                 \
        {"log-level",     CONFIG_ENUM, FIELD(log_level),    0, 0, "info",                          \
         log_level_names, NULL,        "least level logged"},                                      \
    {                                                                                              \
        "log-json", CONFIG_BOOL, FIELD(log_json), 0, 0, "false", NULL, NULL, "log lines as JSON"   \
    }

#define KEY_FLAG                                                                                \
    {                                                                                           \
        "cluster-key-file", CONFIG_STRING, FIELD(key_file), 0, 4095, NULL, NULL, "FILE",        \
            "the cluster's key (or WEIR_CLUSTER_KEY); needed unless all addresses are loopback" \
    }

static const config_option options[] = {
    NAME_FLAGS,
    {"prefill", CONFIG_INT, FIELD(prefill), 0, POOL_MAX, "1", NULL, NULL, "prefill workers"},
    {"decode", CONFIG_INT, FIELD(decode), 0, POOL_MAX, "1", NULL, NULL, "decode workers"},
    {"autoscale", CONFIG_BOOL, FIELD(autoscale), 0, 0, "false", NULL, NULL,
     "start, stop and flip local workers as the load asks for; --prefill and --decode are how many "
     "there are at first"},
    {"prefill-min", CONFIG_INT, FIELD(prefill_min), 0, POOL_MAX, "1", NULL, NULL,
     "with --autoscale: never fewer prefill workers; 0: none while nothing comes"},
    {"prefill-max", CONFIG_INT, FIELD(prefill_max), 1, POOL_MAX, "4", NULL, NULL, "never more"},
    {"decode-min", CONFIG_INT, FIELD(decode_min), 0, POOL_MAX, "1", NULL, NULL,
     "the same for decode"},
    {"decode-max", CONFIG_INT, FIELD(decode_max), 1, POOL_MAX, "4", NULL, NULL, "never more"},
    {"gpu-cap", CONFIG_DOUBLE, FIELD(gpu_cap), 0, 1024, "0", NULL, NULL,
     "workers of both roles together, those that still drain too; 0: both maxima"},
    {"slo-ttft-ms", CONFIG_INT, FIELD(slo_ttft_ms), 1, 3600000, "2000", NULL, NULL,
     "objective of --autoscale: time to the first token of 95 % of requests"},
    {"slo-tpot-ms", CONFIG_INT, FIELD(slo_tpot_ms), 1, 60000, "100", NULL, NULL,
     "and time per token after it"},
    {"scale-hold-s", CONFIG_INT, FIELD(hold_s), 5, 86400, "300", NULL, NULL,
     "no worker goes before the load of so long fits in fewer"},
    {"scale-idle-s", CONFIG_INT, FIELD(idle_s), 5, 86400, "300", NULL, NULL,
     "a pool whose minimum is 0 goes after so long without a request"},
    {"scale-lease", CONFIG_STRING, FIELD(lease_file), 0, 4095, NULL, NULL, "FILE",
     "of several controllers that share this file, one acts"},
    {"dry-run", CONFIG_BOOL, FIELD(dry_run), 0, 0, "false", NULL, NULL,
     "with --autoscale: only tell what would be done, and why"},
    {"aggregated", CONFIG_BOOL, FIELD(aggregated), 0, 0, "false", NULL, NULL,
     "one worker does both phases, for comparison"},
    {"pd-multiplex", CONFIG_BOOL, FIELD(multiplex), 0, 0, "false", NULL, NULL,
     "with --aggregated: prompts and decoding side by side in that worker, instead of in turns"},
    {"pd-decode-share", CONFIG_INT, FIELD(decode_share), 0, 90, "33", NULL, NULL,
     WORKERFLAGS_DECODE_SHARE},
    {"threads", CONFIG_INT, FIELD(threads), 0, LIMIT_THREADS, "0", NULL, NULL,
     "compute threads of all workers together; 0: one a CPU that the affinity mask and the "
     "cgroup's quota allow. Each has an equal share, and the "
     "shares of those that are idle"},
    {"backend", CONFIG_ENUM, FIELD(backend), 0, 0, "auto", serveflags_backends, NULL,
     "where the model runs; auto: on a GPU if there is one; timed: workers sleep as long as a step "
     "would take, and tokens are "
     "hashes: for trying fleets on a small machine"},
    {"profile", CONFIG_STRING, FIELD(profile), 0, 4095, NULL, NULL, "FILE",
     "with --backend timed: how long steps and transfers take; default: one Xeon thread"},
    {"kv-transport", CONFIG_ENUM, FIELD(kv_transport), 0, 0, "auto", workerflags_kv_transports,
     NULL,
     "what carries KV pages between workers; auto: ipc between GPUs of a host, nccl between those "
     "of two, else shm on this machine and tcp to workers that join. A pair for which the one "
     "named cannot be is refused"},
    {"device", CONFIG_INT, FIELD(device), 0, 1023, "0", NULL, NULL, "which GPU the workers use"},
    {"tensor-parallel-size", CONFIG_INT, FIELD(ranks), 1, WORKERFLAGS_RANKS_MAX, "1", NULL, NULL,
     WORKERFLAGS_RANKS},
    {"memory-fraction", CONFIG_DOUBLE, FIELD(memory_fraction), 0.001, 1, "0.9", NULL, NULL,
     "of the GPU's memory, what all workers together take: weights, workspaces, KV cache"},
    {"price-table", CONFIG_STRING, FIELD(price_table), 0, 4095, NULL, NULL, "FILE",
     "lines DEVICE = PRICE [TFLOPS [GBPS]]: an hour of a GPU or core, and its peaks, for the "
     "accounts of waste"},
    {"deterministic", CONFIG_BOOL, FIELD(deterministic), 0, 0, "false", NULL, NULL,
     "on a GPU, the same tokens however work is divided and batched; the CPU always does that"},
    {"kv-memory", CONFIG_BYTES, FIELD(kv_bytes), 0, 0x1p50, "0", NULL, NULL,
     "KV cache of each worker, at least one whole context; 0: on a GPU what --memory-fraction "
     "leaves, else 1g"},
    {"kv-block-tokens", CONFIG_INT, FIELD(kv_block), LIMIT_PAGE_TOKENS,
     LIMIT_BLOCK_PAGES *LIMIT_PAGE_TOKENS, "16", NULL, NULL, WORKERFLAGS_KV_BLOCK},
    {"kv-block-tokens-decode", CONFIG_INT, FIELD(kv_block_decode), 0,
     LIMIT_BLOCK_PAGES *LIMIT_PAGE_TOKENS, "0", NULL, NULL,
     "the same of decode workers; 0: as --kv-block-tokens"},
    {"kv-dtype", CONFIG_ENUM, FIELD(kv_dtype), 0, 0, "auto", workerflags_kv_dtypes, NULL,
     "dtype of the KV cache; auto: int8 on the CPU, f16 elsewhere"},
    {"weights", CONFIG_ENUM, FIELD(weights), 0, 0, "file", workerflags_weights, NULL,
     "how weights of F32, F16 and BF16 are kept: as the file has them, or as Q8_0"},
    {"activations", CONFIG_ENUM, FIELD(activations), 0, 0, "auto", workerflags_activations, NULL,
     "how activations meet weights; bf16, mixed (prompts bf16, the rest int8): with AMX-BF16; "
     "auto: mixed there, else int8"},
    {"max-seqs", CONFIG_INT, FIELD(seqs), 1, 1024, "64", NULL, NULL,
     "sequences a worker decodes at once"},
    {"prefill-chunk", CONFIG_INT, FIELD(chunk), 16, 8192, "256", NULL, NULL,
     "prompt tokens of a step; a multiple of 16"},
    {"decode-pace-ms", CONFIG_INT, FIELD(pace_ms), 0, 10000, "0", NULL, NULL, WORKERFLAGS_PACE},
    {"cluster-listen", CONFIG_STRING, FIELD(cluster_listen), 0, 255, NULL, NULL, "HOST:PORT",
     "be the hub of a cluster there: workers and gateways of other hosts may join"},
    KEY_FLAG,
    FRONT_FLAGS,
};

static const config_option gateway_flags[] = {
    NAME_FLAGS,
    {"join", CONFIG_STRING, FIELD(join), 0, 1023, NULL, NULL, "HOST:PORT,...",
     "join the cluster whose hub is there; with several controllers, all their addresses"},
    {"reuse-port", CONFIG_BOOL, FIELD(reuse_port), 0, 0, "false", NULL, NULL,
     "share the port with other gateways of this machine that say so too"},
    KEY_FLAG,
    FRONT_FLAGS,
};

const config_table serveflags_serve = {
    "weir serve",
    "Serves a model over an OpenAI-style HTTP API, with separate "
    "prefill and decode workers.",
    options, sizeof options / sizeof options[0], NULL};

const config_table serveflags_gateway = {
    "weir gateway",
    "An HTTP front end without workers of its own: it serves with those of a cluster.",
    gateway_flags, sizeof gateway_flags / sizeof gateway_flags[0], NULL};
