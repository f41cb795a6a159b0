/* kernels.h -- how fast a backend's operators are: `weir bench kernels`.
 *
 * Purpose    Times the operators of kernels/ops.h at the sizes of real models, on random data, and
 *            sets each beside what the memory of the same device moved a moment before.
 * Ownership  Everything is given back before the return.
 * Threads    The caller's.
 * Limits     The sizes listed in kernels.c.
 */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

/* The command behind `weir bench kernels`; argv has no program name. An exit status. */
int kernels_bench(int argc, char *const *argv);

#endif
