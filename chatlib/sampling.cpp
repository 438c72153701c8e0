// What `choose` of sampling.py computes, row by row and without tensors: PyTorch takes as long to
// call the operations that choose a token as decode.cpp takes to score all tokens.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "threads.h"

struct Sampling {   // as in sampling.py
    int64_t top_k;  // 1 if the row is greedy
    float temperature, top_p, min_p, repetition;
};

// Whether x is not a number, told by its bits: the compiler may take for granted that all are.
static bool broken(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return 2 * bits > 255u << 24;  // without the sign: above infinity
}

// The ids of the k best scores, in any order, and seldom of more: a bar moves between the lowest
// and the highest score until k reach it. Neither loop branches on a score, as sorting does: to
// guess wrong where a branch leads costs more than to compare once more.
static std::vector<int> candidates(const std::vector<float> &z, int k) {
    float low = *std::min_element(z.begin(), z.end()), high = *std::max_element(z.begin(), z.end());
    for (int tries = 0, reach = 0; tries < 24 && reach != k; tries++) {
        float bar = (low + high) / 2;
        reach = 0;
        for (float score : z) reach += score >= bar;
        (reach < k ? high : low) = bar;
    }
    std::vector<int> ids(z.size());
    int n = 0;
    for (int i = 0; i < (int)z.size(); i++) {
        ids[n] = i;
        n += z[i] >= low;
    }
    ids.resize(n);
    return ids;
}

// Where the running sum of p passes uniform, as a share of the whole sum.
static int64_t draw(const std::vector<float> &p, double uniform) {
    double left = std::min(uniform, 1 - 0x1p-24) * std::accumulate(p.begin(), p.end(), 0.0);
    size_t i = 0;
    while ((left -= p[i]) >= 0 && i + 1 < p.size()) i++;
    return i;
}

// One row: scores z -> a token. Of equal scores, the one with the lower id is the better.
static int64_t pick(std::vector<float> z, const Sampling &s, double uniform, const bool *seen) {
    int64_t V = z.size(), k = s.top_k && s.top_k < V ? s.top_k : V;
    for (float &score : z)
        if (broken(score)) score = std::numeric_limits<float>::lowest();
    for (int64_t i = 0; i < V && s.repetition != 1; i++)
        if (seen[i]) z[i] = z[i] > 0 ? z[i] / s.repetition : z[i] * s.repetition;
    auto top = std::max_element(z.begin(), z.end());
    if (s.top_k == 1) return top - z.begin();
    std::vector<float> p(V), kept;
    for (int64_t i = 0; i < V; i++) p[i] = std::exp((z[i] - *top) / s.temperature);
    if (!s.top_k && s.top_p == 1 && s.min_p == 0) return draw(p, uniform);

    auto better = [&](int a, int b) { return z[a] > z[b] || (z[a] == z[b] && a < b); };
    auto worse = [&](int a, int b) { return better(b, a); };
    std::vector<int> ids(V), ranked;
    std::iota(ids.begin(), ids.end(), 0);
    if (k < V) {
        ids = candidates(z, k);
        std::nth_element(ids.begin(), ids.begin() + k - 1, ids.end(), better);
        ids.resize(k);
    }
    double all = 0, before = 0;
    for (int id : ids) all += p[id];
    std::make_heap(ids.begin(), ids.end(), worse);  // gives up the best first, as many as are kept
    do {
        std::pop_heap(ids.begin(), ids.end(), worse);
        ranked.push_back(ids.back());
        kept.push_back(p[ids.back()]);
        before += p[ids.back()];
        ids.pop_back();
    } while (!ids.empty() && before < s.top_p * all && p[ids.front()] >= s.min_p);
    return ranked[draw(kept, uniform)];
}

// logits (rows, V), one Sampling and one uniform in [0, 1) a row -> picked (rows,). seen (rows, V)
// marks the tokens a row has used; it may be null if repetition is 1 in every row.
extern "C" void choose(const float *logits, int64_t rows, int64_t threads, int64_t V,
                       const Sampling *settings, const double *uniform, const bool *seen,
                       int64_t *picked) {
    in_parallel(rows, threads, [&](int64_t r) {
        picked[r] = pick({logits + r * V, logits + (r + 1) * V}, settings[r], uniform[r],
                         seen ? seen + r * V : nullptr);
    });
}
