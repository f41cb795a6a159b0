/* emu_nccl_fault.cpp -- the faults of the emulated NCCL, from the environment or a test. */
#include <cstdlib>
#include <cstring>

#include "tests/emu/emu_block.hpp"
#include "tests/emu/libs/emu_nccl.h"
#include "tests/emu/libs/emu_nccl_comm.hpp"

namespace {

const char *const KINDS[] = {"init-hangs", "init-fails", "death-silent", "stall",      "die",
                             "exit",       "delay",      "reorder",      "abort-hangs"};

void set_key(emu_nccl_fault_of *f, const std::string &key, const std::string &value) {
    const int number = (int)strtol(value.c_str(), nullptr, 10);
    if (key == "rank") {
        f->rank = number;
    } else if (key == "comm") {
        f->comm = number;
    } else if (key == "percent" && number >= 0 && number <= 100) {
        f->percent = number;
    } else if (key == "ms") {
        f->ms = number;
    } else if (key == "turns") {
        f->turns = number;
    } else if (key == "message") {
        f->message = (uint64_t)number;
    } else {
        emu_die("EMU_NCCL_FAULT: what is \"%s=%s\"?", key.c_str(), value.c_str());
    }
}

emu_nccl_fault_of read_one(const std::string &text) {
    emu_nccl_fault_of f;
    size_t at = text.find(',');
    f.kind = text.substr(0, at);
    bool known = false;
    for (const char *kind : KINDS) {
        known = known || f.kind == kind;
    }
    if (!known) {
        emu_die("EMU_NCCL_FAULT: what is \"%s\"?", f.kind.c_str());
    }
    while (at != std::string::npos) {
        const size_t end = text.find(',', at + 1);
        const std::string pair = text.substr(at + 1, end == std::string::npos ? end : end - at - 1);
        const size_t equals = pair.find('=');
        set_key(&f, pair.substr(0, equals),
                equals == std::string::npos ? "" : pair.substr(equals + 1));
        at = end;
    }
    return f;
}

std::vector<emu_nccl_fault_of> read_all(const char *spec) {
    std::vector<emu_nccl_fault_of> all;
    for (std::string rest = spec != nullptr ? spec : ""; !rest.empty();) {
        const size_t end = rest.find(';');
        all.push_back(read_one(rest.substr(0, end)));
        rest = end == std::string::npos ? "" : rest.substr(end + 1);
    }
    return all;
}

std::vector<emu_nccl_fault_of> &faults() {
    static auto *all = new std::vector<emu_nccl_fault_of>(read_all(getenv("EMU_NCCL_FAULT")));
    return *all;
}

}  // namespace

const emu_nccl_fault_of *emu_nccl_fault_at(const char *kind, const ncclComm *c) {
    for (const emu_nccl_fault_of &f : faults()) {
        if (f.kind == kind && (f.rank < 0 || f.rank == c->rank) &&
            (f.comm < 0 || (unsigned)f.comm == c->number)) {
            return &f;
        }
    }
    return nullptr;
}

void emu_nccl_fault(const char *spec) {
    auto held = emu_lock();
    faults() = read_all(spec);
}
