// GPT-2's byte-level BPE: the token numbers that tiktoken and `tokenizers` give, several times as fast.
//
// Text is cut into words by GPT-2's pattern (Radford et al. 2019, encoder.py), in this order of preference:
//     's 't 're 've 'm 'll 'd | ?letters | ?numbers | ?others | white space up to the end of the text | white space
//     without its last character, where it has two or more | one character of white space
// The bytes of a word become symbols, and the pair of lowest rank, of several the leftmost, is merged until none is
// left. Nearly all words of a text were met shortly before: their tokens are kept in a table of fixed size.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define NONE UINT32_MAX

enum { UNKNOWN, LETTER, NUMBER, SPACE, OTHER };

typedef struct {
    uint64_t pair;  // left << 32 | right; all ones where nothing is
    uint64_t rank;
} Merge;

typedef struct {
    uint64_t key[2];  // a word of up to 15 bytes, zeros, and its length
    uint32_t tokens[3];
    uint32_t count;  // 0 where nothing is kept
} Word;

typedef struct {
    const uint32_t *symbols;  // of the 256 bytes
    const Merge *merges;      // 2^merge_bits of them
    const uint32_t *made;     // by rank, the token that a merge makes
    const uint32_t *lengths;  // by token, its bytes
    int merge_bits;
} Vocabulary;

INLINE size_t slot(uint64_t key, int bits) { return (key ^ key >> 32) * 0x9E3779B97F4A7C15u >> (64 - bits); }

// Fills a table of 2^bits merges. Merge number i, of left[i] and right[i], has rank i.
void fill_merges(const uint32_t *left, const uint32_t *right, size_t n, void *table, int bits) {
    Merge *merges = table;
    size_t mask = ((size_t)1 << bits) - 1;
    memset(merges, 0xff, sizeof(Merge) << bits);
    for (size_t i = 0; i < n; i++) {
        uint64_t pair = (uint64_t)left[i] << 32 | right[i];
        size_t at = slot(pair, bits);
        while (merges[at].pair != UINT64_MAX) at = (at + 1) & mask;
        merges[at] = (Merge){pair, i};
    }
}

INLINE uint32_t rank(const Vocabulary *v, uint32_t left, uint32_t right) {
    uint64_t pair = (uint64_t)left << 32 | right;
    size_t at = slot(pair, v->merge_bits), mask = ((size_t)1 << v->merge_bits) - 1;
    while (v->merges[at].pair != pair && v->merges[at].pair != UINT64_MAX) at = (at + 1) & mask;
    return (uint32_t)v->merges[at].rank;
}

// The tokens of n > 0 bytes; how many they are. Room for n each in tokens and ranks.
static size_t merged(const Vocabulary *v, const uint8_t *bytes, size_t n, uint32_t *tokens, uint32_t *ranks) {
    for (size_t i = 0; i < n; i++) tokens[i] = v->symbols[bytes[i]];
    for (size_t i = 0; i + 1 < n; i++) ranks[i] = rank(v, tokens[i], tokens[i + 1]);
    while (n > 1) {
        uint32_t lowest = NONE;
        for (size_t i = 0; i + 1 < n; i++) lowest = ranks[i] < lowest ? ranks[i] : lowest;
        if (lowest == NONE) break;
        size_t at = 0;
        while (ranks[at] != lowest) at++;
        tokens[at] = v->made[lowest];
        n--;
        memmove(tokens + at + 1, tokens + at + 2, (n - at - 1) * sizeof *tokens);
        if (at + 1 < n) {
            memmove(ranks + at + 1, ranks + at + 2, (n - at - 2) * sizeof *ranks);
            ranks[at] = rank(v, tokens[at], tokens[at + 1]);
        }
        if (at) ranks[at - 1] = rank(v, tokens[at - 1], tokens[at]);
    }
    return n;
}

// The same of a long word, window by window: each begins where a token of the last one does, and goes on from there if
// it begins with that very token. That is exact: a row of tokens is what BPE makes of its bytes if each two neighbours
// are what it makes of theirs, since the first merge across a border would happen in the two tokens beside it alone as
// well. 0 if a window begins with another token: then its end decided about tokens that far before. Scratch: 3 windows.
static size_t in_windows(const Vocabulary *v, const uint8_t *bytes, size_t n, size_t window, uint32_t *scratch, uint32_t *out) {
    uint32_t *tokens = scratch, *next = scratch + window, *ranks = scratch + 2 * window;
    size_t count = 0, begin = 0, end = window < n ? window : n;
    size_t n_tokens = merged(v, bytes, end, tokens, ranks);
    while (end < n) {
        size_t sure = 0;
        for (size_t half = begin + window / 2; sure < n_tokens && begin < half; sure++) begin += v->lengths[tokens[sure]];
        if (sure == n_tokens) return 0;
        end = window < n - begin ? begin + window : n;
        size_t n_next = merged(v, bytes + begin, end - begin, next, ranks);
        if (next[0] != tokens[sure]) return 0;
        memcpy(out + count, tokens, sure * sizeof *out);
        count += sure;
        uint32_t *free_again = tokens;
        tokens = next, n_tokens = n_next, next = free_again;
    }
    memcpy(out + count, tokens, n_tokens * sizeof *out);
    return count + n_tokens;
}

// The same of a word of any length; 0 if there is no memory.
static size_t merged_long(const Vocabulary *v, const uint8_t *bytes, size_t n, size_t window, uint32_t *out) {
    for (;; window *= 2) {
        size_t room = window < n ? window : n;
        uint32_t *scratch = malloc(3 * room * sizeof *scratch);
        if (!scratch) return 0;
        size_t count = in_windows(v, bytes, n, room, scratch, out);
        free(scratch);
        if (count) return count;
    }
}

// The character at `at` of UTF-8 that is whole, and in *next where the one after it begins.
INLINE uint32_t character(const uint8_t *text, size_t at, size_t *next) {
    uint32_t first = text[at];
    if (first < 0x80) return *next = at + 1, first;
    if (first < 0xe0) return *next = at + 2, (first & 0x1f) << 6 | (text[at + 1] & 0x3f);
    uint32_t two = (text[at + 1] & 0x3f) << 6 | (text[at + 2] & 0x3f);
    if (first < 0xf0) return *next = at + 3, (first & 0xf) << 12 | two;
    return *next = at + 4, (first & 7) << 18 | two << 6 | (text[at + 3] & 0x3f);
}

// Where the word ends that begins at `begin` < n; -1 - c if the class of its character c is not known.
INLINE int64_t end_of_word(const uint8_t *text, size_t begin, size_t n, const uint8_t *classes) {
    size_t last = begin, end, following;
    uint32_t c = character(text, begin, &end);
    if (c == '\'' && end < n) {
        uint8_t a = text[end], b = end + 1 < n ? text[end + 1] : 0;
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return (int64_t)end + 1;
        if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return (int64_t)end + 2;
    }
    uint8_t class = classes[c];
    if (class == UNKNOWN) return -1 - (int64_t)c;
    if (c == ' ' && end < n) {
        c = character(text, end, &following);
        if (classes[c] == UNKNOWN) return -1 - (int64_t)c;
        if (classes[c] != SPACE) class = classes[c], end = following;
    }
    while (end < n) {
        c = character(text, end, &following);
        if (classes[c] == UNKNOWN) return -1 - (int64_t)c;
        if (classes[c] != class) break;
        last = end;
        end = following;
    }
    return (int64_t)(class == SPACE && end < n && last > begin ? last : end);
}

// The key of a word of up to 15 bytes that begins there; n bytes may be read.
INLINE Word key_of(const uint8_t *word, size_t length, size_t n) {
    Word w = {0};
    memcpy(w.key, word, n < 16 ? n : 16);
    if (length < 8) w.key[0] &= ((uint64_t)1 << 8 * length) - 1;
    w.key[1] &= length > 8 ? ((uint64_t)1 << 8 * (length - 8)) - 1 : 0;
    w.key[1] |= (uint64_t)length << 56;
    return w;
}

// The tokens of n bytes of UTF-8, in out, which has room for n + 3: how many they are. `classes` has a byte for each
// character; -1 - c if that of character c is not known yet, INT64_MIN if there is no memory.
int64_t encode(const uint8_t *text, size_t n, const uint8_t *classes, const uint32_t *symbols, const void *merges, int merge_bits, const uint32_t *made, const uint32_t *lengths, void *words, int word_bits, size_t window, uint32_t *out) {
    const Vocabulary v = {symbols, merges, made, lengths, merge_bits};
    Word *kept = words;
    size_t count = 0;
    for (size_t begin = 0; begin < n;) {
        int64_t end = end_of_word(text, begin, n, classes);
        if (end < 0) return end;
        size_t length = (size_t)end - begin;
        if (length < 16) {
            uint32_t ranks[16];
            Word word = key_of(text + begin, length, n - begin);
            Word *here = kept + slot(word.key[0] * 0xD6E8FEB86659FD93u ^ word.key[1], word_bits);
            if (here->key[0] != word.key[0] || here->key[1] != word.key[1] || !here->count) {
                word.count = (uint32_t)merged(&v, text + begin, length, out + count, ranks);
                if (word.count > 3) {
                    count += word.count;
                    begin = (size_t)end;
                    continue;
                }
                memcpy(word.tokens, out + count, word.count * sizeof *out);
                *here = word;
            }
            memcpy(out + count, here->tokens, sizeof here->tokens);  // three, to be quick; the next overwrite what is none
            count += here->count;
        } else {
            size_t made_here = merged_long(&v, text + begin, length, window, out + count);
            if (!made_here) return INT64_MIN;
            count += made_here;
        }
        begin = (size_t)end;
    }
    return (int64_t)count;
}
