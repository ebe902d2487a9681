// Paged attention on a CPU: decode, extension, chunked prefill, and prefixes that many sequences share.
//
// A row is one query of one head. Its softmax runs over tiles of TILE keys at absolute positions, in order, and keeps
// (largest score, sum of exponentials, weighted values) between them. What a row computes within a tile depends on
// nothing but its query and the keys up to its position: not on which rows stand beside it, nor on where pages lie.
// So sharing, chunking and batch mates change no bit, though a tile is read once for all rows of a unit that need it.
//
// A unit reads its own and its shared keys and values once from memory: rows * 4 * head_dim FLOPs a key against
// 2 * head_dim * element size bytes. Alone a decoding row is bound by memory; from about 8 rows on, by arithmetic.

#include "launchers.h"
#include "vector.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

namespace wideseek {
namespace {

constexpr int TILE = 64;   // keys that go at once: a tile of keys and one of values fit a core's first two caches
constexpr int BLOCK = 3;   // rows that go at once: 3 x 4 accumulators fill the 16 vector registers of AVX2, less 4 for what is read

// A tile, and where the one after it lies, to be fetched meanwhile: null where there is none, or it is near already.
template <typename T>
struct Tile {
    const T* rows;
    const T* ahead;

    template <int D>
    void fetch_ahead(int begin, int count) const {
        if (ahead == nullptr) return;
        const char* from = reinterpret_cast<const char*>(ahead + begin * D);
        for (size_t byte = 0; byte < count * D * sizeof(T); byte += 64) __builtin_prefetch(from + byte, 0, 2);
    }
};

// Scores of R queries against the first `count` keys, rounded up to 8: each a sum over lanes of sums over strides.
template <int D, int R, typename T>
void score(const float* q, const Tile<T>& tile, int count, float (*scores)[TILE]) {
    constexpr int J = R == 1 ? 8 : 4;
    const T* keys = tile.rows;
    for (int j = 0; j < count; j += J) {
        tile.template fetch_ahead<D>(j, J);
        Vec sums[R][J] = {};
        for (int d = 0; d < D; d += LANES) {
            Vec query[R];
#pragma GCC unroll 3
            for (int r = 0; r < R; ++r) query[r] = hold(load(q + r * D + d));
#pragma GCC unroll 8
            for (int jj = 0; jj < J; ++jj) {
                Vec key = load(keys + (j + jj) * D + d);
                if (R > 1) key = hold(key);
#pragma GCC unroll 3
                for (int r = 0; r < R; ++r) sums[r][jj] = sums[r][jj] + query[r] * key;
            }
        }
#pragma GCC unroll 3
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
void add_values(const float (*weights)[TILE], const Tile<T>& tile, int begin, int end, float* acc) {
    const T* values = tile.rows;
    constexpr int WIDE = R == 1 ? 8 : 4;
    constexpr int C = std::min(WIDE, D / LANES);
    for (int d = 0; d < D; d += C * LANES) {
        Vec sums[R][C];
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) sums[r][c] = load(acc + r * D + d + c * LANES);
        for (int j = begin; j < end; ++j) {
            if (d == 0) tile.template fetch_ahead<D>(j, 1);
            Vec weight[R];
#pragma GCC unroll 3
            for (int r = 0; r < R; ++r) weight[r] = broadcast(weights[r][j]);
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) {
                Vec value = load(values + j * D + d + c * LANES);
                if (R > 1) value = hold(value);
#pragma GCC unroll 3
                for (int r = 0; r < R; ++r) sums[r][c] = sums[r][c] + weight[r] * value;
            }
        }
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) store(acc + r * D + d + c * LANES, sums[r][c]);
    }
}

// The rows of one key head of a unit, with what they carry from tile to tile.
struct Rows {
    std::vector<float> q, acc, top, total;
    std::vector<int64_t> limit;  // keys that the row sees

    void resize(int64_t count, int64_t head_dim) {
        q.resize(count * head_dim);
        acc.assign(count * head_dim, 0.0f);
        top.assign(count, -std::numeric_limits<float>::infinity());
        total.assign(count, 0.0f);
        limit.resize(count);
    }
};

// Scores become weights exp(score - top); what was summed before is scaled to the new top. Not inlined: one code for
// all, whoever calls it.
template <int D>
__attribute__((noinline)) void weigh(float* scores, int count, float* acc, float* top, float* total) {
    const float lowest = -std::numeric_limits<float>::infinity();
    for (int j = count; j < TILE; ++j) scores[j] = lowest;
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

template <int D, int R, typename T>
void advance(Rows& rows, int64_t first, const int* counts, const Tile<T>& keys, const Tile<T>& values) {
    alignas(64) float scores[R][TILE];
    int most = counts[0], least = counts[0];
    for (int r = 1; r < R; ++r) most = std::max(most, counts[r]), least = std::min(least, counts[r]);
    score<D, R>(&rows.q[first * D], keys, most, scores);
    for (int r = 0; r < R; ++r) {
        const int64_t row = first + r;
        weigh<D>(scores[r], counts[r], &rows.acc[row * D], &rows.top[row], &rows.total[row]);
    }
    add_values<D, R>(scores, values, 0, least, &rows.acc[first * D]);
    // A key beyond a row's sight weighs 0, but 0 times a NaN is not 0: such keys are not touched.
    for (int r = 0; r < R; ++r)
        if (counts[r] > least)
            add_values<D, 1>(&scores[r], Tile<T>{values.rows, nullptr}, least, counts[r], &rows.acc[(first + r) * D]);
}

template <int D, typename T>
void advance_all(Rows& rows, int64_t begin, int64_t end, int64_t position, Tile<T> keys, Tile<T> values) {
    auto count = [&](int64_t row) {
        return static_cast<int>(std::clamp<int64_t>(rows.limit[row] - position, 0, TILE));
    };
    for (int64_t row = begin; row < end;) {
        const int counts[BLOCK] = {count(row), row + 1 < end ? count(row + 1) : 0, row + 2 < end ? count(row + 2) : 0};
        if (counts[0] == 0) {
            row += 1;
        } else if (counts[1] == 0) {
            advance<D, 1>(rows, row, counts, keys, values), row += 1;
        } else if (counts[2] == 0) {
            advance<D, 2>(rows, row, counts, keys, values), row += 2;
        } else {
            advance<D, 3>(rows, row, counts, keys, values), row += 3;
        }
        keys.ahead = values.ahead = nullptr;
    }
}

// The keys or values of one key head.
template <typename T, int D>
struct Side {
    const T* cache;
    const WideseekCache& shape;
    int64_t head;
    std::vector<float> gathered;

    Side(const void* cache, const WideseekCache& shape, int64_t head)
        : cache(static_cast<const T*>(cache)), shape(shape), head(head), gathered(TILE * D) {}

    const T* row(const int64_t* pages, int64_t position) const {
        const int64_t page = pages[position / shape.page_size], place = position % shape.page_size;
        return cache + ((page * shape.num_kv + head) * shape.page_size + place) * D;
    }

    // The tile at a position where it lies, which must be in one page.
    Tile<T> in_place(const int64_t* pages, int64_t position, bool last) const {
        return {row(pages, position), last ? nullptr : row(pages, position + TILE)};
    }

    // The same as fp32 rows side by side, `count` of them; the rest of the tile is anything.
    Tile<float> gather(const int64_t* pages, int64_t position, int64_t count) {
        for (int64_t key = 0; key < count;) {
            const int64_t left = shape.page_size - (position + key) % shape.page_size;
            const int64_t run = std::min(count - key, left);
            const T* from = row(pages, position + key);
            for (int64_t i = 0; i < run * D; i += LANES) store(&gathered[key * D + i], load(from + i));
            key += run;
        }
        return {gathered.data(), nullptr};
    }
};

template <typename T, int D>
void take_queries(Rows& rows, const T* q, const WideseekWork& work, const int64_t* unit, int64_t head, int64_t num_heads,
                  int64_t group, std::vector<int64_t>& starts) {
    const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(D)));
    int64_t count = 0;
    starts.clear();
    for (int64_t s = unit[0]; s < unit[1]; ++s) starts.push_back(count), count += work.spans[4 * s + 1] * group;
    starts.push_back(count);
    rows.resize(count, D);
    int64_t row = 0;
    for (int64_t s = unit[0]; s < unit[1]; ++s) {
        const int64_t* span = work.spans + 4 * s;
        for (int64_t t = 0; t < span[1]; ++t)
            for (int64_t g = 0; g < group; ++g, ++row) {
                const T* from = q + ((span[0] + t) * num_heads + head * group + g) * D;
                for (int d = 0; d < D; d += LANES) store(&rows.q[row * D + d], load(from + d) * scale);
                rows.limit[row] = span[2] + t + 1;
            }
    }
}

template <typename T, int D>
void give_results(const Rows& rows, T* out, const WideseekWork& work, const int64_t* unit, int64_t head,
                  int64_t num_heads, int64_t group) {
    int64_t row = 0;
    for (int64_t s = unit[0]; s < unit[1]; ++s) {
        const int64_t* span = work.spans + 4 * s;
        for (int64_t t = 0; t < span[1]; ++t)
            for (int64_t g = 0; g < group; ++g, ++row) {
                T* to = out + ((span[0] + t) * num_heads + head * group + g) * D;
                for (int d = 0; d < D; d += LANES) store(to + d, load(&rows.acc[row * D + d]) / rows.total[row]);
            }
    }
}

// Takes the rows of a segment through its tiles.
template <typename T, int D>
void read_segment(Rows& rows, int64_t begin, int64_t end, const int64_t* pages, const int64_t* segment,
                  Side<T, D>& keys, Side<T, D>& values) {
    const int64_t seen = *std::max_element(rows.limit.begin() + begin, rows.limit.begin() + end);
    // A few rows convert a bf16 tile as they read it, many read it converted.
    const bool few = std::is_same_v<T, float> || end - begin <= BLOCK;
    const bool in_place = keys.shape.page_size % TILE == 0 && few;
    for (int64_t tile = segment[2]; tile < segment[3]; ++tile) {
        const int64_t position = tile * TILE, count = std::min<int64_t>(TILE, seen - position);
        const bool last = tile + 1 == segment[3];
        if (in_place) {
            advance_all<D, T>(rows, begin, end, position, keys.in_place(pages, position, last),
                              values.in_place(pages, position, last));
        } else {
            advance_all<D, float>(rows, begin, end, position, keys.gather(pages, position, count),
                                  values.gather(pages, position, count));
        }
    }
}

template <typename T, int D>
int attend(const T* q, T* out, int64_t num_heads, const WideseekCache& cache, const WideseekWork& work,
           int num_threads) {
    const int64_t group = num_heads / cache.num_kv, items = work.num_units * cache.num_kv;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1 && items > 1)
    {
        Rows rows;
        std::vector<int64_t> starts;
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < items; ++item) {
            const int64_t* unit = work.units + 4 * (item / cache.num_kv);
            const int64_t head = item % cache.num_kv;
            Side<T, D> keys(cache.k, cache, head), values(cache.v, cache, head);
            take_queries<T, D>(rows, q, work, unit, head, num_heads, group, starts);
            for (int64_t s = unit[2]; s < unit[3]; ++s) {
                const int64_t* segment = work.segments + 4 * s;
                read_segment<T, D>(rows, starts[segment[0] - unit[0]], starts[segment[1] - unit[0]],
                                   work.pages + work.spans[4 * segment[0] + 3], segment, keys, values);
            }
            give_results<T, D>(rows, out, work, unit, head, num_heads, group);
        }
    }
    return 0;
}

template <typename T>
int attend_for_size(const void* q, void* out, int64_t num_heads, const WideseekCache& cache, const WideseekWork& work,
                    int num_threads) {
    const T* from = static_cast<const T*>(q);
    T* to = static_cast<T*>(out);
    switch (cache.head_dim) {
        case 16: return attend<T, 16>(from, to, num_heads, cache, work, num_threads);
        case 32: return attend<T, 32>(from, to, num_heads, cache, work, num_threads);
        case 64: return attend<T, 64>(from, to, num_heads, cache, work, num_threads);
        case 128: return attend<T, 128>(from, to, num_heads, cache, work, num_threads);
        default: return 1;
    }
}

}  // namespace
}  // namespace wideseek

int wideseek_paged_attention(const void* q, void* out, int64_t num_heads, WideseekCache cache, WideseekWork work,
                             WideseekElement element, int num_threads) {
    return element == WIDESEEK_BF16
               ? wideseek::attend_for_size<uint16_t>(q, out, num_heads, cache, work, num_threads)
               : wideseek::attend_for_size<float>(q, out, num_heads, cache, work, num_threads);
}
