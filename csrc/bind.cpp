// The one file that knows torch: it hands tensors to the launchers, through torch's stable ABI, so that one build
// serves torch 2.11 and every later one. Python has checked all shapes, dtypes and ranges by the time it calls.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "launchers.h"

namespace {

using torch::stable::Tensor;
using torch::headeronly::ScalarType;

WideseekElement element_of(const Tensor& x) {
    switch (x.scalar_type()) {
        case ScalarType::BFloat16: return WIDESEEK_BF16;
        case ScalarType::Float8_e4m3fn: return WIDESEEK_E4M3;
        default: return WIDESEEK_FP32;
    }
}

template <typename T>
T* data(const Tensor& x) {
    return static_cast<T*>(x.data_ptr());
}

const void* data_or_null(const std::optional<Tensor>& x) { return x.has_value() ? x->data_ptr() : nullptr; }

WideseekCache cache_of(const Tensor& k, const Tensor& v) {
    return {k.data_ptr(), v.data_ptr(), k.size(0), k.size(1), k.size(2), k.size(3), element_of(k)};
}

// The rows of each table into counts [5]: spans, segments, units, parts, partials.
void plan_work(Tensor pages, Tensor first_pages, Tensor kv_lens, Tensor q_lens, int64_t page_size, Tensor tiling,
               Tensor spans, Tensor segments, Tensor units, Tensor parts, Tensor counts) {
    const WideseekSequences sequences = {data<int64_t>(pages),  data<int64_t>(first_pages), data<int64_t>(kv_lens),
                                         data<int64_t>(q_lens), kv_lens.size(0),            page_size};
    const int64_t* cut = data<int64_t>(tiling);
    const WideseekPlanned done = wideseek_plan_work(
        sequences, {cut[0], cut[1], cut[2], cut[3], cut[4], cut[5], cut[6]},
        {data<int64_t>(spans), data<int64_t>(segments), data<int64_t>(units), data<int64_t>(parts)});
    int64_t* to = data<int64_t>(counts);
    to[0] = done.spans, to[1] = done.segments, to[2] = done.units, to[3] = done.parts, to[4] = done.partials;
}

void paged_attention(Tensor q, Tensor out, std::optional<Tensor> lse, Tensor k_cache, Tensor v_cache, Tensor pages,
                     Tensor spans, Tensor segments, Tensor units, Tensor parts, int64_t num_partials,
                     int64_t num_threads) {
    const WideseekWork work = {data<int64_t>(pages), data<int64_t>(spans), data<int64_t>(segments),
                               data<int64_t>(units), data<int64_t>(parts), units.size(0),
                               parts.size(0),        num_partials};
    float* to = lse.has_value() ? data<float>(*lse) : nullptr;
    const int failed = wideseek_paged_attention(q.data_ptr(), out.data_ptr(), to, q.size(1), cache_of(k_cache, v_cache),
                                                work, element_of(q), static_cast<int>(num_threads));
    STD_TORCH_CHECK(failed == 0, "head_dim ", q.size(2), " is not built");
}

void rms_norm(Tensor x, std::optional<Tensor> residual, Tensor weight, double eps, Tensor out,
              std::optional<Tensor> summed, int64_t num_threads) {
    const int64_t size = weight.size(0);
    const WideseekNorm norm = {x.data_ptr(),
                               data_or_null(residual),
                               weight.data_ptr(),
                               out.data_ptr(),
                               const_cast<void*>(data_or_null(summed)),
                               x.numel() / size,
                               size,
                               static_cast<float>(eps)};
    wideseek_rms_norm(norm, element_of(x), element_of(weight), static_cast<int>(num_threads));
}

void swiglu(Tensor gate, Tensor up, Tensor out, int64_t num_threads) {
    wideseek_swiglu(gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel(), element_of(gate),
                    static_cast<int>(num_threads));
}

void linear(Tensor x, Tensor weight, Tensor out, int64_t num_threads) {
    wideseek_linear(data<float>(x), data<float>(weight), data<float>(out), x.size(0), weight.size(0), x.size(1),
                    static_cast<int>(num_threads));
}

int64_t norm_rotary_kv_write(Tensor q, Tensor k, Tensor v, std::optional<Tensor> q_weight,
                             std::optional<Tensor> k_weight, double eps, Tensor cos, Tensor sin, Tensor k_cache,
                             Tensor v_cache, Tensor slots, Tensor out, int64_t num_threads) {
    const WideseekTokens tokens = {q.data_ptr(),
                                   k.data_ptr(),
                                   v.data_ptr(),
                                   data_or_null(q_weight),
                                   data_or_null(k_weight),
                                   data<float>(cos),
                                   data<float>(sin),
                                   data<int64_t>(slots),
                                   out.data_ptr(),
                                   q.stride(0),
                                   k.stride(0),
                                   v.stride(0),
                                   q.size(0),
                                   slots.size(0),
                                   q.size(1),
                                   static_cast<float>(eps)};
    const WideseekElement weight = q_weight.has_value() ? element_of(*q_weight) : WIDESEEK_FP32;
    return wideseek_norm_rotary_kv_write(tokens, cache_of(k_cache, v_cache), element_of(q), weight,
                                         static_cast<int>(num_threads));
}

int64_t kv_copy(Tensor k_cache, Tensor v_cache, Tensor sources, Tensor targets, int64_t num_threads) {
    return wideseek_kv_copy(cache_of(k_cache, v_cache), data<int64_t>(sources), data<int64_t>(targets), sources.size(0),
                            k_cache.element_size(), static_cast<int>(num_threads));
}

int64_t kv_gather(Tensor k_cache, Tensor v_cache, Tensor slots, Tensor k, Tensor v, int64_t num_threads) {
    return wideseek_kv_gather(cache_of(k_cache, v_cache), data<int64_t>(slots), k.data_ptr(), v.data_ptr(), slots.size(0),
                              k_cache.element_size(), static_cast<int>(num_threads));
}

void sample(Tensor logits, Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p, Tensor seeds, Tensor positions,
            Tensor tokens, Tensor logprobs, Tensor plain_logprobs, int64_t num_threads) {
    const WideseekLogits rows = {data<float>(logits),
                                 data<float>(temperature),
                                 data<float>(top_p),
                                 data<float>(min_p),
                                 data<int64_t>(top_k),
                                 data<int64_t>(seeds),
                                 data<int64_t>(positions),
                                 data<int64_t>(tokens),
                                 data<float>(logprobs),
                                 data<float>(plain_logprobs),
                                 logits.size(0),
                                 logits.size(1)};
    wideseek_sample(rows, static_cast<int>(num_threads));
}

void score(Tensor logits, Tensor ids, Tensor logprobs, Tensor entropies, int64_t num_threads) {
    const WideseekScored rows = {data<float>(logits),   data<int64_t>(ids), data<float>(logprobs),
                                 data<float>(entropies), logits.size(0),     logits.size(1)};
    wideseek_score(rows, static_cast<int>(num_threads));
}

}  // namespace

STABLE_TORCH_LIBRARY(wideseek, m) {
    m.def(
        "plan_work(Tensor pages, Tensor first_pages, Tensor kv_lens, Tensor q_lens, int page_size, Tensor tiling, "
        "Tensor(a!) spans, Tensor(b!) segments, Tensor(c!) units, Tensor(d!) parts, Tensor(e!) counts) -> ()");
    m.def(
        "paged_attention(Tensor q, Tensor(a!) out, Tensor(b!)? lse, Tensor k_cache, Tensor v_cache, Tensor pages, "
        "Tensor spans, Tensor segments, Tensor units, Tensor parts, int num_partials, int num_threads) -> ()");
    m.def(
        "rms_norm(Tensor x, Tensor? residual, Tensor weight, float eps, Tensor(a!) out, Tensor(b!)? summed, "
        "int num_threads) -> ()");
    m.def("linear(Tensor x, Tensor weight, Tensor(a!) out, int num_threads) -> ()");
    m.def("swiglu(Tensor gate, Tensor up, Tensor(a!) out, int num_threads) -> ()");
    m.def(
        "norm_rotary_kv_write(Tensor q, Tensor k, Tensor v, Tensor? q_weight, Tensor? k_weight, float eps, Tensor cos, "
        "Tensor sin, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor slots, Tensor(c!) out, int num_threads) -> int");
    m.def(
        "kv_copy(Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor sources, Tensor targets, int num_threads) -> int");
    m.def(
        "kv_gather(Tensor k_cache, Tensor v_cache, Tensor slots, Tensor(a!) k, Tensor(b!) v, int num_threads) -> int");
    m.def(
        "sample(Tensor logits, Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p, Tensor seeds, "
        "Tensor positions, Tensor(a!) tokens, Tensor(b!) logprobs, Tensor(c!) plain_logprobs, int num_threads) -> ()");
    m.def("score(Tensor logits, Tensor ids, Tensor(a!) logprobs, Tensor(b!) entropies, int num_threads) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(wideseek, CPU, m) {
    m.impl("plan_work", TORCH_BOX(&plan_work));
    m.impl("paged_attention", TORCH_BOX(&paged_attention));
    m.impl("rms_norm", TORCH_BOX(&rms_norm));
    m.impl("linear", TORCH_BOX(&linear));
    m.impl("swiglu", TORCH_BOX(&swiglu));
    m.impl("norm_rotary_kv_write", TORCH_BOX(&norm_rotary_kv_write));
    m.impl("kv_copy", TORCH_BOX(&kv_copy));
    m.impl("kv_gather", TORCH_BOX(&kv_gather));
    m.impl("sample", TORCH_BOX(&sample));
    m.impl("score", TORCH_BOX(&score));
}
