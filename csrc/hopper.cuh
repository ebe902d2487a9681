// What Hopper has beyond CUDA C++, one PTX instruction a function: barriers in shared memory, the copy engine (TMA), the
// tensor cores' asynchronous products (wgmma). Shared memory is addressed by its 32-bit window address throughout.
// tests/kernels/hopper_on_cpu has the same functions for a CPU.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace wideseek::hopper {

__device__ __forceinline__ uint32_t shared_address(const void* at) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

__device__ __forceinline__ void init_barrier(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Before the copy engine, or another thread, meets a barrier just initialised; __syncthreads follows.
__device__ __forceinline__ void barriers_are_set() {
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and puts off the end of the phase until so many bytes have been copied.
__device__ __forceinline__ void arrive_expecting(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Until the phase of this parity has ended. A barrier is in phase 0; waiting for parity 1 returns at once until that ends.
__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    do {
        asm volatile(
            "{\n\t.reg .pred p;\n\t"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
            "selp.u32 %0, 1, 0, p;\n\t}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!done);
}

// The box at (column, row, page) of a tensor of three dimensions; its bytes count for the barrier.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap* map, int column, int row, int page,
                                         uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
        ::"r"(to), "l"(map), "r"(column), "r"(row), "r"(page), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// 16 bytes, or zeros, without passing through registers.
__device__ __forceinline__ void copy_16(uint32_t to, const void* from, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
                 "r"(real ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

__device__ __forceinline__ void store_16_zeros(uint32_t to) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
}

// What this thread has written by ordinary stores may be read by the tensor cores, after the barrier that follows.
__device__ __forceinline__ void for_tensor_cores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A barrier by number among `threads` threads.
__device__ __forceinline__ void meet(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Of a warpgroup, all of whose warps come here: registers given back to, or taken from, the others of the block.
template <int COUNT>
__device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// The same in all threads of a warp, so that the compiler may keep it in registers of the warp.
__device__ __forceinline__ int of_warp(int x) { return __shfl_sync(~0u, x, 0); }

// Not a wait: x is never below 0. But the compiler, which waits for products as early as it can, moves no wait above an
// instruction that has effects, and this one needs x.
__device__ __forceinline__ void no_wait_before(float x) {
    if (x < 0.0f) asm volatile("nanosleep.u32 1;" ::: "memory");
}

// Before products, for registers that were written since the last ones.
__device__ __forceinline__ void before_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_of_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void wait_for_groups() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// The compiler must not move reads or writes of these registers across this point: the tensor cores have them meanwhile.
template <typename X, int COUNT>
__device__ __forceinline__ void pin(X (&x)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        if constexpr (std::is_same_v<X, float>)
            asm volatile("" : "+f"(x[i])::"memory");
        else
            asm volatile("" : "+r"(x[i])::"memory");
    }
}

#define WIDESEEK_OUT_8(x, i) \
    "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3]), "+f"(x[i + 4]), "+f"(x[i + 5]), "+f"(x[i + 6]), "+f"(x[i + 7])
#define WIDESEEK_OUT_32(x, i) \
    WIDESEEK_OUT_8(x, i), WIDESEEK_OUT_8(x, i + 8), WIDESEEK_OUT_8(x, i + 16), WIDESEEK_OUT_8(x, i + 24)
#define WIDESEEK_NAMES_32                                                                                                 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, " \
    "%25, %26, %27, %28, %29, %30, %31"
#define WIDESEEK_NAMES_64                                                                                                 \
    WIDESEEK_NAMES_32                                                                                                     \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "     \
    "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// out [64, n] = a [64, 16] b, added to out if `add`. a in registers: a thread has a[2 (second eight columns) + (second row)],
// two columns each, where it has them of a result (layout_sm90.cuh). b in shared memory.
#define WIDESEEK_PRODUCT(WIDTH, TYPE, NAMES, OUT, A0, A1, A2, A3, B, ADD, BY_COLUMNS)                                   \
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" ADD ", 0;\n\t"                                                \
                 "wgmma.mma_async.sync.aligned.m64n" WIDTH "k16.f32." TYPE "." TYPE " {" NAMES "}, {%" A0 ", %" A1      \
                 ", %" A2 ", %" A3 "}, %" B ", p, 1, 1, " BY_COLUMNS ";\n\t}"                                           \
                 : OUT                                                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)))
#define WIDESEEK_PRODUCT_64(TYPE, BY_COLUMNS)                                                                          \
    WIDESEEK_PRODUCT("64", TYPE, WIDESEEK_NAMES_32, WIDESEEK_OUT_32(out, 0), "32", "33", "34", "35", "36", "37",       \
                     BY_COLUMNS)
#define WIDESEEK_BOTH_32 WIDESEEK_OUT_32(out, 0), WIDESEEK_OUT_32(out, 32)
#define WIDESEEK_PRODUCT_128(TYPE, BY_COLUMNS)                                                                         \
    WIDESEEK_PRODUCT("128", TYPE, WIDESEEK_NAMES_64, WIDESEEK_BOTH_32, "64", "65", "66", "67", "68", "69", BY_COLUMNS)

// b [64, 16] transposed: by rows.
template <typename T>
__device__ __forceinline__ void product_by_rows(float (&out)[32], const uint32_t* a, uint64_t b, bool add) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        WIDESEEK_PRODUCT_64("bf16", "0");
    else
        WIDESEEK_PRODUCT_64("f16", "0");
}

// b [16, n]: by columns.
template <typename T>
__device__ __forceinline__ void product_by_columns(float (&out)[32], const uint32_t* a, uint64_t b, bool add) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        WIDESEEK_PRODUCT_64("bf16", "1");
    else
        WIDESEEK_PRODUCT_64("f16", "1");
}

template <typename T>
__device__ __forceinline__ void product_by_columns(float (&out)[64], const uint32_t* a, uint64_t b, bool add) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        WIDESEEK_PRODUCT_128("bf16", "1");
    else
        WIDESEEK_PRODUCT_128("f16", "1");
}

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two numbers rounded to nearest, the first in the lower half.
template <typename T>
__device__ __forceinline__ uint32_t rounded(float low, float high) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
        const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
        return reinterpret_cast<const uint32_t&>(both);
    } else {
        const __half2 both = __floats2half2_rn(low, high);
        return reinterpret_cast<const uint32_t&>(both);
    }
}

}  // namespace wideseek::hopper
