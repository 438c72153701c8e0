// One step of decoding on a CPU in a single call: what model.py computes, for one token a row.
//
// Every sum is taken in the same order however many rows or threads there are, so that a row's
// scores do not depend on its neighbors.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "threads.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

struct Matrix {                 // (n_out, n_in) in panels: (n_out / PANEL, n_in, PANEL)
    const void *weights;        // float, or int8 if there are scales
    const float *scales;        // one for each output, or null
    int64_t n_in, n_out;
};

struct Layer {
    Matrix qkv, out, up, down;
    const float *value_table, *value_gate;  // null in layers without
    float *keys, *values;                   // (rows, max_len, n_kv_head, head_dim)
    int64_t window;
};

struct Model {
    int64_t n_layer, n_head, n_kv_head, head_dim, n_embd, vocab, max_len;
    int64_t smear_channels, gate_channels, middle;
    float qk_scale, softcap;
    const float *embedding, *cosines, *sines;  // the last two (positions, head_dim / 2)
    const float *smear_gate, *smear_scale, *residual_scales, *embedding_scales, *backout_scale;
    const Layer *layers;
    Matrix head;
};

static Lanes load(const float *p) { return *(const Lanes *)p; }
static Lanes load(const int8_t *p) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif defined(__AVX2__)
    return (Lanes)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
    return __builtin_convertvector(*(const Bytes *)p, Lanes);
#endif
}

// R rows of x (R, K) times V vectors of each of K rows of weights: what is fetched serves all R.
template <int R, int V, class Weight>
static void tile(const float *x, const Weight *weights, int64_t stride, const float *scales,
                 int64_t K, float *y, int64_t N) {
    Lanes sums[R][V] = {};
    for (int64_t k = 0; k < K; k++) {
        Lanes w[V];
        for (int v = 0; v < V; v++) w[v] = load(weights + k * stride + v * LANES);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sums[r][v] += x[r * K + k] * w[v];
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) {
            Lanes scale = scales ? load(scales + v * LANES) : Lanes{} + 1;
            *(Lanes *)(y + r * N + v * LANES) = sums[r][v] * scale;
        }
}

template <class Weight>
static void panels(const float *x, const Matrix &m, int64_t rows, float *y) {
    constexpr int V = PANEL / LANES;
    int64_t K = m.n_in, N = m.n_out, r;
    for (int64_t n = 0; n < N; n += PANEL) {
        const float *scales = m.scales ? m.scales + n : nullptr;
        const Weight *panel = (const Weight *)m.weights + n * K;
        r = 0;
        for (; sizeof(Weight) == 1 && r + 4 <= rows; r += 4)  // bytes become floats once for four
            for (int64_t i = 0; i < PANEL; i += 2 * LANES)
                tile<4, 2>(x + r * K, panel + i, PANEL, scales + i, K, y + r * N + n + i, N);
        for (; r + 2 <= rows; r += 2)
            tile<2, V>(x + r * K, panel, PANEL, scales, K, y + r * N + n, N);
        if (r < rows) tile<1, V>(x + r * K, panel, PANEL, scales, K, y + r * N + n, N);
    }
}

// x (rows, n_in) -> y (rows, n_out)
static void multiply(const float *x, const Matrix &m, int64_t rows, float *y) {
    m.scales ? panels<int8_t>(x, m, rows, y) : panels<float>(x, m, rows, y);
}

static float dot(const float *a, const float *b, int64_t n) {
    Lanes sums = {};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sums += load(a + i) * load(b + i);
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static float sigmoid(float z) { return 1 / (1 + std::exp(-z)); }

static void norm(const float *x, float *y, int64_t n, float scale = 1) {
    scale /= std::sqrt(dot(x, x, n) / n + 1.1920929e-7f);
    for (int64_t i = 0; i < n; i++) y[i] = scale * x[i];
}

static void rotate_and_norm(const Model &m, float *x, int64_t position) {
    int64_t half = m.head_dim / 2;
    const float *cosine = m.cosines + position * half, *sine = m.sines + position * half;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = a * sine[i] + b * cosine[i];
    }
    norm(x, x, m.head_dim, m.qk_scale);
}

// One row's queries (H, D) look at `count` keys and values (count, Hkv, D) -> y (H, D). Loops over
// a width that the compiler knows are twice as fast: FIXED is D, or 0 where it is an unusual one.
template <int FIXED>
static void attend(const Model &m, const float *q, const float *keys, const float *values,
                   int64_t count, float *scores, float *y) {
    const int64_t D = FIXED ? FIXED : m.head_dim;
    int64_t H = m.n_head, group = H / m.n_kv_head, stride = m.n_kv_head * D;
    float scale = 1 / std::sqrt((float)D);
    for (int64_t s = 0; s < count; s++)  // all heads look at a key before the next one is fetched
        for (int64_t h = 0; h < H; h++)
            scores[h * count + s] = scale * dot(q + h * D, keys + s * stride + h / group * D, D);
    for (int64_t h = 0; h < H; h++) {
        float *p = scores + h * count, top = *std::max_element(p, p + count), sum = 0;
        for (int64_t s = 0; s < count; s++) p[s] = std::exp(p[s] - top);
        for (int64_t s = 0; s < count; s++) sum += p[s];
        for (int64_t s = 0; s < count; s++) p[s] /= sum;

        const float *v = values + h / group * D;
        int64_t i = 0;  // y = p times values, a product like that with a panel
        for (; i + 4 * LANES <= D; i += 4 * LANES)
            tile<1, 4>(p, v + i, stride, nullptr, count, y + h * D + i, D);
        for (; i + LANES <= D; i += LANES)
            tile<1, 1>(p, v + i, stride, nullptr, count, y + h * D + i, D);
        for (; i < D; i++) {
            y[h * D + i] = 0;
            for (int64_t s = 0; s < count; s++) y[h * D + i] += p[s] * v[s * stride + i];
        }
    }
}

// One row's attention in one layer: h (C) normed input, qkv its three products -> y (H, D).
static void attention(const Model &m, const Layer &l, int64_t row, int64_t id, int64_t position,
                      const float *h, float *qkv, float *scores, float *y) {
    int64_t D = m.head_dim, stride = m.n_kv_head * D, start = row * m.max_len * stride;
    float *k = qkv + m.n_head * D, *v = k + stride;
    for (int64_t head = 0; l.value_table && head < m.n_kv_head; head++) {
        float gate = 3 * sigmoid(dot(l.value_gate + head * m.gate_channels, h, m.gate_channels));
        for (int64_t i = head * D; i < (head + 1) * D; i++)
            v[i] += gate * l.value_table[id * stride + i];
    }
    for (int64_t head = 0; head < m.n_head + m.n_kv_head; head++)  // queries, then keys
        rotate_and_norm(m, qkv + head * D, position);
    std::copy(k, k + stride, l.keys + start + position * stride);
    std::copy(v, v + stride, l.values + start + position * stride);
    int64_t first = std::max<int64_t>(0, position - l.window);
    auto look = D == 32 ? attend<32> : D == 64 ? attend<64> : D == 128 ? attend<128> : attend<0>;
    look(m, qkv, l.keys + start + first * stride, l.values + start + first * stride,
         position - first + 1, scores, y);
}

// Rows begin .. end - 1, from embedding to logits.
static void decode_rows(const Model &m, int64_t begin, int64_t end, const int64_t *ids,
                        const int64_t *positions, float *previous, float *logits) {
    int64_t C = m.n_embd, Q = m.n_head * m.head_dim, rows = end - begin, size = rows * C;
    int64_t S = m.layers[0].qkv.n_out, O = m.layers[0].out.n_out, U = m.layers[0].up.n_out;
    std::vector<float> x(size), first(size), middle(size), h(size), scores(m.n_head * m.max_len);
    std::vector<float> qkv(rows * S), y(rows * Q), wide(rows * U), narrow(rows * O);
    auto normed = [&] { for (int64_t r = 0; r < rows; r++) norm(&x[r * C], &h[r * C], C); };
    auto add = [&] {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < C; i++) x[r * C + i] += narrow[r * O + i];
    };

    for (int64_t r = 0; r < rows; r++) {  // embedding, norm, smear
        float *before = previous + (begin + r) * C, *now = &h[r * C];
        norm(m.embedding + ids[begin + r] * C, now, C);
        float gate = *m.smear_scale * sigmoid(dot(m.smear_gate, now, m.smear_channels));
        for (int64_t i = 0; i < C; i++) first[r * C + i] = now[i] + gate * before[i];
        std::copy(now, now + C, before);
    }
    x = first;
    for (int64_t n = 0; n < m.n_layer; n++) {
        const Layer &l = m.layers[n];
        for (int64_t i = 0; i < size; i++)
            x[i] = m.residual_scales[n] * x[i] + m.embedding_scales[n] * first[i];
        normed();
        multiply(h.data(), l.qkv, rows, qkv.data());
        for (int64_t r = 0; r < rows; r++)
            attention(m, l, begin + r, ids[begin + r], positions[begin + r], &h[r * C], &qkv[r * S],
                      scores.data(), &y[r * Q]);
        multiply(y.data(), l.out, rows, narrow.data());
        add();
        normed();
        multiply(h.data(), l.up, rows, wide.data());
        for (float &z : wide) z = std::max(z, 0.f) * std::max(z, 0.f);
        multiply(wide.data(), l.down, rows, narrow.data());
        add();
        if (n == m.middle) middle = x;
    }
    for (int64_t i = 0; i < size; i++) x[i] -= *m.backout_scale * middle[i];
    normed();
    std::vector<float> scored(rows * m.head.n_out);
    multiply(h.data(), m.head, rows, scored.data());
    for (int64_t r = 0; r < rows; r++)
        for (int64_t v = 0; v < m.vocab; v++)  // softcap: c tanh(z / c), tanh written with exp
            logits[(begin + r) * m.vocab + v] =
                m.softcap * (1 - 2 / (std::exp(2 / m.softcap * scored[r * m.head.n_out + v]) + 1));
}

// ids and positions (rows,): each row's newest token and where it stands. previous (rows, C): the
// embedding before it, which its own replaces. logits (rows, vocab): the scores of what comes next.
extern "C" void decode(const Model *model, int64_t rows, int64_t threads, const int64_t *ids,
                       const int64_t *positions, float *previous, float *logits) {
    int64_t share = (rows + threads - 1) / threads;
    in_parallel(threads, threads, [&](int64_t part) {
        int64_t begin = std::min(rows, part * share), end = std::min(rows, begin + share);
        if (begin < end) decode_rows(*model, begin, end, ids, positions, previous, logits);
    });
}
