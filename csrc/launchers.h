// The C++ CPU kernels as they are called: raw pointers and sizes, no torch. Elements are fp32 or bf16, of caches
// also e4m3; sums are fp32.
//
// Nothing is checked here: shapes, ranges and dtypes are the caller's word.
#pragma once

#include <cstdint>

extern "C" {

enum WideseekElement : int32_t { WIDESEEK_FP32 = 0, WIDESEEK_BF16 = 1, WIDESEEK_E4M3 = 2 };

// The worklist of one step; see `wideseek_kernels.work_list`.
struct WideseekWork {
    const int64_t* pages;     // of all sequences, one after the other
    const int64_t* spans;     // [num_spans, 4]: first row of q, rows, position of the first, first of its pages
    const int64_t* segments;  // [num_segments, 4]: spans from, to; key tiles from, to
    const int64_t* units;     // [num_units, 6]: spans from, to; segments from, to; key tiles; first partial, -1 if whole
    const int64_t* parts;     // [num_parts, 3]: unit; key tiles from, to
    int64_t num_units, num_parts, num_partials;
};

// Sequence i has the last q_lens[i] of its kv_lens[i] tokens as queries, and pages first_pages[i] to first_pages[i + 1].
struct WideseekSequences {
    const int64_t *pages, *first_pages, *kv_lens, *q_lens;
    int64_t count, page_size;
};

// How a step is cut: tokens of a tile; tiles that are shared in multiples of `granule` and split in multiples of
// `chunk`; queries of a span and of a unit at most; into about how many parts the whole is split where units are few;
// how many tiles that two do not share may be read after one that they share, for sharing to be worth it.
struct WideseekTiling {
    int64_t tile, granule, chunk, span_rows, unit_rows, parts, worth;
};

// Where the tables of a WideseekWork go, large enough for a span for each span_rows queries begun, two segments and a
// unit a span, and as many parts as units and `parts` together, twice.
struct WideseekTables {
    int64_t *spans, *segments, *units, *parts;
};

// Rows of each table; partials: chunks of the queries of units that were split.
struct WideseekPlanned {
    int64_t spans, segments, units, parts, partials;
};

WideseekPlanned wideseek_plan_work(WideseekSequences sequences, WideseekTiling tiling, WideseekTables tables);

struct WideseekCache {
    void* k;  // [num_pages, num_kv, page_size, head_dim]
    void* v;
    int64_t num_pages, num_kv, page_size, head_dim;
    WideseekElement element;  // that of the queries, or e4m3
};

// out[row] = softmax(q[row] kT / sqrt(head_dim)) v over the keys up to the row's position, for the rows of the work, and
// the natural logarithm of the sum of these exponentials in lse [rows, num_heads] unless it is null.
// q and out [rows, num_heads, head_dim]; head_dim 16, 32, 64 or 128. Returns 0, or 1 for another head_dim.
int wideseek_paged_attention(const void* q, void* out, float* lse, int64_t num_heads, WideseekCache cache,
                             WideseekWork work, WideseekElement element, int num_threads);

struct WideseekNorm {
    const void* x;         // [rows, size]
    const void* residual;  // the same, or null: nothing is added
    const void* weight;    // [size]
    void* out;
    void* summed;  // x + residual, rounded before it is normed; not written without a residual
    int64_t rows, size;
    float eps;
};

// out = x / sqrt(mean(x^2) + eps) * weight, row by row.
void wideseek_rms_norm(WideseekNorm norm, WideseekElement element, WideseekElement weight, int num_threads);

// out = silu(gates) * up, elementwise.
void wideseek_swiglu(const void* gates, const void* up, void* out, int64_t size, WideseekElement element,
                     int num_threads);

// out [rows, columns] = x [rows, size] times weight [columns, size] transposed.
void wideseek_linear(const float* x, const float* weight, float* out, int64_t rows, int64_t columns, int64_t size,
                     int num_threads);

constexpr int64_t WIDESEEK_MAX_HEAD_DIM = 256;

struct WideseekTokens {
    const void *q, *k, *v;               // [num_tokens, heads, head_dim], heads contiguous, rows *_stride apart
    const void *q_weight, *k_weight;     // [head_dim], or null: no norm
    const float *cos, *sin;              // [num_tokens, head_dim], the first half of a sin row negated
    const int64_t* slots;                // [num_slots]: where in the cache the first tokens go
    void* out;                           // [num_tokens, num_heads, head_dim]
    int64_t q_stride, k_stride, v_stride, num_tokens, num_slots, num_heads;
    float eps;
};

// q and k are normed and rotated, k and v written into their slots, q into out. head_dim a multiple of 16, at most
// WIDESEEK_MAX_HEAD_DIM. Returns -1, or the first of the slots that is not in the cache: then nothing is written.
int64_t wideseek_norm_rotary_kv_write(WideseekTokens tokens, WideseekCache cache, WideseekElement element,
                                   WideseekElement weight, int num_threads);

// Page sources[i] of the caches into page targets[i], for `count` of them; element_size bytes an element. No page is
// twice among the targets, or both a source and a target. Returns -1, or the first of the pages that is not in the
// cache, sources before targets: then nothing is written.
int64_t wideseek_kv_copy(WideseekCache cache, const int64_t* sources, const int64_t* targets, int64_t count,
                         int64_t element_size, int num_threads);

// Slot slots[t] of the caches into row t of k and v [count, num_kv, head_dim]. Returns -1, or the first of the slots that
// is not in the cache: then nothing is written.
int64_t wideseek_kv_gather(WideseekCache cache, const int64_t* slots, void* k, void* v, int64_t count,
                           int64_t element_size, int num_threads);

struct WideseekLogits {
    const float* logits;  // [rows, vocab], none of them NaN
    const float *temperature, *top_p, *min_p;    // [rows]
    const int64_t *top_k, *seeds, *positions;    // [rows]
    int64_t* tokens;                             // [rows]
    float *logprobs, *plain_logprobs;            // [rows]
    int64_t rows, vocab;
};

// One token a row; see `wideseek_kernels.sample`.
void wideseek_sample(WideseekLogits logits, int num_threads);

struct WideseekScored {
    const float* logits;            // [rows, vocab]; a NaN among them gives NaN
    const int64_t* ids;             // [rows], in the vocabulary
    float *logprobs, *entropies;    // [rows]
    int64_t rows, vocab;
};

// Log-probabilities of given tokens, and entropies; see `wideseek_kernels.token_logprob`.
void wideseek_score(WideseekScored scored, int num_threads);

}
