// CRC-32 (ISO 3309, reflected) by carry-less multiplication, of which zlib makes the end: `fold` leaves 16 bytes whose
// CRC, from a state of zero on, is that of all the content (Gopal et al. 2009, "Fast CRC computation for generic
// polynomials using PCLMULQDQ").

#include <stddef.h>
#include <stdint.h>

#if defined(__PCLMUL__) && defined(__SSE2__)
#include <emmintrin.h>
#include <wmmintrin.h>

// Moves a block ahead by the distance of `by`, onto what lies there.
static inline __attribute__((always_inline)) __m128i ahead(__m128i block, __m128i by, __m128i onto) {
    __m128i low = _mm_clmulepi64_si128(block, by, 0x00), high = _mm_clmulepi64_si128(block, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), onto);
}

static int folded(size_t n, const void *content, void *block) {
    // x^(s + 32) and x^(s - 32) modulo the polynomial, bits reversed, for a distance of s = 512 and of 128 bits.
    const __m128i by_four = _mm_set_epi64x(0x1c6e41596, 0x154442bd4), by_one = _mm_set_epi64x(0xccaa009e, 0x1751997d0);
    const __m128i *from = content;
    __m128i x[4];
    for (int k = 0; k < 4; k++) x[k] = _mm_loadu_si128(from + k);
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(-1));  // the state that a CRC begins with
    for (size_t i = 4; i < n / 16; i += 4)
        for (int k = 0; k < 4; k++) x[k] = ahead(x[k], by_four, _mm_loadu_si128(from + i + k));
    for (int k = 1; k < 4; k++) x[k] = ahead(x[k - 1], by_one, x[k]);
    _mm_storeu_si128(block, x[3]);
    return 1;
}
#else
static int folded(size_t n, const void *content, void *block) { return 0; }
#endif

// `n` bytes, a multiple of 64 and not 0, into a `block` of 16; 0 where this processor cannot.
uint32_t fold(size_t n, const void *content, void *block) {
    return folded(n, content, block);
}
