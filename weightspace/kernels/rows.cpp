// Product of a sparse matrix in compressed rows with a batch, on one thread.
//
// The batch is the contiguous axis: the sums of an output for 64 samples stay in registers, and a weight costs one
// broadcast and four multiply-adds. A sum runs over the row's weights in their order, whatever the batch.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int LANES = 16, VECTORS = 4, TILE = LANES * VECTORS;
constexpr int64_t FEW = 4;  // so few samples are multiplied one by one

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Lanes __attribute__((vector_size(4 * LANES)));

struct Rows {
    int64_t outputs, inputs;
    const int64_t *starts;
    const int32_t *columns;
    const float *values, *bias;

    float shift(int64_t row) const { return bias ? bias[row] : 0.0f; }
};

inline Vector load(const float *from) { return *reinterpret_cast<const Vector *>(from); }
inline void store(float *to, Vector vector) { *reinterpret_cast<Vector *>(to) = vector; }

// V vectors of samples. The last one begins at sample `last` and may repeat samples of the one before it.
template <int V>
void multiply(const Rows &w, const float *x, int64_t stride, int64_t last, float *out, int64_t out_stride) {
    for (int64_t row = 0; row < w.outputs; ++row) {
        Vector sums[V];
        for (int v = 0; v < V; ++v) sums[v] = Vector{} + w.shift(row);
        for (int64_t i = w.starts[row]; i < w.starts[row + 1]; ++i) {
            const float *at = x + w.columns[i] * stride;
            const float value = w.values[i];
            for (int v = 0; v < V; ++v) sums[v] += value * load(at + (v == V - 1 ? last : LANES * v));
        }
        float *to = out + row * out_stride;
        for (int v = 0; v < V; ++v) store(to + (v == V - 1 ? last : LANES * v), sums[v]);
    }
}

// 16 to 64 samples of x (inputs, samples).
void multiply(const Rows &w, const float *x, int64_t stride, int64_t samples, float *out, int64_t out_stride) {
    const int64_t last = samples - LANES;
    switch ((samples + LANES - 1) / LANES) {
        case 1: return multiply<1>(w, x, stride, last, out, out_stride);
        case 2: return multiply<2>(w, x, stride, last, out, out_stride);
        case 3: return multiply<3>(w, x, stride, last, out, out_stride);
        default: return multiply<4>(w, x, stride, last, out, out_stride);
    }
}

inline Vector picked(Vector a, Vector b, Lanes which) {
#ifdef __clang__
    Vector result;
    for (int i = 0; i < LANES; ++i) result[i] = which[i] < LANES ? a[which[i]] : b[which[i] - LANES];
    return result;
#else
    return __builtin_shuffle(a, b, which);
#endif
}

// Swap the off-diagonal squares of S x S in a block: done for 8, 4, 2 and 1 it is the transpose.
template <int S>
inline void swap_squares(Vector *block) {
    Lanes low, high;
    for (int i = 0; i < LANES; ++i) {
        low[i] = i & S ? i - S + LANES : i;
        high[i] = i & S ? i + LANES : i + S;
    }
    for (int i = 0; i < LANES; ++i) {
        if (i & S) continue;
        const Vector a = block[i], b = block[i + S];
        block[i] = picked(a, b, low);
        block[i + S] = picked(a, b, high);
    }
}

// 16 to 64 samples of x (samples, inputs) into (inputs, 64).
void transpose(const float *x, int64_t stride, int64_t samples, int64_t inputs, float *to) {
    int64_t input = 0;
    for (; input + LANES <= inputs; input += LANES)
        for (int64_t s = 0; s < samples; s += LANES) {
            const int64_t first = std::min(s, samples - LANES);
            Vector block[LANES];
            for (int i = 0; i < LANES; ++i) block[i] = load(x + (first + i) * stride + input);
            swap_squares<8>(block), swap_squares<4>(block), swap_squares<2>(block), swap_squares<1>(block);
            for (int i = 0; i < LANES; ++i) store(to + (input + i) * TILE + first, block[i]);
        }
    for (; input < inputs; ++input)
        for (int64_t s = 0; s < samples; ++s) to[input * TILE + s] = x[s * stride + input];
}

float *room(size_t numbers) {
    static thread_local std::vector<float> kept;
    if (kept.size() < numbers) kept.resize(numbers);
    return kept.data();
}

}  // namespace

// out (outputs, batch) = W x + b. x is held by samples (input_stride is 1) or by inputs (sample_stride is 1); a batch
// of less than 16 may be held in any way. Strides are in numbers, starts are those of the rows and the end, bias may be
// null.
extern "C" void weightspace_rows(int64_t outputs, int64_t inputs, const int64_t *starts, const int32_t *columns,
                                 const float *values, const float *bias, const float *x, int64_t sample_stride,
                                 int64_t input_stride, int64_t batch, float *out) {
    const Rows w{outputs, inputs, starts, columns, values, bias};
    if (batch < FEW) {
        for (int64_t s = 0; s < batch; ++s)
            for (int64_t row = 0; row < outputs; ++row) {
                float sum = w.shift(row);
                for (int64_t i = starts[row]; i < starts[row + 1]; ++i)
                    sum += values[i] * x[s * sample_stride + columns[i] * input_stride];
                out[row * batch + s] = sum;
            }
        return;
    }
    if (batch < LANES) {  // in one vector, of which some lanes are zero
        float *padded = room((inputs + outputs) * LANES), *sums = padded + inputs * LANES;
        for (int64_t input = 0; input < inputs; ++input)
            for (int64_t s = 0; s < LANES; ++s)
                padded[input * LANES + s] = s < batch ? x[s * sample_stride + input * input_stride] : 0.0f;
        multiply(w, padded, LANES, LANES, sums, LANES);
        for (int64_t row = 0; row < outputs; ++row) std::copy_n(sums + row * LANES, batch, out + row * batch);
        return;
    }
    for (int64_t start = 0; start < batch; start += TILE) {
        const int64_t first = std::min(start, batch - LANES), samples = std::min<int64_t>(TILE, batch - first);
        if (sample_stride == 1) {
            multiply(w, x + first, input_stride, samples, out + first, batch);
        } else {
            float *columns_of_tile = room(inputs * TILE);
            transpose(x + first * sample_stride, sample_stride, samples, inputs, columns_of_tile);
            multiply(w, columns_of_tile, TILE, samples, out + first, batch);
        }
    }
}
