/* attentioncase.cpp -- attention: values against double precision, bits against each other.
 *
 * The oracle walks the same pages element by element and sums in double. The same rows are then
 * asked for as one prompt, as chunks, as single tokens, in another order of pages and beside other
 * sequences: their bits must not change.
 */
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cudaplan.h"
#include "kernels/kmath.h"
#include "kernels/ops.h"
#include "tests/emu/kernels/kernelcase.hpp"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using namespace kernelcase;

namespace {

constexpr int PAGE = 16;
constexpr int SHARED_MAX = 227 * 1024;

struct setting {
    const char *name;
    cuda_kv_type type;
    int dim, heads, kv_heads, tokens;
    int window;
    float softcap;
};

/* A sequence of `tokens` positions with random queries, keys and values, and a pool with its pages
 * scattered over it. */
struct scene {
    setting s;
    uint64_t head_bytes, page_bytes;
    std::vector<float> q;     /* [tokens, heads, dim] */
    std::vector<double> k, v; /* [tokens, kv_heads, dim] as the pages say */
    std::vector<uint8_t> pool;
    std::vector<uint32_t> pages;
};

float put(cuda_kv_type type, uint8_t *element, float value, float scale) {
    if (type == CUDA_KV_F32) {
        memcpy(element, &value, 4);
        return value;
    }
    if (type == CUDA_KV_F16) {
        const __half h = __float2half_rn(value);
        memcpy(element, &h, 2);
        return __half2float(h);
    }
    if (type == CUDA_KV_BF16) {
        const __nv_bfloat16 b = __float2bfloat16_rn(value);
        memcpy(element, &b, 2);
        return __bfloat162float(b);
    }
    if (type == CUDA_KV_FP8) {
        *element = kmath_to_e4m3(value);
        return kmath_e4m3(*element);
    }
    const int8_t quant = (int8_t)rintf(value / scale);
    *(int8_t *)element = quant;
    return (float)quant * scale;
}

uint64_t element_bytes(cuda_kv_type type) {
    return type == CUDA_KV_F32 ? 4 : type == CUDA_KV_INT8 || type == CUDA_KV_FP8 ? 1 : 2;
}

/* Writes one token's K (which 0) or V of one head where cuda_ops.h says; back come the values. */
void store(scene &c, int position, int head, int which, const std::vector<float> &values,
           double *back) {
    const setting &s = c.s;
    uint8_t *base = c.pool.data() + c.pages[(size_t)(position / PAGE)] * c.page_bytes +
                    (uint64_t)head * c.head_bytes;
    float scale = 1;
    if (s.type == CUDA_KV_INT8) {
        float largest = 0;
        for (float x : values) {
            largest = fmaxf(largest, fabsf(x));
        }
        const __nv_bfloat16 rounded = __float2bfloat16_ru(largest / 127.0f);
        memcpy(base + 2 * PAGE * s.dim + (which * PAGE + position % PAGE) * 2, &rounded, 2);
        scale = __bfloat162float(rounded);
    }
    for (int d = 0; d < s.dim; d++) {
        const uint64_t at = (uint64_t)((which * PAGE + position % PAGE) * s.dim + d);
        back[d] = put(s.type, base + at * element_bytes(s.type), values[(size_t)d], scale);
    }
}

scene make_scene(const setting &s, uint64_t seed, uint64_t page_seed) {
    scene c = {};
    c.s = s;
    c.head_bytes = 2 * PAGE * (uint64_t)s.dim * element_bytes(s.type) +
                   (s.type == CUDA_KV_INT8 ? 4 * PAGE : 0);
    c.page_bytes = c.head_bytes * (uint64_t)s.kv_heads;
    const int pages = (s.tokens + PAGE - 1) / PAGE;
    numbers order(page_seed), r(seed);
    for (int i = 0; i < pages; i++) {
        c.pages.push_back((uint32_t)i);
    }
    for (int i = pages - 1; i > 0; i--) {
        std::swap(c.pages[(size_t)i], c.pages[(size_t)order.below(i + 1)]);
    }
    c.pool.assign(c.page_bytes * (uint64_t)pages, 0xff); /* NaN where nothing is written */
    const size_t row = (size_t)(s.kv_heads * s.dim);
    c.k.resize((size_t)s.tokens * row);
    c.v.resize((size_t)s.tokens * row);
    c.q = r.normals((size_t)(s.tokens * s.heads * s.dim), 1.5f);
    for (int p = 0; p < s.tokens; p++) {
        for (int h = 0; h < s.kv_heads; h++) {
            const size_t at = (size_t)p * row + (size_t)(h * s.dim);
            store(c, p, h, 0, r.normals((size_t)s.dim, 1.0f), &c.k[at]);
            store(c, p, h, 1, r.normals((size_t)s.dim, 1.0f), &c.v[at]);
        }
    }
    return c;
}

/* One (row, head) in double. */
void oracle_row(const scene &c, int position, int head, double *out) {
    const setting &s = c.s;
    const int kv_head = head / (s.heads / s.kv_heads);
    const float *q = &c.q[(size_t)((position * s.heads + head) * s.dim)];
    const int low = s.window > 0 && position >= s.window ? position - s.window + 1 : 0;
    std::vector<double> weights;
    double top = -INFINITY, sum = 0;
    for (int p = low; p <= position; p++) {
        double score = 0;
        for (int d = 0; d < s.dim; d++) {
            score += (double)q[d] * c.k[(size_t)((p * s.kv_heads + kv_head) * s.dim + d)];
        }
        score /= std::sqrt((double)s.dim);
        score = s.softcap > 0 ? (double)s.softcap * std::tanh(score / (double)s.softcap) : score;
        weights.push_back(score);
        top = std::max(top, score);
    }
    for (int d = 0; d < s.dim; d++) {
        out[d] = 0;
    }
    for (int p = low; p <= position; p++) {
        const double w = std::exp(weights[(size_t)(p - low)] - top);
        sum += w;
        for (int d = 0; d < s.dim; d++) {
            out[d] += w * c.v[(size_t)((p * s.kv_heads + kv_head) * s.dim + d)];
        }
    }
    for (int d = 0; d < s.dim; d++) {
        out[d] /= sum;
    }
}

/* Chunks of one call: runs of positions, each a sequence of the batch with the scene's pages. */
struct chunk {
    int first, rows;
};

enum way { PLAIN, TENSOR, UNSPLIT };

/* Rows of all chunks, in order. */
std::vector<float> attend(const scene &c, const std::vector<chunk> &chunks, way how) {
    const setting &s = c.s;
    const size_t width = (size_t)(s.heads * s.dim);
    std::vector<ops_seq> seqs;
    std::vector<int32_t> row_seq, position, pages_first;
    std::vector<uint32_t> pages;
    std::vector<float> q;
    for (const chunk &k : chunks) {
        seqs.push_back(ops_seq{(int32_t)row_seq.size(), k.rows, k.first, c.pages.data(),
                               (int32_t)c.pages.size()});
        pages_first.push_back((int32_t)pages.size());
        pages.insert(pages.end(), c.pages.begin(), c.pages.end());
        for (int i = 0; i < k.rows; i++) {
            row_seq.push_back((int32_t)seqs.size() - 1);
            position.push_back(k.first + i);
        }
        q.insert(q.end(), &c.q[(size_t)k.first * width],
                 &c.q[(size_t)k.first * width] + (size_t)k.rows * width);
    }
    device<uint8_t> pool(c.pool);
    device<float> device_q(q), out(q.size());
    device<int32_t> device_seq(row_seq), device_position(position), first(pages_first);
    device<uint32_t> device_pages(pages);
    cuda_attention op = {};
    op.q = device_q.at;
    op.out = out.at;
    op.batch = {device_seq.at, device_position.at, device_pages.at, first.at};
    op.kv = {pool.at, c.page_bytes, c.head_bytes, s.kv_heads, s.dim, s.type};
    op.rows = (int32_t)row_seq.size();
    op.heads = s.heads;
    op.scale = 1.0f / sqrtf((float)s.dim);
    op.softcap = s.softcap;
    op.window = s.window;
    if (how == PLAIN) {
        finish(s.name, plain_attention(&op, nullptr));
        return out.values();
    }
    const cudaplan_shape shape = {s.heads, s.kv_heads, s.window, how == TENSOR ? 1 << 20 : 0};
    const int32_t count = (int32_t)seqs.size();
    const cudaplan_counts n = cudaplan_attention(&shape, seqs.data(), count, nullptr, nullptr);
    std::vector<cuda_attention_item> items((size_t)(n.wide + n.narrow));
    std::vector<cuda_attention_merge> merges((size_t)n.merges);
    cudaplan_attention(&shape, seqs.data(), count, items.data(), merges.data());
    device<cuda_attention_item> device_items(items);
    device<cuda_attention_merge> device_merges(merges);
    device<float> slots((size_t)n.slots * (size_t)s.heads * (size_t)(s.dim + 2));
    op.work = {device_items.at, device_merges.at, slots.at, n.wide, n.narrow, n.merges};
    if (!attention_tensor_can(&op, SHARED_MAX)) {
        report(s.name, false, "attention_tensor cannot do this");
    } else {
        finish(s.name, attention_tensor(&op, nullptr));
    }
    return out.values();
}

std::vector<double> oracle(const scene &c, const std::vector<chunk> &chunks) {
    const setting &s = c.s;
    std::vector<double> out;
    for (const chunk &k : chunks) {
        for (int i = 0; i < k.rows; i++) {
            for (int h = 0; h < s.heads; h++) {
                out.resize(out.size() + (size_t)s.dim);
                oracle_row(c, k.first + i, h, &out[out.size() - (size_t)s.dim]);
            }
        }
    }
    return out;
}

/* Queries, weights and (BF16) pages have 16 bits; sums of a softmax average that out. */
double bound_of(const setting &s) {
    return s.type == CUDA_KV_F16 || s.type == CUDA_KV_FP8 ? 0.003 : 0.015;
}

constexpr setting SETTINGS[] = {
    {"f16_d64_gqa3", CUDA_KV_F16, 64, 6, 2, 77, 0, 0},
    {"f16_d64_split", CUDA_KV_F16, 64, 3, 1, 530, 0, 0},
    {"bf16_d80", CUDA_KV_BF16, 80, 2, 2, 33, 0, 0},
    {"bf16_d96_gqa4", CUDA_KV_BF16, 96, 4, 1, 65, 0, 0},
    {"f16_d128_gqa8_window", CUDA_KV_F16, 128, 8, 1, 300, 40, 0},
    {"bf16_d256_softcap", CUDA_KV_BF16, 256, 2, 1, 50, 0, 5.0f},
    {"int8_d64_split", CUDA_KV_INT8, 64, 4, 2, 290, 0, 0},
    {"int8_d80", CUDA_KV_INT8, 80, 1, 1, 40, 0, 0},
    {"int8_d128_gqa2", CUDA_KV_INT8, 128, 4, 2, 49, 0, 30.0f},
    {"int8_d256", CUDA_KV_INT8, 256, 1, 1, 36, 17, 0},
    {"fp8_d64_split", CUDA_KV_FP8, 64, 4, 2, 290, 0, 0},
    {"fp8_d96", CUDA_KV_FP8, 96, 2, 1, 40, 0, 0},
    {"fp8_d128_gqa8_window", CUDA_KV_FP8, 128, 8, 1, 70, 40, 0},
    {"fp8_d256_softcap", CUDA_KV_FP8, 256, 1, 1, 36, 0, 5.0f},
    {"f16_d96_mqa32", CUDA_KV_F16, 96, 32, 1, 20, 0, 0},
    {"bf16_d128_one_token", CUDA_KV_BF16, 128, 2, 1, 1, 0, 0},
};

/* The end of a sequence as rows of its own, some of the middle, and the first token. */
std::vector<chunk> samples_of(const setting &s) {
    std::vector<chunk> chunks = {{0, 1}};
    if (s.tokens > 20) {
        chunks.push_back({15, 3}); /* over the edge of a page */
        chunks.push_back({s.tokens - 1, 1});
        chunks.push_back({s.tokens - 12, 12});
    }
    return chunks;
}

void values_are_right(const setting &s) {
    const scene c = make_scene(s, 1, 1);
    const std::vector<chunk> chunks = samples_of(s);
    const std::vector<double> want = oracle(c, chunks);
    const std::string name = std::string("attention/") + s.name;
    close(name, attend(c, chunks, TENSOR), want, bound_of(s));
    close(name + "/plain", attend(c, chunks, PLAIN), want, 2e-5);
}

/* The last rows of a prompt, in every way they can be asked for. */
void bits_are_the_rows_own(const setting &s) {
    const scene c = make_scene(s, 2, 1), moved = make_scene(s, 2, 7);
    const size_t width = (size_t)(s.heads * s.dim);
    const int rows = s.tokens < 70 ? s.tokens : 70, from = s.tokens - rows;
    const std::vector<float> whole = attend(c, {{from, rows}}, TENSOR);
    const std::string name = std::string("attention/bits/") + s.name;
    report(name + "/unsplit", same(whole, attend(c, {{from, rows}}, UNSPLIT)), "other bits");
    report(name + "/pages", same(whole, attend(moved, {{from, rows}}, TENSOR)), "other bits");
    std::vector<chunk> chunks;
    for (int at = 0; at < rows; at += 7) {
        chunks.push_back({from + at, rows - at < 7 ? rows - at : 7});
    }
    report(name + "/chunks", same(whole, attend(c, chunks, TENSOR)), "other bits");
    for (int i : {0, rows / 2, rows - 1}) {
        const std::vector<float> row(&whole[(size_t)i * width], &whole[(size_t)i * width] + width);
        const std::vector<float> split = attend(c, {{from + i, 1}}, TENSOR);
        const std::vector<float> together = attend(c, {{0, 1}, {from + i, 1}}, UNSPLIT);
        report(name + "/decoding_row_" + std::to_string(i), same(row, split), "other bits");
        report(name + "/decoding_unsplit_row_" + std::to_string(i),
               same(row, std::vector<float>(together.begin() + (ptrdiff_t)width, together.end())),
               "other bits");
    }
}

void schedules_change_nothing(const setting &s, int seeds) {
    const scene c = make_scene(s, 3, 1);
    const std::vector<chunk> chunks = samples_of(s);
    const std::vector<float> first = attend(c, chunks, TENSOR);
    bool fine = true;
    each_seed(seeds, [&](int) { fine = fine && same(first, attend(c, chunks, TENSOR)); });
    report(std::string("attention/seeds/") + s.name, fine, "bits depend on the order of threads");
}

/* A plan covers each (row, split) exactly once, in whatever way. */
void plans_cover_everything() {
    numbers r(5);
    bool fine = true;
    for (int round = 0; round < 200; round++) {
        const int group = 1 + r.below(12), window = r.below(3) == 0 ? 1 + r.below(900) : 0;
        const cudaplan_shape shape = {group * 2, 2, window, r.below(2) == 0 ? 60 : 100000};
        std::vector<ops_seq> seqs;
        int32_t rows = 0;
        for (int i = 0; i < 1 + r.below(5); i++) {
            const int32_t n = 1 + r.below(r.below(2) == 0 ? 3 : 100);
            seqs.push_back(ops_seq{rows, n, r.below(3000), nullptr, 0});
            rows += n;
        }
        const int32_t count = (int32_t)seqs.size();
        const cudaplan_counts n = cudaplan_attention(&shape, seqs.data(), count, nullptr, nullptr);
        std::vector<cuda_attention_item> items((size_t)(n.wide + n.narrow));
        std::vector<cuda_attention_merge> merges((size_t)n.merges);
        cudaplan_attention(&shape, seqs.data(), count, items.data(), merges.data());
        std::vector<int> written((size_t)rows, 0), slots((size_t)n.slots, 0);
        for (size_t i = 0; i < items.size(); i++) {
            const cuda_attention_item &t = items[i];
            const int tile = i < (size_t)n.wide ? CUDA_TILE_WIDE : CUDA_TILE_NARROW;
            fine = fine && t.rows * group <= tile;
            for (int32_t row = 0; row < t.rows; row++) {
                if (t.slot >= 0) {
                    fine = fine && t.splits == 1;
                    slots[(size_t)(t.slot + row)]++;
                }
                written[(size_t)(t.row_first + row)] += t.slot < 0;
            }
        }
        for (const cuda_attention_merge &m : merges) {
            written[(size_t)m.row]++;
            for (int32_t i = 0; i < m.splits; i++) {
                slots[(size_t)(m.slot + i * m.stride)] += 10;
            }
        }
        for (int w : written) {
            fine = fine && w == 1;
        }
        for (int x : slots) {
            fine = fine && x == 11;
        }
        fine = fine && n.slots <= shape.slots_max;
    }
    report("attention/plan", fine, "a row or slot is not written exactly once");
}

}  // namespace

void attentioncase_run() {
    plans_cover_everything();
    for (const setting &s : SETTINGS) {
        values_are_right(s);
        if (!quick) {
            bits_are_the_rows_own(s);
        }
    }
    schedules_change_nothing(SETTINGS[0], quick ? 1 : 10);
    schedules_change_nothing(SETTINGS[6], quick ? 1 : 10);
    if (full) {
        const setting lengthy[] = {{"f16_d64_8k", CUDA_KV_F16, 64, 2, 1, 8200, 0, 0},
                                   {"int8_d128_8k", CUDA_KV_INT8, 128, 1, 1, 8193, 1000, 0},
                                   {"fp8_d128_8k", CUDA_KV_FP8, 128, 1, 1, 8193, 0, 0}};
        for (const setting &s : lengthy) {
            values_are_right(s);
            bits_are_the_rows_own(s);
        }
    }
}
