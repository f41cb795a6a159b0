/* emu_nccl_link.cpp -- the emulated NCCL's sockets: how ranks meet, and frames between them.
 *
 * Each rank listens on an abstract Unix socket named after the unique id and its number, and calls
 * those of lower number. Nothing here waits: everything is tried again at the next pump.
 */
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/libs/emu_nccl_comm.hpp"

namespace {

constexpr uint32_t MAGIC = 0x6c63636e;

socklen_t address_of(const ncclComm *c, int rank, sockaddr_un *out) {
    *out = {};
    out->sun_family = AF_UNIX;
    const int n = snprintf(out->sun_path + 1, sizeof(out->sun_path) - 1, "weir-emu-nccl-%s-%d",
                           c->name.c_str(), rank);
    return (socklen_t)(offsetof(sockaddr_un, sun_path) + 1 + (size_t)n);
}

int new_socket() {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        emu_die("nccl: no socket: %s", strerror(errno));
    }
    return fd;
}

void call_lower_ranks(ncclComm *c) {
    for (int peer = 0; peer < c->rank; peer++) {
        emu_link *l = &c->links[(size_t)peer];
        if (l->state != EMU_LINK_NONE) {
            continue;
        }
        sockaddr_un address;
        const socklen_t bytes = address_of(c, peer, &address);
        const int fd = new_socket();
        if (connect(fd, (const sockaddr *)&address, bytes) != 0) {
            close(fd); /* not there yet */
            continue;
        }
        l->fd = fd;
        l->state = EMU_LINK_UP;
        emu_nccl_write(l, {MAGIC, EMU_HELLO, (uint64_t)c->rank, (uint64_t)c->ranks, 0}, nullptr);
    }
}

void welcome_strangers(ncclComm *c) {
    for (;;) {
        const int fd = accept4(c->listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            break;
        }
        c->strangers.push_back({fd, {}});
        c->strangers_at.push_back(0);
    }
    for (size_t i = 0; i < c->strangers.size();) {
        auto &[fd, hello] = c->strangers[i];
        size_t &at = c->strangers_at[i];
        const ssize_t n = recv(fd, (char *)&hello + at, sizeof(hello) - at, 0);
        at += n > 0 ? (size_t)n : 0;
        if (at == sizeof(hello)) {
            if (hello.magic != MAGIC || hello.kind != EMU_HELLO ||
                hello.bytes != (uint64_t)c->ranks || hello.sequence >= hello.bytes) {
                emu_die("nccl: rank %d was told of %d ranks, rank %llu of %llu", c->rank, c->ranks,
                        (unsigned long long)hello.sequence, (unsigned long long)hello.bytes);
            }
            emu_link *l = &c->links[hello.sequence];
            l->fd = fd;
            l->state = EMU_LINK_UP;
        } else if (n == 0) {
            close(fd);
        }
        if (at == sizeof(hello) || n == 0) {
            c->strangers.erase(c->strangers.begin() + (ptrdiff_t)i);
            c->strangers_at.erase(c->strangers_at.begin() + (ptrdiff_t)i);
        } else {
            i++;
        }
    }
}

void lost(ncclComm *c, emu_link *l) {
    if (l->state != EMU_LINK_UP) {
        return;
    }
    l->state = EMU_LINK_LOST;
    l->out.clear();
    if (emu_nccl_fault_at("death-silent", c) == nullptr && c->failed == ncclSuccess) {
        c->failed = ncclRemoteError;
        c->last_error = "a peer has died";
    }
}

/* Faults in the middle of a message: how many of its bytes may be written. */
size_t may_write(ncclComm *c, const emu_piece &piece) {
    const size_t bytes = piece.transfer->bytes;
    for (const char *kind : {"stall", "die", "exit"}) {
        const emu_nccl_fault_of *f = emu_nccl_fault_at(kind, c);
        if (f == nullptr || f->message != piece.message) {
            continue;
        }
        const size_t limit =
            bytes / 100 * (size_t)f->percent + bytes % 100 * (size_t)f->percent / 100;
        if (piece.bytes_at < limit) {
            return limit - piece.bytes_at;
        }
        if (f->kind == "exit") {
            _exit(137);
        }
        c->stalled = true;
        c->dead = f->kind == "die";
        return 0;
    }
    return bytes - piece.bytes_at;
}

/* False when the socket takes no more. */
bool write_some(ncclComm *c, emu_link *l, const void *p, size_t bytes, size_t *at) {
    const ssize_t n = send(l->fd, p, bytes, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            lost(c, l);
        }
        return false;
    }
    *at += (size_t)n;
    return true;
}

void write_all(ncclComm *c, emu_link *l) {
    while (!l->out.empty() && l->state == EMU_LINK_UP && !c->stalled) {
        emu_piece &piece = l->out.front();
        if (piece.frame_at < sizeof(piece.frame)) {
            if (!write_some(c, l, (const char *)&piece.frame + piece.frame_at,
                            sizeof(piece.frame) - piece.frame_at, &piece.frame_at)) {
                return;
            }
            if (piece.transfer != nullptr && piece.frame_at == sizeof(piece.frame)) {
                piece.message = c->messages++;
            }
            continue;
        }
        if (piece.transfer == nullptr) {
            l->out.pop_front();
            continue;
        }
        const size_t left = may_write(c, piece);
        if (c->stalled) {
            return;
        }
        if (left > 0) {
            if (!write_some(c, l, piece.transfer->p + piece.bytes_at, left, &piece.bytes_at)) {
                return;
            }
        } else {
            piece.transfer->done = true;
            l->out.pop_front();
        }
    }
}

void took_frame(ncclComm *c, emu_link *l, int peer) {
    const emu_frame &f = l->in;
    if (f.magic != MAGIC) {
        emu_die("nccl: rank %d: what rank %d sends is no frame", c->rank, peer);
    }
    switch (f.kind) {
        case EMU_CONNECT:
            l->connect_seen = true;
            break;
        case EMU_CLEAR:
            l->clears[f.sequence] = f;
            break;
        case EMU_BYE:
            l->state = EMU_LINK_ENDED;
            break;
        case EMU_DATA: {
            auto it = l->receiving.find(f.sequence);
            if (it == l->receiving.end()) {
                emu_die("nccl: rank %d: rank %d sends a message nobody asked for", c->rank, peer);
            }
            if (f.bytes > 0) {
                return; /* its bytes follow */
            }
            it->second->done = true;
            l->receiving.erase(it);
            break;
        }
        default:
            emu_die("nccl: rank %d: rank %d sends a frame of kind %u", c->rank, peer, f.kind);
    }
    l->in_at = 0;
}

/* The bytes of a message, straight to where they belong. */
bool read_message(ncclComm *c, emu_link *l) {
    auto it = l->receiving.find(l->in.sequence);
    emu_transfer *t = it->second;
    const ssize_t n = recv(l->fd, t->p + l->in_bytes_at, t->bytes - l->in_bytes_at, 0);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            lost(c, l);
        }
        return false;
    }
    l->in_bytes_at += (uint64_t)n;
    if (l->in_bytes_at == t->bytes) {
        t->done = true;
        l->receiving.erase(it);
        l->in_at = 0;
        l->in_bytes_at = 0;
    }
    return true;
}

void read_all(ncclComm *c, emu_link *l, int peer) {
    while (l->state == EMU_LINK_UP) {
        if (l->in_at == sizeof(l->in)) {
            if (!read_message(c, l)) {
                return;
            }
            continue;
        }
        const ssize_t n = recv(l->fd, (char *)&l->in + l->in_at, sizeof(l->in) - l->in_at, 0);
        if (n <= 0) {
            if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
                lost(c, l);
            }
            return;
        }
        l->in_at += (size_t)n;
        if (l->in_at == sizeof(l->in)) {
            took_frame(c, l, peer);
        }
    }
}

}  // namespace

void emu_nccl_listen(ncclComm *c) {
    sockaddr_un address;
    const socklen_t bytes = address_of(c, c->rank, &address);
    c->listener = new_socket();
    if (bind(c->listener, (const sockaddr *)&address, bytes) != 0) {
        emu_die("nccl: rank %d of a unique id is there already: an id is for one communicator",
                c->rank);
    }
    if (listen(c->listener, EMU_RANKS_MAX) != 0) {
        emu_die("nccl: no socket to listen on: %s", strerror(errno));
    }
}

bool emu_nccl_join(ncclComm *c) {
    call_lower_ranks(c);
    welcome_strangers(c);
    emu_nccl_pump(c);
    for (int i = 0; i < c->ranks; i++) {
        if (i != c->rank && c->links[(size_t)i].state == EMU_LINK_NONE) {
            return false;
        }
    }
    if (!c->strangers.empty()) {
        return false;
    }
    close(c->listener);
    c->listener = -1;
    return true;
}

void emu_nccl_pump(ncclComm *c) {
    for (int i = 0; i < c->ranks && !c->dead; i++) {
        emu_link *l = &c->links[(size_t)i];
        if (l->state == EMU_LINK_UP) {
            write_all(c, l);
        }
        if (l->state == EMU_LINK_UP && !c->dead) {
            read_all(c, l, i);
        }
    }
    if (c->dead) {
        emu_nccl_hang_up(c);
    }
}

void emu_nccl_write(emu_link *l, emu_frame frame, emu_transfer *transfer) {
    frame.magic = MAGIC;
    l->out.push_back({frame, 0, 0, transfer, 0});
}

void emu_nccl_hang_up(ncclComm *c) {
    for (emu_link &l : c->links) {
        if (l.fd >= 0) {
            close(l.fd);
        }
        l.fd = -1;
        l.state = EMU_LINK_ENDED;
        l.out.clear();
        l.receiving.clear();
    }
    for (auto &[fd, hello] : c->strangers) {
        close(fd);
    }
    c->strangers.clear();
    if (c->listener >= 0) {
        close(c->listener);
    }
    c->listener = -1;
}

bool emu_nccl_flushed(const ncclComm *c) {
    for (const emu_link &l : c->links) {
        if (l.state == EMU_LINK_UP && !l.out.empty()) {
            return false;
        }
    }
    return true;
}
