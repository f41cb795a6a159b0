/* emu_nccl.h -- what tests may ask of the emulated NCCL beside NCCL's own calls.
 *
 * Purpose    Faults, a rank that dies, and what is left over. libweir_emu.so is NCCL for a program
 *            that opens NCCL by name (WEIR_NCCL=build/release/libweir_emu.so) and for tests that
 *            link it; it holds the emulated CUDA runtime, too.
 * Ownership  None.
 * Threads    Any.
 * Limits     Ranks find each other through abstract Unix sockets: one machine, one network
 *            namespace. 64 ranks a communicator.
 *
 * A list of faults, also as EMU_NCCL_FAULT in the environment: "kind[,key=value]...[;kind...]".
 *
 *   init-hangs     ncclCommInitRank never gets further than ncclInProgress
 *   init-fails     it ends with ncclSystemError
 *   death-silent   a peer's death is not reported: operations never end (NVLink); without it,
 *                  ncclCommGetAsyncError says ncclRemoteError and operations never end (network)
 *   stall          send number `message` of a communicator stops at `percent` of it, for ever
 *   die            at that point this rank is dead to its peers, and its operations never end
 *   exit           at that point the process ends, as after SIGKILL
 *   delay          operations begin after `ms`
 *   reorder        operations wait for 0 to `turns` turns of their stream, drawn by lot: pairs
 *                  overtake each other, messages of a pair do not
 *   abort-hangs    ncclCommAbort does not return until the fault is taken away
 *
 * Keys for all of them: rank=R (this rank of a communicator only), comm=N (the Nth communicator
 * that this process made, from 0). message (0) and percent (50), ms (10), turns (8).
 */
#ifndef TESTS_EMU_LIBS_EMU_NCCL_H
#define TESTS_EMU_LIBS_EMU_NCCL_H

#include <nccl.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Replaces all faults; NULL or "" takes them away. An unknown word ends the process. */
void emu_nccl_fault(const char *spec);

/* The rank behind `comm` dies without a word: its sockets close, its operations never end. Only
 * ncclCommAbort may follow. */
void emu_nccl_kill(ncclComm_t comm);

/* Communicators that were made and neither destroyed nor aborted; operations under way on them. */
unsigned emu_nccl_comms(void);
unsigned emu_nccl_operations(void);

#ifdef __cplusplus
}
#endif

#endif
