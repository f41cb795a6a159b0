/* wastejson.c -- sums and their text. */
#include "server/control/wastejson.h"

#include "server/http/jsonout.h"

void wastejson_add(wastejson_sum *sum, const message_waste *w, waste_pool pool) {
    sum->unit = w->unit;
    for (int p = 0; p < WASTE_POOLS; p++) {
        for (int s = 0; s < WASTE_STATES && (pool == WASTE_POOLS || (int)pool == p); s++) {
            sum->seconds[s] += (double)w->us[p][s] * 1e-6 * (w->share_milli / 1000.0);
        }
    }
}

void wastejson_put(strbuf *out, const wastejson_sum *sum) {
    double all = 0;
    for (int s = 0; s < WASTE_STATES; s++) {
        all += sum->seconds[s];
    }
    jsonout_key(out, "device");
    (void)strbuf_printf(out, "{\"unit\":\"%s\",\"allocated_s\":%.6f", waste_unit_name(sum->unit),
                        all);
    for (int s = 0; s < WASTE_STATES; s++) {
        (void)strbuf_printf(out, ",\"%s_s\":%.6f", waste_state_name((waste_state)s),
                            sum->seconds[s]);
    }
    (void)strbuf_append_char(out, '}');
}
