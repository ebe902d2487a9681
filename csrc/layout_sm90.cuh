// Where everything lies in the Hopper attention, as plain C++17: the kernel computes with it, and a program of the tests
// prints it for the emulation in tests/kernels. Nothing here needs CUDA.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define WIDESEEK_BOTH __host__ __device__ __forceinline__
#else
#define WIDESEEK_BOTH inline
#endif

namespace wideseek::sm90 {

constexpr int TILE = 64;          // keys of a product; wideseek_kernels.work_list has the same
constexpr int CHUNK_TILES = 8;    // tiles summed up by themselves; wideseek_kernels.launch_plan has the same
constexpr int CHUNK = TILE * CHUNK_TILES;

// Scores are measured from a row's largest of the chunk's first tile, and from a later one only where that is larger by so
// many powers of two: so sums seldom have to be scaled again, and weights stay below 256. Up to the row alone, like all else.
constexpr int LEEWAY = 8;  // on_triton.paged_attention has the same

constexpr int GROUP_ROWS = 64;    // rows of a warpgroup's product
constexpr int ROWS = 128;         // rows of an item: two warpgroups; wideseek_kernels.attention_sm90 has the same
constexpr int THREADS = 384;      // one warpgroup that loads, two that compute
constexpr int COMPUTING = 256;
constexpr int WARPS_COMPUTING = COMPUTING / 32;
// What loading threads give up computing ones take, of the 168 that each of 384 begins with: of more they would wait for ever.
constexpr int REGISTERS = 65536 / THREADS / 8 * 8, LOADING_REGISTERS = 56, COMPUTING_REGISTERS = 224;
static_assert(LOADING_REGISTERS * (THREADS - COMPUTING) + COMPUTING_REGISTERS * COMPUTING <= REGISTERS * THREADS);
constexpr int SHARED_BYTES = 232448;                              // that a block may have

// Rows of 64 16-bit numbers, 128 bytes, whose eight 16-byte pieces change places by the row: piece c of row r lies at
// c ^ (r % 8). The copy engine writes it and the tensor cores read it; a tile of it begins at a multiple of 1024 bytes.
constexpr int SWIZZLED_COLUMNS = 64;
constexpr int SWIZZLED_ROW = 128;
constexpr int SWIZZLED_EIGHT = 8 * SWIZZLED_ROW;

WIDESEEK_BOTH int swizzled(int row, int piece) { return row * SWIZZLED_ROW + ((piece ^ (row & 7)) << 4); }

// Addresses and distances of a descriptor are in 16 bytes. Bits 0-13 address, 16-29 leading distance, 32-45 stride
// distance, 49-51 where the pattern of eight rows begins (0: tiles lie at multiples of 1024), 62-63 swizzle (1: 128 bytes).
constexpr uint64_t descriptor_base(uint64_t leading, uint64_t stride) {
    return (leading >> 4) << 16 | (stride >> 4) << 32 | uint64_t{1} << 62;
}

// Rows are rows of the product, columns are what is summed over (K-major): eights of rows lie `stride` apart, the leading
// distance is not read. A step of 16 columns is 32 bytes further within the swizzled row.
constexpr uint64_t BY_ROWS = descriptor_base(0, SWIZZLED_EIGHT);
constexpr int STEP_BY_ROWS = 32 >> 4;

// Rows are what is summed over, columns are columns of the product (MN-major): eights of rows lie `stride` apart, blocks of
// 64 columns `leading`. A step of 16 rows is two eights further.
template <int LEADING>
constexpr uint64_t BY_COLUMNS = descriptor_base(LEADING, SWIZZLED_EIGHT);
constexpr int STEP_BY_COLUMNS = 2 * SWIZZLED_EIGHT >> 4;

// steps: in 16 bytes, from the address on.
WIDESEEK_BOTH uint64_t descriptor(uint64_t base, uint32_t address, int steps) {
    return base | (((address & 0x3FFFF) >> 4) + static_cast<uint32_t>(steps));
}

// Of a product's result [64, 8 n], number i of thread t of a warpgroup is in row first_row(t) + 8 second_row(i), column
// first_column(t) + next_column(i). The same numbers, two to a register, are the operand [64, 16] of the next product.
WIDESEEK_BOTH int first_row(int thread) { return thread % 128 / 32 * 16 + thread % 32 / 4; }
WIDESEEK_BOTH int first_column(int thread) { return 2 * (thread & 3); }
WIDESEEK_BOTH int second_row(int i) { return i / 2 & 1; }
WIDESEEK_BOTH int next_column(int i) { return i / 4 * 8 + (i & 1); }

// The key heads of an item side by side, items in their order, the longest first, back and forth over the blocks: whoever had
// the longest work of a round gets the shortest of the next, so that all have as much to do. Blocks at work at a time begin
// at the same keys and go on in step, so that most reads of keys find them in the L2 cache.
struct Work {
    int item, head;
    bool real;
};

WIDESEEK_BOTH Work work_of(int num_items, int num_kv, int round, int block, int blocks) {
    const int index = round * blocks + (round & 1 ? blocks - 1 - block : block);
    return {index / num_kv, index % num_kv, index < num_items * num_kv};
}

// Of a token: row of q or -1, keys it sees, first partial or -1, chunks that this one holds.
struct alignas(16) Fact {
    int row, limit, first, folded;
};

// What those who compute must know of an item; least: keys that every row sees.
struct Held {
    int tile_from, tile_to, most, least, head;
};

// Shared memory. A tile is D / 64 blocks of 64 swizzled rows, side by side in the head's dimension.
template <int D>
struct Room {
    static constexpr int BLOCKS = D / SWIZZLED_COLUMNS;
    static constexpr int BLOCK = TILE * SWIZZLED_ROW;
    static constexpr int TILE_BYTES = BLOCKS * BLOCK;
    static constexpr int STAGES = D == 64 ? 8 : 3;
    static constexpr int AWAY = D / 2 - 32;  // numbers of a thread's [64, D] that registers have no room for between chunks
    unsigned char q[2][2][TILE_BYTES];  // of this item and the next, of each warpgroup
    unsigned char k[STAGES][TILE_BYTES], v[STAGES][TILE_BYTES];
    float away[2][AWAY ? AWAY / 4 : 1][128][4];  // of each warpgroup's threads, by fours
    Fact facts[2][ROWS];
    Held held[2];
    uint64_t q_full[2], q_empty[2], k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

// A block asks for so many bytes: its room begins at a multiple of 1024.
template <int D>
constexpr int ASKED_BYTES = sizeof(Room<D>) + 1024;
static_assert(ASKED_BYTES<64> <= SHARED_BYTES && ASKED_BYTES<128> <= SHARED_BYTES);

}  // namespace wideseek::sm90
