// Causal attention and its gradient in bf16, on one thread, for processors with AVX512-BF16; compiled behind products.c.
//
// One head at a time. Queries, keys and their gradients lie in memory of the core's caches; what a product multiplies
// is laid out once a head in the order in which `tile` reads it. Softmax follows the scores while they are in the cache,
// and gradients by scores are made of the products in registers. Above the diagonal nothing is computed but what shares
// a tile with it. Every sum has one order, which only the sizes of the problem decide.
//
// Letters: B sequences of T tokens, H heads of width dh. `rows` is T and `d` is dh up to the next multiple of 16; what
// was added to them is zero.

#ifdef __AVX512BF16__

enum {
    PANEL = 64,    // keys whose scores are made, or whose gradients are added to, at once
    QUERIES = 128, // of a block of shares, as in fused.py
    SOFT = 32,     // queries whose scores are in the cache together, before their softmax
    CHUNK = 128,   // keys whose values are in the first cache while these queries' outputs add them up
};

// Of the shares of a head.
INLINE size_t share_pairs(size_t rows) {
    size_t pairs = 0;
    for (size_t first = 0; first < rows; first += QUERIES) {
        size_t last = least(rows, first + QUERIES);
        pairs += (last - first) * last / 2;
    }
    return pairs;
}

// To memory and past the caches, where it lies so that it can: it is long before anyone reads it again.
INLINE void keep(uint32_t *to, __m512i x) {
    if ((uintptr_t)to % 64) _mm512_storeu_si512(to, x);
    else _mm512_stream_si512((void *)to, x);
}

// (T, dh), `stride` apart -> (rows, d).
static void lay_rows(size_t T, size_t dh, size_t stride, const uint16_t *from, uint16_t *to) {
    size_t rows = up16(T), d = up16(dh);
    if (d != dh) memset(to, 0, rows * d * 2);
    else memset(to + T * d, 0, (rows - T) * d * 2);
    for (size_t t = 0; t < T; t++) memcpy(to + t * d, from + t * stride, dh * 2);
}

// (rows, d) -> pairs of rows, (rows / 2, d).
static void lay_pairs(size_t rows, size_t d, const uint16_t *from, uint32_t *to) {
    for (size_t t = 0; t < rows; t += 2)
        for (size_t i = 0; i < d; i += 16) {
            __m256i upper = _mm256_loadu_si256((const void *)(from + t * d + i));
            __m256i lower = _mm256_loadu_si256((const void *)(from + (t + 1) * d + i));
            _mm512_storeu_si512(to + t / 2 * d + i, as_pairs(upper, lower));
        }
}

// (rows, d) -> panels of at most `PANEL` rows side by side, each (d / 2, rows of the panel) pairs.
static void lay_panels(size_t rows, size_t d, const uint16_t *from, uint32_t *to) {
    const uint32_t *pairs = (const uint32_t *)from;
    for (size_t first = 0; first < rows; first += PANEL) {
        size_t width = least(PANEL, rows - first);
        uint32_t *panel = to + first * d / 2;
        for (size_t t = 0; t < width; t++)
            for (size_t i = 0; i < d / 2; i++) panel[i * width + t] = pairs[(first + t) * d / 2 + i];
    }
}

// 2^x to 3e-7 of it: a polynomial between -1/2 and 1/2, of least squares at Chebyshev's points.
INLINE __m512 power_of_two(__m512 x) {
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.34004327e-3f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.67217144e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.55032715e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.40222275e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.93147182e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

// e (`end`, a multiple of 16) = e^(scale (e - the largest)) of the first n, and zeros; returns one over their sum.
// `scale` is in powers of two.
INLINE float exponentials(size_t n, size_t end, float scale, float *e) {
    size_t whole = n / 16 * 16;
    __m512 most = _mm512_set1_ps(-INFINITY), more = most, total = _mm512_setzero_ps(), by = _mm512_set1_ps(scale);
    __mmask16 rest = (__mmask16)((1u << (n - whole)) - 1);
    for (size_t i = 0; i < whole; i += 16) {
        __m512 x = _mm512_loadu_ps(e + i);
        if (i & 16) more = _mm512_max_ps(more, x);  // two at once: each waits for its last
        else most = _mm512_max_ps(most, x);
    }
    most = _mm512_max_ps(most, more);
    if (rest) most = _mm512_mask_max_ps(most, rest, most, _mm512_loadu_ps(e + whole));
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (size_t i = 0; i < whole; i += 16) {
        __m512 x = power_of_two(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(e + i), most), by));
        _mm512_storeu_ps(e + i, x);
        total = _mm512_add_ps(total, x);
    }
    for (size_t i = whole; i < end; i += 16, rest = 0) {
        __m512 x = power_of_two(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(e + i), most), by));
        x = _mm512_maskz_mov_ps(rest, x);
        _mm512_storeu_ps(e + i, x);
        total = _mm512_add_ps(total, x);
    }
    return 1.0f / _mm512_reduce_add_ps(total);
}

// scale x (n, d) -> (n, dh), `stride` apart, and `totals` (dh) += its columns where they are given.
static void store_rows(size_t n, size_t d, size_t dh, float scale, const float *from, uint16_t *to, size_t stride,
                       float *totals) {
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < dh; i += 16) {
            v16 x = load(from + t * d, i, d, 0) * scale;
            store(to + t * stride, i, dh, 1, x);
            if (totals) store(totals, i, dh, 0, load(totals, i, dh, 0) + x);
        }
}

// One head: q, k, v (T, dh) -> `out` (T, dh), its rows `stride` apart. `shares` gets the softmax by blocks of queries,
// in each panels of keys, in each pairs of queries side by side: (panels, queries / 2, keys of the panel).
static void attend_head(size_t T, size_t dh, float scale, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                        uint32_t *shares, uint16_t *out, size_t stride, char *scratch) {
    size_t rows = up16(T), d = up16(dh), size = rows * d * 2;
    // A line more than the keys: equal columns of neighbouring rows would share a place in the first cache.
    size_t wide = rows + 16, narrow = rows / 2 + 16;
    uint16_t *queries = (uint16_t *)scratch, *plain = (uint16_t *)(scratch + size);
    uint32_t *keys = (uint32_t *)(scratch + 2 * size), *values = (uint32_t *)(scratch + 3 * size);
    float *scores = (float *)(scratch + 4 * size), *sums = scores + SOFT * wide;
    uint32_t *p = (uint32_t *)(sums + SOFT * d);
    lay_rows(T, dh, dh, q, queries);
    lay_rows(T, dh, dh, k, plain);
    lay_panels(rows, d, plain, keys);
    lay_rows(T, dh, dh, v, plain);
    lay_pairs(rows, d, plain, values);
    for (size_t first = 0; first < rows; first += SOFT) {
        size_t n = least(SOFT, rows - first), block = first / QUERIES * QUERIES;
        size_t height = least(QUERIES, rows - block);
        if (first == block && first) shares += QUERIES * block / 2;
        for (size_t key = 0; key < first + n; key += PANEL) {
            size_t width = least(PANEL, rows - key);
            for (size_t i = 0; i < width; i += 32)
                for (size_t r = 0; r < n; r += TILE) {
                    size_t end = up16(first + r + TILE);
                    if (key + i >= end) continue;
                    const uint32_t *a = (const uint32_t *)(queries + (first + r) * d), *b = keys + key * d / 2 + i;
                    float *c = scores + r * wide + key + i;
                    if (end - key - i > 16) product(2, 0, d / 2, a, d / 2, 1, b, width, c, wide);
                    else product(1, 0, d / 2, a, d / 2, 1, b, width, c, wide);
                }
        }
        for (size_t r = 0; r < n; r += 2) {
            size_t end = up16(first + r / TILE * TILE + TILE);
            float *upper = scores + r * wide, *lower = upper + wide;
            float over = exponentials(first + r + 1, end, scale, upper), under = exponentials(first + r + 2, end, scale, lower);
            uint16_t *to = (uint16_t *)(p + r * narrow);
            for (size_t key = 0; key < end; key += PANEL) {
                size_t width = least(PANEL, least(rows, block + QUERIES) - key), most = least(width, end - key);
                uint32_t *share = shares + key * height / 2 + (first + r - block) / 2 * width;
                for (size_t i = 0; i < most; i += 16) {
                    __m512 x = _mm512_mul_ps(_mm512_loadu_ps(upper + key + i), _mm512_set1_ps(over));
                    __m512 y = _mm512_mul_ps(_mm512_loadu_ps(lower + key + i), _mm512_set1_ps(under));
                    __m256i a = (__m256i)_mm512_cvtneps_pbh(x), b = (__m256i)_mm512_cvtneps_pbh(y);
                    _mm256_storeu_si256((void *)(to + key + i), a);
                    _mm256_storeu_si256((void *)(to + 2 * narrow + key + i), b);
                    keep(share + i, as_pairs(a, b));
                }
            }
        }
        memset(sums, 0, n * d * 4);
        for (size_t key = 0; key < first + n; key += CHUNK)
            for (size_t i = 0; i < d; i += 32)
                for (size_t r = 0; r < n; r += TILE) {
                    if (key >= first + r + TILE) continue;
                    size_t pairs = least(CHUNK, first + r + TILE - key) / 2;
                    const uint32_t *a = p + r * narrow + key / 2, *b = values + key / 2 * d + i;
                    if (d - i > 16) product(2, 1, pairs, a, narrow, 1, b, d, sums + r * d + i, d);
                    else product(1, 1, pairs, a, narrow, 1, b, d, sums + r * d + i, d);
                }
        if (first < T) store_rows(least(n, T - first), d, dh, 1, sums, out + first * stride, stride, NULL);
    }
}

// (8, 16 N) gradients by scores, but for their scale, in both layouts: rows, and pairs of rows.
INLINE void by_scores(int N, size_t pairs, const uint16_t *d_out, size_t d, const uint32_t *values, size_t width,
                      const float *means, const uint32_t *share, uint16_t *ds, uint32_t *ds_pairs) {
    __m512 s[TILE][2];
    for (int m = 0; m < TILE; m++)
        for (int n = 0; n < N; n++) s[m][n] = _mm512_set1_ps(-means[m]);
    tile(N, pairs, (const uint32_t *)d_out, d / 2, 1, values, width, s);
    for (int m = 0; m < TILE; m += 2)
        for (int n = 0; n < N; n++) {
            __m512i both = _mm512_loadu_si512(share + m / 2 * width + 16 * n);
            __m512 upper = (__m512)_mm512_slli_epi32(both, 16);
            __m512 lower = (__m512)_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000));
            __m256i a = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(upper, s[m][n]));
            __m256i b = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(lower, s[m + 1][n]));
            _mm256_storeu_si256((void *)(ds + m * PANEL + 16 * n), a);
            _mm256_storeu_si256((void *)(ds + (m + 1) * PANEL + 16 * n), b);
            _mm512_storeu_si512(ds_pairs + m / 2 * PANEL + 16 * n, as_pairs(a, b));
        }
}

// The rows of `sums` of a panel's keys += a^T b over the block's queries from each key's own on: pairs of rows of a lie
// `stride` apart, those of b are of all queries.
INLINE void add_to_keys(size_t n, size_t first, size_t key, size_t width, const uint32_t *a, size_t stride,
                        const uint32_t *b, size_t d, float *sums) {
    for (size_t i = 0; i < d; i += 32)
        for (size_t c = 0; c < width; c += TILE) {
            size_t from = key + c > first ? key + c - first : 0, pairs = (n - from) / 2;
            const uint32_t *down = a + from / 2 * stride + c, *across = b + (first + from) / 2 * d + i;
            float *to = sums + (key + c) * d + i;
            if (d - i > 16) product(2, 1, pairs, down, 1, stride, across, d, to, d);
            else product(1, 1, pairs, down, 1, stride, across, d, to, d);
        }
}

// The gradients of `attend_head`, of `d_out` and with the `out` that it gave.
static void attend_head_backward(size_t T, size_t dh, float scale, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                                 const uint32_t *shares, const uint16_t *out, const uint16_t *d_out, size_t stride,
                                 uint16_t *dq, uint16_t *dk, uint16_t *dv, size_t d_stride, float *dq_total,
                                 float *dk_total, float *dv_total, char *scratch) {
    size_t rows = up16(T), d = up16(dh), size = rows * d * 2;
    uint16_t *plain = (uint16_t *)scratch, *outer = (uint16_t *)(scratch + size);
    uint32_t *values = (uint32_t *)(scratch + 2 * size), *keys = (uint32_t *)(scratch + 3 * size);
    uint32_t *queries = (uint32_t *)(scratch + 4 * size), *outer_pairs = (uint32_t *)(scratch + 5 * size);
    float *by_keys = (float *)(scratch + 6 * size), *by_values = by_keys + rows * d, *by_queries = by_values + rows * d;
    float *means = by_queries + QUERIES * d;
    uint32_t *ds_pairs = (uint32_t *)(means + rows);
    uint16_t *ds = (uint16_t *)(ds_pairs + QUERIES / 2 * PANEL);
    lay_rows(T, dh, dh, v, plain);
    lay_panels(rows, d, plain, values);
    lay_rows(T, dh, dh, k, plain);
    lay_pairs(rows, d, plain, keys);
    lay_rows(T, dh, dh, q, plain);
    lay_pairs(rows, d, plain, queries);
    lay_rows(T, dh, stride, d_out, outer);
    lay_pairs(rows, d, outer, outer_pairs);
    lay_rows(T, dh, stride, out, plain);
    for (size_t t = 0; t < rows; t++) {
        // sum over keys of share x gradient by share = sum over the head's width of output x gradient by output
        v16 total = {0};
        for (size_t i = 0; i < d; i += 16) total += load(plain + t * d, i, d, 1) * load(outer + t * d, i, d, 1);
        means[t] = sum(total);
    }
    memset(by_keys, 0, 2 * rows * d * 4);
    for (size_t first = 0; first < rows; first += QUERIES) {
        size_t n = least(QUERIES, rows - first);
        memset(by_queries, 0, n * d * 4);
        for (size_t key = 0; key < first + n; key += PANEL) {
            size_t width = least(PANEL, first + n - key), begin = key > first ? key - first : 0;
            const uint32_t *share = shares + key * n / 2;
            for (size_t i = 0; i < width; i += 32)
                for (size_t r = begin; r < n; r += TILE) {
                    size_t end = least(width, up16(first + r + TILE) - key);
                    if (i >= end) continue;
                    const uint16_t *a = outer + (first + r) * d;
                    const uint32_t *b = values + key * d / 2 + i, *of = share + r / 2 * width + i;
                    uint32_t *pairs = ds_pairs + r / 2 * PANEL + i;
                    uint16_t *plain_ds = ds + r * PANEL + i;
                    if (end - i > 16) by_scores(2, d / 2, a, d, b, width, means + first + r, of, plain_ds, pairs);
                    else by_scores(1, d / 2, a, d, b, width, means + first + r, of, plain_ds, pairs);
                }
            add_to_keys(n, first, key, width, share, width, outer_pairs, d, by_values);
            add_to_keys(n, first, key, width, ds_pairs, PANEL, queries, d, by_keys);
            for (size_t i = 0; i < d; i += 32)
                for (size_t r = begin; r < n; r += TILE) {
                    size_t pairs = least(width, first + r + TILE - key) / 2;
                    const uint32_t *a = (const uint32_t *)(ds + r * PANEL), *b = keys + key / 2 * d + i;
                    float *to = by_queries + r * d + i;
                    if (d - i > 16) product(2, 1, pairs, a, PANEL / 2, 1, b, d, to, d);
                    else product(1, 1, pairs, a, PANEL / 2, 1, b, d, to, d);
                }
        }
        shares += n * (first + n) / 2;
        if (first < T) store_rows(least(n, T - first), d, dh, scale, by_queries, dq + first * d_stride, d_stride, dq_total);
    }
    store_rows(T, d, dh, scale, by_keys, dk, d_stride, dk_total);
    store_rows(T, d, dh, 1, by_values, dv, d_stride, dv_total);
}
#endif

// softmax(scale q k^T) v over the positions up to each query's own: q, k, v (3, B, H, T, dh) -> `out` (B T, H dh).
// `shares`, for the way back, has of each head the blocks of up to 128 queries, padded as `rows` is, up to the last of
// its keys.
void attend(size_t B, size_t T, size_t H, size_t dh, float scale, const uint16_t *heads, uint16_t *shares, uint16_t *out) {
#ifdef __AVX512BF16__
    size_t rows = up16(T), d = up16(dh), part = B * H * T * dh;
    char *scratch = aligned_alloc(64, 4 * rows * d * 2 + SOFT * (rows + 16 + d + rows / 2 + 16) * 4);
    for (size_t head = 0; head < B * H; head++) {
        const uint16_t *q = heads + head * T * dh;
        uint32_t *share = (uint32_t *)shares + head * share_pairs(rows);
        uint16_t *to = out + (head / H * T * H + head % H) * dh;
        attend_head(T, dh, scale * 1.44269504f, q, q + part, q + 2 * part, share, to, H * dh, scratch);
    }
    _mm_sfence();
    free(scratch);
#endif
}

// The way back from the gradient by `out`: d_qkv (B T, 3 H dh), and d_bias (3 H dh) += its column sums.
void attend_backward(size_t B, size_t T, size_t H, size_t dh, float scale, const uint16_t *heads, const uint16_t *shares,
                     const uint16_t *out, const uint16_t *d_out, uint16_t *d_qkv, float *d_bias) {
#ifdef __AVX512BF16__
    size_t rows = up16(T), d = up16(dh), part = B * H * T * dh, width = H * dh;
    size_t block = QUERIES * d * 4 + QUERIES * PANEL * 4;
    char *scratch = aligned_alloc(64, 6 * rows * d * 2 + 2 * rows * d * 4 + rows * 4 + block);
    for (size_t head = 0; head < B * H; head++) {
        const uint16_t *q = heads + head * T * dh;
        const uint32_t *share = (const uint32_t *)shares + head * share_pairs(rows);
        size_t column = head % H * dh, at = head / H * T * width + column;
        uint16_t *dq = d_qkv + head / H * T * 3 * width + column;
        attend_head_backward(T, dh, scale, q, q + part, q + 2 * part, share, out + at, d_out + at, width, dq, dq + width,
                             dq + 2 * width, 3 * width, d_bias + column, d_bias + width + column,
                             d_bias + 2 * width + column, scratch);
    }
    free(scratch);
#endif
}
