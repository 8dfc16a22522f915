// Paged attention of decodes on one CPU core: plain C++, called through ctypes.
//
// K and V lie in blocks [block_size][kv_heads][head_size] of float, bfloat16 or int8; int8 has a
// scale per token and head, which multiplies scores and probabilities, not the numbers. The
// softmax is taken online, block by block, so that K and V are read once for all the heads that
// share them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

struct bfloat16 {
    uint16_t bits;
};

float wide(float x) { return x; }
float wide(int8_t x) { return x; }
float wide(bfloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

void narrow(float x, float *to) { *to = x; }
void narrow(float x, bfloat16 *to) {  // Half to even; not for NaN.
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    to->bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

struct Shape {
    int64_t rows, heads, kv_heads, head_size, block_size, table_width, query_stride;
};

template <typename Query, typename Kept>
void decode(const Shape &of, const Query *query, const Kept *keys, const Kept *values,
            const float *key_scales, const float *value_scales, const int32_t *rows,
            const int32_t *tokens, const int32_t *lengths, const int32_t *table, Query *out) {
    const int64_t size = of.head_size, shared = of.heads / of.kv_heads;
    const float scale = 1.0f / std::sqrt(float(size));
    std::vector<float> q(shared * size), sums(shared * size), scores(of.block_size);
    std::vector<float> highest(shared), total(shared), block_keys(of.block_size * size);
    std::vector<float> block_values(of.block_size * size);

    for (int64_t item = 0; item < of.rows * of.kv_heads; ++item) {
        const int64_t row = rows[item / of.kv_heads], kv_head = item % of.kv_heads;
        const int64_t token = tokens[item / of.kv_heads], first_head = kv_head * shared;
        for (int64_t i = 0; i < shared * size; ++i)
            q[i] = wide(query[token * of.query_stride + first_head * size + i]) * scale;
        std::fill(sums.begin(), sums.end(), 0.0f);
        std::fill(total.begin(), total.end(), 0.0f);
        std::fill(highest.begin(), highest.end(), -std::numeric_limits<float>::infinity());

        for (int64_t start = 0; start < lengths[row]; start += of.block_size) {
            const int64_t block = table[row * of.table_width + start / of.block_size];
            const int64_t count = std::min<int64_t>(of.block_size, lengths[row] - start);
            for (int64_t t = 0; t < count; ++t) {
                const int64_t slice = (block * of.block_size + t) * of.kv_heads + kv_head;
                for (int64_t d = 0; d < size; ++d) {
                    block_keys[t * size + d] = wide(keys[slice * size + d]);
                    block_values[t * size + d] = wide(values[slice * size + d]);
                }
            }
            for (int64_t head = 0; head < shared; ++head) {
                float new_highest = highest[head];
                for (int64_t t = 0; t < count; ++t) {
                    float score = 0.0f;
                    for (int64_t d = 0; d < size; ++d)
                        score += q[head * size + d] * block_keys[t * size + d];
                    if (key_scales)
                        score *= key_scales[(block * of.block_size + t) * of.kv_heads + kv_head];
                    scores[t] = score;
                    new_highest = std::max(new_highest, score);
                }
                const float fade = std::exp(highest[head] - new_highest);
                highest[head] = new_highest;
                total[head] *= fade;
                float *sum = &sums[head * size];
                for (int64_t d = 0; d < size; ++d) sum[d] *= fade;
                for (int64_t t = 0; t < count; ++t) {
                    float weight = std::exp(scores[t] - new_highest);
                    total[head] += weight;
                    if (value_scales)
                        weight *= value_scales[(block * of.block_size + t) * of.kv_heads + kv_head];
                    for (int64_t d = 0; d < size; ++d) sum[d] += weight * block_values[t * size + d];
                }
            }
        }
        for (int64_t i = 0; i < shared * size; ++i)
            narrow(sums[i] / total[i / size], &out[(token * of.heads + first_head) * size + i]);
    }
}

}  // namespace

#define DECODE(NAME, QUERY, KEPT)                                                                 \
    extern "C" void NAME(const Shape *of, const QUERY *query, const KEPT *keys,                   \
                         const KEPT *values, const float *key_scales, const float *value_scales,  \
                         const int32_t *rows, const int32_t *tokens, const int32_t *lengths,      \
                         const int32_t *table, QUERY *out) {                                      \
        decode(*of, query, keys, values, key_scales, value_scales, rows, tokens, lengths, table,  \
               out);                                                                              \
    }

DECODE(float32_over_float32, float, float)
DECODE(float32_over_bfloat16, float, bfloat16)
DECODE(float32_over_int8, float, int8_t)
DECODE(bfloat16_over_float32, bfloat16, float)
DECODE(bfloat16_over_bfloat16, bfloat16, bfloat16)
DECODE(bfloat16_over_int8, bfloat16, int8_t)
