/* fusedcase.cpp -- fused kernels against their plain ones, and pages to and from staging.
 *
 * Rotary positions are also worked out here in double, so that the two kernels cannot be wrong
 * together; int8 rounding is checked by what it promises: half a scale at most.
 */
#include "kernels/cuda/cuda_ops.h"
#include "kernels/kmath.h"
#include "tests/emu/kernels/kernelcase.hpp"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using namespace kernelcase;

namespace {

constexpr int PAGE = 16;

uint64_t element_bytes(cuda_kv_type type) {
    return type == CUDA_KV_F32 ? 4 : type == CUDA_KV_INT8 || type == CUDA_KV_FP8 ? 1 : 2;
}

uint64_t head_bytes_of(cuda_kv_type type, int dim) {
    return 2 * PAGE * (uint64_t)dim * element_bytes(type) + (type == CUDA_KV_INT8 ? 4 * PAGE : 0);
}

float bf16_at(const uint8_t *p) {
    __nv_bfloat16 b;
    memcpy(&b, p, 2);
    return __bfloat162float(b);
}

/* Element d of K (which 0) or V of a token in the bytes of a head; `step`: what rounding may do. */
float element_of(cuda_kv_type type, int dim, const uint8_t *head, int which, int token, int d,
                 float *step) {
    const size_t at = (size_t)((which * PAGE + token) * dim + d);
    *step = 0;
    if (type == CUDA_KV_INT8) {
        const float scale = bf16_at(head + 2 * PAGE * dim + (which * PAGE + token) * 2);
        *step = scale * 0.501f;
        return (float)(int8_t)head[at] * scale;
    }
    if (type == CUDA_KV_FP8) {
        return kmath_e4m3(head[at]);
    }
    if (type == CUDA_KV_F32) {
        float x;
        memcpy(&x, head + at * 4, 4);
        return x;
    }
    if (type == CUDA_KV_BF16) {
        const float x = bf16_at(head + at * 2);
        *step = fabsf(x) / 200;
        return x;
    }
    __half h;
    memcpy(&h, head + at * 2, 2);
    *step = fabsf(__half2float(h)) / 1800 + 1e-7f;
    return __half2float(h);
}

/* ---- rotary positions ---- */

struct rope_setting {
    const char *name;
    cuda_kv_type type;
    int head_dim, dim, heads, kv_heads, position;
    bool interleaved;
};

struct rope_result {
    std::vector<float> q;
    std::vector<uint8_t> pool;
};

constexpr int ROPE_ROWS = 5;

/* Rows at positions from `position` on, the third of them of no sequence. */
rope_result append(const rope_setting &s, const std::vector<float> &q, const std::vector<float> &k,
                   const std::vector<float> &v, const std::vector<float> &table, bool fused) {
    const uint64_t head_bytes = head_bytes_of(s.type, s.head_dim);
    const int pages = (s.position + ROPE_ROWS) / PAGE + 1;
    std::vector<int32_t> row_seq(ROPE_ROWS, 0), position;
    std::vector<uint32_t> page_list;
    for (int i = 0; i < ROPE_ROWS; i++) {
        position.push_back(s.position + i);
    }
    row_seq[2] = -1;
    for (int i = 0; i < pages; i++) {
        page_list.push_back((uint32_t)(pages - 1 - i));
    }
    device<float> device_q(q), device_k(k), device_v(v), device_table(table);
    device<int32_t> device_seq(row_seq), device_position(position), first(std::vector<int32_t>{0});
    device<uint32_t> device_pages(page_list);
    device<uint8_t> pool(std::vector<uint8_t>(head_bytes * (uint64_t)(s.kv_heads * pages), 0x55));
    cuda_rope_append op = {};
    op.q = device_q.at;
    op.k = device_k.at;
    op.v = device_v.at;
    op.table = device_table.at;
    op.batch = {device_seq.at, device_position.at, device_pages.at, first.at};
    op.kv = {pool.at, head_bytes * (uint64_t)s.kv_heads, head_bytes, s.kv_heads, s.head_dim,
             s.type};
    op.rows = ROPE_ROWS;
    op.heads = s.heads;
    op.dim = s.dim;
    op.interleaved = s.interleaved;
    finish(s.name, fused ? fused_rope_append(&op, nullptr) : plain_rope_append(&op, nullptr));
    return {device_q.values(), pool.values()};
}

/* A head turned by the angles position * 10000^(-2 i / dim), in double. */
std::vector<double> turned(const rope_setting &s, const float *head, int position) {
    std::vector<double> out(head, head + s.head_dim);
    for (int i = 0; i < s.dim / 2; i++) {
        const double angle = position * std::pow(10000.0, -2.0 * i / s.dim);
        const int a = s.interleaved ? 2 * i : i, b = s.interleaved ? 2 * i + 1 : i + s.dim / 2;
        out[(size_t)a] = head[a] * std::cos(angle) - head[b] * std::sin(angle);
        out[(size_t)b] = head[a] * std::sin(angle) + head[b] * std::cos(angle);
    }
    return out;
}

std::vector<float> rope_table(const rope_setting &s) {
    std::vector<float> table;
    for (int row = 0; row < ROPE_ROWS; row++) {
        for (int part = 0; part < 2; part++) {
            for (int i = 0; i < s.dim / 2; i++) {
                const double angle = (s.position + row) * std::pow(10000.0, -2.0 * i / s.dim);
                table.push_back((float)(part == 0 ? std::cos(angle) : std::sin(angle)));
            }
        }
    }
    return table;
}

bool pages_hold(const rope_setting &s, const std::vector<uint8_t> &pool,
                const std::vector<float> &k, const std::vector<float> &v) {
    const uint64_t head_bytes = head_bytes_of(s.type, s.head_dim);
    const int pages = (s.position + ROPE_ROWS) / PAGE + 1;
    bool fine = true;
    for (int row = 0; row < ROPE_ROWS; row++) {
        const int position = s.position + row;
        const uint64_t page = (uint64_t)(pages - 1 - position / PAGE);
        for (int h = 0; h < s.kv_heads && row != 2; h++) {
            const uint8_t *head = &pool[(page * (uint64_t)s.kv_heads + (uint64_t)h) * head_bytes];
            const size_t at = (size_t)((row * s.kv_heads + h) * s.head_dim);
            const std::vector<double> key = turned(s, &k[at], position);
            for (int d = 0; d < s.head_dim; d++) {
                float step;
                float x = element_of(s.type, s.head_dim, head, 0, position % PAGE, d, &step);
                fine = fine && std::fabs(x - key[(size_t)d]) <= step + 2e-5;
                x = element_of(s.type, s.head_dim, head, 1, position % PAGE, d, &step);
                fine = fine && std::fabs(x - v[at + (size_t)d]) <= step;
            }
        }
    }
    return fine;
}

void rope_is_right(const rope_setting &s) {
    numbers r(11);
    const std::vector<float> q = r.normals((size_t)(ROPE_ROWS * s.heads * s.head_dim), 1);
    const std::vector<float> k = r.normals((size_t)(ROPE_ROWS * s.kv_heads * s.head_dim), 1);
    const std::vector<float> v = r.normals(k.size(), 1), table = rope_table(s);
    const rope_result plain = append(s, q, k, v, table, false);
    const std::string name = std::string("rope_append/") + s.name;
    std::vector<double> want;
    for (int i = 0; i < ROPE_ROWS * s.heads; i++) {
        const float *head = &q[(size_t)(i * s.head_dim)];
        const std::vector<double> one = i / s.heads == 2
                                            ? std::vector<double>(head, head + s.head_dim)
                                            : turned(s, head, s.position + i / s.heads);
        want.insert(want.end(), one.begin(), one.end());
    }
    close(name + "/q", plain.q, want, 1e-5);
    report(name + "/pages", pages_hold(s, plain.pool, k, v), "other keys or values");
    bool fine = true;
    each_seed(full    ? 10
              : quick ? 0
                      : 2,
              [&](int) {
                  const rope_result fused = append(s, q, k, v, table, true);
                  fine = fine && same(fused.q, plain.q) && same(fused.pool, plain.pool);
              });
    report(name + "/fused", fine, "other bits than the plain kernel");
}

/* ---- rows for the tensor cores ---- */

void rows_are_prepared(const char *name, cuda_rows_input input, bool add) {
    constexpr int rows = 3, width = 200, stride = 256 + 32;
    numbers r(12);
    const std::vector<float> x = r.normals(rows * width, 2), up = r.normals(rows * width, 1);
    device<float> device_up(up), weight(r.normals(width, 1)), more(r.normals(rows * width, 1));
    std::vector<float> out[2], sums[2], sum_of_both[2];
    for (int i = 0; i < 2; i++) {
        device<float> device_x(x), device_sums((size_t)64 * stride / 32);
        device<uint16_t> bf16((size_t)64 * stride);
        cuda_rows op = {};
        op.x = device_x.at;
        op.x_up = device_up.at;
        op.norm_weight = weight.at;
        op.add = add ? more.at : nullptr;
        op.x_out = device_x.at;
        op.norm_epsilon = 1e-5f;
        op.input = input;
        op.rows = rows;
        op.width = width;
        op.stride = stride;
        op.rows_bf16 = bf16.at;
        op.sums = device_sums.at;
        finish(name, i == 0 ? stream_rows(&op, nullptr) : plain_rows(&op, nullptr));
        for (int k = 0; k < rows * stride; k++) {
            out[i].push_back(bf16_at((const uint8_t *)&bf16.at[k]));
        }
        sums[i] = std::vector<float>(device_sums.at, device_sums.at + rows * stride / 32);
        sum_of_both[i] = device_x.values();
    }
    const std::string full_name = std::string("rows/") + name;
    close(full_name, out[0], std::vector<double>(out[1].begin(), out[1].end()), 0.004);
    close(full_name + "/sums", sums[0], std::vector<double>(sums[1].begin(), sums[1].end()), 0.03);
    report(full_name + "/added",
           same(sum_of_both[0], sum_of_both[1]) && same(x, sum_of_both[0]) != add,
           "x is not what it should be");
}

/* Against the formulas in double, element by element. */
void activations_are_right() {
    numbers r(13);
    const std::vector<float> gate = r.normals(777, 3), up = r.normals(777, 1);
    for (const bool gelu : {false, true}) {
        device<float> device_gate(gate), device_up(up);
        const cuda_silu_mul op = {device_gate.at, device_up.at, device_gate.at, 777, gelu};
        finish("gated", plain_silu_mul(&op, nullptr));
        std::vector<double> want;
        for (size_t i = 0; i < gate.size(); i++) {
            const double g = gate[i];
            const double inner = std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
            want.push_back(up[i] * (gelu ? 0.5 * g * (1 + std::tanh(inner)) : g / (1 + exp(-g))));
        }
        close(gelu ? "gated/gelu" : "gated/silu", device_gate.values(), want, 2e-6);
    }
    device<float> logits(gate);
    const cuda_softcap cap = {logits.at, 777, 2.5f};
    finish("softcap", plain_softcap(&cap, nullptr));
    std::vector<double> want;
    for (float x : gate) {
        want.push_back(2.5 * std::tanh(x / 2.5));
    }
    close("softcap", logits.values(), want, 1e-6);
}

/* ---- pages ---- */

constexpr int LAYERS = 3, POOL_PAGES = 7, HEADS = 4, DIM = 80;

struct pool {
    cuda_kv_type type;
    uint64_t head_bytes, page_bytes, layer_bytes;
    std::vector<uint8_t> bytes;
};

/* Random numbers in each element; an int8 pool's scales are sensible ones. */
pool make_pool(cuda_kv_type type, uint64_t seed) {
    numbers r(seed);
    pool p = {type, head_bytes_of(type, DIM), 0, 0, {}};
    p.page_bytes = p.head_bytes * HEADS;
    p.layer_bytes = p.page_bytes * POOL_PAGES;
    p.bytes.resize(p.layer_bytes * LAYERS);
    for (size_t i = 0; i < p.bytes.size(); i += element_bytes(type)) {
        const float x = r.normal();
        const __nv_bfloat16 b = __float2bfloat16_rn(x);
        const __half h = __float2half_rn(x);
        if (type == CUDA_KV_F32) {
            memcpy(&p.bytes[i], &x, 4);
        } else if (type == CUDA_KV_INT8) {
            p.bytes[i] = (uint8_t)r.below(256);
        } else if (type == CUDA_KV_FP8) {
            p.bytes[i] = kmath_to_e4m3(x);
        } else if (type == CUDA_KV_BF16) {
            memcpy(&p.bytes[i], &b, 2);
        } else {
            memcpy(&p.bytes[i], &h, 2);
        }
    }
    return p;
}

cuda_pages transfer_of(const pool &p, uint8_t *base, const uint32_t *pages, int32_t count,
                       uint8_t *staging, const pool &sender) {
    cuda_pages op = {};
    op.pool = base;
    op.layer_bytes = p.layer_bytes;
    op.page_bytes = p.page_bytes;
    op.head_bytes = p.head_bytes;
    op.pages = pages;
    op.staging = staging;
    op.staging_head_bytes = sender.head_bytes;
    op.count = count;
    op.layer_first = 1;
    op.layers = 2;
    op.heads = 2;
    op.head_dim = DIM;
    op.type = p.type;
    op.staging_type = sender.type;
    return op;
}

/* Heads 1 and 2 of pages 5, 0, 6 of layers 1 and 2 become heads 2 and 3 of pages 2, 3, 1. */
void pages_arrive(const char *name, cuda_kv_type from_type, cuda_kv_type to_type) {
    const pool from = make_pool(from_type, 21), to = make_pool(to_type, 22);
    const std::vector<uint32_t> from_pages = {5, 0, 6}, to_pages = {2, 3, 1};
    device<uint8_t> from_bytes(from.bytes), to_bytes(to.bytes);
    device<uint8_t> staging(2 * 3 * 2 * from.head_bytes);
    device<uint32_t> device_from(from_pages), device_to(to_pages);
    cuda_pages gather = transfer_of(from, from_bytes.at, device_from.at, 3, staging.at, from);
    cuda_pages scatter = transfer_of(to, to_bytes.at, device_to.at, 3, staging.at, from);
    gather.head_first = 1;
    scatter.head_first = 2;
    finish(name, pages_gather(&gather, nullptr));
    finish(name, pages_scatter(&scatter, nullptr));
    std::vector<uint8_t> expected = to.bytes;
    const std::vector<uint8_t> got = to_bytes.values();
    bool fine = same(from.bytes, from_bytes.values());
    for (uint64_t layer = 1; layer < 3; layer++) {
        for (size_t i = 0; i < 3; i++) {
            for (uint64_t h = 0; h < 2; h++) {
                const uint8_t *sent =
                    &from.bytes[layer * from.layer_bytes + from_pages[i] * from.page_bytes +
                                (1 + h) * from.head_bytes];
                const uint64_t at =
                    layer * to.layer_bytes + to_pages[i] * to.page_bytes + (2 + h) * to.head_bytes;
                if (from_type == to_type) {
                    memcpy(&expected[at], sent, from.head_bytes);
                    continue;
                }
                for (int e = 0; e < 2 * PAGE * DIM; e++) {
                    float step, unused;
                    const int which = e / (PAGE * DIM), token = e / DIM % PAGE;
                    const float x =
                        element_of(to_type, DIM, &got[at], which, token, e % DIM, &step);
                    float want = element_of(from_type, DIM, sent, which, token, e % DIM, &unused);
                    if (to_type == CUDA_KV_FP8) { /* bit for bit the host's rounding */
                        want = kmath_e4m3(kmath_to_e4m3(want));
                    }
                    fine = fine && fabsf(x - want) <= step;
                }
                memcpy(&expected[at], &got[at], to.head_bytes);
            }
        }
    }
    report(std::string("pages/") + name, fine && same(expected, got),
           fine ? "other bytes changed too" : "other numbers");
}

}  // namespace

void fusedcase_run() {
    constexpr rope_setting ropes[] = {
        {"f16_neox", CUDA_KV_F16, 64, 64, 3, 1, 14, false},
        {"bf16_interleaved", CUDA_KV_BF16, 128, 128, 2, 2, 30, true},
        {"int8_part_of_the_head", CUDA_KV_INT8, 96, 64, 5, 2, 0, false},
        {"f32_interleaved_part", CUDA_KV_F32, 256, 32, 1, 1, 8190, true},
        {"int8_d80", CUDA_KV_INT8, 80, 80, 2, 1, 15, true},
    };
    for (const rope_setting &s : ropes) {
        rope_is_right(s);
    }
    rows_are_prepared("plain", CUDA_ROWS_PLAIN, false);
    rows_are_prepared("rmsnorm", CUDA_ROWS_RMSNORM, false);
    rows_are_prepared("add_rmsnorm", CUDA_ROWS_RMSNORM, true);
    rows_are_prepared("silu_mul", CUDA_ROWS_SILU_MUL, false);
    rows_are_prepared("gelu_mul", CUDA_ROWS_GELU_MUL, false);
    activations_are_right();
    pages_arrive("f16", CUDA_KV_F16, CUDA_KV_F16);
    pages_arrive("int8", CUDA_KV_INT8, CUDA_KV_INT8);
    pages_arrive("bf16_to_int8", CUDA_KV_BF16, CUDA_KV_INT8);
    pages_arrive("f32_to_f16", CUDA_KV_F32, CUDA_KV_F16);
    pages_arrive("fp8", CUDA_KV_FP8, CUDA_KV_FP8);
    pages_arrive("bf16_to_fp8", CUDA_KV_BF16, CUDA_KV_FP8);
    pages_arrive("fp8_to_bf16", CUDA_KV_FP8, CUDA_KV_BF16);
}
