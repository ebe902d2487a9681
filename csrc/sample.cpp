// Draws one token a row: temperature, top-k, top-p, min-p, a draw that is a hash of (seed, position).
//
// A row of V logits costs two to three passes of exponentials; a top-k selects among them, a top-p orders only those
// that are about as likely as the last one it keeps. Bound by arithmetic.

#include "launchers.h"
#include "vector.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

namespace wideseek {
namespace {

constexpr float BARRED = -std::numeric_limits<float>::infinity();
constexpr int SHELVES = 256;
constexpr float SHELVES_A_NAT = 8.0f;  // down to e^-32 of the largest weight; the last shelf has all below
constexpr int64_t RUN = 512;     // weights that are summed in fp32 before they join the sum in fp64

uint64_t mix(uint64_t bits) {
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
    return bits ^ (bits >> 31);
}

// In [0, 1 - 2^-52]; SplitMix64's finaliser over both; source: Steele, Lea and Flood 2014, figure 16.
double uniform(int64_t seed, int64_t position) {
    const uint64_t golden = 0x9E3779B97F4A7C15u;
    const uint64_t bits = mix(mix(static_cast<uint64_t>(seed) + golden) + static_cast<uint64_t>(position) * golden);
    return static_cast<double>(bits >> 12) * 0x1p-52;
}

// Scores of one row, padded with BARRED to whole vectors; the largest is 0.
struct Row {
    std::vector<float> scores, weights, ordered;
    std::vector<double> sums;
    int64_t size;

    explicit Row(int64_t size) : scores(padded(size), BARRED), weights(padded(size)), size(size) {}

    static int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

    int64_t take(const float* logits, float temperature, float top) {
        for (int64_t i = 0; i < size; ++i) {
            const float score = (logits[i] - top) / temperature;
            scores[i] = score == score ? score : BARRED;  // NaN has no place in any order
        }
        return size;
    }

    // weights = exp(scores), sums = those of the runs; returns their sum.
    double weigh() {
        double total = 0;
        sums.clear();
        for (int64_t begin = 0; begin < size; begin += RUN) {
            Vec part = {};
            for (int64_t i = begin; i < std::min(begin + RUN, size); i += LANES) {
                Vec weight = exp_of_negative(load(&scores[i]));
                store(&weights[i], weight);
                part = part + weight;
            }
            sums.push_back(static_cast<double>(sum(part)));
            total += sums.back();
        }
        return total;
    }

    void drop_below(float threshold) {
        for (int64_t i = 0; i < size; ++i) scores[i] = scores[i] < threshold ? BARRED : scores[i];
    }

    void keep_top_k(int64_t k) {
        ordered.assign(scores.begin(), scores.begin() + size);
        std::nth_element(ordered.begin(), ordered.begin() + (k - 1), ordered.end(), std::greater<float>());
        drop_below(ordered[k - 1]);
    }

    void keep_top_p(float top_p) {
        weigh();
        // Shelves of like scores, the highest first: only the shelf in which top_p is reached is put in order.
        double shelves[SHELVES] = {};
        for (int64_t i = 0; i < size; ++i) shelves[shelf(scores[i])] += static_cast<double>(weights[i]);
        int reached = 0;
        double left = static_cast<double>(top_p) * std::accumulate(shelves, shelves + SHELVES, 0.0);
        while (reached + 1 < SHELVES && shelves[reached] < left) left -= shelves[reached++];
        ordered.clear();
        for (int64_t i = 0; i < size; ++i)
            if (shelf(scores[i]) == reached) ordered.push_back(scores[i]);
        std::sort(ordered.begin(), ordered.end(), std::greater<float>());
        for (float score : ordered) {
            left -= std::exp(static_cast<double>(score));
            if (left <= 0) return drop_below(score);
        }
        // Roundings: all of this shelf is less than what was left.
        if (!ordered.empty()) drop_below(ordered.back());
    }

    static int shelf(float score) {
        const float place = score * -SHELVES_A_NAT;
        return place < SHELVES - 1 ? static_cast<int>(place) : SHELVES - 1;
    }

    // The token whose stretch of the summed weights holds the point, a share of the whole.
    int64_t find(double point, double total) const {
        const double target = point * total;
        double mass = 0;
        size_t run = 0;
        while (run + 1 < sums.size() && mass + sums[run] <= target) mass += sums[run++];
        int64_t last = 0;
        for (int64_t i = static_cast<int64_t>(run) * RUN; i < size; ++i) {
            if (weights[i] == 0) continue;
            mass += static_cast<double>(weights[i]);
            last = i;
            if (mass > target) return i;
        }
        // Roundings left the point beyond the end: the last token that has any weight.
        while (last == 0 && run > 0) {
            --run;
            for (int64_t i = static_cast<int64_t>(run) * RUN; i < static_cast<int64_t>(run + 1) * RUN; ++i)
                if (weights[i] > 0) last = i;
        }
        return last;
    }
};

int64_t first_largest(const float* logits, int64_t size) {
    Vec most = broadcast(BARRED);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) most = larger(load(logits + i), most);
    float top = largest(most);
    for (; i < size; ++i) top = logits[i] > top ? logits[i] : top;
    return std::min<int64_t>(std::find(logits, logits + size, top) - logits, size - 1);
}

void draw_row(const WideseekLogits& x, int64_t n, Row& row) {
    const float* logits = x.logits + n * x.vocab;
    const int64_t best = first_largest(logits, x.vocab);
    const float top = logits[best];
    row.take(logits, 1.0f, top);
    const double log_total = std::log(row.weigh());
    int64_t token = best;
    x.logprobs[n] = 0.0f;
    if (x.temperature[n] != 0.0f) {
        row.take(logits, x.temperature[n], top);
        if (x.top_k[n] > 0 && x.top_k[n] < x.vocab) row.keep_top_k(x.top_k[n]);
        if (x.top_p[n] < 1.0f) row.keep_top_p(x.top_p[n]);
        if (x.min_p[n] > 0.0f) row.drop_below(std::log(x.min_p[n]));
        const double total = row.weigh();
        token = row.find(uniform(x.seeds[n], x.positions[n]), total);
        x.logprobs[n] = static_cast<float>(static_cast<double>(row.scores[token]) - std::log(total));
    }
    x.tokens[n] = token;
    x.plain_logprobs[n] = static_cast<float>(static_cast<double>(logits[token] - top) - log_total);
}

// The log-probability of one given token, to the bit what `draw_row` gives for it, and the entropy in nats.
void score_row(const WideseekScored& x, int64_t n, Row& row) {
    const float* logits = x.logits + n * x.vocab;
    const float top = logits[first_largest(logits, x.vocab)];
    row.take(logits, 1.0f, top);
    const double total = row.weigh(), log_total = std::log(total);
    x.logprobs[n] = static_cast<float>(static_cast<double>(logits[x.ids[n]] - top) - log_total);
    const Vec floor = broadcast(std::numeric_limits<float>::lowest());  // BARRED times 0 would not be 0
    double mean = 0;
    for (int64_t begin = 0; begin < row.size; begin += RUN) {
        Vec part = {};
        for (int64_t i = begin; i < std::min(begin + RUN, row.size); i += LANES)
            part = part + load(&row.weights[i]) * larger(load(&row.scores[i]), floor);
        mean += static_cast<double>(sum(part));
    }
    x.entropies[n] = static_cast<float>(log_total - mean / total);
}

}  // namespace
}  // namespace wideseek

void wideseek_score(WideseekScored x, int num_threads) {
#pragma omp parallel num_threads(num_threads) if (num_threads > 1 && x.rows > 1)
    {
        wideseek::Row row(x.vocab);
#pragma omp for schedule(dynamic, 1)
        for (int64_t n = 0; n < x.rows; ++n) wideseek::score_row(x, n, row);
    }
}

void wideseek_sample(WideseekLogits x, int num_threads) {
#pragma omp parallel num_threads(num_threads) if (num_threads > 1 && x.rows > 1)
    {
        wideseek::Row row(x.vocab);
#pragma omp for schedule(dynamic, 1)
        for (int64_t n = 0; n < x.rows; ++n) wideseek::draw_row(x, n, row);
    }
}
