/* stepmodel_test.c -- a fit finds the times that steps were made of, and survives bad ones. */
#include "engine/core/stepmodel.h"

#include <criterion/criterion.h>
#include <math.h>

#include "engine/base/rng.h"

static uint64_t state;

static int64_t below(int64_t n) {
    return (int64_t)rng_below(&state, (uint64_t)n);
}

/* The machine that the tests imitate. */
static double true_us(const stepmodel_work *w) {
    double us = w->prompt_rows ? 800 : 3000;
    us += 55 * (double)w->prompt_rows + 0.02 * (double)w->prompt_pairs;
    return us + 40 * (double)w->decode_rows + 0.3 * (double)w->decode_context;
}

static stepmodel_work prompt_step(void) {
    int64_t rows = 1 + below(256);
    return (stepmodel_work){.prompt_rows = rows,
                            .prompt_pairs = stepmodel_pairs(rows, 16 * below(200))};
}

static stepmodel_work decode_step(void) {
    int64_t rows = 1 + below(32);
    return (stepmodel_work){.decode_rows = rows, .decode_context = rows * (1 + below(3000))};
}

static void observe(stepmodel *s, stepmodel_work w, double us) {
    stepmodel_observe(s, &w, (int64_t)us);
}

static void expect_close(const stepmodel *s, double tolerance) {
    for (int i = 0; i < 100; i++) {
        stepmodel_work p = prompt_step(), d = decode_step();
        double prompt =
            stepmodel_step_us(&s->fits[STEPMODEL_PREFILL], p.prompt_rows, p.prompt_pairs);
        double decode =
            stepmodel_step_us(&s->fits[STEPMODEL_DECODE], d.decode_rows, d.decode_context);
        cr_assert(fabs(prompt / true_us(&p) - 1) < tolerance, "%f for %f", prompt, true_us(&p));
        cr_assert(fabs(decode / true_us(&d) - 1) < tolerance, "%f for %f", decode, true_us(&d));
    }
}

Test(stepmodel, finds_the_parts_of_steps) {
    stepmodel s = {0};
    state = 1;
    for (int i = 0; i < 400; i++) {
        stepmodel_work p = prompt_step(), d = decode_step();
        observe(&s, p, true_us(&p));
        observe(&s, d, true_us(&d));
    }
    expect_close(&s, 0.01);
    cr_expect_float_eq(s.fits[STEPMODEL_PREFILL].row_us, 55, 1);
    cr_expect_float_eq(s.fits[STEPMODEL_DECODE].fixed_us, 3000, 60);
}

Test(stepmodel, is_not_known_before_a_few_warm_samples) {
    stepmodel s = {0};
    state = 2;
    for (int i = 0; i < 3 + STEPMODEL_SAMPLES_KNOWN; i++) {
        cr_expect_not(stepmodel_known(&s.fits[STEPMODEL_PREFILL]), "after %d", i);
        cr_expect_eq(stepmodel_step_us(&s.fits[STEPMODEL_PREFILL], 10, 10), 0);
        stepmodel_work p = prompt_step();
        observe(&s, p, i < 3 ? 1e9 : true_us(&p)); /* the first take minutes: they count nothing */
    }
    cr_expect(stepmodel_known(&s.fits[STEPMODEL_PREFILL]));
    cr_expect_lt(s.fits[STEPMODEL_PREFILL].row_us, 1000);
}

Test(stepmodel, noise_and_hiccups_move_it_little) {
    stepmodel s = {0};
    state = 3;
    for (int i = 0; i < 2000; i++) {
        stepmodel_work p = prompt_step(), d = decode_step();
        double noise = 0.95 + 0.1 * rng_unit(rng_next(&state));
        double hiccup = below(20) == 0 ? 30 : 1;
        observe(&s, p, true_us(&p) * noise * hiccup);
        observe(&s, d, true_us(&d) * noise * hiccup);
        if (below(50) == 0) {
            observe(&s, p, 1); /* and a clock that stood still */
        }
    }
    expect_close(&s, 0.2);
}

Test(stepmodel, steps_all_alike_are_extrapolated_by_what_dominates) {
    stepmodel s = {0};
    for (int i = 0; i < 100; i++) {
        observe(&s, (stepmodel_work){.prompt_rows = 256, .prompt_pairs = 32896}, 25600);
        observe(&s, (stepmodel_work){.decode_rows = 1, .decode_context = 100}, 5000);
    }
    const stepmodel_fit *p = &s.fits[STEPMODEL_PREFILL], *d = &s.fits[STEPMODEL_DECODE];
    cr_expect_float_eq(stepmodel_step_us(p, 256, 32896), 25600, 50);
    double half = stepmodel_step_us(p, 128, 8256);
    cr_expect(half > 8000 && half < 15000, "%f", half);
    double longer = stepmodel_step_us(d, 1, 200);
    cr_expect(longer > 4500 && longer < 10500, "%f", longer);
}

Test(stepmodel, follows_a_machine_that_becomes_slower) {
    stepmodel s = {0};
    state = 4;
    for (int i = 0; i < 3000; i++) {
        stepmodel_work p = prompt_step(), d = decode_step();
        observe(&s, p, true_us(&p) / (i < 1000 ? 2 : 1));
        observe(&s, d, true_us(&d) / (i < 1000 ? 2 : 1));
    }
    expect_close(&s, 0.02);
}

Test(stepmodel, mixed_steps_teach_prefill_once_decode_is_known) {
    stepmodel s = {0};
    state = 5;
    for (int i = 0; i < 600; i++) {
        stepmodel_work p = prompt_step(), d = decode_step();
        if (i > 50) {
            p.decode_rows = d.decode_rows;
            p.decode_context = d.decode_context;
        }
        observe(&s, i > 50 ? p : d, true_us(i > 50 ? &p : &d));
    }
    cr_expect(stepmodel_known(&s.fits[STEPMODEL_PREFILL]));
    cr_expect_float_eq(s.fits[STEPMODEL_PREFILL].row_us, 55, 2);
}

Test(stepmodel, nothing_absurd_comes_out_whatever_goes_in) {
    stepmodel s = {0};
    state = 6;
    for (int i = 0; i < 20000; i++) {
        stepmodel_work w = {.prompt_rows = below(3) ? below(1 << 20) : 0,
                            .prompt_pairs = below(1ll << 40),
                            .decode_rows = below(3) ? below(4096) : 0,
                            .decode_context = below(1ll << 32)};
        int64_t us = below(4) ? below(1000000) - 10 : (int64_t)(rng_next(&state) >> 1);
        stepmodel_observe(&s, &w, us);
        for (int k = 0; k < STEPMODEL_PHASES; k++) {
            const stepmodel_fit *f = &s.fits[k];
            cr_assert(isfinite(f->fixed_us) && isfinite(f->row_us) && isfinite(f->work_us));
            cr_assert(f->fixed_us >= 0 && f->row_us >= 0 && f->work_us >= 0);
        }
    }
}

Test(stepmodel, chunks_each_pay_the_fixed_part) {
    stepmodel_fit f = {.fixed_us = 100, .row_us = 2, .work_us = 0.5f, .samples = 9};
    cr_expect_eq(stepmodel_prefill_us(&f, 0, 0, 256), 0);
    cr_expect_eq(stepmodel_prefill_us(&f, 256, 10, 256), 100 + 512 + 5);
    cr_expect_eq(stepmodel_prefill_us(&f, 257, 10, 256), 200 + 514 + 5);
    cr_expect_eq(stepmodel_prefill_us(&f, 1000, 10, 0), 100 + 2000 + 5, "0: one step");
    f.samples = 0;
    cr_expect_eq(stepmodel_prefill_us(&f, 1000, 10, 256), 0, "not known");
}
