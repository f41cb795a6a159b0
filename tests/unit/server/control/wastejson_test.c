/* wastejson_test.c -- sums of shares, and their JSON. */
#include "server/control/wastejson.h"

#include <criterion/criterion.h>

static const message_waste half = {
    .unit = WASTE_GPU,
    .share_milli = 500,
    .us = {[WASTE_POOL_PREFILL] = {[WASTE_BUSY] = 2000000},
           [WASTE_POOL_DECODE] = {[WASTE_BUSY] = 4000000, [WASTE_NO_WORK] = 6000000}}};

static void expect(const wastejson_sum *sum, const char *json) {
    strbuf out = strbuf_make(4096);
    strbuf_append_char(&out, '{');
    wastejson_put(&out, sum);
    cr_expect_str_eq(out.data, json);
    strbuf_close(&out);
}

Test(wastejson, a_workers_sum_is_of_all_its_pools_in_its_share) {
    wastejson_sum sum = {0};
    wastejson_add(&sum, &half, WASTE_POOLS);
    expect(&sum,
           "{\"device\":{\"unit\":\"gpu\",\"allocated_s\":6.000000,\"busy_s\":3.000000,"
           "\"no_work_s\":3.000000,\"no_room_s\":0.000000,\"prefill_s\":0.000000,"
           "\"transfer_s\":0.000000,\"cpu_stage_s\":0.000000,\"start_s\":0.000000}");
}

Test(wastejson, a_pools_sum_is_of_the_time_in_that_pool) {
    wastejson_sum sum = {0};
    message_waste whole = half;
    whole.share_milli = 1000;
    wastejson_add(&sum, &half, WASTE_POOL_DECODE);
    wastejson_add(&sum, &whole, WASTE_POOL_DECODE);
    expect(&sum,
           "{\"device\":{\"unit\":\"gpu\",\"allocated_s\":15.000000,\"busy_s\":6.000000,"
           "\"no_work_s\":9.000000,\"no_room_s\":0.000000,\"prefill_s\":0.000000,"
           "\"transfer_s\":0.000000,\"cpu_stage_s\":0.000000,\"start_s\":0.000000}");
}
