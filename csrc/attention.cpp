// Paged attention on a CPU: decode, extension, chunked prefill, and prefixes that many sequences share.
//
// A row is one query of one head. Its softmax runs over tiles of TILE keys at absolute positions, in order, and keeps
// (largest score, sum of exponentials, weighted values) between them; every CHUNK of keys it begins anew, and chunks are
// folded together in their order. What a row computes depends on nothing but its query and the keys up to its position:
// not on which rows stand beside it, on where pages lie, nor on which core summed up which chunk.
// So sharing, chunked prefill, batch mates and splitting change no bit, though a tile is read once for all rows of a
// unit that need it.
//
// A unit reads its own and its shared keys and values once from memory: rows * 4 * head_dim FLOPs a key against
// 2 * head_dim * element size bytes. Alone a decoding row is bound by memory; from about 8 rows on, by arithmetic.

#include "attention_amx.h"
#include "attention_vector.h"
#include "launchers.h"

#include <memory>
#include <type_traits>

namespace wideseek {
namespace {

constexpr int64_t CHUNK_TILES = CHUNK / TILE;

// One launch: what is read, what is written, and how heads map.
struct Launch {
    const void* q;
    void* out;
    float* lse;
    int64_t num_heads, group;
    const WideseekCache& cache;
    const WideseekWork& work;

    const int64_t* unit(int64_t index) const { return work.units + 6 * index; }
    const int64_t* span(int64_t index) const { return work.spans + 4 * index; }
};

// What the chunks of split units came to: [partial, head], each with head_dim values, top and total.
class Partials {
  public:
    Partials(int64_t count, int64_t num_heads, int64_t head_dim)
        : num_heads(num_heads), size(head_dim + 2), store(new float[count * num_heads * size]) {}

    Summed at(int64_t partial, int64_t head) const {
        float* from = store.get() + (partial * num_heads + head) * size;
        return {from, from[size - 2], from[size - 1]};
    }

    void keep(int64_t partial, int64_t head, const Summed& part) {
        float* to = store.get() + (partial * num_heads + head) * size;
        std::copy_n(part.acc, size - 2, to);
        to[size - 2] = part.top, to[size - 1] = part.total;
    }

  private:
    int64_t num_heads, size;
    std::unique_ptr<float[]> store;
};

template <typename T, int D>
void give(const Launch& launch, int64_t token, int64_t head, const Summed& whole) {
    T* to = static_cast<T*>(launch.out) + (token * launch.num_heads + head) * D;
    for (int d = 0; d < D; d += LANES) store(to + d, load(whole.acc + d) / whole.total);
    if (launch.lse != nullptr) launch.lse[token * launch.num_heads + head] = whole.top + std::log(whole.total);
}

// One key head of a part: its rows go through the part's tiles, and what a chunk came to is folded, or kept for later.
template <typename T, typename S, int D, typename Rows>
class Item {
  public:
    explicit Item(const Launch& launch, Partials& partials) : launch(launch), partials(partials), chunk(D) {}

    void run(const int64_t* part, int64_t key_head) {
        unit = launch.unit(part[0]), head = key_head, tile_from = part[1], tile_to = part[2];
        take_queries();
        const Side<S, D> keys(launch.cache.k, launch.cache, head), values(launch.cache.v, launch.cache, head);
        for (int64_t s = unit[2]; s < unit[3]; ++s) {
            const int64_t* segment = launch.work.segments + 4 * s;
            read({starts[segment[0] - unit[0]], starts[segment[1] - unit[0]],
                  launch.work.pages + launch.span(segment[0])[3], std::max(segment[2], tile_from),
                  std::min(segment[3], tile_to)},
                 keys, values);
        }
        for (size_t row = 0; row < tokens.size(); ++row) {
            end_chunk(row, (std::min(rows.limit[row], tile_to * TILE) - 1) / CHUNK);
            if (unit[5] < 0) give<T, D>(launch, tokens[row], heads[row], sums[row]);
        }
    }

  private:
    const Launch& launch;
    Partials& partials;
    Rows rows;
    const int64_t* unit;
    int64_t head, tile_from, tile_to;
    std::vector<int64_t> starts, tokens, heads;  // first row of each span; of each row
    std::vector<float> acc, chunk;
    std::vector<Summed> sums;

    void take_queries() {
        const T* q = static_cast<const T*>(launch.q);
        starts.clear(), tokens.clear(), heads.clear(), sums.clear();
        for (int64_t s = unit[0]; s < unit[1]; ++s) {
            starts.push_back(tokens.size());
            for (int64_t t = 0; t < launch.span(s)[1]; ++t)
                for (int64_t g = 0; g < launch.group; ++g) {
                    tokens.push_back(launch.span(s)[0] + t);
                    heads.push_back(head * launch.group + g);
                }
        }
        starts.push_back(tokens.size());
        acc.assign(tokens.size() * D, 0.0f);
        rows.resize(tokens.size());
        for (int64_t s = unit[0], row = 0; s < unit[1]; ++s)
            for (int64_t i = 0; i < launch.span(s)[1] * launch.group; ++i, ++row) {
                rows.take(row, q + (tokens[row] * launch.num_heads + heads[row]) * D);
                rows.limit[row] = launch.span(s)[2] + i / launch.group + 1;
                sums.push_back({&acc[row * D], LOWEST, 0.0f});
            }
    }

    void read(const Stretch& at, const Side<S, D>& keys, const Side<S, D>& values) {
        if (at.tile_from >= at.tile_to) return;
        const int64_t seen = *std::max_element(&rows.limit[at.begin], &rows.limit[at.begin] + (at.end - at.begin));
        for (int64_t tile = at.tile_from; tile < at.tile_to; ++tile) {
            if (tile % CHUNK_TILES == 0 && tile > tile_from)
                for (int64_t row = at.begin; row < at.end; ++row)
                    if (rows.limit[row] > tile * TILE) end_chunk(row, tile / CHUNK_TILES - 1);
            const int64_t count = std::min<int64_t>(TILE, seen - tile * TILE);
            rows.read(at, tile, count, tile + 1 == at.tile_to, keys, values);
        }
    }

    void end_chunk(int64_t row, int64_t index) {
        if (rows.limit[row] <= tile_from * TILE) return;
        Summed part = {chunk.data(), LOWEST, 0.0f};
        rows.drain(row, part);
        if (unit[5] < 0) return fold<D>(sums[row], part);
        const int64_t chunks = (unit[4] + CHUNK_TILES - 1) / CHUNK_TILES;
        partials.keep(unit[5] + row / launch.group * chunks + index, heads[row], part);
    }
};

// Folds what the parts of a split unit kept, chunk after chunk.
template <typename T, int D>
void merge(const Launch& launch, const Partials& partials, const int64_t* unit) {
    const int64_t chunks = (unit[4] + CHUNK_TILES - 1) / CHUNK_TILES;
    alignas(64) float acc[D];
    int64_t partial = unit[5];
    for (int64_t s = unit[0]; s < unit[1]; ++s)
        for (int64_t t = 0; t < launch.span(s)[1]; ++t, partial += chunks)
            for (int64_t head = 0; head < launch.num_heads; ++head) {
                std::fill_n(acc, D, 0.0f);
                Summed whole = {acc, LOWEST, 0.0f};
                for (int64_t c = 0; c <= (launch.span(s)[2] + t) / CHUNK; ++c) fold<D>(whole, partials.at(partial + c, head));
                give<T, D>(launch, launch.span(s)[0] + t, head, whole);
            }
}

template <typename T, typename S, int D, typename Rows, typename Scope>
void attend(const Launch& launch, int num_threads) {
    const int64_t num_kv = launch.cache.num_kv, items = launch.work.num_parts * num_kv;
    Partials partials(launch.work.num_partials, launch.num_heads, D);
#pragma omp parallel num_threads(num_threads) if (num_threads > 1 && items > 1)
    {
        Scope scope;
        Item<T, S, D, Rows> item(launch, partials);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < items; ++i) item.run(launch.work.parts + 3 * (i / num_kv), i % num_kv);
#pragma omp for schedule(dynamic, 1)
        for (int64_t u = 0; u < launch.work.num_units; ++u)
            if (launch.unit(u)[5] >= 0) merge<T, D>(launch, partials, launch.unit(u));
    }
}

struct NoScope {
    NoScope() {}
};

template <typename T, typename S, int D>
int attend_on_best(const Launch& launch, int num_threads) {
#if defined(WIDESEEK_AMX)
    if constexpr (std::is_same_v<T, uint16_t> && std::is_same_v<S, uint16_t> && D % 32 == 0)
        if (amx_allowed()) return attend<T, S, D, AmxRows<D>, AmxTiles>(launch, num_threads), 0;
#endif
    return attend<T, S, D, VectorRows<T, S, D>, NoScope>(launch, num_threads), 0;
}

template <typename T, typename S>
int attend_for_size(const Launch& launch, int num_threads) {
    switch (launch.cache.head_dim) {
        case 16: return attend_on_best<T, S, 16>(launch, num_threads);
        case 32: return attend_on_best<T, S, 32>(launch, num_threads);
        case 64: return attend_on_best<T, S, 64>(launch, num_threads);
        case 128: return attend_on_best<T, S, 128>(launch, num_threads);
        default: return 1;
    }
}

template <typename T>
int attend_for_cache(const Launch& launch, int num_threads) {
    return launch.cache.element == WIDESEEK_E4M3 ? attend_for_size<T, uint8_t>(launch, num_threads)
                                                 : attend_for_size<T, T>(launch, num_threads);
}

}  // namespace
}  // namespace wideseek

int wideseek_paged_attention(const void* q, void* out, float* lse, int64_t num_heads, WideseekCache cache,
                             WideseekWork work, WideseekElement element, int num_threads) {
    const wideseek::Launch launch = {q, out, lse, num_heads, num_heads / cache.num_kv, cache, work};
    return element == WIDESEEK_BF16 ? wideseek::attend_for_cache<uint16_t>(launch, num_threads)
                                    : wideseek::attend_for_cache<float>(launch, num_threads);
}
