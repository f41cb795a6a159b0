/* kvstats.c -- registration and updates. */
#include "engine/worker/kvstats.h"

#include <stdio.h>

void kvstats_open(metrics *m, kvstats *out) {
    for (uint32_t t = 0; t < HELLO_TRANSPORTS; t++) {
        char label[32];
        (void)snprintf(label, sizeof label, "transport=\"%s\"",
                       hello_transport_name((hello_transport)t));
        out->links[t] = metrics_new_gauge(m, "weir_kv_links", label,
                                          "Links to workers that carry KV, by transport.");
    }
}

void kvstats_links(const kvstats *s, const uint32_t links[HELLO_TRANSPORTS]) {
    for (uint32_t t = 0; t < HELLO_TRANSPORTS; t++) {
        metrics_set(s->links[t], links[t]);
    }
}
