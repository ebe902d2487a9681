// Attention of a few or many rows over a tile of keys, in fp32 whatever is stored: any machine, any head size. Keys and
// values in e4m3 always come here.
//
// Every score is a sum over lanes of sums over strides, every value a sum over keys in their order: rows that go
// together share what is read, and nothing else.
#pragma once

#include "rows_of_attention.h"

#include <type_traits>

namespace wideseek {

// Rows that go at once, with 4 keys or 4 vectors of values each: as many as stay in the vector registers. Three fill the 16 of
// AVX2 to the last, and what compilers then spill costs more than rows apart.
#if defined(__AVX512F__)
constexpr int BLOCK = 4;
#elif defined(__AVX__)
constexpr int BLOCK = 2;
#else
constexpr int BLOCK = 3;
#endif

// Scores of R queries against the first `count` keys, rounded up to 8.
template <int D, int R, typename T>
void score(const float* q, const T* keys, Ahead& ahead, int count, float (*scores)[TILE]) {
    constexpr int J = R == 1 ? 8 : 4;
    for (int j = 0; j < count; j += J) {
        ahead.fetch(J * D * sizeof(T) / 64);
        Vec sums[R][J] = {};
        for (int d = 0; d < D; d += LANES) {
            Vec query[R];
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) query[r] = hold(load(q + r * D + d));
#pragma GCC unroll 8
            for (int jj = 0; jj < J; ++jj) {
                Vec key = load(keys + (j + jj) * D + d);
                if (R > 1) key = hold(key);
#pragma GCC unroll 6
                for (int r = 0; r < R; ++r) sums[r][jj] = sums[r][jj] + query[r] * key;
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
            for (int jj = 0; jj < J; jj += 4) {
                Vec4 four = sum_each(sums[r][jj], sums[r][jj + 1], sums[r][jj + 2], sums[r][jj + 3]);
                std::memcpy(&scores[r][j + jj], &four, sizeof four);
            }
        }
    }
}

// acc[r] += sum over j in [begin, end) of weights[r][j] * values[j], in the order of j.
template <int D, int R, typename T>
void add_values(const float (*weights)[TILE], const T* values, Ahead& ahead, int begin, int end, float* acc) {
    constexpr int WIDE = R == 1 ? 8 : 4;
    constexpr int C = std::min(WIDE, D / LANES);
    for (int d = 0; d < D; d += C * LANES) {
        Vec sums[R][C];
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) sums[r][c] = load(acc + r * D + d + c * LANES);
        for (int j = begin; j < end; ++j) {
            ahead.fetch(D * sizeof(T) / 64);
            Vec value[C];
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) value[c] = load(values + j * D + d + c * LANES);
            if (R > 1)
#pragma GCC unroll 8
                for (int c = 0; c < C; ++c) value[c] = hold(value[c]);
#pragma GCC unroll 6
            for (int r = 0; r < R; ++r) {
                const Vec weight = broadcast(weights[r][j]);
#pragma GCC unroll 8
                for (int c = 0; c < C; ++c) sums[r][c] = sums[r][c] + weight * value[c];
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) store(acc + r * D + d + c * LANES, sums[r][c]);
    }
}

// Scores become weights exp(score - top); what was summed before is scaled to the new top. Not inlined: one code for
// all, whoever calls it.
template <int D>
__attribute__((noinline)) void weigh(float* scores, int count, float* acc, float* top, float* total) {
    for (int j = count; j < TILE; ++j) scores[j] = LOWEST;
    Vec most = load(scores);
    for (int j = LANES; j < TILE; j += LANES) most = larger(most, load(scores + j));
    const float new_top = std::max(*top, largest(most));
    Vec sums = {};
    for (int j = 0; j < TILE; j += LANES) {
        Vec weight = exp_of_negative(load(scores + j) - new_top);
        store(scores + j, weight);
        sums = sums + weight;
    }
    const float scale = exp_of_negative(broadcast(*top - new_top))[0];
    *total = *total * scale + sum(sums);
    *top = new_top;
    if (scale == 1.0f) return;
    for (int d = 0; d < D; d += LANES) store(acc + d, load(acc + d) * scale);
}

// Queries of type T, keys and values of type S.
template <typename T, typename S, int D>
class VectorRows {
  public:
    std::vector<int64_t> limit;  // keys that each row sees

    void resize(int64_t count) {
        limit.resize(count);
        q.resize(count * D);
        acc.assign(count * D, 0.0f);
        top.assign(count, LOWEST);
        total.assign(count, 0.0f);
        for (auto* gathered : {&gathered_keys, &gathered_values}) gathered->resize(TILE * D);
    }

    void take(int64_t row, const T* query) {
        const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(D)));
        for (int d = 0; d < D; d += LANES) store(&q[row * D + d], load(query + d) * scale);
    }

    // What the row has summed up since it was last asked, in `into`, and begins anew.
    void drain(int64_t row, Summed& into) {
        std::copy_n(&acc[row * D], D, into.acc);
        into.top = top[row], into.total = total[row];
        std::fill_n(&acc[row * D], D, 0.0f);
        top[row] = LOWEST, total[row] = 0.0f;
    }

    // `count` keys of the tile are seen by some row; `last`: no tile follows in memory.
    void read(const Stretch& at, int64_t tile, int64_t count, bool last, const Side<S, D>& keys,
              const Side<S, D>& values) {
        const int64_t position = tile * TILE;
        // A few rows convert a tile of bf16 or e4m3 as they read it, many read it converted.
        const bool few = std::is_same_v<S, float> || at.end - at.begin <= BLOCK;
        ahead = {};
        if (keys.whole_tiles() && few) {
            if (!last)
                ahead = {keys.row(at.pages, position + TILE), values.row(at.pages, position + TILE), TILE * D * sizeof(S)};
            advance_all(at.begin, at.end, position, keys.row(at.pages, position), values.row(at.pages, position));
        } else {
            gather(keys, gathered_keys, at.pages, position, count);
            gather(values, gathered_values, at.pages, position, count);
            advance_all<float>(at.begin, at.end, position, gathered_keys.data(), gathered_values.data());
        }
    }

  private:
    std::vector<float> q, acc, top, total, gathered_keys, gathered_values;
    Ahead ahead;

    // As fp32 rows side by side, `count` of them; the rest of the tile is anything.
    static void gather(const Side<S, D>& side, std::vector<float>& to, const int64_t* pages, int64_t position,
                       int64_t count) {
        side.pieces(pages, position, count, [&](int64_t key, int64_t run, const S* from) {
            for (int64_t i = 0; i < run * D; i += LANES) store(&to[key * D + i], load(from + i));
        });
    }

    template <int R, typename K>
    void advance(int64_t first, const int* counts, const K* keys, const K* values) {
        alignas(64) float scores[R][TILE];
        const int most = *std::max_element(counts, counts + R), least = *std::min_element(counts, counts + R);
        score<D, R>(&q[first * D], keys, ahead, most, scores);
        for (int r = 0; r < R; ++r) {
            const int64_t row = first + r;
            weigh<D>(scores[r], counts[r], &acc[row * D], &top[row], &total[row]);
        }
        add_values<D, R>(scores, values, ahead, 0, least, &acc[first * D]);
        // A key beyond a row's sight weighs 0, but 0 times a NaN is not 0: such keys are not touched.
        for (int r = 0; r < R; ++r)
            if (counts[r] > least)
                add_values<D, 1>(&scores[r], values, ahead, least, counts[r], &acc[(first + r) * D]);
    }

    // As many rows as go at once, of those that see something of the tile; returns how many were taken.
    template <int R, typename K>
    int advance_some(int seeing, int64_t first, const int* counts, const K* keys, const K* values) {
        if (seeing >= R) return advance<R>(first, counts, keys, values), R;
        if constexpr (R > 1) return advance_some<R - 1>(seeing, first, counts, keys, values);
        return 1;
    }

    template <typename K>
    void advance_all(int64_t begin, int64_t end, int64_t position, const K* keys, const K* values) {
        for (int64_t row = begin; row < end;) {
            int counts[BLOCK], seeing = 0;
            while (seeing < BLOCK && row + seeing < end) {
                const int64_t count = std::clamp<int64_t>(limit[row + seeing] - position, 0, TILE);
                if (count == 0) break;
                counts[seeing++] = static_cast<int>(count);
            }
            if (seeing == 0) {
                row += 1;
                continue;
            }
            row += advance_some<BLOCK>(seeing, row, counts, keys, values);
        }
    }
};

}  // namespace wideseek
