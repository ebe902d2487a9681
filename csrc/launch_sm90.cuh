// The kernels for Hopper as they are called: raw pointers and sizes, no torch. Shapes and dtypes are the caller's word.
#pragma once

#include <cstdint>

extern "C" {

enum WideseekSm90Result : int32_t {
    WIDESEEK_SM90_DONE = 0,
    WIDESEEK_SM90_HEAD_DIM = 1,
    WIDESEEK_SM90_PAGE_SIZE = 2,
    WIDESEEK_SM90_HEADS = 3,
    WIDESEEK_SM90_DRIVER = 4,
    WIDESEEK_SM90_MAP = 5,
    WIDESEEK_SM90_CUDA = 1000,  // and the error of the CUDA runtime
};

// Tables as in `wideseek_kernels.launch_plan`, all on the device; numbers of 16 bits.
struct WideseekAttentionSm90 {
    const void *q, *k_cache, *v_cache;  // [rows, num_heads, head_dim], twice [num_pages, num_kv, page_size, head_dim]
    void* out;                          // as q
    float *lse, *partials, *states;     // [rows, num_heads], [P, num_heads, head_dim], [P, num_heads, 2]
    const int64_t *items, *tokens, *merges, *pages;
    void* stream;
    int64_t num_items, num_merges, most_tokens;  // most_tokens: of an item
    int64_t num_heads, num_kv, num_pages, page_size, head_dim;
    int32_t device, is_bf16;
};

// out and lse of all rows of the plan, as `wideseek_paged_attention` has them. Returns a WideseekSm90Result.
int wideseek_attention_sm90(const WideseekAttentionSm90* given);

const char* wideseek_attention_sm90_error(int code);

}
