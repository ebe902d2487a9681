// Products of a few rows with weights in fp32, x [rows, size] times weight [columns, size] transposed.
//
// Both lie as they are multiplied, entry by entry, so nothing is packed and weights are read once, which is what decoding needs
// and libraries made for large products do not give. 2 * rows * columns * size FLOPs against 4 * columns * size bytes: bound by
// memory up to some 8 rows, then by arithmetic.

#include "launchers.h"
#include "vector.h"

namespace wideseek {
namespace {

constexpr int64_t CHUNK = 256;  // entries that go at once
constexpr int64_t BAND = 16;    // columns whose chunk stays in the first cache while rows go by
constexpr int64_t TASK = 64;    // columns of a task

// Rows that go at once with 4 columns. Three fill the registers of AVX2, but here, unlike in attention, gcc spills none.
#if defined(__AVX512F__)
constexpr int BLOCK = 4;
#else
constexpr int BLOCK = 3;
#endif

inline Vec load_some(const float* from, int64_t count) {
    Vec v = {};
    std::memcpy(&v, from, count * sizeof(float));
    return v;
}

struct Product {
    const float *x, *weight;
    float* out;
    int64_t rows, columns, size;

    // R rows times J columns over the chunk at `begin`, added to what the chunks before came to. `ahead`, a chunk of a column of
    // the next band, comes into the second cache meanwhile.
    template <int R, int J>
    __attribute__((always_inline)) inline void dot(int64_t row, int64_t column, int64_t begin, const float* ahead) const {
        const float *rows_at = x + row * size + begin, *columns_at = weight + column * size + begin;
        const int64_t count = std::min(CHUNK, size - begin);
        Vec sums[R][J] = {};
        int64_t d = 0;
        for (; d + LANES <= count; d += LANES) {
            Vec of_row[R];
            if (R > 1) __builtin_prefetch(ahead + d);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) of_row[r] = hold(load(rows_at + r * size + d));
#pragma GCC unroll 4
            for (int j = 0; j < J; ++j) {
                Vec of_column = load(columns_at + j * size + d);
                if (R > 1) of_column = hold(of_column);
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) sums[r][j] = sums[r][j] + of_row[r] * of_column;
            }
        }
        for (int j = 0; d < count && j < J; ++j)
            for (int r = 0; r < R; ++r)
                sums[r][j] = sums[r][j] +
                             load_some(rows_at + r * size + d, count - d) * load_some(columns_at + j * size + d, count - d);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            float* to = out + (row + r) * columns + column;
            Vec4 four = sum_each(sums[r][0], sums[r][std::min(1, J - 1)], sums[r][std::min(2, J - 1)], sums[r][J - 1]);
            for (int j = 0; j < J; ++j) to[j] = begin == 0 ? four[j] : to[j] + four[j];
        }
    }

    const float* chunk_of(int64_t column, int64_t begin) const {
        return weight + std::min(columns - 1, column) * size + begin;
    }

    // A band of columns for as many rows as go at once, of those that are left.
    template <int R>
    void band(int64_t row, int64_t column, int64_t column_end, int64_t begin) const {
        if constexpr (R > 1)
            if (rows - row < R) return band<R - 1>(row, column, column_end, begin);
        int64_t ahead = column + BAND + row / BLOCK * 4;
        for (; column + 4 <= column_end; column += 4, ++ahead) dot<R, 4>(row, column, begin, chunk_of(ahead, begin));
        for (; column < column_end; ++column) dot<R, 1>(row, column, begin, chunk_of(ahead, begin));
    }

    void task(int64_t column, int64_t column_end) const {
        for (; column < column_end; column += BAND)
            for (int64_t begin = 0; begin < size; begin += CHUNK)
                for (int64_t row = 0; row < rows; row += BLOCK)
                    band<BLOCK>(row, column, std::min(column + BAND, column_end), begin);
    }
};

}  // namespace
}  // namespace wideseek

void wideseek_linear(const float* x, const float* weight, float* out, int64_t rows, int64_t columns, int64_t size,
                     int num_threads) {
    using namespace wideseek;
    const Product product = {x, weight, out, rows, columns, size};
#pragma omp parallel for schedule(dynamic) num_threads(num_threads) if (num_threads > 1 && columns > TASK)
    for (int64_t column = 0; column < columns; column += TASK) product.task(column, std::min(columns, column + TASK));
}
