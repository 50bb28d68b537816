// Products of bf16 matrices on one thread, for processors with AVX512-BF16; compiled behind kernels.c.
//
// A pair is two bf16 side by side in 32 bits, as the processor's product takes them: it adds both products to a sum in
// fp32. Every sum has one order, which only the sizes of the matrices decide.

#ifdef __AVX512BF16__
#include <immintrin.h>

enum {
    TILE = 8,    // rows of a tile; with 8 x 2 sums in registers products run at 98 % of what the processor can
    ACROSS = 32, // its columns
};

INLINE size_t up16(size_t n) { return (n + 15) / 16 * 16; }
INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }

// s (8, 16 N) += a b over `pairs`: a's pairs lie `row` and `pair` apart, those of b, 16 N side by side, `next` apart.
INLINE void tile(int N, size_t pairs, const uint32_t *a, size_t row, size_t pair, const uint32_t *b, size_t next,
                 __m512 s[TILE][2]) {
    for (size_t p = 0; p < pairs; p++) {
        __m512bh across[2];
        for (int n = 0; n < N; n++) across[n] = (__m512bh)_mm512_loadu_si512(b + p * next + 16 * n);
        for (int m = 0; m < TILE; m++) {
            __m512bh down = (__m512bh)_mm512_set1_epi32((int)a[m * row + p * pair]);
            for (int n = 0; n < N; n++) s[m][n] = _mm512_dpbf16_ps(s[m][n], down, across[n]);
        }
    }
}

// c (8, 16 N), its rows `width` apart, += a b, or = without `add`.
INLINE void product(int N, int add, size_t pairs, const uint32_t *a, size_t row, size_t pair, const uint32_t *b,
                    size_t next, float *c, size_t width) {
    __m512 s[TILE][2];
    for (int m = 0; m < TILE; m++)
        for (int n = 0; n < N; n++) s[m][n] = add ? _mm512_loadu_ps(c + m * width + 16 * n) : _mm512_setzero_ps();
    tile(N, pairs, a, row, pair, b, next, s);
    for (int m = 0; m < TILE; m++)
        for (int n = 0; n < N; n++) _mm512_storeu_ps(c + m * width + 16 * n, s[m][n]);
}

// Sixteen values of one row below sixteen of the next, as pairs.
INLINE __m512i as_pairs(__m256i upper, __m256i lower) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(upper), _mm512_slli_epi32(_mm512_cvtepu16_epi32(lower), 16));
}

INLINE __m256i load_row(const uint16_t *from, size_t i, size_t n) {
    if (i + 16 <= n) return _mm256_loadu_si256((const void *)(from + i));
    return i < n ? _mm256_maskz_loadu_epi16((__mmask16)((1u << (n - i)) - 1), from + i) : _mm256_setzero_si256();
}

// Columns first .. first + `ACROSS` - 1 of (K, n), rows `stride` apart, as pairs of rows: (ACROSS / side, pairs, side).
// What lies beyond n or K is zero.
INLINE void lay_group(size_t side, size_t K, size_t n, size_t first, const uint16_t *from, size_t stride, uint32_t *to) {
    size_t pairs = (K + 1) / 2;
    for (size_t p = 0; p < pairs; p++)
        for (size_t i = 0; i < ACROSS; i += 16) {
            const uint16_t *row = from + 2 * p * stride;
            __m256i lower = 2 * p + 1 < K ? load_row(row + stride, first + i, n) : _mm256_setzero_si256();
            __m512i both = as_pairs(load_row(row, first + i, n), lower);
            if (side == ACROSS) _mm512_storeu_si512(to + p * ACROSS + i, both);
            else {
                uint32_t *half = to + (i / TILE * pairs + p) * TILE;
                _mm256_storeu_si256((void *)half, _mm512_castsi512_si256(both));
                _mm256_storeu_si256((void *)(half + pairs * TILE), _mm512_extracti64x4_epi64(both, 1));
            }
        }
}

// Rows i .. i + 31 and columns j .. j + 31 of (m, n), of columns as `lay_group` laid them out.
static void group_product(size_t pairs, size_t m, size_t n, size_t i, size_t j, const uint32_t *a, const uint32_t *b,
                          uint16_t *out) {
    for (size_t r = 0; r < ACROSS && i + r < m; r += TILE) {
        __m512 s[TILE][2];
        for (int x = 0; x < TILE; x++) s[x][0] = s[x][1] = _mm512_setzero_ps();
        tile(2, pairs, a + r * pairs, 1, TILE, b, ACROSS, s);
        for (size_t x = 0; x < TILE && i + r + x < m; x++)
            for (size_t y = 0; y < 2 && j + 16 * y < n; y++) {
                __m256i sums = (__m256i)_mm512_cvtneps_pbh(s[x][y]);
                uint16_t *to = out + (i + r + x) * n + j + 16 * y;
                size_t count = n - j - 16 * y;
                if (count >= 16) _mm256_storeu_si256((void *)to, sums);
                else _mm256_mask_storeu_epi16(to, (__mmask16)((1u << count) - 1), sums);
            }
    }
}
#endif

// Whether this processor has the products of this file, in that precision.
uint32_t multiplies(int half) {
#ifdef __AVX512BF16__
    return half != 0;
#else
    return 0;
#endif
}

// out (m, n) = a^T b of a (K, m) and b (K, n), their rows `a_stride` and `b_stride` apart: a matrix's gradient. The
// smaller one is laid out whole and stays in the third cache, the other 32 columns at a time in the second.
void multiply_columns(size_t K, size_t m, size_t n, const uint16_t *a, size_t a_stride, const uint16_t *b, size_t b_stride,
                      uint16_t *out) {
#ifdef __AVX512BF16__
    size_t pairs = (K + 1) / 2, group = pairs * ACROSS, small = least(m, n);
    uint32_t *whole = aligned_alloc(64, ((small + ACROSS - 1) / ACROSS + 1) * group * 4), *one = whole;
    for (size_t i = 0; i < small; i += ACROSS, one += group) {
        if (m <= n) lay_group(TILE, K, m, i, a, a_stride, one);
        else lay_group(ACROSS, K, n, i, b, b_stride, one);
    }
    if (m <= n)
        for (size_t j = 0; j < n; j += ACROSS) {
            lay_group(ACROSS, K, n, j, b, b_stride, one);
            for (size_t i = 0; i < m; i += ACROSS) group_product(pairs, m, n, i, j, whole + i * pairs, one, out);
        }
    else
        for (size_t i = 0; i < m; i += ACROSS) {
            lay_group(TILE, K, m, i, a, a_stride, one);
            for (size_t j = 0; j < n; j += ACROSS) group_product(pairs, m, n, i, j, one, whole + j * pairs, out);
        }
    free(whole);
#endif
}
