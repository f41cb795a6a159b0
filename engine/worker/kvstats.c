/* kvstats.c -- registration and updates. */
#include "engine/worker/kvstats.h"

#include <stdio.h>

static void register_transport(metrics *m, kvstats *s, hello_transport t) {
    char label[32];
    (void)snprintf(label, sizeof label, "transport=\"%s\"", hello_transport_name(t));
    s->links[t] = metrics_new_gauge(m, "weir_kv_links", label,
                                    "Links to workers that carry KV, by transport.");
    s->broken[t] = metrics_new_counter(m, "weir_kv_channels_broken_total", label,
                                       "KV channels that failed, each of which was made anew.", 1);
    s->waited_us[t] =
        metrics_new_histogram(m, "weir_kv_grant_wait_seconds", label,
                              "P: how long D had no room for a request.", 1e-6, NULL, 0);
    s->moved_us[t] = metrics_new_histogram(
        m, "weir_kv_transfer_seconds", label,
        "P: from the first group of a request to the last one's arrival.", 1e-6, NULL, 0);
}

static void register_pairs(metrics *m, kvstats *s) {
    static const char *const ways[] = {"direction=\"received\"", "direction=\"sent\""};
    s->pairs = metrics_new_gauge(m, "weir_kv_pairs", "", "NCCL communicators.");
    s->staging_bytes = metrics_new_gauge(m, "weir_kv_staging_bytes", "",
                                         "Device memory that NCCL pairs stage pages in.");
    s->aborts = metrics_new_gauge(m, "weir_kv_aborts", "", "NCCL aborts that have not returned.");
    s->handshake_us = metrics_new_histogram(
        m, "weir_kv_handshake_seconds", "",
        "From the offer of a unique id to the end of the pair's first transfer.", 1e-6, NULL, 0);
    s->ready_us =
        metrics_new_counter(m, "weir_kv_ready_wait_seconds_total", "",
                            "P: groups announced whose receive was not posted yet.", 1e-6);
    s->pack_us = metrics_new_counter(m, "weir_kv_pack_seconds_total", "",
                                     "P: pages on their way to staging.", 1e-6);
    s->unpack_us = metrics_new_counter(m, "weir_kv_unpack_seconds_total", "",
                                       "D: staging on its way to pages.", 1e-6);
    for (int i = 0; i < 2; i++) {
        s->wire_us[i] = metrics_new_counter(m, "weir_kv_wire_seconds_total", ways[i],
                                            "Groups in ncclSend or ncclRecv.", 1e-6);
        s->bytes[i] =
            metrics_new_counter(m, "weir_kv_nccl_bytes_total", ways[i], "Bytes over NCCL.", 1);
        s->groups[i] =
            metrics_new_counter(m, "weir_kv_nccl_groups_total", ways[i], "Groups over NCCL.", 1);
        s->empty[i] = metrics_new_counter(m, "weir_kv_nccl_groups_empty_total", ways[i],
                                          "Of them, those nobody wanted any more.", 1);
    }
}

void kvstats_open(metrics *m, kvstats *out) {
    for (uint32_t t = 0; t < HELLO_TRANSPORTS; t++) {
        register_transport(m, out, (hello_transport)t);
    }
    register_pairs(m, out);
}

void kvstats_links(const kvstats *s, const uint32_t links[HELLO_TRANSPORTS]) {
    for (uint32_t t = 0; t < HELLO_TRANSPORTS; t++) {
        metrics_set(s->links[t], links[t]);
    }
}

void kvstats_broken(const kvstats *s, hello_transport t) {
    metrics_add(s->broken[t], 1);
}

void kvstats_adopted(const kvstats *s, hello_transport t, uint32_t waited_us, uint32_t moved_us) {
    metrics_observe(s->waited_us[t], waited_us);
    metrics_observe(s->moved_us[t], moved_us);
}

void kvstats_moved(const kvstats *s, bool sender, const nccl_times *then, const nccl_times *now) {
    if (now->setup_us > 0 && then->setup_us == 0 && sender) {
        metrics_observe(s->handshake_us, (uint64_t)now->setup_us);
    }
    metrics_add(sender ? s->pack_us : s->unpack_us, (uint64_t)(now->copy_us - then->copy_us));
    metrics_add(s->ready_us, (uint64_t)(now->ready_us - then->ready_us));
    metrics_add(s->wire_us[sender], (uint64_t)(now->wire_us - then->wire_us));
    metrics_add(s->bytes[sender], now->bytes - then->bytes);
    metrics_add(s->groups[sender], now->groups - then->groups);
    metrics_add(s->empty[sender], now->empty - then->empty);
}

void kvstats_pairs(const kvstats *s, uint32_t pairs) {
    metrics_set(s->pairs, pairs);
}

void kvstats_held(const kvstats *s, uint64_t staging_bytes, unsigned aborts) {
    metrics_set(s->staging_bytes, (double)staging_bytes);
    metrics_set(s->aborts, aborts);
}
