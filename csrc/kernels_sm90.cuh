// Paged attention for Hopper: prefill, extension and whatever else a plan of wideseek_kernels.launch_plan holds.
//
// One block a multiprocessor takes one piece of work, an item of the plan for a key head, after the other. One of its three
// warpgroups loads: a warp has the copy engine fetch tiles of 64 keys and values into a ring of shared memory, another
// gathers the next item's queries. The two others compute, each 64 rows (tokens times the query heads of the key head) of
// the same tiles: queries from registers times keys from shared memory, softmax in registers, weights from there times values.
// The scores of a tile are on their way while the values of the one before it are; those of one warpgroup while the other
// works on its softmax.
//
// A row's sums run over tiles of 64 keys at absolute positions, in order; a chunk of 8 tiles is summed up by itself, and
// chunks are folded in their order, here or in `merge`, by the same functions. So a row's bits depend on that row and its
// keys alone: not on the item it is in, its place there, the blocks, the pages or the ring.
//
// An item reads 4 D bytes a key and computes 4 D FLOPs a row and key: with 128 rows, 128 FLOPs a byte, mostly out of the L2
// cache. Bound by the tensor cores where items are full; exponentials take about half as long beside them.

#pragma once

#include "attention_sm90.cuh"

namespace wideseek::sm90 {

// One thread: the boxes of a tile, as far as some query of the item sees keys of them. What lies beyond stays as it was:
// scores of it are hidden, and values of it zeroed by those who compute.
template <int D>
__device__ __forceinline__ void fetch(const Step& step, const CUtensorMap& map, unsigned char* to, uint64_t* barrier,
                                      const Item& item, int head, int tile, int most, int64_t first_page) {
    const int rows = min(step.page_size, TILE);
    const int boxes = min(TILE / rows, (most - tile * TILE + rows - 1) / rows);
    const uint32_t at = shared_address(to), full = shared_address(barrier);
    arrive_expecting(full, max(boxes, 0) * rows * D * 2);
    for (int box = 0; box < boxes; ++box) {
        const int key = tile * TILE + box * rows;
        const int64_t page = box == 0 ? first_page : __ldg(item.pages + key / step.page_size);
        for (int block = 0; block < Room<D>::BLOCKS; ++block)
            copy_box(at + block * Room<D>::BLOCK + box * rows * SWIZZLED_ROW, &map, block * SWIZZLED_COLUMNS,
                     key % step.page_size, static_cast<int>(page) * step.num_kv + head, full);
    }
}

// One warp: keys and values of all tiles of all work, as long as the ring has room.
template <int D>
__device__ __forceinline__ void load_tiles(const CUtensorMap& keys, const CUtensorMap& values, const Step& step,
                                           Room<D>& room) {
    const int lane = threadIdx.x & 31;
    int loaded = 0;
    for (int round = 0;; ++round) {
        const Work work = work_of(step.num_items, step.num_kv, round, blockIdx.x, gridDim.x);
        if (!work.real) break;
        const Item item = item_of(step, work.item);
        int most = 0;
        for (int token = item.token_from + lane; token < item.token_to; token += 32)
            most = max(most, static_cast<int>(step.tokens[4 * static_cast<int64_t>(token) + 1]));
        most = __reduce_max_sync(~0u, most);
        if (lane == 0) {
            for (int tile = item.tile_from; tile < item.tile_to; ++tile, ++loaded) {
                const int stage = loaded % Room<D>::STAGES, parity = loaded / Room<D>::STAGES & 1 ^ 1;
                const int64_t page = __ldg(item.pages + tile * TILE / step.page_size);  // on its way while we wait
                wait(shared_address(&room.k_empty[stage]), parity);
                fetch<D>(step, keys, room.k[stage], &room.k_full[stage], item, work.head, tile, most, page);
                wait(shared_address(&room.v_empty[stage]), parity);
                fetch<D>(step, values, room.v[stage], &room.v_full[stage], item, work.head, tile, most, page);
            }
        }
        __syncwarp();
    }
}

// One warp: queries of an item and what is known of them, while the item before is computed on. Absent rows are 0.
template <typename T, int D>
__device__ __forceinline__ void load_queries(const Step& step, Room<D>& room) {
    constexpr int PIECES = D / 8;
    const int lane = threadIdx.x & 31;
    for (int round = 0;; ++round) {
        const Work work = work_of(step.num_items, step.num_kv, round, blockIdx.x, gridDim.x);
        if (!work.real) break;
        const int buffer = round & 1;
        wait(shared_address(&room.q_empty[buffer]), round >> 1 & 1 ^ 1);
        const Item item = item_of(step, work.item);
        int most = 0, least = INT_MAX;
#pragma unroll 1
        for (int index = lane; index < ROWS >> step.shift; index += 32) {
            Fact fact = {-1, 0, -1, 0};
            if (item.token_from + index < item.token_to) {
                const int64_t* token = step.tokens + 4 * static_cast<int64_t>(item.token_from + index);
                fact = {static_cast<int>(token[0]), static_cast<int>(token[1]), static_cast<int>(token[2]),
                        static_cast<int>(token[3])};
                most = max(most, fact.limit), least = min(least, fact.limit);
            }
            room.facts[buffer][index] = fact;
        }
        most = __reduce_max_sync(~0u, most), least = __reduce_min_sync(~0u, least);
        if (lane == 0) room.held[buffer] = {item.tile_from, item.tile_to, most, least, work.head};
        __syncwarp();
        const uint32_t to = shared_address(room.q[buffer]);
        const int piece = lane % PIECES;
#pragma unroll 2
        for (int row = lane / PIECES; row < ROWS; row += 32 / PIECES) {
            const Row at = row_of(step, room.facts[buffer], work.head, row);
            const int64_t place = at.inside ? static_cast<int64_t>(at.fact.row) * step.heads + at.head : 0;
            copy_16(to + row / GROUP_ROWS * Room<D>::TILE_BYTES + piece / 8 * Room<D>::BLOCK +
                        swizzled(row % GROUP_ROWS, piece % 8),
                    static_cast<const T*>(step.q) + place * D + piece * 8, at.inside);
        }
        wait_for_copies();
        arrive(shared_address(&room.q_full[buffer]));
    }
}

// A warpgroup's queries [64, D] as operands: products that read them from shared memory would leave it no time for keys.
template <int D>
__device__ __forceinline__ void read_queries(uint32_t (&queries)[D / 4], const unsigned char* from) {
    int row[1] = {first_row(threadIdx.x)};
    pin(row);  // or the compiler would keep all addresses from item to item
#pragma unroll
    for (int i = 0; i < D / 4; ++i) {
        const int piece = i / 4 * 2 + i / 2 % 2, place = swizzled(row[0] + 8 * (i % 2), piece % 8);
        const unsigned char* at = from + piece / 8 * Room<D>::BLOCK + place + 2 * first_column(threadIdx.x);
        queries[i] = *reinterpret_cast<const uint32_t*>(at);
    }
}

// scores [64, 64] = queries [64, D] keysT [64, D], on its way when this returns.
template <typename T, int D>
__device__ __forceinline__ void begin_scores(float (&scores)[32], const uint32_t (&queries)[D / 4], uint32_t keys) {
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
        const int at = step / 4 * (Room<D>::BLOCK >> 4) + step % 4 * STEP_BY_ROWS;
        product_by_rows<T>(scores, queries + 4 * step, descriptor(BY_ROWS, keys, at), step > 0);
    }
    end_of_group();
}

// acc [64, D] (+)= weights [64, 64] values [64, D], on its way when this returns.
template <typename T, int D>
__device__ __forceinline__ void begin_values(float (&acc)[D / 2], const uint32_t (&weights)[16], uint32_t values, bool add) {
#pragma unroll
    for (int step = 0; step < TILE / 16; ++step)
        product_by_columns<T>(acc, weights + 4 * step, descriptor(BY_COLUMNS<Room<D>::BLOCK>, values, step * STEP_BY_COLUMNS),
                   step > 0 || add);
    end_of_group();
}

// Values of keys that no query of the item sees may be anything, and 0 times that no number. Both warpgroups, half each.
template <int D>
__device__ __forceinline__ void zero_from(unsigned char* values, int row) {
    const int thread = threadIdx.x - (THREADS - COMPUTING);
    for (int at = row * 8 + thread; at < TILE * 8; at += COMPUTING)
        for (int block = 0; block < Room<D>::BLOCKS; ++block)
            store_16_zeros(shared_address(values) + block * Room<D>::BLOCK + at * 16);
    for_tensor_cores();
    meet(ZEROED, COMPUTING);
}

// A warp is done with a place in shared memory.
__device__ __forceinline__ void release(uint64_t& barrier) {
    __syncwarp();
    if ((threadIdx.x & 31) == 0) arrive(shared_address(&barrier));
}

// One warpgroup's rows of one item; used: tiles of the ring that were used before it.
template <typename T, int D>
__device__ __forceinline__ void attend(const Step& step, Room<D>& room, int buffer, int self, int& used) {
    constexpr int STAGES = Room<D>::STAGES;
    const Held found = room.held[buffer];
    const Held held = {of_warp(found.tile_from), of_warp(found.tile_to), of_warp(found.most), of_warp(found.least),
                       of_warp(found.head)};
    const Fact* facts = room.facts[buffer];
    const int row = self * GROUP_ROWS + first_row(threadIdx.x);
    const int limits[2] = {facts[row >> step.shift].limit, facts[(row + 8) >> step.shift].limit};
    uint32_t queries[D / 4];
    read_queries<D>(queries, room.q[buffer][self]);
    float folded[D / 2 - Room<D>::AWAY], acc[D / 2] = {}, scores[32] = {}, again[2];
    uint32_t weights[16];
    State all = nothing(), part = nothing();

    // acc is then what the chunks up to this one come to, or where the item has no first one, what this one does.
    auto close = [&](int chunk, const State& of) {
        if (held.tile_from > 0)
            keep<D>(step, facts, held.head, row, chunk, acc, of);
        else if (chunk > 0)
            fold(folded, room.away[self], all, acc, of);
        else
            all = of;
    };
    auto weighed = [&](int tile) {
        if ((tile + 1) * TILE > held.least) hide(scores, tile * TILE + first_column(threadIdx.x), limits);
        weigh(scores, part, again, step.scale);
    };

    wait(shared_address(&room.k_full[used % STAGES]), used / STAGES & 1);
    pin(scores), pin(queries);
    before_products();
    begin_scores<T, D>(scores, queries, shared_address(room.k[used % STAGES]));
    wait_for_groups<0>();
    pin(scores), pin(queries);
    release(room.k_empty[used % STAGES]);
    weighed(held.tile_from);
    pack<T>(weights, scores);

    for (int tile = held.tile_from; tile + 1 < held.tile_to; ++tile, ++used) {
        const int stage = used % STAGES, next = (used + 1) % STAGES;
        wait(shared_address(&room.v_full[stage]), used / STAGES & 1);
        wait(shared_address(&room.k_full[next]), (used + 1) / STAGES & 1);
        pin(scores), pin(weights), pin(acc), pin(queries);
        before_products();
        begin_scores<T, D>(scores, queries, shared_address(room.k[next]));
        begin_values<T, D>(acc, weights, shared_address(room.v[stage]), tile % CHUNK_TILES != 0);
        wait_for_groups<1>();
        pin(scores), pin(queries);
        release(room.k_empty[next]);
        const State before = part;
        const bool starts = (tile + 1) % CHUNK_TILES == 0;
        if (starts) part = nothing();
        weighed(tile + 1);
        const bool scales = __any_sync(~0u, again[0] != 1.0f || again[1] != 1.0f);
        no_wait_before(fminf(part.total[0], part.total[1]));
        wait_for_groups<0>();
        pin(acc), pin(weights);
        release(room.v_empty[stage]);
        if (starts) {
            close(tile / CHUNK_TILES, before);
            if (held.tile_from == 0) put_away(folded, room.away[self], acc);
        } else if (scales)
            scale_rows(acc, again);
        pack<T>(weights, scores);
    }

    const int last = held.tile_to - 1, stage = used % STAGES;
    wait(shared_address(&room.v_full[stage]), used / STAGES & 1);
    if (held.tile_to * TILE > held.most) zero_from<D>(room.v[stage], max(held.most - last * TILE, 0));
    pin(weights), pin(acc);
    before_products();
    begin_values<T, D>(acc, weights, shared_address(room.v[stage]), last % CHUNK_TILES != 0);
    wait_for_groups<0>();
    pin(acc), pin(weights);
    release(room.v_empty[stage]);
    ++used;
    close(last / CHUNK_TILES, part);
    if (held.tile_from == 0) {
        give<T, D>(step, facts, held.head, row, acc, all);
        keep<D>(step, facts, held.head, row, -1, acc, all);
    }
}

template <typename T, int D>
__device__ __forceinline__ void compute(const Step& step, Room<D>& room) {
    const int self = of_warp(threadIdx.x / 128) - 1;
    int used = 0;
    for (int round = 0; work_of(step.num_items, step.num_kv, round, blockIdx.x, gridDim.x).real; ++round) {
        const int buffer = round & 1;
        wait(shared_address(&room.q_full[buffer]), round >> 1 & 1);
        if (room.held[buffer].tile_from < room.held[buffer].tile_to) attend<T, D>(step, room, buffer, self, used);
        release(room.q_empty[buffer]);
    }
}

// Every barrier's phase ends with the arrivals of all who fill, or of all who have used, what it stands for.
template <int D>
__device__ __forceinline__ void set_barriers(Room<D>& room) {
    for (int i = 0; i < 2; ++i) {
        init_barrier(shared_address(&room.q_full[i]), 32);
        init_barrier(shared_address(&room.q_empty[i]), WARPS_COMPUTING);
    }
    for (int i = 0; i < Room<D>::STAGES; ++i) {
        for (uint64_t* full : {&room.k_full[i], &room.v_full[i]}) init_barrier(shared_address(full), 1);
        for (uint64_t* empty : {&room.k_empty[i], &room.v_empty[i]}) init_barrier(shared_address(empty), WARPS_COMPUTING);
    }
    barriers_are_set();
}

template <typename T, int D>
__global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ CUtensorMap keys, const __grid_constant__ CUtensorMap values,
              const __grid_constant__ Step step) {
    extern __shared__ unsigned char memory[];
    Room<D>& room = *reinterpret_cast<Room<D>*>(memory + (-shared_address(memory) & 1023));  // known to be shared memory
    if (threadIdx.x == 0) {
        prefetch_map(&keys);
        prefetch_map(&values);
        set_barriers(room);
    }
    __syncthreads();
    if (threadIdx.x < THREADS - COMPUTING) {
        fewer_registers<LOADING_REGISTERS>();
        if (threadIdx.x < 32)
            load_tiles<D>(keys, values, step, room);
        else if (threadIdx.x < 64)
            load_queries<T, D>(step, room);
    } else {
        more_registers<COMPUTING_REGISTERS>();
        compute<T, D>(step, room);
    }
}

// Folds the partials of a token and head, a warp each, in the order of keys: 4 (D + 2) bytes a partial, bound by memory.
template <typename T, int D>
__global__ void __launch_bounds__(128) merge(const __grid_constant__ Step step, const int64_t* merges, int count) {
    const int64_t warp = (static_cast<int64_t>(blockIdx.x) * 128 + threadIdx.x) / 32;
    const int lane = threadIdx.x & 31;
    if (warp >= static_cast<int64_t>(count) * step.heads) return;
    const int64_t* token = step.tokens + 4 * merges[warp / step.heads];
    const int head = static_cast<int>(warp % step.heads);
    const int64_t parts = (token[1] + CHUNK - 1) / CHUNK - token[3] + 1;
    float acc[D / 32] = {}, top = -INFINITY, total = 0.0f;
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t place = (token[2] + part) * step.heads + head;
        const float2 later = *reinterpret_cast<const float2*>(step.states + 2 * place);
        const Join by = join(top, total, later.x, later.y);
#pragma unroll
        for (int run = 0; run < D / 64; ++run) {
            const float2 more = *reinterpret_cast<const float2*>(step.partials + place * D + 64 * run + 2 * lane);
            acc[2 * run] = joined(acc[2 * run], more.x, by);
            acc[2 * run + 1] = joined(acc[2 * run + 1], more.y, by);
        }
    }
    const int64_t place = token[0] * step.heads + head;
    const float by = inverse(total);
#pragma unroll
    for (int run = 0; run < D / 64; ++run)
        *reinterpret_cast<uint32_t*>(static_cast<T*>(step.out) + place * D + 64 * run + 2 * lane) =
            rounded<T>(__fmul_rn(acc[2 * run], by), __fmul_rn(acc[2 * run + 1], by));
    if (lane == 0) step.lse[place] = log_of(top, total);
}

}  // namespace wideseek::sm90
