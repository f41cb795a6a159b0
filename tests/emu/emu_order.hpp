/* emu_order.hpp -- what the sanitizers are told by hand.
 *
 * Purpose    AddressSanitizer must know when a stack is left for another. A race-checking build
 *            instruments kernels only and defines WEIR_EMU_TSAN for this runtime, which says what
 *            orders memory: barriers, __syncwarp, mbarriers, and nothing else.
 * Ownership  None.
 * Threads    Any.
 * Limits     None.
 */
#ifndef TESTS_EMU_EMU_ORDER_HPP
#define TESTS_EMU_EMU_ORDER_HPP

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
extern "C" {
void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size);
void __asan_poison_memory_region(void const volatile *p, size_t bytes);
void __asan_unpoison_memory_region(void const volatile *p, size_t bytes);
}
#endif

#if defined(WEIR_EMU_TSAN)
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void *__tsan_get_current_fiber(void);
void __tsan_acquire(void *p);
void __tsan_release(void *p);
void __tsan_read_range(void *p, unsigned long bytes);
void __tsan_write_range(void *p, unsigned long bytes);
}
enum { EMU_TSAN_NO_SYNC = 1 };
#define EMU_ACQUIRE(p) __tsan_acquire((void *)(p))
#define EMU_RELEASE(p) __tsan_release((void *)(p))
#define EMU_READS(p, bytes) __tsan_read_range((void *)(p), bytes)
#define EMU_WRITES(p, bytes) __tsan_write_range((void *)(p), bytes)
#else
#define EMU_ACQUIRE(p) ((void)(p))
#define EMU_RELEASE(p) ((void)(p))
#define EMU_READS(p, bytes) ((void)(p))
#define EMU_WRITES(p, bytes) ((void)(p))
#endif

#endif
