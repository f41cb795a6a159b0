/* ncclmsg.c -- encoding of the messages of an NCCL channel. */
#include "kvtransfer/ncclmsg.h"

#include <string.h>

#include "engine/base/bytes.h"

enum { ANSWER_BYTES = 8 + 8 };

static const uint8_t magics[][8] = {[NCCLMSG_OFFER] = "KVTNCC\0\2",
                                    [NCCLMSG_ANNOUNCE] = "",
                                    [NCCLMSG_READY] = "KVTRDY\0\2",
                                    [NCCLMSG_DONE] = "KVTDON\0\2"};

uint32_t ncclmsg_put(const ncclmsg *m, uint8_t out[NCCLMSG_BYTES_MAX]) {
    if (m->kind == NCCLMSG_ANNOUNCE) {
        frame_put(&m->frame, out);
        return FRAME_BYTES;
    }
    memcpy(out, magics[m->kind], 8);
    if (m->kind == NCCLMSG_OFFER) {
        bytes_put(out + 8, m->generation, 8);
        memcpy(out + 16, m->id, NCCLMSG_ID_BYTES);
        return NCCLMSG_BYTES_MAX;
    }
    bytes_put(out + 8, m->sequence, 8);
    return ANSWER_BYTES;
}

bool ncclmsg_get(str text, ncclmsg *out) {
    const uint8_t *in = (const uint8_t *)text.data;
    *out = (ncclmsg){.kind = NCCLMSG_ANNOUNCE};
    if (text.bytes == FRAME_BYTES) {
        return frame_get(in, &out->frame) == STATUS_OK;
    }
    if (text.bytes == NCCLMSG_BYTES_MAX && memcmp(in, magics[NCCLMSG_OFFER], 8) == 0) {
        out->kind = NCCLMSG_OFFER;
        out->generation = bytes_get(in + 8, 8);
        memcpy(out->id, in + 16, NCCLMSG_ID_BYTES);
        return true;
    }
    if (text.bytes != ANSWER_BYTES || bytes_get(in + 8, 8) > UINT32_MAX) {
        return false;
    }
    out->kind = memcmp(in, magics[NCCLMSG_READY], 8) == 0 ? NCCLMSG_READY : NCCLMSG_DONE;
    out->sequence = (uint32_t)bytes_get(in + 8, 8);
    return memcmp(in, magics[out->kind], 8) == 0;
}
