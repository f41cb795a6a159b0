/* stepcost_test.c -- a step's operations and bytes, counted by hand. */
#include "engine/core/stepcost.h"

#include <criterion/criterion.h>

static const stepcost_shape shape = {.row_flops = 1000,
                                     .logit_flops = 100,
                                     .pair_flops = 10,
                                     .weight_bytes = 5000,
                                     .kv_token_bytes = 3};

Test(stepcost, a_chunk_attends_to_what_is_before_it_and_to_itself) {
    core_seq seq = {.rows = 3, .position_first = 2};
    core_batch batch = {.rows = 3, .seqs = &seq, .seqs_count = 1, .logit_rows_count = 1};
    stepcost c = stepcost_of(&shape, &batch);
    cr_expect_float_eq(c.flops, 3 * 1000 + 100 + 10 * (3 + 4 + 5), 1e-9);
    cr_expect_float_eq(c.bytes, 5000 + 3 * (5 + 3), 1e-9);
}

Test(stepcost, decode_rows_share_the_weights_and_each_reads_its_own_kv) {
    core_seq seqs[2] = {{.rows = 1, .position_first = 9},
                        {.row_first = 1, .rows = 1, .position_first = 0}};
    core_batch batch = {.rows = 2, .seqs = seqs, .seqs_count = 2, .logit_rows_count = 2};
    stepcost c = stepcost_of(&shape, &batch);
    cr_expect_float_eq(c.flops, 2 * 1000 + 2 * 100 + 10 * (10 + 1), 1e-9);
    cr_expect_float_eq(c.bytes, 5000 + 3 * ((10 + 1) + (1 + 1)), 1e-9);
}

Test(stepcost, a_device_that_computes_nothing_costs_nothing) {
    core_seq seq = {.rows = 1};
    core_batch batch = {.rows = 1, .seqs = &seq, .seqs_count = 1, .logit_rows_count = 1};
    stepcost c = stepcost_of(&(stepcost_shape){0}, &batch);
    cr_expect_float_eq(c.flops, 0, 0);
    cr_expect_float_eq(c.bytes, 0, 0);
}
