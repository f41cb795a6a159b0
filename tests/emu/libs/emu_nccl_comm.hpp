/* emu_nccl_comm.hpp -- a communicator of the emulated NCCL: its links, its operations.
 *
 * Purpose    Shared by emu_nccl.cpp (the calls), emu_nccl_group.cpp (operations on streams),
 *            emu_nccl_link.cpp (sockets) and emu_nccl_fault.cpp.
 * Ownership  A communicator is shared by its handle and by the operations queued on streams.
 * Threads    Everything here under the runtime's lock (emu_lock).
 * Limits     EMU_RANKS_MAX ranks.
 *
 * A message goes from a send to a receive of the same number on the same link. The receiver asks
 * for it (CLEAR, with its size) when its operation begins, and only then does the sender write it:
 * no operation ends without its partner, as with messages larger than NCCL's buffers.
 */
#ifndef TESTS_EMU_LIBS_EMU_NCCL_COMM_HPP
#define TESTS_EMU_LIBS_EMU_NCCL_COMM_HPP

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <nccl.h>

#include "tests/emu/emu_runtime.hpp"

enum { EMU_RANKS_MAX = 64 };

enum emu_frame_kind : uint32_t {
    EMU_HELLO = 1, /* bytes: ranks; sequence: who */
    EMU_CONNECT,   /* the first operation with this peer was asked for */
    EMU_CLEAR,     /* the receiver of message `sequence` waits for `bytes` */
    EMU_DATA,      /* message `sequence`, `bytes` follow */
    EMU_BYE        /* destroyed: that the link ends is no death */
};

struct emu_frame {
    uint32_t magic, kind;
    uint64_t sequence, bytes,
        what; /* what: which operation of all ranks it belongs to, 0: a pair's */
};

struct emu_transfer {
    int peer;
    bool sends;
    char *p;
    size_t bytes;
    uint64_t what;
    /* while under way */
    uint64_t sequence;
    bool begun, done;
};

struct emu_reduce {
    const char *in;
    char *out;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    std::vector<std::vector<char>> parts; /* of all ranks */
    size_t first_transfer, transfers;
};

/* The operations of one communicator between ncclGroupStart and ncclGroupEnd: one kernel. */
struct emu_group {
    std::shared_ptr<ncclComm> comm;
    cudaStream_t stream = nullptr;
    std::vector<emu_transfer> transfers;
    std::vector<emu_reduce> reduces;
    bool captured = false, active = false;
    double not_before_ms = 0;
    uint64_t turns_to_wait = 0;
};

enum emu_link_state { EMU_LINK_NONE, EMU_LINK_UP, EMU_LINK_ENDED, EMU_LINK_LOST };

struct emu_piece { /* of what is to be written */
    emu_frame frame;
    size_t frame_at, bytes_at;
    emu_transfer *transfer; /* whose bytes follow the frame; or NULL */
    uint64_t message;       /* which of the communicator's sends */
};

struct emu_link {
    int fd = -1;
    emu_link_state state = EMU_LINK_NONE;
    bool hello_sent = false, connect_sent = false, connect_seen = false;
    uint64_t sends = 0, receives = 0; /* numbers given to messages */
    std::deque<emu_piece> out;
    std::map<uint64_t, emu_frame> clears;
    std::map<uint64_t, emu_transfer *> receiving;
    emu_frame in;
    size_t in_at = 0;
    uint64_t in_bytes_at = 0;
};

struct ncclComm : std::enable_shared_from_this<ncclComm> {
    int rank, ranks, device;
    unsigned number; /* of this process's communicators */
    std::string name;
    bool blocking;
    size_t memory; /* of the device, taken at init */
    int listener = -1;
    std::vector<std::pair<int, emu_frame>> strangers; /* accepted, not yet known who */
    std::vector<size_t> strangers_at;
    std::vector<emu_link> links; /* one a rank */
    bool up = false, aborted = false, dead = false, stalled = false, finalizing = false;
    ncclResult_t failed = ncclSuccess;
    unsigned polls_left;   /* answers of ncclInProgress to give at least */
    uint64_t messages = 0; /* sends that began to be written */
    std::list<std::shared_ptr<emu_group>> launching; /* ended, not on their streams yet */
    std::list<std::shared_ptr<emu_group>> order;     /* on streams, oldest first */
    emu_group *active = nullptr;
    std::map<void *, size_t> registered;
    std::string last_error;
    std::thread::id inside_thread; /* who is in a call, or between ncclGroupStart and End */
    int inside = 0;
    const char *inside_what = nullptr;
};

/* emu_nccl_link.cpp */
void emu_nccl_listen(ncclComm *c);
bool emu_nccl_join(ncclComm *c); /* true when all links are up */
void emu_nccl_pump(ncclComm *c);
void emu_nccl_write(emu_link *l, emu_frame frame, emu_transfer *transfer);
void emu_nccl_hang_up(ncclComm *c);
bool emu_nccl_flushed(const ncclComm *c);

/* emu_nccl_group.cpp */
bool emu_nccl_launch(ncclComm *c); /* true when nothing is left to launch */
size_t emu_nccl_size_of(ncclDataType_t type);
uint64_t emu_nccl_draw(uint64_t below);

/* emu_nccl_fault.cpp */
struct emu_nccl_fault_of {
    std::string kind;
    int rank = -1, comm = -1, percent = 50, ms = 10, turns = 8;
    uint64_t message = 0;
};
const emu_nccl_fault_of *emu_nccl_fault_at(const char *kind, const ncclComm *c);

#endif
