// What the two ways to compute attention on a CPU have in common: the rows of one key head of a unit, the keys and
// values they read, and how what was summed over one chunk of keys joins what was summed over the chunks before.
#pragma once

#include "launchers.h"
#include "vector.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace wideseek {

constexpr int TILE = 64;                        // keys that go at once
constexpr int64_t CHUNK = 16 * TILE;            // keys that are summed up by themselves
constexpr float LOWEST = -std::numeric_limits<float>::infinity();

// Softmax over some keys: values weighted by exp(score - top), and the sum of these weights.
struct Summed {
    float* acc;  // [head_dim]
    float top, total;
};

// Joins what later keys gave. Not inlined: one code for all, so that no path rounds in its own way.
template <int D>
__attribute__((noinline)) void fold(Summed& into, const Summed& later) {
    if (later.top == LOWEST) return;
    const float top = std::max(into.top, later.top);
    const float scale = exp_of_negative(broadcast(into.top - top))[0];
    const float later_scale = exp_of_negative(broadcast(later.top - top))[0];
    into.top = top;
    into.total = into.total * scale + later.total * later_scale;
    for (int d = 0; d < D; d += LANES)
        store(into.acc + d, load(into.acc + d) * scale + load(later.acc + d) * later_scale);
}

// Keys or values of one key head.
template <typename T, int D>
struct Side {
    const T* cache;
    const WideseekCache& shape;
    int64_t head;

    Side(const void* cache, const WideseekCache& shape, int64_t head)
        : cache(static_cast<const T*>(cache)), shape(shape), head(head) {}

    const T* row(const int64_t* pages, int64_t position) const {
        const int64_t page = pages[position / shape.page_size], place = position % shape.page_size;
        return cache + ((page * shape.num_kv + head) * shape.page_size + place) * D;
    }

    // Whether every tile lies in one piece.
    bool whole_tiles() const { return shape.page_size % TILE == 0; }

    // Calls f(first key, keys, their rows) for each piece of the first `count` keys of a tile.
    template <typename F>
    void pieces(const int64_t* pages, int64_t position, int64_t count, F f) const {
        for (int64_t key = 0; key < count;) {
            const int64_t left = shape.page_size - (position + key) % shape.page_size;
            const int64_t run = std::min(count - key, left);
            f(key, run, row(pages, position + key));
            key += run;
        }
    }
};

// The keys and values of the tile to come, fetched a few lines at a time while there is something else to do: all at
// once would wait for memory. By turns, since two streams come faster than one after the other.
struct Ahead {
    const char *keys = nullptr, *values = nullptr;
    int next = 0, lines = 0;  // of both

    Ahead() = default;
    Ahead(const void* keys, const void* values, size_t bytes)
        : keys(static_cast<const char*>(keys)), values(static_cast<const char*>(values)),
          lines(static_cast<int>(2 * bytes / 64)) {}

    void fetch(int count) {
        for (; count > 0 && next < lines; --count, ++next)
            __builtin_prefetch((next % 2 ? keys : values) + 64 * (next / 2), 0, 2);
    }
};

// A stretch of tiles, and the rows that read it.
struct Stretch {
    int64_t begin, end;   // rows
    const int64_t* pages;
    int64_t tile_from, tile_to;
};

}  // namespace wideseek
