// Attention of bf16 rows over a tile of keys on AMX, for head sizes that are a multiple of 32.
//
// Scores come out as [key, row], with keys as they lie in memory; weights and values then meet as [row, key] and
// [key, value]. A weight enters that product as the sum of two bf16 numbers: what is off is 2^-17 of it.
//
// A product's element depends on its own row and column alone, so rows that go together share what is read, and
// nothing else. Rows of a tile register that do not belong to the stretch come out as anything and are dropped.
#pragma once

#include "rows_of_attention.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__) && !defined(WIDESEEK_LANES)
#define WIDESEEK_AMX 1

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace wideseek {

// Linux gives a process the tile registers when it asks for them.
inline bool amx_allowed() {
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;
    static const bool allowed = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return allowed;
}

// All eight tile registers are 16 rows of 64 bytes while it lives.
struct AmxTiles {
    AmxTiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes_a_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        _tile_loadconfig(&shape);
    }
    ~AmxTiles() { _tile_release(); }
};

// Compilers do not know that loading a tile register reads memory: what was written stands there from here on.
inline void settle() { asm volatile("" ::: "memory"); }

constexpr int SIDE = 16;  // rows of a tile register, and 32-bit columns

// m[i][j] becomes m[j][i].
inline void turn(WordVec (&m)[SIDE]) {
    auto mix = [&](int step, auto low, auto high) {
        for (int i = 0; i < SIDE; ++i)
            if ((i & step) == 0) {
                WordVec a = m[i], b = m[i + step];
                m[i] = low(a, b), m[i + step] = high(a, b);
            }
    };
    mix(
        1, [](WordVec a, WordVec b) { return __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30); },
        [](WordVec a, WordVec b) { return __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31); });
    mix(
        2, [](WordVec a, WordVec b) { return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29); },
        [](WordVec a, WordVec b) { return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31); });
    mix(
        4, [](WordVec a, WordVec b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27); },
        [](WordVec a, WordVec b) { return __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31); });
    mix(
        8, [](WordVec a, WordVec b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23); },
        [](WordVec a, WordVec b) { return __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31); });
}

// Thirty-two bf16 in the order of both.
inline WordVec side_by_side(Vec first, Vec second) {
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    WordVec halves;
    std::memcpy(&halves, &both, sizeof halves);
    return halves;
}

// Sixteen pairs of bf16: the first of each in its lower half.
inline WordVec pairs(Vec first, Vec second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                           5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (WordVec)_mm512_permutexvar_epi16(order, (__m512i)side_by_side(first, second));
}

inline Vec lower(WordVec pair) { return as_floats((IntVec)(pair << 16)); }
inline Vec upper(WordVec pair) { return as_floats((IntVec)(pair & 0xFFFF0000u)); }

template <int D>
class AmxRows {
    static constexpr int WORDS = D / 2, STEPS = D / 32, HALVES = TILE / 32, BLOCKS = D / SIDE;
    static constexpr int64_t FEW = 3;  // rows that are weighed one by one, each over its keys, not all at once

  public:
    std::vector<int64_t> limit;  // keys that each row sees

    void resize(int64_t count) {
        limit.resize(count);
        stride = count + SIDE;  // the last row may be the first of sixteen
        words.assign(WORDS * stride, 0);
        acc.assign(D * count, 0.0f);
        top.assign(stride, LOWEST);
        total.assign(stride, 0.0f);
        sight.assign(stride, 0);
    }

    // Row r's pairs of elements stand in column r.
    void take(int64_t row, const uint16_t* query) {
        for (int w = 0; w < WORDS; ++w)
            words[w * stride + row] = query[2 * w] | static_cast<uint32_t>(query[2 * w + 1]) << 16;
    }

    // What the row has summed up since it was last asked, in `into`, and begins anew.
    void drain(int64_t row, Summed& into) {
        std::copy_n(&acc[row * D], D, into.acc);
        into.top = top[row], into.total = total[row];
        std::fill_n(&acc[row * D], D, 0.0f);
        top[row] = LOWEST, total[row] = 0.0f;
    }

    // `count` keys of the tile are seen by some row; `last`: no tile follows in memory.
    void read(const Stretch& at, int64_t tile, int64_t count, bool last, const Side<uint16_t, D>& keys,
              const Side<uint16_t, D>& values) {
        const int64_t position = tile * TILE;
        const uint16_t *key_rows = gathered_keys, *value_rows = gathered_values;
        ahead = {};
        if (keys.whole_tiles()) {
            key_rows = keys.row(at.pages, position), value_rows = values.row(at.pages, position);
            if (!last)
                ahead = {keys.row(at.pages, position + TILE), values.row(at.pages, position + TILE), sizeof gathered_keys};
        } else {
            gather(keys, at.pages, position, count, gathered_keys);
            gather(values, at.pages, position, count, gathered_values);
        }
        int64_t least = TILE;
        for (int64_t row = at.begin; row < at.end; ++row) {
            sight[row] = static_cast<int32_t>(std::clamp<int64_t>(limit[row] - position, 0, TILE));
            if (sight[row] > 0) least = std::min<int64_t>(least, sight[row]);
        }
        pair_values(value_rows, count);
        // A key beyond a row's sight weighs 0, but 0 times a NaN is not 0: then each row goes alone, with its own keys.
        const bool apart = least < count && !finite(value_rows, least, count);
        for (int64_t row = at.begin; row < at.end; row += apart ? 1 : SIDE) {
            const int64_t end = apart ? row + 1 : std::min(row + SIDE, at.end);
            if (*std::max_element(&sight[row], &sight[row] + (end - row)) == 0) continue;
            if (apart) pair_values(value_rows, sight[row]);
            advance(row, end, key_rows);
        }
    }

  private:
    int64_t stride;
    std::vector<uint32_t> words;       // [D / 2, stride]
    std::vector<float> acc, top, total;
    std::vector<int32_t> sight;        // keys of this tile that a row sees
    alignas(64) uint16_t gathered_keys[TILE * D], gathered_values[TILE * D];
    alignas(64) uint32_t paired[HALVES][BLOCKS][SIDE][SIDE];  // [pair of keys][d]
    alignas(64) float scores[TILE][SIDE];
    alignas(64) uint32_t weights[2][HALVES][SIDE][SIDE];      // [upper and lower part], [row][pair of keys]
    alignas(64) float product[SIDE][D], scales[SIDE];

    Ahead ahead;

    static void gather(const Side<uint16_t, D>& side, const int64_t* pages, int64_t position, int64_t count,
                       uint16_t* to) {
        side.pieces(pages, position, count, [&](int64_t key, int64_t run, const uint16_t* from) {
            std::memcpy(to + key * D, from, run * D * sizeof *to);
        });
    }

    static bool finite(const uint16_t* values, int64_t from, int64_t to) {
        bool all = true;
        for (int64_t i = from * D; i < to * D; ++i) all &= (values[i] & 0x7F80) != 0x7F80;
        return all;
    }

    // The first `count` values, zeros after them, each beside the next key's.
    void pair_values(const uint16_t* values, int64_t count) {
        for (int p = 0; p < TILE / 2; ++p) {
            ahead.fetch(3 * D / 64);
            for (int b = 0; b < BLOCKS; ++b) {
                HalfVec one = {}, two = {};
                if (2 * p < count) std::memcpy(&one, values + 2 * p * D + b * SIDE, sizeof one);
                if (2 * p + 1 < count) std::memcpy(&two, values + (2 * p + 1) * D + b * SIDE, sizeof two);
                const WordVec both = __builtin_convertvector(one, WordVec) | __builtin_convertvector(two, WordVec) << 16;
                std::memcpy(paired[p / SIDE][b][p % SIDE], &both, sizeof both);
            }
        }
    }

    void advance(int64_t row, int64_t end, const uint16_t* keys) {
        multiply_keys(row, keys);
        if (end - row <= FEW) {
            for (int64_t i = 0; i < end - row; ++i) weigh_one(row, i);
        } else {
            weigh(row, end);
        }
        multiply_values();
        for (int64_t i = 0; i < end - row; ++i) {
            if (sight[row + i] == 0) continue;
            float* to = &acc[(row + i) * D];
            for (int d = 0; d < D; d += LANES) store(to + d, load(to + d) * scales[i] + load(&product[i][d]));
        }
    }

    void multiply_keys(int64_t row, const uint16_t* keys) {
        const uint32_t* query = &words[row];
        const int64_t bytes = stride * sizeof *query;
        settle();
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int s = 0; s < STEPS; ++s) {
            const uint16_t* key = keys + 32 * s;
            _tile_loadd(4, query + s * SIDE * stride, bytes);
            _tile_loadd(5, key, 2 * D);
            _tile_loadd(6, key + SIDE * D, 2 * D);
            _tile_dpbf16ps(0, 5, 4);
            _tile_dpbf16ps(1, 6, 4);
            ahead.fetch(SIDE);
            _tile_loadd(5, key + 2 * SIDE * D, 2 * D);
            _tile_loadd(6, key + 3 * SIDE * D, 2 * D);
            _tile_dpbf16ps(2, 5, 4);
            _tile_dpbf16ps(3, 6, 4);
            ahead.fetch(SIDE);
        }
        _tile_stored(0, scores[0], 64);
        _tile_stored(1, scores[SIDE], 64);
        _tile_stored(2, scores[2 * SIDE], 64);
        _tile_stored(3, scores[3 * SIDE], 64);
    }

    static constexpr float factor() { return D == 32 ? 0.17677670f : D == 64 ? 0.125f : 0.088388348f; }

    // Scores of sixteen rows become weights exp(score - top) in two parts; earlier sums are to be scaled by `scales`.
    // 0, and not infinity, from which nothing could be taken, is the top of rows that see nothing.
    void weigh(int64_t row, int64_t end) {
        IntVec seen;
        std::memcpy(&seen, &sight[row], sizeof seen);
        const Vec old_top = load(&top[row]), barred = broadcast(LOWEST);
        Vec most = old_top;
        for (int j = 0; j < TILE; ++j) {
            const Vec masked = seen > j ? load(scores[j]) * factor() : barred;
            store(scores[j], masked);
            most = larger(masked, most);
        }
        const Vec base = most == LOWEST ? Vec{} : most;
        Vec sums[4] = {};
        for (int h = 0; h < HALVES; ++h) {
            WordVec upper_part[SIDE], lower_part[SIDE];
            for (int p = 0; p < SIDE; ++p) {
                ahead.fetch(D / 64);
                const int j = 2 * (h * SIDE + p);
                const Vec one = exp_of_negative(load(scores[j]) - base), two = exp_of_negative(load(scores[j + 1]) - base);
                sums[j % 4] = sums[j % 4] + one, sums[j % 4 + 1] = sums[j % 4 + 1] + two;
                upper_part[p] = pairs(one, two);
                lower_part[p] = pairs(one - lower(upper_part[p]), two - upper(upper_part[p]));
            }
            turn(upper_part);
            turn(lower_part);
            std::memcpy(weights[0][h], upper_part, sizeof upper_part);
            std::memcpy(weights[1][h], lower_part, sizeof lower_part);
        }
        const Vec scale = exp_of_negative(old_top - base);
        store(scales, scale);
        const Vec old_total = load(&total[row]), whole = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        const IntVec index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        const IntVec kept = (index < static_cast<int32_t>(std::min<int64_t>(end - row, SIDE))) & (seen > 0);
        store(&top[row], kept != 0 ? most : old_top);
        store(&total[row], kept != 0 ? old_total * scale + whole : old_total);
    }

    // The same of one row, with sixteen keys side by side instead of sixteen rows; no bit of it is another.
    void weigh_one(int64_t row, int64_t i) {
        constexpr int PARTS = TILE / SIDE;
        const int seen = sight[row + i];
        const float old_top = top[row + i];
        alignas(64) float own[TILE];
        for (int j = 0; j < TILE; ++j) own[j] = scores[j][i];
        const IntVec index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        Vec masked[PARTS], most = broadcast(old_top);
        for (int part = 0; part < PARTS; ++part) {
            masked[part] = index < seen - part * SIDE ? load(own + part * SIDE) * factor() : broadcast(LOWEST);
            most = larger(masked[part], most);
        }
        const float new_top = largest(most), base = new_top == LOWEST ? 0.0f : new_top;
        for (int part = 0; part < PARTS; ++part) {
            masked[part] = exp_of_negative(masked[part] - base);
            store(own + part * SIDE, masked[part]);
        }
        Vec4 sums = {};
        for (int j = 0; j < TILE; j += 4) {
            ahead.fetch(D / 32);
            Vec4 four;
            std::memcpy(&four, own + j, sizeof four);
            sums += four;
        }
        for (int h = 0; h < HALVES; ++h) {
            const WordVec upper_part = side_by_side(masked[2 * h], masked[2 * h + 1]);
            alignas(64) uint16_t rounded[2 * SIDE];
            std::memcpy(rounded, &upper_part, sizeof rounded);
            const WordVec lower_part =
                side_by_side(masked[2 * h] - load(rounded), masked[2 * h + 1] - load(rounded + SIDE));
            std::memcpy(weights[0][h][i], &upper_part, sizeof upper_part);
            std::memcpy(weights[1][h][i], &lower_part, sizeof lower_part);
        }
        const float scale = exp_of_negative(broadcast(old_top - base))[0];
        scales[i] = scale;
        if (seen == 0) return;
        top[row + i] = new_top;
        total[row + i] = total[row + i] * scale + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }

    void multiply_values() {
        settle();
        for (int b = 0; b < BLOCKS; b += 2) {
            _tile_zero(0);
            _tile_zero(1);
            for (int h = 0; h < HALVES; ++h) {
                _tile_loadd(4, weights[0][h], 64);
                _tile_loadd(5, weights[1][h], 64);
                _tile_loadd(6, paired[h][b], 64);
                _tile_loadd(7, paired[h][b + 1], 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(0, 5, 6);
                _tile_dpbf16ps(1, 5, 7);
                ahead.fetch(SIDE);
            }
            _tile_stored(0, &product[0][b * SIDE], 4 * D);
            _tile_stored(1, &product[0][(b + 1) * SIDE], 4 * D);
        }
    }
};

}  // namespace wideseek

#endif
