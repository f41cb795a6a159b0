/* check.h -- assertions for bugs, always on.
 *
 * Purpose    CHECK states what must hold if weir itself is right; a failure is a bug, so it prints
 *            the place and both operands and aborts. Bad input from outside is never a CHECK.
 * Ownership  None.
 * Threads    Any.
 * Limits     None.
 */
#ifndef ENGINE_BASE_CHECK_H
#define ENGINE_BASE_CHECK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

_Noreturn void check_failed(const char *file, int line, const char *expression);
_Noreturn void check_failed_pair(const char *file, int line, const char *expression, int64_t a,
                                 int64_t b);

#define CHECK(condition)                                  \
    do {                                                  \
        if (__builtin_expect(!(condition), 0)) {          \
            check_failed(__FILE__, __LINE__, #condition); \
        }                                                 \
    } while (0)

/* Integers only: both values are printed. */
#define CHECK_OP(a, op, b)                                                                        \
    do {                                                                                          \
        if (__builtin_expect(!((a)op(b)), 0)) {                                                   \
            check_failed_pair(__FILE__, __LINE__, #a " " #op " " #b, (int64_t)(a), (int64_t)(b)); \
        }                                                                                         \
    } while (0)

#define CHECK_EQ(a, b) CHECK_OP(a, ==, b)
#define CHECK_LT(a, b) CHECK_OP(a, <, b)
#define CHECK_LE(a, b) CHECK_OP(a, <=, b)

#define UNREACHABLE() check_failed(__FILE__, __LINE__, "unreachable")

#ifdef __cplusplus
}
#endif
#endif
