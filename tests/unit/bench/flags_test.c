/* flags_test.c -- the names of flag values stand in the order of the backend's enums. */
#include <criterion/criterion.h>

#include "kernels/backend.h"
#include "server/workerflags.h"

Test(flags, kv_dtypes_are_the_backends_in_order) {
    for (int i = 0; i < BACKEND_KV_TYPES; i++) {
        cr_assert_str_eq(workerflags_kv_dtypes[i], backend_kv_type_name((backend_kv_type)i));
    }
    cr_assert_str_eq(workerflags_kv_dtypes[BACKEND_KV_TYPES], "auto");
    cr_assert_null(workerflags_kv_dtypes[BACKEND_KV_TYPES + 1]);
}

Test(flags, activations_are_the_backends_in_order) {
    for (int i = 0; i < BACKEND_ACTIVATIONS_TYPES; i++) {
        cr_assert_str_eq(workerflags_activations[i],
                         backend_activations_name((backend_activations)i));
    }
    cr_assert_str_eq(workerflags_activations[BACKEND_ACTIVATIONS_TYPES], "auto");
    cr_assert_null(workerflags_activations[BACKEND_ACTIVATIONS_TYPES + 1]);
}
