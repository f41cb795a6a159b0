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
    s->group_layers = metrics_new_gauge(m, "weir_kv_group_layers", "",
                                        "P: layers that leave together on the link with the "
                                        "fewest, by its speed and the computing's.");
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

/* ---- by peer -------------------------------------------------------------------------------- */

static void register_way(metrics *m, kvstats_peer *p, const char *peer, int sent) {
    char labels[64];
    (void)snprintf(labels, sizeof labels, "%s,direction=\"%s\"", peer, sent ? "sent" : "received");
    p->bytes[sent] = metrics_new_counter(m, "weir_kv_peer_bytes_total", labels,
                                         "Bytes over NCCL, by the worker at the other end.", 1);
    p->groups[sent] =
        metrics_new_counter(m, "weir_kv_peer_groups_total", labels, "Groups over NCCL.", 1);
    p->copy_us[sent] = metrics_new_counter(m, "weir_kv_peer_copy_seconds_total", labels,
                                           "Pages to staging (sent), staging to pages.", 1e-6);
    p->wire_us[sent] = metrics_new_counter(m, "weir_kv_peer_wire_seconds_total", labels,
                                           "Groups in ncclSend or ncclRecv.", 1e-6);
    p->rate[sent] = metrics_new_gauge(m, "weir_kv_peer_bytes_per_second", labels,
                                      "On the wire, when something was last moved.");
}

static void register_peer(metrics *m, kvstats_peer *p, const char *peer) {
    for (int sent = 0; sent < 2; sent++) {
        register_way(m, p, peer, sent);
    }
    p->handshake_us = metrics_new_counter(m, "weir_kv_peer_handshake_seconds_total", peer,
                                          "Setting up communicators.", 1e-6);
    p->ready_us = metrics_new_counter(m, "weir_kv_peer_ready_wait_seconds_total", peer,
                                      "P: until its receives were posted.", 1e-6);
    p->waited_us = metrics_new_counter(m, "weir_kv_peer_grant_wait_seconds_total", peer,
                                       "P: until it had room for requests.", 1e-6);
    p->exposed_us = metrics_new_counter(m, "weir_kv_peer_exposed_seconds_total", peer,
                                        "P: transfers, not hidden by computing.", 1e-6);
    p->transfers = metrics_new_counter(m, "weir_kv_peer_transfers_total", peer,
                                       "P: requests that it adopted, over any transport.", 1);
    p->broken = metrics_new_counter(m, "weir_kv_peer_channels_broken_total", peer,
                                    "Channels with it that failed.", 1);
}

const kvstats_peer *kvstats_of(kvstats *s, uint32_t worker) {
    for (uint32_t i = 0; i < s->peers_count; i++) {
        if (i == s->peers_max || s->peers[i].worker == worker) {
            return &s->peers[i];
        }
    }
    char label[32];
    kvstats_peer *p = &s->peers[s->peers_count];
    if (s->peers_count < s->peers_max) {
        (void)snprintf(label, sizeof label, "peer=\"%u\"", worker);
    } else {
        (void)snprintf(label, sizeof label, "peer=\"other\"");
    }
    p->worker = worker;
    register_peer(s->registry, p, label);
    s->peers_count++;
    return p;
}

/* ---- all together --------------------------------------------------------------------------- */

void kvstats_open(metrics *m, uint32_t peers_max, kvstats *out) {
    bool bounded = peers_max > 0 && peers_max < KVSTATS_PEERS_MAX;
    *out = (kvstats){.registry = m};
    out->peers_max = bounded ? peers_max : KVSTATS_PEERS_MAX;
    for (uint32_t t = 0; t < HELLO_TRANSPORTS; t++) {
        register_transport(m, out, (hello_transport)t);
    }
    register_pairs(m, out);
}

static void count_chosen(kvstats *s, hello_transport t, hello_reason r, uint32_t links) {
    char labels[64];
    if (!s->chosen[t][r] && links > 0) {
        (void)snprintf(labels, sizeof labels, "transport=\"%s\",reason=\"%s\"",
                       hello_transport_name(t), hello_reason_name(r));
        s->chosen[t][r] =
            metrics_new_gauge(s->registry, "weir_kv_links_chosen", labels,
                              "Links to workers that carry KV, and why over that transport.");
    }
    if (s->chosen[t][r]) {
        metrics_set(s->chosen[t][r], links);
    }
}

void kvstats_links(kvstats *s, const kvstats_chosen links) {
    for (uint32_t t = 0; t < HELLO_TRANSPORTS; t++) {
        uint32_t all = 0;
        for (uint32_t r = 0; r < HELLO_REASONS; r++) {
            count_chosen(s, (hello_transport)t, (hello_reason)r, links[t][r]);
            all += links[t][r];
        }
        metrics_set(s->links[t], all);
    }
}

void kvstats_broken(kvstats *s, hello_transport t, uint32_t worker) {
    metrics_add(s->broken[t], 1);
    metrics_add(kvstats_of(s, worker)->broken, 1);
}

void kvstats_adopted(kvstats *s, hello_transport t, uint32_t worker, uint32_t waited_us,
                     uint32_t moved_us, int64_t exposed_us) {
    const kvstats_peer *p = kvstats_of(s, worker);
    metrics_observe(s->waited_us[t], waited_us);
    metrics_observe(s->moved_us[t], moved_us);
    metrics_add(p->waited_us, waited_us);
    metrics_add(p->exposed_us, (uint64_t)exposed_us);
    metrics_add(p->transfers, 1);
}

void kvstats_moved(kvstats *s, uint32_t worker, bool sender, const devpair_times *then,
                   const devpair_times *now) {
    const kvstats_peer *p = kvstats_of(s, worker);
    uint64_t copy_us = (uint64_t)(now->copy_us - then->copy_us);
    uint64_t ready_us = (uint64_t)(now->ready_us - then->ready_us);
    uint64_t wire_us = (uint64_t)(now->wire_us - then->wire_us);
    uint64_t bytes = now->bytes - then->bytes;
    if (now->setup_us > 0 && then->setup_us == 0 && sender) {
        metrics_observe(s->handshake_us, (uint64_t)now->setup_us);
        metrics_add(p->handshake_us, (uint64_t)now->setup_us);
    }
    metrics_add(sender ? s->pack_us : s->unpack_us, copy_us);
    metrics_add(s->ready_us, ready_us);
    metrics_add(s->wire_us[sender], wire_us);
    metrics_add(s->bytes[sender], bytes);
    metrics_add(s->groups[sender], now->groups - then->groups);
    metrics_add(s->empty[sender], now->empty - then->empty);
    metrics_add(p->copy_us[sender], copy_us);
    metrics_add(p->ready_us, ready_us);
    metrics_add(p->wire_us[sender], wire_us);
    metrics_add(p->bytes[sender], bytes);
    metrics_add(p->groups[sender], now->groups - then->groups);
    if (bytes > 0 && wire_us > 0) {
        metrics_set(p->rate[sender], (double)bytes / (double)wire_us * 1e6);
    }
}

void kvstats_pairs(const kvstats *s, uint32_t pairs) {
    metrics_set(s->pairs, pairs);
}

void kvstats_paced(const kvstats *s, uint32_t group_layers) {
    metrics_set(s->group_layers, group_layers);
}

void kvstats_held(const kvstats *s, uint64_t staging_bytes, unsigned aborts) {
    metrics_set(s->staging_bytes, (double)staging_bytes);
    metrics_set(s->aborts, aborts);
}
