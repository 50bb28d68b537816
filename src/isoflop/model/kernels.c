// What a training step does between its matrix products, on one thread: norms, softmax, GELU, cross-entropy, the sum of
// gradients and AdamW. Every function is called on one thread and adds in one order, so equal inputs give equal bits.
//
// Vectors of 16 floats through the compilers' vector extension (GCC, Clang), whatever the processor's own width; rows
// whose length is no multiple of 16 end in a vector padded with zeros. Where an argument is `half`, non-zero means that
// the untyped arrays beside it hold bf16, zero fp32.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));
typedef int64_t l16 __attribute__((vector_size(128)));
typedef double d16 __attribute__((vector_size(128)));

#define INLINE static inline __attribute__((always_inline))
#define SELECT(mask, a, b) ((v16)(((i16)(a) & (mask)) | ((i16)(b) & ~(mask))))

INLINE size_t left(size_t i, size_t n) { return n - i < 16 ? n - i : 16; }

INLINE v16 load(const void *from, size_t i, size_t n, int half) {
    size_t k = left(i, n);
    if (half) {
        h16 h = {0};
        if (k == 16) memcpy(&h, (const uint16_t *)from + i, 32);
        else memcpy(&h, (const uint16_t *)from + i, 2 * k);
        return (v16)(__builtin_convertvector(h, u16) << 16);
    }
    v16 x = {0};
    if (k == 16) memcpy(&x, (const float *)from + i, 64);
    else memcpy(&x, (const float *)from + i, 4 * k);
    return x;
}

INLINE void store(void *to, size_t i, size_t n, int half, v16 x) {
    size_t k = left(i, n);
    if (half) {
        u16 u = (u16)x;
        u = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // to nearest, ties to even
        h16 h = __builtin_convertvector(u, h16);
        if (k == 16) memcpy((uint16_t *)to + i, &h, 32);
        else memcpy((uint16_t *)to + i, &h, 2 * k);
    } else if (k == 16) memcpy((float *)to + i, &x, 64);
    else memcpy((float *)to + i, &x, 4 * k);
}

INLINE const void *row(const void *base, size_t elements, int half) { return (const char *)base + elements * (half ? 2 : 4); }
INLINE void *row_out(void *base, size_t elements, int half) { return (char *)base + elements * (half ? 2 : 4); }

INLINE float sum(v16 x) {
    float s = 0;
    for (int k = 0; k < 8; k++) s += x[k] + x[k + 8];
    return s;
}

INLINE float largest(v16 x) {
    float m = x[0];
    for (int k = 1; k < 16; k++) m = x[k] > m ? x[k] : m;
    return m;
}

// Lanes i .. i + 15 that lie below n.
INLINE i16 below(size_t i, size_t n) {
    i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return lane < (int32_t)(n > i ? (n - i < 16 ? n - i : 16) : 0);
}

// e^x to about one unit in the last place: 2^n e^r with |r| <= ln(2) / 2, coefficients of Cephes' expf (Moshier 1989).
INLINE v16 exponential(v16 x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
    x = SELECT(x < -87.0f, (v16){0} - 87.0f, x);
    x = SELECT(x > 88.0f, (v16){0} + 88.0f, x);
    v16 shifted = x * 1.44269504f + magic;
    v16 n = shifted - magic;
    v16 r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    v16 y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    i16 power = ((i16)shifted - (int32_t)0x4b400000 + 127) << 23;
    return y * (v16)power;
}

// The cumulative normal distribution and its density: erfc by Abramowitz and Stegun 7.1.26, within 1.5e-7 of the truth.
INLINE void normal(v16 x, v16 *cumulative, v16 *density) {
    v16 size = SELECT(x < 0.0f, -x, x);
    v16 bell = exponential(-0.5f * x * x);
    v16 t = 1.0f / (1.0f + 0.2316418881f * size);  // 0.3275911 / sqrt(2)
    v16 tail = t * 1.061405429f - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = (tail * t + 0.254829592f) * t * 0.5f * bell;
    *cumulative = SELECT(x < 0.0f, tail, 1.0f - tail);
    *density = bell * 0.3989422804f;
}

// Rows of `tokens` (V, d) and `positions` (T, d), fp32, added and multiplied: out (rows, d), row r at position r % T.
void embed(size_t rows, size_t d, size_t T, const int64_t *ids, const float *tokens, const float *positions,
           float multiplier, float *out) {
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < d; i += 16)
            store(out + r * d, i, d, 0,
                  (load(tokens + ids[r] * d, i, d, 0) + load(positions + r % T * d, i, d, 0)) * multiplier);
}

// x + update + bias, one row after the other; then the norm of the sum where `out` is given.
INLINE void add_rows(int half, size_t rows, size_t d, const float *x, const void *update, const float *bias, float *total,
                     const float *gain, const float *shift, void *out, float *mean, float *scale) {
    for (size_t r = 0; r < rows; r++) {
        const float *xr = x + r * d;
        float *tr = total ? total + r * d : NULL;
        const void *ur = update ? row(update, r * d, half) : NULL;
        v16 s = {0};
        for (size_t i = 0; i < d; i += 16) {
            v16 v = load(xr, i, d, 0);
            if (update) {
                v = v + load(ur, i, d, half) + load(bias, i, d, 0);
                store(tr, i, d, 0, v);
            }
            s += v;
        }
        if (!out) continue;
        const float *from = update ? tr : xr;
        float m = sum(s) / d;
        v16 squares = {0};
        for (size_t i = 0; i < d; i += 16) {
            v16 c = SELECT(below(i, d), load(from, i, d, 0) - m, (v16){0});
            squares += c * c;
        }
        float k = 1.0f / sqrtf(sum(squares) / d + 1e-5f);
        mean[r] = m, scale[r] = k;
        void *or = row_out(out, r * d, half);
        for (size_t i = 0; i < d; i += 16)
            store(or, i, d, half, (load(from, i, d, 0) - m) * k * load(gain, i, d, 0) + load(shift, i, d, 0));
    }
}

void residual(int half, size_t rows, size_t d, const float *x, const void *update, const float *bias, float *total) {
    if (half) add_rows(1, rows, d, x, update, bias, total, NULL, NULL, NULL, NULL, NULL);
    else add_rows(0, rows, d, x, update, bias, total, NULL, NULL, NULL, NULL, NULL);
}

void layer_norm(int half, size_t rows, size_t d, const float *x, const float *gain, const float *shift, void *out,
                float *mean, float *scale) {
    if (half) add_rows(1, rows, d, x, NULL, NULL, NULL, gain, shift, out, mean, scale);
    else add_rows(0, rows, d, x, NULL, NULL, NULL, gain, shift, out, mean, scale);
}

void residual_layer_norm(int half, size_t rows, size_t d, const float *x, const void *update, const float *bias,
                         float *total, const float *gain, const float *shift, void *out, float *mean, float *scale) {
    if (half) add_rows(1, rows, d, x, update, bias, total, gain, shift, out, mean, scale);
    else add_rows(0, rows, d, x, update, bias, total, gain, shift, out, mean, scale);
}

// dx += gradient of the norm's input; d_gain and d_shift (d) += theirs; `cast` gets dx in the precision of products and
// d_cast_bias (d) += its column sums: the gradient of the bias that was added where dx flows next.
INLINE void norm_backward(int half, size_t rows, size_t d, const void *dy, const float *x, const float *mean,
                          const float *scale, const float *gain, float *dx, float *d_gain, float *d_shift, void *cast,
                          float *d_cast_bias) {
    for (size_t r = 0; r < rows; r++) {
        const void *dyr = row(dy, r * d, half);
        const float *xr = x + r * d;
        float *dxr = dx + r * d;
        float m = mean[r], k = scale[r];
        v16 s = {0}, sx = {0};
        for (size_t i = 0; i < d; i += 16) {
            v16 g = load(dyr, i, d, half), h = (load(xr, i, d, 0) - m) * k;
            store(d_gain, i, d, 0, load(d_gain, i, d, 0) + g * h);
            store(d_shift, i, d, 0, load(d_shift, i, d, 0) + g);
            g = g * load(gain, i, d, 0);
            s += g, sx += g * h;
        }
        float c = sum(s) / d, cx = sum(sx) / d;
        for (size_t i = 0; i < d; i += 16) {
            v16 g = load(dyr, i, d, half) * load(gain, i, d, 0), h = (load(xr, i, d, 0) - m) * k;
            v16 v = load(dxr, i, d, 0) + k * (g - c - h * cx);
            store(dxr, i, d, 0, v);
            if (cast) {
                store(row_out(cast, r * d, half), i, d, half, v);
                store(d_cast_bias, i, d, 0, load(d_cast_bias, i, d, 0) + v);
            }
        }
    }
}

void layer_norm_backward(int half, size_t rows, size_t d, const void *dy, const float *x, const float *mean,
                         const float *scale, const float *gain, float *dx, float *d_gain, float *d_shift, void *cast,
                         float *d_cast_bias) {
    if (half) norm_backward(1, rows, d, dy, x, mean, scale, gain, dx, d_gain, d_shift, cast, d_cast_bias);
    else norm_backward(0, rows, d, dy, x, mean, scale, gain, dx, d_gain, d_shift, cast, d_cast_bias);
}

// (B T, 3 d) + bias -> q, k, v, each (B, H, T, d_head), one after the other in `out`.
INLINE void split(int half, size_t B, size_t T, size_t H, size_t dh, const void *in, const float *bias, void *out) {
    size_t d = H * dh, size = half ? 2 : 4;
    char *whole = malloc(3 * d * size);
    for (size_t b = 0; b < B; b++)
        for (size_t t = 0; t < T; t++) {
            const void *from = row(in, (b * T + t) * 3 * d, half);
            for (size_t i = 0; i < 3 * d; i += 16)
                store(whole, i, 3 * d, half, load(from, i, 3 * d, half) + load(bias, i, 3 * d, 0));
            for (size_t part = 0; part < 3; part++)
                for (size_t h = 0; h < H; h++)
                    memcpy((char *)out + (((part * B + b) * H + h) * T + t) * dh * size, whole + (part * d + h * dh) * size,
                           dh * size);
        }
    free(whole);
}

void split_heads(int half, size_t B, size_t T, size_t H, size_t dh, const void *in, const float *bias, void *out) {
    if (half) split(1, B, T, H, dh, in, bias, out);
    else split(0, B, T, H, dh, in, bias, out);
}

// The way back for gradients: three (B, H, T, d_head) -> (B T, 3 d), and d_bias (3 d) += column sums.
INLINE void join(int half, size_t B, size_t T, size_t H, size_t dh, const void *in, void *out, float *d_bias) {
    size_t d = H * dh, size = half ? 2 : 4;
    for (size_t b = 0; b < B; b++)
        for (size_t t = 0; t < T; t++) {
            char *whole = row_out(out, (b * T + t) * 3 * d, half);
            for (size_t part = 0; part < 3; part++)
                for (size_t h = 0; h < H; h++)
                    memcpy(whole + (part * d + h * dh) * size,
                           (const char *)in + (((part * B + b) * H + h) * T + t) * dh * size, dh * size);
            for (size_t i = 0; i < 3 * d; i += 16)
                store(d_bias, i, 3 * d, 0, load(d_bias, i, 3 * d, 0) + load(whole, i, 3 * d, half));
        }
}

void join_heads(int half, size_t B, size_t T, size_t H, size_t dh, const void *in, void *out, float *d_bias) {
    if (half) join(1, B, T, H, dh, in, out, d_bias);
    else join(0, B, T, H, dh, in, out, d_bias);
}

// (A, M, K, d_head) -> (A, K, M, d_head), copied: heads before positions, or the other way round.
void swap_heads(int half, size_t A, size_t M, size_t K, size_t dh, const void *in, void *out) {
    size_t bytes = dh * (half ? 2 : 4);
    for (size_t a = 0; a < A; a++)
        for (size_t m = 0; m < M; m++)
            for (size_t k = 0; k < K; k++)
                memcpy((char *)out + ((a * K + k) * M + m) * bytes, (const char *)in + ((a * M + m) * K + k) * bytes, bytes);
}

// Scores (heads, queries, keys) in place to probabilities; query q sees the keys 0 .. first + q.
INLINE void soften(int half, size_t heads, size_t queries, size_t keys, size_t first, float scale, void *scores) {
    float *e = aligned_alloc(64, (4 * keys + 127) / 64 * 64);
    for (size_t r = 0; r < heads * queries; r++) {
        void *sr = row_out(scores, r * keys, half);
        size_t n = first + r % queries + 1;
        v16 m = (v16){0} - INFINITY;
        for (size_t i = 0; i < n; i += 16) {
            v16 s = SELECT(below(i, n), load(sr, i, keys, half), (v16){0} - INFINITY);
            m = SELECT(s > m, s, m);
        }
        float top = largest(m);
        v16 total = {0};
        for (size_t i = 0; i < n; i += 16) {
            v16 x = exponential((load(sr, i, keys, half) - top) * scale);
            x = SELECT(below(i, n), x, (v16){0});
            memcpy(e + i, &x, 64);
            total += x;
        }
        float share = 1.0f / sum(total);
        for (size_t i = 0; i < keys; i += 16) {
            v16 x = {0};
            if (i < n) memcpy(&x, e + i, 64);
            store(sr, i, keys, half, x * share);
        }
    }
    free(e);
}

void causal_softmax(int half, size_t heads, size_t queries, size_t keys, size_t first, float scale, void *scores) {
    if (half) soften(1, heads, queries, keys, first, scale, scores);
    else soften(0, heads, queries, keys, first, scale, scores);
}

// Gradient by probabilities, in place to gradient by scores: p (dp - sum p dp) scale.
INLINE void soften_backward(int half, size_t heads, size_t queries, size_t keys, size_t first, float scale, const void *p,
                            void *dp) {
    for (size_t r = 0; r < heads * queries; r++) {
        const void *pr = row(p, r * keys, half);
        void *dr = row_out(dp, r * keys, half);
        size_t n = first + r % queries + 1;
        v16 total = {0};
        for (size_t i = 0; i < n; i += 16) total += load(pr, i, keys, half) * load(dr, i, keys, half);
        float mean = sum(total);
        for (size_t i = 0; i < keys; i += 16) {
            v16 x = {0};
            if (i < n) x = load(pr, i, keys, half) * (load(dr, i, keys, half) - mean) * scale;
            store(dr, i, keys, half, x);
        }
    }
}

void causal_softmax_backward(int half, size_t heads, size_t queries, size_t keys, size_t first, float scale,
                             const void *p, void *dp) {
    if (half) soften_backward(1, heads, queries, keys, first, scale, p, dp);
    else soften_backward(0, heads, queries, keys, first, scale, p, dp);
}

// Exact GELU of u + bias.
INLINE void activate(int half, size_t rows, size_t d, const void *u, const float *bias, void *out) {
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < d; i += 16) {
            v16 x = load(row(u, r * d, half), i, d, half) + load(bias, i, d, 0), cumulative, density;
            normal(x, &cumulative, &density);
            store(row_out(out, r * d, half), i, d, half, x * cumulative);
        }
}

void gelu(int half, size_t rows, size_t d, const void *u, const float *bias, void *out) {
    if (half) activate(1, rows, d, u, bias, out);
    else activate(0, rows, d, u, bias, out);
}

// `gradient` by GELU's output, in place to that by u; d_bias (d) += its column sums. `out`, if given, gets the output.
INLINE void activate_backward(int half, int again, size_t rows, size_t d, const void *u, const float *bias,
                              void *gradient, float *d_bias, void *out) {
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < d; i += 16) {
            v16 x = load(row(u, r * d, half), i, d, half) + load(bias, i, d, 0), cumulative, density;
            normal(x, &cumulative, &density);
            if (again) store(row_out(out, r * d, half), i, d, half, x * cumulative);
            void *gr = row_out(gradient, r * d, half);
            v16 g = load(gr, i, d, half) * (cumulative + x * density);
            store(gr, i, d, half, g);
            store(d_bias, i, d, 0, load(d_bias, i, d, 0) + g);
        }
}

void gelu_backward(int half, size_t rows, size_t d, const void *u, const float *bias, void *gradient, float *d_bias,
                   void *out) {
    if (half && out) activate_backward(1, 1, rows, d, u, bias, gradient, d_bias, out);
    else if (half) activate_backward(1, 0, rows, d, u, bias, gradient, d_bias, out);
    else if (out) activate_backward(0, 1, rows, d, u, bias, gradient, d_bias, out);
    else activate_backward(0, 0, rows, d, u, bias, gradient, d_bias, out);
}

// x in the precision of products, and sums (d) += its columns.
void cast_rows(int half, size_t rows, size_t d, const float *x, void *out, float *sums) {
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < d; i += 16) {
            v16 v = load(x + r * d, i, d, 0);
            if (half) store((uint16_t *)out + r * d, i, d, 1, v);
            else store((float *)out + r * d, i, d, 0, v);
            store(sums, i, d, 0, load(sums, i, d, 0) + v);
        }
}

// Nats of each target under softmax(logits * scale); with `gradient`, logits become its gradient by them.
INLINE void entropy(int half, size_t rows, size_t V, float scale, void *logits, const int64_t *targets, int gradient,
                    float *nats) {
    float *e = aligned_alloc(64, (4 * V + 127) / 64 * 64);
    for (size_t r = 0; r < rows; r++) {
        void *lr = row_out(logits, r * V, half);
        v16 m = (v16){0} - INFINITY;
        for (size_t i = 0; i < V; i += 16) {
            v16 s = SELECT(below(i, V), load(lr, i, V, half), (v16){0} - INFINITY);
            m = SELECT(s > m, s, m);
        }
        float top = largest(m);
        v16 total = {0};
        for (size_t i = 0; i < V; i += 16) {
            v16 x = SELECT(below(i, V), exponential((load(lr, i, V, half) - top) * scale), (v16){0});
            memcpy(e + i, &x, 64);
            total += x;
        }
        size_t target = (size_t)targets[r];
        float whole = sum(total), hit = load(lr, target, V, half)[0];
        nats[r] = logf(whole) - (hit - top) * scale;
        if (!gradient) continue;
        e[target] -= whole;
        float share = scale / whole;
        for (size_t i = 0; i < V; i += 16) {
            v16 x;
            memcpy(&x, e + i, 64);
            store(lr, i, V, half, x * share);
        }
    }
    free(e);
}

void cross_entropy(int half, size_t rows, size_t V, float scale, void *logits, const int64_t *targets, int gradient,
                   float *nats) {
    if (half) entropy(1, rows, V, scale, logits, targets, gradient, nats);
    else entropy(0, rows, V, scale, logits, targets, gradient, nats);
}

// sums += gradient * scale, in fixed point or fp32; returns the largest bits of |gradient * scale|, by which
// NaN > Inf > numbers.
INLINE uint32_t add_scaled(int fixed, int half, size_t n, const void *gradient, float scale, void *sums) {
    u16 top = {0};
    for (size_t i = 0; i < n; i += 16) {
        v16 x = load(gradient, i, n, half) * scale;
        u16 bits = (u16)x & 0x7fffffff;
        i16 more = bits > top;
        top = (bits & (u16)more) | (top & ~(u16)more);
        if (!fixed) {
            store(sums, i, n, 0, load(sums, i, n, 0) + x);
            continue;
        }
        l16 whole = __builtin_convertvector(x, l16), s = {0};
        size_t bytes = 8 * left(i, n);
        int64_t *at = (int64_t *)sums + i;
        if (bytes == 128) {
            memcpy(&s, at, 128);
            s += whole;
            memcpy(at, &s, 128);
        } else {
            memcpy(&s, at, bytes);
            s += whole;
            memcpy(at, &s, bytes);
        }
    }
    uint32_t m = 0;
    for (int k = 0; k < 16; k++) m = top[k] > m ? top[k] : m;
    return m;
}

uint32_t add_gradient(int fixed, int half, size_t n, const void *gradient, float scale, void *sums) {
    if (fixed) return half ? add_scaled(1, 1, n, gradient, scale, sums) : add_scaled(1, 0, n, gradient, scale, sums);
    return half ? add_scaled(0, 1, n, gradient, scale, sums) : add_scaled(0, 0, n, gradient, scale, sums);
}

// The same for rows (rows, d) fp32 that belong to the rows `ids` of sums.
uint32_t scatter_gradient(int fixed, size_t rows, size_t d, const int64_t *ids, const float *gradient, float scale,
                          void *sums) {
    uint32_t top = 0;
    for (size_t r = 0; r < rows; r++) {
        void *row = fixed ? (void *)((int64_t *)sums + ids[r] * d) : (void *)((float *)sums + ids[r] * d);
        uint32_t one = add_gradient(fixed, 0, d, gradient + r * d, scale, row);
        top = one > top ? one : top;
    }
    return top;
}

// Sum of squares of sums * unit, in fp64.
double squares(int fixed, size_t n, const void *sums, float unit) {
    double total[8] = {0};
    for (size_t i = 0; i < n; i++) {
        double x = (fixed ? (double)((const int64_t *)sums)[i] : (double)((const float *)sums)[i]) * unit;
        total[i & 7] += x * x;
    }
    return ((total[0] + total[4]) + (total[1] + total[5])) + ((total[2] + total[6]) + (total[3] + total[7]));
}

INLINE void adamw_on(int fixed, size_t n, void *sums, float unit, float clip, float *w, float *m, float *v,
                     uint16_t *image, float beta1, float beta2, float eps, float keep, float step, float root) {
    for (size_t i = 0; i < n; i += 16) {
        v16 g;
        if (fixed) {
            l16 s = {0};
            memcpy(&s, (int64_t *)sums + i, 8 * left(i, n));
            memset((int64_t *)sums + i, 0, 8 * left(i, n));
            g = __builtin_convertvector(s, v16) * unit * clip;
        } else {
            g = load(sums, i, n, 0) * clip;
            memset((float *)sums + i, 0, 4 * left(i, n));
        }
        v16 a = load(m, i, n, 0), b = load(v, i, n, 0), x = load(w, i, n, 0);
        a = a + (g - a) * (1 - beta1);
        b = b * beta2 + g * g * (1 - beta2);
        v16 width;
        for (int k = 0; k < 16; k++) width[k] = sqrtf(b[k]);
        x = x * keep - step * a / (width * root + eps);
        store(m, i, n, 0, a);
        store(v, i, n, 0, b);
        store(w, i, n, 0, x);
        if (image) store(image, i, n, 1, x);
    }
}

// AdamW (Loshchilov and Hutter 2019, algorithm 2) on elements whose gradient is sums * unit * clip; clears sums.
// keep = 1 - rate * decay, step = rate / (1 - beta1^t), root = 1 / sqrt(1 - beta2^t); image is w in bf16 where given.
void adamw(int fixed, size_t n, void *sums, float unit, float clip, float *w, float *m, float *v, uint16_t *image,
           float beta1, float beta2, float eps, float keep, float step, float root) {
    if (fixed) adamw_on(1, n, sums, unit, clip, w, m, v, image, beta1, beta2, eps, keep, step, root);
    else adamw_on(0, n, sums, unit, clip, w, m, v, image, beta1, beta2, eps, keep, step, root);
}
