// Fixed-width fp32 vectors on the compiler's own vector types: one source for AVX-512, AVX2, NEON and none of them.
//
// Every operation has one order of its own, whatever the machine has: the order in which lanes are summed is part of
// what the kernels promise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace wideseek {

#if defined(WIDESEEK_LANES)
constexpr int LANES = WIDESEEK_LANES;
#elif defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef uint32_t WordVec __attribute__((vector_size(4 * LANES)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * LANES)));
typedef uint8_t ByteVec __attribute__((vector_size(LANES)));
typedef float Vec8 __attribute__((vector_size(32)));
typedef float Vec4 __attribute__((vector_size(16)));

inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// The same value, in a register from here on: compilers would rather read it again for each of its uses.
inline Vec hold(Vec v) {
#if defined(__AVX__)
    asm("" : "+v"(v));
#endif
    return v;
}

// Less 0, which compilers know to be x itself; plus 0 would not be, for -0.
inline Vec broadcast(float x) { return x - Vec{}; }

// bf16 is the upper half of an fp32.
inline Vec load(const uint16_t* from) {
    HalfVec half;
    std::memcpy(&half, from, sizeof half);
    IntVec bits = __builtin_convertvector(half, IntVec) << 16;
    Vec v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

inline IntVec bits_of(Vec v) {
    IntVec bits;
    std::memcpy(&bits, &v, sizeof bits);
    return bits;
}

inline Vec as_floats(IntVec bits) {
    Vec v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

// Rounds to nearest even, as torch does; a NaN stays one.
inline void store(uint16_t* to, Vec v) {
    WordVec bits = (WordVec)bits_of(v);
    WordVec rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    WordVec kept = (WordVec)(v == v);
    HalfVec half = __builtin_convertvector((rounded & kept) | (0x7FC0u & ~kept), HalfVec);
    std::memcpy(to, &half, sizeof half);
}

inline float to_float(float x) { return x; }

inline float to_float(uint16_t x) {
    uint32_t bits = static_cast<uint32_t>(x) << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}

inline void from_float(float* to, float x) { *to = x; }

inline void from_float(uint16_t* to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    *to = x == x ? static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) : 0x7FC0;
}

// e4m3 has four bits of exponent and three of mantissa, no infinity, and NaN where all seven are set. Below 2^-6 it counts
// in steps of 2^-9.
inline Vec load(const uint8_t* from) {
    ByteVec bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    const IntVec bits = __builtin_convertvector(bytes, IntVec), size = bits & 0x7F;
    const Vec small = __builtin_convertvector(size, Vec) * 0x1p-9f;
    Vec v = size < 8 ? small : as_floats((size << 20) + (120 << 23));
    v = size == 0x7F ? as_floats(size | 0x7FC00000) : v;
    return as_floats(bits_of(v) | (bits & 0x80) << 24);
}

// Rounds to nearest even as torch does, but what is larger than 448, the largest number, becomes that; a NaN stays one.
inline void from_float(uint8_t* to, float x) {
    const float size = std::min(std::fabs(x), 448.0f), shifted = size + 0x1p14f;  // whose last digit is 2^-9
    uint32_t bits, steps, sign;
    std::memcpy(&bits, &size, sizeof bits);
    std::memcpy(&steps, &shifted, sizeof steps);
    std::memcpy(&sign, &x, sizeof sign);
    const uint32_t normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3);
    const uint32_t rounded = size < 0x1p-6f ? steps & 0xF : normal;
    *to = static_cast<uint8_t>((x == x ? rounded : 0x7F) | (sign >> 24 & 0x80));
}

inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

// Eight lanes whatever LANES is: sixteen are folded upon each other.
inline Vec8 fold8(Vec v) {
    Vec8 low;
    std::memcpy(&low, &v, sizeof low);
    if (LANES == 16) {
        Vec8 high;
        std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof v / 2, sizeof high);
        low += high;
    }
    return low;
}

// The sums of the lanes of four vectors, each ((0+1)+(2+3)) + ((4+5)+(6+7)).
inline Vec4 sum_each(Vec a, Vec b, Vec c, Vec d) {
    auto pairs = [](Vec8 x, Vec8 y) {
        return __builtin_shufflevector(x, y, 0, 2, 8, 10, 4, 6, 12, 14) +
               __builtin_shufflevector(x, y, 1, 3, 9, 11, 5, 7, 13, 15);
    };
    Vec8 all = pairs(pairs(fold8(a), fold8(b)), pairs(fold8(c), fold8(d)));
    Vec4 low, high;
    std::memcpy(&low, &all, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&all) + sizeof low, sizeof high);
    return low + high;
}

inline float sum(Vec v) { return sum_each(v, Vec{}, Vec{}, Vec{})[0]; }

inline float largest(Vec v) {
    float most = v[0];
    for (int i = 1; i < LANES; ++i) most = v[i] > most ? v[i] : most;
    return most;
}

// e to the x for x <= 0, exactly 1 at 0 and exactly 0 below -87; a NaN stays one. Within 1.5 ulp.
inline Vec exp_of_negative(Vec x) {
    const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    Vec shifted = x * 1.44269504f + to_integer;
    Vec whole = shifted - to_integer;
    Vec r = x - whole * 0.693359375f;
    r = r - whole * -2.12194440e-4f;
    Vec p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    // Unsigned: far below 0 it overflows, and the result is not used.
    WordVec exponent = ((WordVec)bits_of(shifted) << 23) + 0x3F800000u;
    Vec result = p * as_floats((IntVec)exponent);
    return x < -87.0f ? Vec{} : result;
}

}  // namespace wideseek
