/* stepfit_test.c -- the fit finds the times that the points were made of. */
#include "bench/stepfit.h"

#include <criterion/criterion.h>

Test(stepfit, exact_points_give_their_parts_back) {
    stepfit f = {.count = 0};
    for (int rows = 1; rows <= 64; rows *= 4) {
        for (int context = 0; context <= 900; context += 300) {
            stepfit_add(&f, 1, rows, context, 50 + 7.5 * rows + 0.25 * context);
        }
    }
    double out[3];
    cr_expect_lt(stepfit_solve(&f, out), 1e-6);
    cr_expect_float_eq(out[0], 50, 1e-3);
    cr_expect_float_eq(out[1], 7.5, 1e-3);
    cr_expect_float_eq(out[2], 0.25, 1e-3);
}

Test(stepfit, no_part_is_negative) {
    stepfit f = {.count = 0};
    for (int rows = 1; rows <= 8; rows++) {
        stepfit_add(&f, 1, rows, 0, 10.0 * rows - 5);
    }
    double out[3];
    cr_expect_gt(stepfit_solve(&f, out), 0);
    cr_expect(out[0] >= 0 && out[1] > 0 && out[2] >= 0);
}
