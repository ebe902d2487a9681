// Who reads which tiles with whom in one step of attention; see `wideseek_kernels.work_list`.

#include "launchers.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace wideseek {
namespace {

struct Span {
    int64_t first_row, rows, position, pages;
    int64_t common;  // tiles it shares with the span before it
};

struct Segment {
    int64_t from, to, tile_from, tile_to;
};

int64_t up(int64_t amount, int64_t unit) { return (amount + unit - 1) / unit; }

class Planner {
  public:
    Planner(const WideseekSequences& given, const WideseekTiling& tiling) : given(given), tiling(tiling) {
        num_pages.resize(given.count), first_rows.resize(given.count);
        for (int64_t i = 0; i < given.count; ++i) {
            num_pages[i] = given.first_pages[i + 1] - given.first_pages[i];
            first_rows[i] = i == 0 ? 0 : first_rows[i - 1] + given.q_lens[i - 1];
        }
    }

    WideseekPlanned plan(WideseekTables tables) {
        WideseekPlanned done = {};
        this->tables = tables;
        for (int64_t index : in_order()) {
            const int64_t shared = family.empty() ? 0 : common(last, index);
            if (shared == 0) close_family(done);
            add_spans(index, shared);
            last = index;
        }
        close_family(done);
        order_units(done);
        cut_units(done);
        return done;
    }

  private:
    const WideseekSequences& given;
    const WideseekTiling& tiling;
    WideseekTables tables;
    std::vector<int64_t> num_pages, first_rows, costs;
    std::vector<Span> family;  // spans of sequences that begin with the same tile
    std::vector<Segment> open;
    int64_t last = -1;

    const int64_t* pages(int64_t index) const { return given.pages + given.first_pages[index]; }

    // Sequences with common beginnings side by side, those apart in the order they came in.
    std::vector<int64_t> in_order() const {
        std::vector<int64_t> order(given.count);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
            if (pages(a)[0] != pages(b)[0]) return pages(a)[0] < pages(b)[0];
            const int64_t shorter = std::min(num_pages[a], num_pages[b]);
            const int differ = std::memcmp(pages(a), pages(b), shorter * sizeof(int64_t));
            return differ != 0 ? differ < 0 : num_pages[a] < num_pages[b];
        });
        return order;
    }

    // Tiles that both begin with, in whole granules.
    int64_t common(int64_t one, int64_t other) const {
        const int64_t shorter = std::min(num_pages[one], num_pages[other]);
        const int64_t same = std::mismatch(pages(one), pages(one) + shorter, pages(other)).first - pages(one);
        const int64_t tiles = same * given.page_size / tiling.tile / tiling.granule * tiling.granule;
        const int64_t apart = up(std::max(given.kv_lens[one], given.kv_lens[other]), tiling.tile) - tiles;
        return tiles * tiling.worth < apart ? 0 : tiles;
    }

    int64_t tiles(const Span& span) const { return up(span.position + span.rows, tiling.tile); }

    void add_spans(int64_t index, int64_t shared) {
        const int64_t position = given.kv_lens[index] - given.q_lens[index];
        for (int64_t offset = 0; offset < given.q_lens[index]; offset += tiling.span_rows) {
            const int64_t rows = std::min(tiling.span_rows, given.q_lens[index] - offset);
            // A sequence's later spans share all that its earlier ones read.
            if (offset > 0) shared = tiles(family.back()) / tiling.granule * tiling.granule;
            family.push_back({first_rows[index] + offset, rows, position + offset, given.first_pages[index], shared});
        }
    }

    void close_family(WideseekPlanned& done) {
        for (size_t from = 0, to; from < family.size(); from = to) {
            int64_t rows = family[from].rows;
            for (to = from + 1; to < family.size() && rows + family[to].rows <= tiling.unit_rows; ++to)
                rows += family[to].rows;
            add_unit(family.data() + from, static_cast<int64_t>(to - from), done);
        }
        family.clear();
    }

    void add_unit(const Span* own, int64_t count, WideseekPlanned& done) {
        int64_t* unit = tables.units + 6 * done.units++;
        const int64_t first_span = done.spans, first_segment = done.segments;
        int64_t most = 0, cost = 0;
        for (int64_t s = 0; s < count; ++s) {
            const int64_t row[] = {own[s].first_row, own[s].rows, own[s].position, own[s].pages};
            std::copy(row, row + 4, tables.spans + 4 * done.spans++);
            most = std::max(most, tiles(own[s]));
        }
        walk(own, count, [&](Segment s) {
            const int64_t row[] = {first_span + s.from, first_span + s.to, s.tile_from, s.tile_to};
            std::copy(row, row + 4, tables.segments + 4 * done.segments++);
            cost += (s.tile_to - s.tile_from) * rows_of(own + s.from, own + s.to);
        });
        const int64_t row[] = {first_span, done.spans, first_segment, done.segments, most, -1};
        std::copy(row, row + 6, unit);
        costs.push_back(cost);
    }

    static int64_t rows_of(const Span* from, const Span* to) {
        return std::accumulate(from, to, int64_t{0}, [](int64_t sum, const Span& span) { return sum + span.rows; });
    }

    // What the spans of a unit read, tile by tile: a walk through the tree of what they share. Every span sees its own
    // tiles once, in order.
    template <typename F>
    void walk(const Span* own, int64_t count, F emit) {
        auto limit = [&](int64_t s) {
            return std::min({own[s].common, tiles(own[s - 1]), tiles(own[s])}) / tiling.granule * tiling.granule;
        };
        open.assign(1, {0, count, 0, 0});
        while (!open.empty()) {
            const Segment node = open.back();
            open.pop_back();
            if (node.to - node.from == 1) {
                if (node.tile_from < tiles(own[node.from]))
                    emit({node.from, node.to, node.tile_from, tiles(own[node.from])});
                continue;
            }
            int64_t least = limit(node.from + 1);
            for (int64_t s = node.from + 2; s < node.to; ++s) least = std::min(least, limit(s));
            if (node.tile_from < least) emit({node.from, node.to, node.tile_from, least});
            int64_t begin = node.from;
            for (int64_t s = node.from + 1; s <= node.to; ++s)
                if (s == node.to || limit(s) == least) open.push_back({begin, s, least, 0}), begin = s;
        }
    }

    // The longest first.
    void order_units(const WideseekPlanned& done) {
        std::vector<int64_t> order(done.units), units(tables.units, tables.units + 6 * done.units), sorted(done.units);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return costs[a] > costs[b]; });
        for (int64_t u = 0; u < done.units; ++u) {
            std::copy_n(&units[6 * order[u]], 6, tables.units + 6 * u);
            sorted[u] = costs[order[u]];
        }
        costs = sorted;
    }

    // Units that are too much for one core are split between chunks.
    void cut_units(WideseekPlanned& done) {
        const int64_t total = std::accumulate(costs.begin(), costs.end(), int64_t{0});
        const int64_t most = tiling.parts > 1 ? up(total, tiling.parts) : total;
        for (int64_t u = 0; u < done.units; ++u) {
            int64_t* unit = tables.units + 6 * u;
            const int64_t first = done.parts;
            int64_t begin = 0, cost = 0;
            for (int64_t tile = 0; tile < unit[4]; tile += tiling.chunk) {
                const int64_t more = cost_of(unit, tile, std::min(tile + tiling.chunk, unit[4]));
                if (cost > 0 && cost + more > most) add_part(u, begin, tile, done), begin = tile, cost = 0;
                cost += more;
            }
            add_part(u, begin, unit[4], done);
            if (done.parts == first + 1) continue;
            unit[5] = done.partials;
            for (int64_t s = unit[0]; s < unit[1]; ++s)
                done.partials += tables.spans[4 * s + 1] * up(unit[4], tiling.chunk);
        }
    }

    int64_t cost_of(const int64_t* unit, int64_t tile_from, int64_t tile_to) const {
        int64_t cost = 0;
        for (int64_t g = unit[2]; g < unit[3]; ++g) {
            const int64_t* segment = tables.segments + 4 * g;
            const int64_t read = std::min(segment[3], tile_to) - std::max(segment[2], tile_from);
            if (read <= 0) continue;
            for (int64_t s = segment[0]; s < segment[1]; ++s) cost += read * tables.spans[4 * s + 1];
        }
        return cost;
    }

    void add_part(int64_t unit, int64_t tile_from, int64_t tile_to, WideseekPlanned& done) {
        const int64_t row[] = {unit, tile_from, tile_to};
        std::copy(row, row + 3, tables.parts + 3 * done.parts++);
    }
};

}  // namespace
}  // namespace wideseek

WideseekPlanned wideseek_plan_work(WideseekSequences sequences, WideseekTiling tiling, WideseekTables tables) {
    return wideseek::Planner(sequences, tiling).plan(tables);
}
