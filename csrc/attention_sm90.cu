// The launcher of the Hopper attention: how the copy engine sees a cache, which kernel is meant, what failed.

#include "kernels_sm90.cuh"
#include "launch_sm90.cuh"

#include <cuda_runtime.h>
#include <cudaTypedefs.h>

#include <algorithm>

namespace wideseek::sm90 {
namespace {

// A cache as the copy engine sees it: [pages x key heads, page_size, D], in boxes of a page or a tile, 64 columns wide.
template <typename T, int D>
int map_of(CUtensorMap& map, const void* cache, const WideseekAttentionSm90& given) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult status;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status);
    if (error != cudaSuccess) return WIDESEEK_SM90_CUDA + error;
    if (status != cudaDriverEntryPointSuccess) return WIDESEEK_SM90_DRIVER;
    const cuuint64_t sizes[] = {D, static_cast<cuuint64_t>(given.page_size),
                                static_cast<cuuint64_t>(given.num_pages * given.num_kv)};
    const cuuint64_t strides[] = {D * 2, static_cast<cuuint64_t>(given.page_size) * D * 2};
    const cuuint32_t box[] = {SWIZZLED_COLUMNS, static_cast<cuuint32_t>(std::min<int64_t>(given.page_size, TILE)), 1};
    const cuuint32_t steps[] = {1, 1, 1};
    const CUresult made = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found)(
        &map, std::is_same_v<T, __nv_bfloat16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
        const_cast<void*>(cache), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return made == CUDA_SUCCESS ? WIDESEEK_SM90_DONE : WIDESEEK_SM90_MAP;
}

template <typename T, int D>
int launch(const WideseekAttentionSm90& given, const Step& step, int blocks, cudaStream_t stream) {
    CUtensorMap keys, values;
    int failed = map_of<T, D>(keys, given.k_cache, given);
    if (!failed) failed = map_of<T, D>(values, given.v_cache, given);
    if (failed) return failed;
    cudaError_t error = cudaFuncSetAttribute(attention<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             ASKED_BYTES<D>);
    if (error != cudaSuccess) return WIDESEEK_SM90_CUDA + error;
    if (given.num_items > 0) attention<T, D><<<blocks, THREADS, ASKED_BYTES<D>, stream>>>(keys, values, step);
    const int64_t warps = given.num_merges * given.num_heads;
    if (warps > 0)
        merge<T, D><<<static_cast<unsigned>((warps + 3) / 4), 128, 0, stream>>>(step, given.merges,
                                                                               static_cast<int>(given.num_merges));
    error = cudaGetLastError();
    return error == cudaSuccess ? WIDESEEK_SM90_DONE : WIDESEEK_SM90_CUDA + error;
}

template <typename T>
int launch(const WideseekAttentionSm90& given, const Step& step, int blocks, cudaStream_t stream) {
    return given.head_dim == 64 ? launch<T, 64>(given, step, blocks, stream) : launch<T, 128>(given, step, blocks, stream);
}

}  // namespace
}  // namespace wideseek::sm90

int wideseek_attention_sm90(const WideseekAttentionSm90* of) {
    const WideseekAttentionSm90& given = *of;
    if (given.head_dim != 64 && given.head_dim != 128) return WIDESEEK_SM90_HEAD_DIM;
    const int64_t page = given.page_size;
    if (page < 8 || (page % wideseek::sm90::TILE && wideseek::sm90::TILE % page)) return WIDESEEK_SM90_PAGE_SIZE;
    if (given.num_kv < 1 || given.num_heads % given.num_kv) return WIDESEEK_SM90_HEADS;
    const int64_t group = given.num_heads / given.num_kv;
    int shift = 0;
    while (1 << shift < group) ++shift;
    if (1 << shift > wideseek::sm90::ROWS || given.most_tokens << shift > wideseek::sm90::ROWS) return WIDESEEK_SM90_HEADS;
    // Our runtime is linked statically: it knows of no device that torch's has chosen.
    cudaError_t error = cudaSetDevice(given.device);
    int processors = 0;
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, given.device);
    if (error != cudaSuccess) return WIDESEEK_SM90_CUDA + error;
    wideseek::sm90::Step step = {given.q, given.out, given.lse, given.partials, given.states,
                                 given.items, given.tokens, given.pages};
    step.num_items = static_cast<int>(given.num_items), step.heads = static_cast<int>(given.num_heads);
    step.num_kv = static_cast<int>(given.num_kv), step.page_size = static_cast<int>(page);
    step.group = static_cast<int>(group), step.shift = shift;
    step.scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(given.head_dim)));
    const int blocks = static_cast<int>(std::min<int64_t>(processors, given.num_items * given.num_kv));
    const auto stream = static_cast<cudaStream_t>(given.stream);
    return given.is_bf16 ? wideseek::sm90::launch<__nv_bfloat16>(given, step, blocks, stream)
                         : wideseek::sm90::launch<__half>(given, step, blocks, stream);
}

const char* wideseek_attention_sm90_error(int code) {
    switch (code) {
        case WIDESEEK_SM90_DONE: return "nothing failed";
        case WIDESEEK_SM90_HEAD_DIM: return "head_dim is neither 64 nor 128";
        case WIDESEEK_SM90_PAGE_SIZE: return "page_size is less than 8, or neither a multiple nor a divisor of 64";
        case WIDESEEK_SM90_HEADS: return "heads are no multiple of key heads, or a plan's item has more than 128 rows";
        case WIDESEEK_SM90_DRIVER: return "the driver has no cuTensorMapEncodeTiled";
        case WIDESEEK_SM90_MAP: return "cuTensorMapEncodeTiled refused the cache: it must begin at a multiple of 16 bytes";
        default: return cudaGetErrorString(static_cast<cudaError_t>(code - WIDESEEK_SM90_CUDA));
    }
}
