/* productcase.cpp -- matrix products: packed weights against double precision, many rows against
 * one.
 *
 * Weights are drawn as quants, scales and minimums and packed here, from the description in
 * cuda_ops.h alone; products are summed in double. Then the same rows are asked for one by one:
 * what the kernel for prompts gives must be bit for bit what the kernel for decoding gives.
 */
#include "kernels/cuda/cuda_ops.h"
#include "tests/emu/kernels/kernelcase.hpp"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using namespace kernelcase;

namespace {

struct format {
    const char *name;
    cuda_store store;
    bool scales_f32, minimums;
    int scale_group, zero;
};

constexpr format FORMATS[] = {
    {"q4_0", CUDA_STORE_NIBBLES, false, false, 32, 8},
    {"q4_1", CUDA_STORE_NIBBLES, false, true, 32, 0},
    {"q4_k", CUDA_STORE_NIBBLES, true, true, 32, 0},
    {"q5_k", CUDA_STORE_BYTES, true, true, 32, 0},
    {"q6_k", CUDA_STORE_BYTES, true, false, 16, 0},
    {"q8_0", CUDA_STORE_BYTES, false, false, 32, 0},
    {"f16", CUDA_STORE_F16, false, false, 32, 0},
    {"bf16", CUDA_STORE_BF16, false, false, 32, 0},
    {"f32", CUDA_STORE_F32, false, false, 32, 0},
};

int chunk_steps(cuda_store store) {
    return store == CUDA_STORE_NIBBLES ? 8
           : store == CUDA_STORE_BYTES ? 4
           : store == CUDA_STORE_F32   ? 1
                                       : 2;
}

/* A matrix: what its elements are, and the planes that say so. */
struct matrix {
    std::vector<double> w; /* [outputs, inputs] */
    std::vector<uint8_t> values, scales, minimums;
    cuda_matrix shape = {};
};

void put_scale(std::vector<uint8_t> &plane, const format &f, size_t i, float value) {
    if (f.scales_f32) {
        memcpy(&plane[i * 4], &value, 4);
    } else {
        const __half h = __float2half_rn(value);
        memcpy(&plane[i * 2], &h, 2);
    }
}

/* Where element (o, k) begins in `values`, and its step in the chunk. */
size_t place_of(const matrix &m, int steps, int o, int k, int *step) {
    const int chunk = k / (16 * steps);
    *step = k / 16 % steps;
    const size_t tile = (size_t)(o / 16), eight = (size_t)(o % 16 / 8);
    const size_t lane = (size_t)(o % 8 * 4 + k % 16 / 4);
    return (((tile * (size_t)m.shape.chunks + (size_t)chunk) * 2 + eight) * 32 + lane) * 16;
}

void put_quantised(matrix &m, const format &f, numbers &r, int o, int k, float scale, float low) {
    int step;
    const size_t at = place_of(m, chunk_steps(f.store), o, k, &step);
    int quant;
    if (f.store == CUDA_STORE_NIBBLES) {
        quant = r.below(16);
        m.values[at + (size_t)(step / 2 * 4 + k % 4)] |= (uint8_t)(quant << (step % 2 * 4));
    } else {
        quant = f.minimums ? r.below(32) : r.below(255) - 127;
        m.values[at + (size_t)(step * 4 + k % 4)] = (uint8_t)quant;
    }
    m.w[(size_t)o * (size_t)m.shape.inputs + (size_t)k] =
        (double)scale * (quant - f.zero) + (double)low;
}

/* 16-bit and f32 elements meet the rows as bf16. */
void put_plain(matrix &m, const format &f, numbers &r, int o, int k) {
    int step;
    const size_t at = place_of(m, chunk_steps(f.store), o, k, &step);
    const float value = r.normal() * 0.1f;
    const __half h = __float2half_rn(value);
    const __nv_bfloat16 b = __float2bfloat16_rn(value);
    float kept = __bfloat162float(b);
    if (f.store == CUDA_STORE_F32) {
        memcpy(&m.values[at + (size_t)(k % 4 * 4)], &value, 4);
    } else if (f.store == CUDA_STORE_F16) {
        memcpy(&m.values[at + (size_t)(step * 4 + k % 4) * 2], &h, 2);
        kept = __bfloat162float(__float2bfloat16_rn(__half2float(h)));
    } else {
        memcpy(&m.values[at + (size_t)(step * 4 + k % 4) * 2], &b, 2);
    }
    m.w[(size_t)o * (size_t)m.shape.inputs + (size_t)k] = (double)kept;
}

matrix make_matrix(const format &f, int outputs, int inputs, uint64_t seed) {
    matrix m;
    numbers r(seed);
    const int chunk_inputs = 16 * chunk_steps(f.store);
    const bool quantised = f.store == CUDA_STORE_NIBBLES || f.store == CUDA_STORE_BYTES;
    m.shape.store = f.store;
    m.shape.scales_f32 = f.scales_f32;
    m.shape.scale_group = f.scale_group;
    m.shape.zero = f.zero;
    m.shape.outputs = outputs;
    m.shape.inputs = inputs;
    m.shape.chunks = (inputs + chunk_inputs - 1) / chunk_inputs;
    m.shape.spans = (inputs + 127) / 128;
    const size_t tiles = (size_t)((outputs + 15) / 16);
    m.w.assign((size_t)(outputs * inputs), 0);
    m.values.assign(tiles * (size_t)m.shape.chunks * 1024, 0);
    const size_t rows = tiles * (size_t)m.shape.spans * 16, size = f.scales_f32 ? 4 : 2;
    const int per_span = 128 / f.scale_group;
    if (quantised) {
        m.scales.assign(rows * (size_t)per_span * size, 0);
        m.minimums.assign(f.minimums ? rows * 4 * size : 0, 0);
    }
    for (int o = 0; o < outputs; o++) {
        float scale = 0, low = 0;
        for (int k = 0; k < inputs; k++) {
            if (!quantised) {
                put_plain(m, f, r, o, k);
                continue;
            }
            const size_t row = ((size_t)(o / 16) * (size_t)m.shape.spans + (size_t)(k / 128)) * 16 +
                               (size_t)(o % 16);
            if (k % f.scale_group == 0) {
                scale = __half2float(__float2half_rn(r.normal() * 0.02f));
                put_scale(m.scales, f, row * (size_t)per_span + (size_t)(k % 128 / f.scale_group),
                          scale);
            }
            if (k % 32 == 0 && f.minimums) {
                low = __half2float(__float2half_rn(r.normal() * 0.1f));
                put_scale(m.minimums, f, row * 4 + (size_t)(k % 128 / 32), low);
            }
            put_quantised(m, f, r, o, k, scale, low);
        }
    }
    return m;
}

struct setting {
    const char *name;
    int rows, outputs, inputs;
    bool bias, accumulate;
};

/* Rows [first, first + rows) of x through the rows' kernel and the product's. */
std::vector<float> multiply(const matrix &m, const setting &s, const std::vector<float> &x,
                            int first, int rows) {
    const int stride = (s.inputs + 127) / 128 * 128 + 32;
    const size_t padded = (size_t)((rows + 63) / 64 * 64);
    device<uint8_t> values(m.values), scales(m.scales), minimums(m.minimums);
    device<float> device_x(std::vector<float>(x.begin() + (ptrdiff_t)first * s.inputs,
                                              x.begin() + (ptrdiff_t)(first + rows) * s.inputs));
    device<uint16_t> rows_bf16(padded * (size_t)stride);
    device<float> sums(padded * (size_t)stride / 32), out((size_t)(rows * s.outputs));
    std::vector<float> bias_values;
    for (int o = 0; o < s.outputs; o++) {
        bias_values.push_back((float)o * 0.125f);
    }
    device<float> bias(bias_values);
    for (size_t i = 0; i < out.count; i++) {
        out.at[i] = (float)((first * s.outputs + (int)i) % 5);
    }
    cuda_rows r = {};
    r.x = device_x.at;
    r.rows = rows;
    r.width = s.inputs;
    r.stride = stride;
    r.rows_bf16 = rows_bf16.at;
    r.sums = sums.at;
    cuda_product p = {};
    p.parts_count = 1;
    p.parts[0].weight = m.shape;
    p.parts[0].weight.values = values.at;
    p.parts[0].weight.scales = scales.at;
    p.parts[0].weight.minimums = m.minimums.empty() ? nullptr : minimums.at;
    p.parts[0].bias = s.bias ? bias.at : nullptr;
    p.parts[0].out = out.at;
    p.parts[0].accumulate = s.accumulate;
    p.rows_bf16 = rows_bf16.at;
    p.sums = sums.at;
    p.rows = rows;
    p.stride = stride;
    const cudaError_t e = stream_rows(&r, nullptr);
    finish(s.name, e != cudaSuccess ? e : stream_product(&p, 4, nullptr));
    return out.values();
}

std::vector<double> oracle(const matrix &m, const setting &s, const std::vector<float> &x) {
    std::vector<double> out;
    for (int row = 0; row < s.rows; row++) {
        for (int o = 0; o < s.outputs; o++) {
            double sum = s.bias ? o * 0.125 : 0;
            sum += s.accumulate ? (row * s.outputs + o) % 5 : 0;
            for (int k = 0; k < s.inputs; k++) {
                const float rounded =
                    __bfloat162float(__float2bfloat16_rn(x[(size_t)(row * s.inputs + k)]));
                sum += m.w[(size_t)(o * s.inputs + k)] * (double)rounded;
            }
            out.push_back(sum);
        }
    }
    return out;
}

void product_is_right(const format &f, const setting &s) {
    const matrix m = make_matrix(f, s.outputs, s.inputs, 3);
    const std::vector<float> x = numbers(4).normals((size_t)(s.rows * s.inputs), 1);
    const std::string name = std::string("product/") + f.name + "/" + s.name;
    const std::vector<float> all = multiply(m, s, x, 0, s.rows);
    close(name, all, oracle(m, s, x), 2e-5);
    bool fine = true;
    for (int rows : {1, 9, 30}) { /* the kernels of one, two and four column blocks */
        if (quick && rows == 9) {
            continue;
        }
        const int first = s.rows > rows + 3 ? s.rows - rows - 3 : 0;
        const int count = rows < s.rows ? rows : s.rows;
        const std::vector<float> few = multiply(m, s, x, first, count);
        fine = fine &&
               same(few, std::vector<float>(all.begin() + (ptrdiff_t)first * s.outputs,
                                            all.begin() + (ptrdiff_t)(first + count) * s.outputs));
    }
    report(name + "/bits", fine, "rows have other bits in a smaller batch");
}

}  // namespace

void productcase_run() {
    constexpr setting many = {"70_rows", 70, 48, 320, true, false};
    constexpr setting ragged = {"65_rows_ragged", 65, 37, 96, false, true};
    if (quick) {
        for (int i : {1, 4, 7}) { /* nibbles with minimums, bytes with scales of 16, BF16 */
            product_is_right(FORMATS[i], {"65_rows", 65, 16, 160, false, false});
        }
        return;
    }
    for (const format &f : FORMATS) {
        product_is_right(f, f.store == CUDA_STORE_NIBBLES && f.scales_f32
                                ? setting{"70_rows", 70, 48, 1280, true, false}
                                : many);
    }
    product_is_right(FORMATS[0], ragged);
    product_is_right(FORMATS[5], ragged);
    product_is_right(FORMATS[7], ragged);
    if (full) {
        for (const format &f : FORMATS) {
            product_is_right(f, {"200_rows", 200, 272, 2304, true, true});
        }
    }
}
