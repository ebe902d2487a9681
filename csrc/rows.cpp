// Ops that treat every row by itself: norms, the feed-forward gate, and what happens to a token's q, k and v between
// their projection and attention. All are bound by memory, and at a few rows by the call.

#include "launchers.h"
#include "vector.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace wideseek {
namespace {

constexpr int64_t SERIAL = 1 << 15;  // elements below which threads cost more than they bring

// Up to LANES elements; the lanes beyond are 0.
template <typename T>
Vec load_some(const T* from, int64_t count) {
    if (count >= LANES) return load(from);
    T padded[LANES] = {};
    std::copy(from, from + count, padded);
    return load(padded);
}

template <typename T>
void store_some(T* to, Vec v, int64_t count) {
    if (count >= LANES) return store(to, v);
    T padded[LANES];
    store(padded, v);
    std::copy(padded, padded + count, to);
}

template <typename T, typename W>
void norm_row(const T* x, const W* weight, T* out, int64_t size, float eps) {
    Vec squares = {};
    for (int64_t i = 0; i < size; i += LANES) {
        Vec v = load_some(x + i, size - i);
        squares = squares + v * v;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / static_cast<float>(size) + eps);
    for (int64_t i = 0; i < size; i += LANES)
        store_some(out + i, load_some(x + i, size - i) * scale * load_some(weight + i, size - i), size - i);
}

template <typename T, typename W>
void norm_rows(const WideseekNorm& norm, int num_threads) {
    const T *x = static_cast<const T*>(norm.x), *residual = static_cast<const T*>(norm.residual);
    T *out = static_cast<T*>(norm.out), *summed = static_cast<T*>(norm.summed);
    const int64_t size = norm.size;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && norm.rows * size > SERIAL)
    for (int64_t row = 0; row < norm.rows; ++row) {
        const int64_t first = row * size;
        if (residual != nullptr)
            for (int64_t i = first; i < first + size; i += LANES) {
                const int64_t left = first + size - i;
                store_some(summed + i, load_some(x + i, left) + load_some(residual + i, left), left);
            }
        const T* from = residual != nullptr ? summed : x;
        norm_row(from + first, static_cast<const W*>(norm.weight), out + first, size, norm.eps);
    }
}

template <typename T>
void gate(const T* gates, const T* up, T* out, int64_t size, int num_threads) {
    const Vec one = broadcast(1.0f);
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && size > SERIAL)
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t left = size - i;
        Vec x = load_some(gates + i, left);
        Vec e = exp_of_negative(x < 0.0f ? x : -x);
        Vec sigmoid = (x < 0.0f ? e : one) / (one + e);
        store_some(out + i, x * sigmoid * load_some(up + i, left), left);
    }
}

// One head: norm, if there is a weight, and rotation; rounded to T between them, as when they are two steps.
template <typename T, typename W>
void norm_and_rotate(const T* x, const W* weight, float eps, const float* cos, const float* sin, T* out, int64_t size) {
    T normed[WIDESEEK_MAX_HEAD_DIM];
    const T* from = x;
    if (weight != nullptr) {
        norm_row(x, weight, normed, size, eps);
        from = normed;
    }
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float a = to_float(from[i]), b = to_float(from[i + half]);
        from_float(out + i, a * cos[i] + b * sin[i]);
        from_float(out + i + half, b * cos[i + half] + a * sin[i + half]);
    }
}

// A row as the cache holds it.
template <typename T, typename S>
void put(const T* row, S* to, int64_t size) {
    if constexpr (std::is_same_v<S, T>)
        std::copy(row, row + size, to);
    else
        for (int64_t i = 0; i < size; ++i) from_float(to + i, to_float(row[i]));
}

template <typename T, typename W, typename S>
void write_tokens(const WideseekTokens& x, const WideseekCache& cache, int num_threads) {
    const int64_t size = cache.head_dim, work = x.num_tokens * size * (x.num_heads + 2 * cache.num_kv);
    const W *q_weight = static_cast<const W*>(x.q_weight), *k_weight = static_cast<const W*>(x.k_weight);
    S *k_cache = static_cast<S*>(cache.k), *v_cache = static_cast<S*>(cache.v);
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && work > SERIAL)
    for (int64_t t = 0; t < x.num_tokens; ++t) {
        const T* q = static_cast<const T*>(x.q) + t * x.q_stride;
        const T* k = static_cast<const T*>(x.k) + t * x.k_stride;
        const T* v = static_cast<const T*>(x.v) + t * x.v_stride;
        const float *cos = x.cos + t * size, *sin = x.sin + t * size;
        T* out = static_cast<T*>(x.out) + t * x.num_heads * size;
        for (int64_t h = 0; h < x.num_heads; ++h)
            norm_and_rotate(q + h * size, q_weight, x.eps, cos, sin, out + h * size, size);
        if (t >= x.num_slots) continue;
        T turned[WIDESEEK_MAX_HEAD_DIM];
        const int64_t page = x.slots[t] / cache.page_size, place = x.slots[t] % cache.page_size;
        for (int64_t h = 0; h < cache.num_kv; ++h) {
            const int64_t to = ((page * cache.num_kv + h) * cache.page_size + place) * size;
            norm_and_rotate(k + h * size, k_weight, x.eps, cos, sin, turned, size);
            put(turned, k_cache + to, size);
            put(v + h * size, v_cache + to, size);
        }
    }
}

// Calls f with a pointer to each of the two element types, as a tag.
template <typename F>
void for_types(WideseekElement element, WideseekElement weight, F f) {
    const float* fp32 = nullptr;
    const uint16_t* bf16 = nullptr;
    if (element == WIDESEEK_BF16) {
        weight == WIDESEEK_BF16 ? f(bf16, bf16) : f(bf16, fp32);
    } else {
        weight == WIDESEEK_BF16 ? f(fp32, bf16) : f(fp32, fp32);
    }
}

}  // namespace
}  // namespace wideseek

void wideseek_rms_norm(WideseekNorm norm, WideseekElement element, WideseekElement weight, int num_threads) {
    wideseek::for_types(element, weight, [&](auto x, auto w) {
        wideseek::norm_rows<std::decay_t<decltype(*x)>, std::decay_t<decltype(*w)>>(norm, num_threads);
    });
}

void wideseek_swiglu(const void* gates, const void* up, void* out, int64_t size, WideseekElement element,
                     int num_threads) {
    wideseek::for_types(element, element, [&](auto x, auto) {
        using T = std::decay_t<decltype(*x)>;
        wideseek::gate(static_cast<const T*>(gates), static_cast<const T*>(up), static_cast<T*>(out), size, num_threads);
    });
}

int64_t wideseek_norm_rotary_kv_write(WideseekTokens tokens, WideseekCache cache, WideseekElement element,
                                      WideseekElement weight, int num_threads) {
    for (int64_t t = 0; t < tokens.num_slots; ++t)
        if (tokens.slots[t] < 0 || tokens.slots[t] >= cache.num_pages * cache.page_size) return t;
    wideseek::for_types(element, weight, [&](auto x, auto w) {
        using T = std::decay_t<decltype(*x)>;
        using W = std::decay_t<decltype(*w)>;
        cache.element == WIDESEEK_E4M3 ? wideseek::write_tokens<T, W, uint8_t>(tokens, cache, num_threads)
                                       : wideseek::write_tokens<T, W, T>(tokens, cache, num_threads);
    });
    return -1;
}
