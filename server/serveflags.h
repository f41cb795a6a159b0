/* serveflags.h -- the flags of `weir serve` and `weir gateway`.
 *
 * Purpose    One struct that both commands read into, and a table of flags for each.
 * Ownership  Strings are the config's (engine/base/config.h).
 * Threads    Constants, but for the struct.
 * Limits     The ranges in the tables.
 */
#ifndef SERVER_SERVEFLAGS_H
#define SERVER_SERVEFLAGS_H

#include "engine/base/config.h"

typedef struct {
    const char *host, *model, *served_name, *api_key, *api_key_file, *trace, *profile, *price_table;
    const char *join, *cluster_listen, *key_file, *otlp_endpoint, *otlp_headers;
    double otlp_sample;
    int64_t port, prefill, decode, threads, kv_bytes, kv_block, kv_block_decode, context, seqs,
        chunk, pace_ms, local_prefill_max;
    int64_t requests, key_requests, ttft_slo_ms, connections, text_threads, http_threads, drain_ms,
        silence_ms, pending_ms;
    int32_t backend, kv_dtype, activations, weights, kv_transport, route, log_level;
    int64_t decode_share;
    bool aggregated, multiplex, metrics_open, log_json, deterministic, reuse_port;
    int64_t device, ranks;
    double memory_fraction;
    bool autoscale, dry_run;
    int64_t prefill_min, prefill_max, decode_min, decode_max, slo_ttft_ms, slo_tpot_ms, hold_s,
        idle_s;
    double gpu_cap;
    const char *lease_file;
} serveflags;

extern const char *const serveflags_backends[];

extern const config_table serveflags_serve, serveflags_gateway;

#endif
