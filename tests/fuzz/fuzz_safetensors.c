/* fuzz_safetensors.c -- weights: in an accepted file every tensor lies inside, in order, without
 * gap or overlap, has the bytes its shape says, and is found by its name. */
#include "models/file/safetensors.h"

#include "engine/base/mem.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(safetensors, FUZZ_ALLOWANCE_BYTES) {
    safetensors s;
    diag d = {.code = STATUS_OK};
    status result = safetensors_read(data, bytes, "f", &s, &d);
    if (result != STATUS_OK) {
        CHECK(d.code == result && d.text[0] != 0 && str_utf8_valid(str_from(d.text)));
        return;
    }
    const uint8_t *at = s.count > 0 ? s.tensors[0].data : data + bytes;
    CHECK(at >= data + 8 && at <= data + bytes);
    for (uint64_t i = 0; i < s.count; i++) {
        const safetensors_tensor *t = &s.tensors[i];
        CHECK(t->data == at && t->bytes <= (uint64_t)(data + bytes - at));
        at += t->bytes;
        CHECK(safetensors_find(&s, t->name) == t);
        uint64_t elements = 1;
        for (uint32_t k = 0; k < GGUF_LIMIT_DIMS; k++) {
            CHECK(k < t->dims_count || t->dims[k] == 1);
            CHECK(mem_mul(elements, t->dims[k], &elements));
        }
        if (t->supported) {
            CHECK_EQ(elements * gguf_type_block_bytes(t->type), t->bytes);
        }
    }
    CHECK(at == data + bytes);
    safetensors_free(&s);
}
