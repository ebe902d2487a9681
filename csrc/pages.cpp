// Pages and slots of the caches moved as bytes, whatever they hold. Bound by memory: each byte is read and written once.

#include "launchers.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr int64_t SERIAL = 1 << 16;  // bytes below which threads cost more than they bring

int64_t first_outside(const int64_t* numbers, int64_t count, int64_t end) {
    const auto outside = [end](int64_t number) { return number < 0 || number >= end; };
    const int64_t* found = std::find_if(numbers, numbers + count, outside);
    return found == numbers + count ? -1 : found - numbers;
}

}  // namespace

int64_t wideseek_kv_copy(WideseekCache cache, const int64_t* sources, const int64_t* targets, int64_t count,
                         int64_t element_size, int num_threads) {
    if (const int64_t bad = first_outside(sources, count, cache.num_pages); bad >= 0) return bad;
    if (const int64_t bad = first_outside(targets, count, cache.num_pages); bad >= 0) return count + bad;
    const int64_t bytes = cache.num_kv * cache.page_size * cache.head_dim * element_size;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && count * bytes > SERIAL)
    for (int64_t i = 0; i < count; ++i)
        for (void* side : {cache.k, cache.v}) {
            char* pages = static_cast<char*>(side);
            std::memcpy(pages + targets[i] * bytes, pages + sources[i] * bytes, bytes);
        }
    return -1;
}

int64_t wideseek_kv_gather(WideseekCache cache, const int64_t* slots, void* k, void* v, int64_t count,
                           int64_t element_size, int num_threads) {
    if (const int64_t bad = first_outside(slots, count, cache.num_pages * cache.page_size); bad >= 0) return bad;
    const int64_t bytes = cache.head_dim * element_size, row = cache.num_kv * bytes;
#pragma omp parallel for num_threads(num_threads) if (num_threads > 1 && count * row > SERIAL)
    for (int64_t t = 0; t < count; ++t) {
        const int64_t page = slots[t] / cache.page_size, place = slots[t] % cache.page_size;
        for (int64_t h = 0; h < cache.num_kv; ++h) {
            const int64_t from = ((page * cache.num_kv + h) * cache.page_size + place) * bytes, to = t * row + h * bytes;
            std::memcpy(static_cast<char*>(k) + to, static_cast<const char*>(cache.k) + from, bytes);
            std::memcpy(static_cast<char*>(v) + to, static_cast<const char*>(cache.v) + from, bytes);
        }
    }
    return -1;
}
