// What a step of attention on Hopper is made of: its tables, what lies in shared memory, who does which work, and the
// arithmetic of a row, shared by the kernel and by the merge of its partials so that both round alike.
#pragma once

#include "hopper.cuh"
#include "layout_sm90.cuh"

#include <climits>
#include <cmath>

namespace wideseek::sm90 {

using namespace hopper;

constexpr int ZEROED = 1;  // a named barrier

// One step, as wideseek_kernels.launch_plan has it; heads of q and out are key head x group + member.
struct Step {
    const void* q;                           // [rows, heads, D]
    void* out;                               // the same
    float *lse, *partials, *states;          // [rows, heads], [P, heads, D], [P, heads, 2]: top, total
    const int64_t *items, *tokens, *pages;   // [N, 5], [T, 4], page numbers
    int num_items, heads, num_kv, group, shift, page_size;  // 1 << shift: rows of a token, the least power of two for group
    float scale;                             // of scores, to base 2
};

// What an item is: tokens and tiles from, to; its pages begin at first_page.
struct Item {
    int token_from, token_to, tile_from, tile_to;
    const int64_t* pages;
};

__device__ __forceinline__ Item item_of(const Step& step, int index) {
    const int64_t* row = step.items + 5 * static_cast<int64_t>(index);
    return {static_cast<int>(row[0]), static_cast<int>(row[1]), static_cast<int>(row[3]), static_cast<int>(row[4]),
            step.pages + row[2]};
}

// Of one of an item's rows: its token's facts, its query head, whether there is such a row.
struct Row {
    Fact fact;
    int head;
    bool inside;
};

__device__ __forceinline__ Row row_of(const Step& step, const Fact* facts, int key_head, int row) {
    const Fact fact = facts[row >> step.shift];
    const int member = row & ((1 << step.shift) - 1);
    return {fact, key_head * step.group + member, fact.row >= 0 && member < step.group};
}

// -inf - -inf is no number: what has seen no key is measured from 0, and weighs 0.
__device__ __forceinline__ float base_of(float top) { return top == -INFINITY ? 0.0f : top; }

// Joining what later keys gave to what earlier ones did: by what each is scaled.
struct Join {
    float scale, later;
};

__device__ __forceinline__ Join join(float& top, float& total, float later_top, float later_total) {
    const float new_top = fmaxf(top, later_top), base = base_of(new_top);
    const Join by = {exp2_of(__fsub_rn(top, base)), exp2_of(__fsub_rn(later_top, base))};
    top = new_top;
    total = __fmaf_rn(total, by.scale, __fmul_rn(later_total, by.later));
    return by;
}

__device__ __forceinline__ float joined(float value, float later, Join by) {
    return __fmaf_rn(value, by.scale, __fmul_rn(later, by.later));
}

// A row without keys comes out 0.
__device__ __forceinline__ float inverse(float total) { return total > 0.0f ? __frcp_rn(total) : 0.0f; }
__device__ __forceinline__ float log_of(float top, float total) { return (top + log2f(total)) * 0.6931471805599453f; }

// Of a thread's two rows, 8 apart: what scores are measured from, and the sum of weights.
struct State {
    float top[2], total[2];
};

__device__ __forceinline__ State nothing() { return {{-INFINITY, -INFINITY}, {0.0f, 0.0f}}; }

// Keys from a row's limit on weigh nothing. first: the first key of this thread.
__device__ __forceinline__ void hide(float (&scores)[32], int first, const int (&limits)[2]) {
#pragma unroll
    for (int i = 0; i < 32; ++i)
        if (first + next_column(i) >= limits[second_row(i)]) scores[i] = -INFINITY;
}

// Scores become weights; again: by what the sums of earlier tiles of the chunk are to be scaled. Four lanes hold a row, and
// its sum has the order of Triton's: a thread's columns, then the lanes 2 apart, then those 1 apart.
__device__ __forceinline__ void weigh(float (&scores)[32], State& state, float (&again)[2], float scale) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float top = fmaxf(scores[2 * half], scores[2 * half + 1]);
#pragma unroll
        for (int j = 1; j < 8; ++j) top = fmaxf(top, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        const float old_top = state.top[half], high = __fmul_rn(top, scale);
        const float new_top = high > __fadd_rn(old_top, float{LEEWAY}) ? high : old_top, base = base_of(new_top);
        float sum = 0.0f;
#pragma unroll
        for (int i = 2 * half; i < 32; i += i % 2 ? 3 : 1) {
            scores[i] = exp2_of(__fmaf_rn(scores[i], scale, -base));
            sum = __fadd_rn(sum, scores[i]);
        }
        sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 2));
        sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 1));
        again[half] = new_top == old_top ? 1.0f : exp2_of(__fsub_rn(old_top, base));
        state.total[half] = __fmaf_rn(state.total[half], again[half], sum);
        state.top[half] = new_top;
    }
}

// Where a thread has a row's columns in `scores`, the product with values wants them: see hopper.cuh.
template <typename T>
__device__ __forceinline__ void pack(uint32_t (&weights)[16], const float (&scores)[32]) {
#pragma unroll
    for (int i = 0; i < 16; ++i) weights[i] = rounded<T>(scores[2 * i], scores[2 * i + 1]);
}

template <int COUNT>
__device__ __forceinline__ void scale_rows(float (&acc)[COUNT], const float (&by)[2]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) acc[i] = __fmul_rn(acc[i], by[second_row(i)]);
}

// What the chunks before came to, in registers and, from number KEPT on, in shared memory; acc joins it, and becomes the whole.
template <int COUNT, int KEPT>
__device__ __forceinline__ void fold(float (&folded)[KEPT], float (*away)[128][4], State& state, float (&acc)[COUNT],
                                     const State& later) {
    Join by[2];
#pragma unroll
    for (int half = 0; half < 2; ++half)
        by[half] = join(state.top[half], state.total[half], later.top[half], later.total[half]);
#pragma unroll
    for (int i = 0; i < KEPT; ++i) acc[i] = joined(folded[i], acc[i], by[second_row(i)]);
#pragma unroll
    for (int i = KEPT; i < COUNT; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(away[(i - KEPT) / 4][threadIdx.x % 128]);
        acc[i] = joined(four.x, acc[i], by[0]), acc[i + 1] = joined(four.y, acc[i + 1], by[0]);
        acc[i + 2] = joined(four.z, acc[i + 2], by[1]), acc[i + 3] = joined(four.w, acc[i + 3], by[1]);
    }
}

// Until the next chunk is over.
template <int COUNT, int KEPT>
__device__ __forceinline__ void put_away(float (&folded)[KEPT], float (*away)[128][4], const float (&acc)[COUNT]) {
#pragma unroll
    for (int i = 0; i < KEPT; ++i) folded[i] = acc[i];
#pragma unroll
    for (int i = KEPT; i < COUNT; i += 4)
        *reinterpret_cast<float4*>(away[(i - KEPT) / 4][threadIdx.x % 128]) = {acc[i], acc[i + 1], acc[i + 2], acc[i + 3]};
}

// Stores what a chunk came to for the rows that keep partials, -1 being what was folded. row: this thread's first one.
template <int D>
__device__ __forceinline__ void keep(const Step& step, const Fact* facts, int key_head, int row, int chunk,
                                     const float (&acc)[D / 2], const State& state) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Row at = row_of(step, facts, key_head, row + 8 * half);
        if (!at.inside || at.fact.first < 0 || at.fact.limit <= chunk * CHUNK) continue;
        const int slot = at.fact.first + (chunk < 0 ? 0 : chunk + 1 - at.fact.folded);
        const int64_t place = static_cast<int64_t>(slot) * step.heads + at.head;
        float* to = step.partials + place * D + first_column(lane);
#pragma unroll
        for (int j = 0; j < D / 8; ++j)
            *reinterpret_cast<float2*>(to + 8 * j) = {acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]};
        if ((lane & 3) == 0)
            *reinterpret_cast<float2*>(step.states + 2 * place) = {state.top[half], state.total[half]};
    }
}

// Of four lanes, lane q has piece q of four runs of 8 columns in words[0] to [3]; afterwards all four pieces of run q.
__device__ __forceinline__ void across_lanes(uint32_t (&words)[4], int lane) {
    const bool odd = lane & 1, high = lane & 2;
    uint32_t one = odd ? words[0] : words[1], other = odd ? words[2] : words[3];
    one = __shfl_xor_sync(~0u, one, 1), other = __shfl_xor_sync(~0u, other, 1);
    if (odd)
        words[0] = one, words[2] = other;
    else
        words[1] = one, words[3] = other;
    one = high ? words[0] : words[2], other = high ? words[1] : words[3];
    one = __shfl_xor_sync(~0u, one, 2), other = __shfl_xor_sync(~0u, other, 2);
    if (high)
        words[0] = one, words[1] = other;
    else
        words[2] = one, words[3] = other;
}

// The results of the rows of which nobody keeps partials, 16 bytes a lane. row: this thread's first one.
template <typename T, int D>
__device__ __forceinline__ void give(const Step& step, const Fact* facts, int key_head, int row, const float (&acc)[D / 2],
                                     const State& state) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Row at = row_of(step, facts, key_head, row + 8 * half);
        const bool done = at.inside && at.fact.first < 0;
        const int64_t place = static_cast<int64_t>(at.fact.row) * step.heads + at.head;
        const float by = inverse(state.total[half]);
        T* to = static_cast<T*>(step.out) + place * D + 8 * (lane & 3);
#pragma unroll
        for (int run = 0; run < D / 32; ++run) {
            uint32_t words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int first = 4 * (4 * run + i) + 2 * half;
                words[i] = rounded<T>(__fmul_rn(acc[first], by), __fmul_rn(acc[first + 1], by));
            }
            across_lanes(words, lane);
            if (done) *reinterpret_cast<uint4*>(to + 32 * run) = {words[0], words[1], words[2], words[3]};
        }
        if (done && (lane & 3) == 0) step.lse[place] = log_of(state.top[half], state.total[half]);
    }
}

}  // namespace wideseek::sm90
