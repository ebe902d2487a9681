// Runs the kernels of csrc/kernels_sm90.cuh on a CPU, in bf16, block by block, and the merge after them.

#include "hopper.cuh"
#include "kernels_sm90.cuh"
#include "launch_sm90.cuh"

using namespace wideseek;

namespace {

std::string told;

void run_block(int threads, int block, int blocks, unsigned seed, const std::function<void()>& body) {
    cpu::Block running(threads, block, blocks, seed);
    cpu::now = &running;
    running.run(body);
}

template <int D>
void run(const WideseekAttentionSm90& given, const sm90::Step& step, int blocks, unsigned seed) {
    auto map = [&](const void* cache) {
        return CUtensorMap{static_cast<const uint16_t*>(cache), D, int(given.page_size), int(given.num_pages * given.num_kv),
                           int(min<int64_t>(given.page_size, sm90::TILE))};
    };
    const CUtensorMap keys = map(given.k_cache), values = map(given.v_cache);
    for (int block = 0; block < blocks; ++block)
        run_block(sm90::THREADS, block, blocks, seed + block,
                  [&] { sm90::attention<__nv_bfloat16, D>(keys, values, step); });
    const int merging = int(given.num_merges * given.num_heads + 3) / 4;
    for (int block = 0; block < merging; ++block)
        run_block(128, block, merging, seed,
                  [&] { sm90::merge<__nv_bfloat16, D>(step, given.merges, int(given.num_merges)); });
}

}  // namespace

// Null, or which rule was broken. given.stream is not read.
extern "C" const char* run_on_cpu(const WideseekAttentionSm90* of, int blocks, unsigned seed) {
    const WideseekAttentionSm90& given = *of;
    const int group = int(given.num_heads / given.num_kv);
    int shift = 0;
    while (1 << shift < group) ++shift;
    const sm90::Step step = {given.q, given.out, given.lse, given.partials, given.states, given.items, given.tokens,
                             given.pages, int(given.num_items), int(given.num_heads), int(given.num_kv), group, shift,
                             int(given.page_size), float(1.4426950408889634 / std::sqrt(double(given.head_dim)))};
    try {
        given.head_dim == 64 ? run<64>(given, step, blocks, seed) : run<128>(given, step, blocks, seed);
    } catch (const std::runtime_error& error) {
        told = error.what();
        return told.c_str();
    }
    return nullptr;
}
