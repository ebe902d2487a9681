// csrc/hopper.cuh for a CPU, so that the kernel itself runs there: the threads of a block are fibers that take turns by
// chance. Copies end late; products are computed, block by block, as soon or as late as they may: what was read too early or
// overwritten too soon is NaN or wrong. Whoever breaks a rule, or a block in which all wait, ends the run with a line.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define threadIdx (wideseek::cpu::now->index())
#define blockIdx (wideseek::cpu::now->block_index)
#define gridDim (wideseek::cpu::now->grid)

using std::max;
using std::min;
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint4 { unsigned x, y, z, w; };
struct __nv_bfloat16 { uint16_t bits; };

// A tensor of 16-bit numbers as the copy engine sees it.
struct CUtensorMap {
    const uint16_t* data;
    int columns, rows, pages, box_rows;
};

// What the kernel declares as its block's shared memory.
namespace wideseek::sm90 {
alignas(1024) inline unsigned char memory[1 << 18];
}

namespace wideseek::cpu {

using sm90::memory;
constexpr int MEMORY = sizeof(memory), BASE = 1024, GONE = 0x7FC0;  // GONE: a bf16 NaN

[[noreturn]] inline void broken(const std::string& rule) { throw std::runtime_error(rule); }
inline void require(bool kept, const char* rule) {
    if (!kept) broken(rule);
}

struct Index { unsigned x; };
struct Barrier { int arrivals = 0, pending = 0, phase = 0; int64_t bytes = 0; };
struct Meeting { int arrived = 0, times = 0; };
struct Product { float* out; int width; const uint32_t* a; uint64_t b_at; bool add, by_rows; };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
    uint32_t slot = 0;
    std::vector<std::function<void()>> copies;
    std::vector<uint32_t> unfenced;
    std::vector<Product> open;
    std::deque<std::vector<Product>> groups;
};

class Block {
  public:
    Index block_index, grid;
    Block(int threads, int block, int blocks, unsigned seed) : block_index{unsigned(block)}, grid{unsigned(blocks)}, chance(seed) {
        soon = seed % 2 == 0, slowness = seed / 2 % 2 ? 2 : 100;
        fibers.resize(threads);
        for (int i = 0; i < MEMORY / 2; ++i) reinterpret_cast<uint16_t*>(memory)[i] = GONE;
    }
    Index index() const { return {unsigned(self)}; }
    Fiber& fiber() { return fibers[self]; }

    void run(std::function<void()> body) {
        work = std::move(body);
        for (Fiber& f : fibers) {
            f.stack.reset(new char[STACK]);
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = STACK, f.context.uc_link = &scheduler;
            makecontext(&f.context, &Block::enter, 0);
        }
        std::vector<int> alive(fibers.size());
        for (size_t i = 0; i < alive.size(); ++i) alive[i] = int(i);
        while (!alive.empty()) {
            const int64_t before = progress;
            std::shuffle(alive.begin(), alive.end(), chance);
            for (int next : alive) {
                self = next;
                swapcontext(&scheduler, &fibers[next].context);
                if (!failure.empty()) broken(failure);
            }
            std::erase_if(alive, [&](int i) { return fibers[i].done; });
            if (!pending.empty() && (progress == before || chance() % slowness == 0)) {
                const size_t which = chance() % pending.size();
                pending[which]();
                pending.erase(pending.begin() + which), ++progress;
            }
            require(progress != before || alive.empty(), "all wait for ever");
        }
        require(pending.empty(), "a copy is still under way at the end");
        for (const auto& one : meetings) require(one.second.arrived == 0, "a barrier still waits for someone at the end");
    }

    void until(const std::function<bool()>& over) {
        while (!over()) yield();
        ++progress;
    }
    void yield() { swapcontext(&fibers[self].context, &scheduler); }
    void now_and_then() {
        if (chance() % 4 == 0) ++progress, yield();
    }

    void meet_at(int meeting, int count) {
        Meeting& m = meetings[meeting];
        const int before = m.times;
        require(m.arrived < count, "more threads at a barrier than it is for");
        if (++m.arrived == count) m.arrived = 0, ++m.times, ++progress;
        until([&] { return meetings[meeting].times != before; });
    }
    void meet_warp() { meet_at(100 + self / 32, 32); }

    void settle(Barrier& b) {
        if (b.pending == 0 && b.bytes == 0) b.pending = b.arrivals, b.phase ^= 1, ++progress;
    }

    std::map<uint32_t, Barrier> barriers;
    std::vector<std::function<void()>> pending;
    std::map<uint32_t, int> dirty;  // 16 bytes of ordinary stores that the tensor cores may not see yet
    std::vector<Fiber> fibers;
    std::mt19937 chance;
    bool soon;  // products are computed as soon as they may
    unsigned slowness;
    int self = 0;

  private:
    static constexpr size_t STACK = 1 << 16;
    ucontext_t scheduler;
    std::function<void()> work;
    std::map<int, Meeting> meetings;
    std::string failure;
    int64_t progress = 0;
    static void enter();
};

inline Block* now = nullptr;

inline void Block::enter() {
    try {
        now->work();
        require(now->fiber().groups.empty() && now->fiber().open.empty(), "products are still under way at the end");
    } catch (const std::runtime_error& error) {
        now->failure = error.what();
    }
    now->fiber().done = true, ++now->progress;
}

inline uint16_t& number(uint32_t address) {
    require(address >= BASE && address < BASE + MEMORY, "an address beyond shared memory");
    return *reinterpret_cast<uint16_t*>(memory + (address - BASE));
}
inline float wide(uint16_t bits) {
    const uint32_t word = uint32_t{bits} << 16;
    float value;
    return std::memcpy(&value, &word, 4), value;
}
inline uint16_t narrow(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    if (std::isnan(value)) return GONE;
    return uint16_t((word + 0x7FFF + (word >> 16 & 1)) >> 16);
}
inline uint32_t exchanged(uint32_t address) { return address ^ ((address >> 7 & 7) << 4); }

// Number (x, k) of an operand of a product, [n, 16] with k summed over, as the PTX ISA reads a descriptor.
inline float operand(uint64_t descriptor, int x, int k, bool by_rows) {
    require(descriptor >> 62 == 1 && (descriptor >> 49 & 7) == 0, "a descriptor without the 128-byte swizzle");
    const uint32_t start = (descriptor & 0x3FFF) << 4, leading = (descriptor >> 16 & 0x3FFF) << 4;
    const uint32_t stride = (descriptor >> 32 & 0x3FFF) << 4;
    const uint32_t at = exchanged(start + (by_rows ? x / 8 * stride + x % 8 * 128 + k * 2
                                                   : x / 64 * leading + x % 64 * 2 + k / 8 * stride + k % 8 * 128));
    require(!now->dirty.count(at / 16), "the tensor cores read what was stored without a fence");
    return wide(number(at));
}

// Product i of group g, as this thread's part of it.
inline void compute(size_t g, size_t i) {
    const int thread = now->self;
    const Product& p = now->fiber().groups[g][i];
    float b[16];
    for (int n = 0; n < p.width / 2; ++n) {
        const int half = n / 2 & 1;
        const int column = n / 4 * 8 + 2 * (thread % 4) + (n & 1);
        float sum = p.add ? p.out[n] : 0.0f;
        for (int k = 0; k < 16; ++k) b[k] = operand(p.b_at, column, k, p.by_rows);
        for (int k = 0; k < 16; ++k) {
            const Product& other = now->fibers[(thread & ~3) + k % 8 / 2].groups[g][i];
            sum = std::fmaf(wide(uint16_t(other.a[2 * (k / 8) + half] >> 16 * (k & 1))), b[k], sum);
        }
        p.out[n] = sum;
    }
}

}  // namespace wideseek::cpu

inline void __syncthreads() { wideseek::cpu::now->meet_at(300, int(wideseek::cpu::now->fibers.size())); }
inline void __syncwarp() { wideseek::cpu::now->meet_warp(); }

template <typename X, typename F>
X in_warp(X value, F with) {
    auto& block = *wideseek::cpu::now;
    std::memcpy(&block.fiber().slot, &value, 4);
    block.meet_warp();
    const X found = with();
    block.meet_warp();
    return found;
}
template <typename X>
X lane_value(int lane) {
    X value;
    return std::memcpy(&value, &wideseek::cpu::now->fibers[(wideseek::cpu::now->self & ~31) + lane].slot, 4), value;
}
template <typename X>
X __shfl_xor_sync(unsigned, X value, int mask) {
    return in_warp(value, [&] { return lane_value<X>((wideseek::cpu::now->self & 31) ^ mask); });
}
inline int __shfl_sync(unsigned, int value, int lane) {
    return in_warp(value, [&] { return lane_value<int>(lane); });
}
inline bool __any_sync(unsigned, bool value) {
    return in_warp(int(value), [] { int any = 0; for (int i = 0; i < 32; ++i) any |= lane_value<int>(i); return any; });
}
inline int __reduce_max_sync(unsigned, int value) {
    return in_warp(value, [] { int most = lane_value<int>(0); for (int i = 1; i < 32; ++i) most = max(most, lane_value<int>(i)); return most; });
}
inline int __reduce_min_sync(unsigned, int value) {
    return in_warp(value, [] { int least = lane_value<int>(0); for (int i = 1; i < 32; ++i) least = min(least, lane_value<int>(i)); return least; });
}
inline int64_t __ldg(const int64_t* at) { return *at; }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __frcp_rn(float a) { return 1.0f / a; }

namespace wideseek::hopper {

using cpu::now;
using cpu::require;

inline uint32_t shared_address(const void* at) {
    return uint32_t(static_cast<const unsigned char*>(at) - cpu::memory) + cpu::BASE;
}
inline void init_barrier(uint32_t barrier, uint32_t arrivals) { now->barriers[barrier] = {int(arrivals), int(arrivals)}; }
inline void barriers_are_set() {}
inline cpu::Barrier& barrier_at(uint32_t address) {
    require(now->barriers.count(address), "no barrier there");
    return now->barriers[address];
}
inline void arrive(uint32_t barrier) {
    now->now_and_then();
    cpu::Barrier& b = barrier_at(barrier);
    require(b.pending > 0, "more arrivals than a barrier is for");
    --b.pending, now->settle(b);
}
inline void arrive_expecting(uint32_t barrier, uint32_t bytes) {
    barrier_at(barrier).bytes += bytes;
    arrive(barrier);
}
inline void wait(uint32_t barrier, uint32_t parity) {
    now->now_and_then();
    now->until([&] { return barrier_at(barrier).phase != int(parity); });
}
inline void copy_box(uint32_t to, const CUtensorMap* map, int column, int row, int page, uint32_t barrier) {
    require(to % 1024 == 0, "a box of the copy engine that begins within its pattern");
    require(column >= 0 && column + 64 <= map->columns && row >= 0 && row + map->box_rows <= map->rows && page >= 0 &&
                page < map->pages,
            "a box beyond the cache");
    const int count = map->box_rows * 64;
    for (int i = 0; i < count; ++i) {
        require(!now->dirty.count((to + 2 * i) / 16), "the copy engine writes what was stored without a fence");
        cpu::number(to + 2 * i) = cpu::GONE;
    }
    now->pending.push_back([=] {
        for (int i = 0; i < count; ++i)
            cpu::number(cpu::exchanged(to + 2 * i)) =
                map->data[(int64_t{page} * map->rows + row + i / 64) * map->columns + column + i % 64];
        cpu::Barrier& b = barrier_at(barrier);
        b.bytes -= 2 * count, now->settle(b);
    });
}
inline void prefetch_map(const CUtensorMap*) {}
inline void store_16(uint32_t to, const void* from) {
    std::memcpy(&cpu::number(to), from, 16);
    ++now->dirty[to / 16], now->fiber().unfenced.push_back(to / 16);
}
inline void copy_16(uint32_t to, const void* from, bool real) {
    static const uint32_t zeros[4] = {};
    for (int i = 0; i < 8; ++i) cpu::number(to + 2 * i) = cpu::GONE;
    now->fiber().copies.push_back([=] { store_16(to, real ? from : zeros); });
}
inline void wait_for_copies() {
    for (auto& copy : now->fiber().copies) copy();
    now->fiber().copies.clear();
}
inline void store_16_zeros(uint32_t to) {
    const uint32_t zeros[4] = {};
    store_16(to, zeros);
}
inline void for_tensor_cores() {
    for (uint32_t at : now->fiber().unfenced)
        if (--now->dirty[at] == 0) now->dirty.erase(at);
    now->fiber().unfenced.clear();
}
inline void meet(int number, int threads) { now->meet_at(number, threads); }
template <int>
void fewer_registers() {}
template <int>
void more_registers() {}
inline int of_warp(int x) { return __shfl_sync(~0u, x, 0); }
inline void no_wait_before(float x) { require(!(x < 0), "a sum of weights below 0"); }
inline void before_products() { now->now_and_then(); }
// All threads of a warpgroup compute their part of its first `count` groups: one has the registers of another's rows.
inline void compute_groups(size_t count, bool drop) {
    auto& groups = now->fiber().groups;
    const int whom = 200 + now->self / 128;
    now->meet_at(whom, 128);
    for (size_t g = 0; g < count; ++g)
        for (size_t i = 0; i < groups[g].size(); ++i) cpu::compute(g, i);
    now->meet_at(whom, 128);
    if (drop)
        groups.erase(groups.begin(), groups.begin() + count);
    else
        for (size_t g = 0; g < count; ++g) groups[g].clear();
}
inline void end_of_group() {
    auto& fiber = now->fiber();
    fiber.groups.push_back(std::move(fiber.open)), fiber.open.clear();
    if (now->soon) compute_groups(fiber.groups.size(), false);
}
template <int LEFT>
void wait_for_groups() {
    const size_t begun = now->fiber().groups.size();
    compute_groups(begun > LEFT ? begun - LEFT : 0, true);
}
template <typename X, int COUNT>
void pin(X (&)[COUNT]) {}

template <typename T>
void product_by_rows(float (&out)[32], const uint32_t* a, uint64_t b, bool add) {
    now->fiber().open.push_back({out, 64, a, b, add, true});
}
template <typename T, int COUNT>
void product_by_columns(float (&out)[COUNT], const uint32_t* a, uint64_t b, bool add) {
    now->fiber().open.push_back({out, 2 * COUNT, a, b, add, false});
}
inline float exp2_of(float x) { return std::exp2(x); }
template <typename T>
uint32_t rounded(float low, float high) {
    return cpu::narrow(low) | uint32_t{cpu::narrow(high)} << 16;
}

}  // namespace wideseek::hopper
