/* clock.h -- monotonic and wall time.
 *
 * Purpose    The only source of time. Deadlines use clock_now_us (CLOCK_MONOTONIC); wall time is
 *            for people (logs, `created` fields). The pure cores take `now_us` as an argument.
 * Ownership  None.
 * Threads    Any.
 * Limits     Microseconds in int64_t: 292,000 years.
 */
#ifndef ENGINE_BASE_CLOCK_H
#define ENGINE_BASE_CLOCK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int64_t clock_now_us(void);
int64_t clock_now_ns(void);
int64_t clock_wall_us(void);
void clock_sleep_us(int64_t us);

#ifdef __cplusplus
}
#endif
#endif
