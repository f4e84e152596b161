/* Decoding kernels for the CPU, float32: one new token per row.
 *
 * attend() is the main kernel. It reads each row's keys and values once, over that row's own length,
 * so no time goes to masks, padding or repeated heads, and a row cannot depend on other rows.
 * run_block() runs a whole Llama-like block around it in one parallel region. A pass has few rows,
 * so a general matrix product would spend as much time on packing its operands and starting threads
 * as on the product itself. Here weights are packed once (see project()).
 *
 * One source serves every processor: vectors of LANES floats, and a register block of TILE rows by
 * PANEL = 2 LANES columns that fills the registers without spilling (two sums per row, two vectors
 * of weights, and the value that is multiplied). AVX-512 and NEON have 32 vector registers, AVX2 and
 * SSE have 16. The compiler splits and spills a vector wider than the registers, which made this
 * code seven times slower than a plain matrix product; so the width is not fixed here.
 *
 * Compiled by interp/kernels/library.py with the flags given there (no -ffast-math: a nan must stay
 * a nan).
 *
 * Words: n rows; d head width or stream width; kv key/value heads; a column of the cache holds one
 * token's key or value; cap_columns is the number of columns allocated per row and head.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define TILE 12
#elif defined(__AVX__)
#define LANES 8
#define TILE 6
#elif defined(__aarch64__)
#define LANES 4
#define TILE 12
#else
#define LANES 4
#define TILE 6
#endif
#define PANEL (2 * LANES) /* columns of a packed panel of weights */
#define PANELS(columns) (((columns) + PANEL - 1) / PANEL)
#define AHEAD 16 /* columns prefetched: the hardware's own prefetch stops at every page */
#define WEIGHTS_AHEAD 512 /* floats of a panel prefetched */
#define INLINE static inline __attribute__((always_inline))

typedef int64_t i64;

/* The compiler's own vector types. Rows of the cache are aligned to 4 bytes only. */
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vecu __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
#define LOAD(p) ((vec)(*(const vecu *)(p)))
#define STORE(p, x) (*(vecu *)(p) = (x))
#define SPLAT(x) ((vec){0} + (x))
#define SELECT(mask, a, b) ((vec)(((ints)(a) & (mask)) | ((ints)(b) & ~(mask))))
#if defined(__clang__)
#define SHUFFLE(A, B, ...) __builtin_shufflevector(A, B, __VA_ARGS__)
#else
#define SHUFFLE(A, B, ...) __builtin_shuffle(A, B, (ints){__VA_ARGS__})
#endif

/* The odd ones of 2 LANES numbers. */
#if LANES == 16
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif LANES == 8
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
#define ODD 1, 3, 5, 7
#endif

/* Columns of a packed panel; interp/kernels/library.py must pack the weights with this width. */
i64 panel_width(void) { return PANEL; }

/* exp within a few units in the last place, for arguments up to 80. Arguments below -87 count as
 * -87; nan stays nan. */
INLINE vec vexp(vec x) {
    x = SELECT(x < -87.0f, SPLAT(-87.0f), x);
    vec y = x * 1.44269504088896341f;
    ints k = __builtin_convertvector(y + SELECT(y < 0.0f, SPLAT(-0.5f), SPLAT(0.5f)), ints);
    vec n = __builtin_convertvector(k, vec);
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = SPLAT(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vec)((k + 127) << 23);
}

/* The sum of all lanes. */
INLINE float lanes_sum(vec x) {
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

/* Lane i of the result is the sum of the lanes of a[i]. Neighbouring lanes are added first, then
 * pairs of them, and so on. */
INLINE vec transpose_sum(vec *a) {
#define FOLD(I, E, O) a[I] = SHUFFLE(a[2 * (I)], a[2 * (I) + 1], E) + SHUFFLE(a[2 * (I)], a[2 * (I) + 1], O)
#define LIST(...) __VA_ARGS__
#if LANES == 16
    for (int i = 0; i < 8; i++)
        FOLD(i, LIST(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
             LIST(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31));
    for (int i = 0; i < 4; i++)
        FOLD(i, LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
             LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
    for (int i = 0; i < 2; i++)
        FOLD(i, LIST(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
             LIST(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31));
    FOLD(0, LIST(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
         LIST(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
#elif LANES == 8
    for (int i = 0; i < 4; i++)
        FOLD(i, LIST(0, 8, 2, 10, 4, 12, 6, 14), LIST(1, 9, 3, 11, 5, 13, 7, 15));
    for (int i = 0; i < 2; i++)
        FOLD(i, LIST(0, 1, 8, 9, 4, 5, 12, 13), LIST(2, 3, 10, 11, 6, 7, 14, 15));
    FOLD(0, LIST(0, 1, 2, 3, 8, 9, 10, 11), LIST(4, 5, 6, 7, 12, 13, 14, 15));
#else
    for (int i = 0; i < 2; i++) FOLD(i, LIST(0, 4, 2, 6), LIST(1, 5, 3, 7));
    FOLD(0, LIST(0, 1, 4, 5), LIST(2, 3, 6, 7));
#endif
    return a[0];
#undef FOLD
#undef LIST
}

/* s[g] = scale q[g] K^T for two queries (pair = 1) or one query that share keys. q: [2 or 1, d],
 * K: [count, d], s: [2 or 1, room]; d is a multiple of 16. */
INLINE void scores(const float *q, const float *K, i64 count, i64 d, int pair, float scale,
                   float *s, i64 room) {
    i64 t = 0;
    for (; t + LANES <= count; t += LANES) {
        vec x[LANES], y[LANES];
        for (int j = 0; j < LANES; j++) {
            const float *k = K + (t + j) * d;
            for (i64 i = 0; i < d; i += 16) __builtin_prefetch(k + AHEAD * d + i, 0, 3);
            vec a = LOAD(k) * LOAD(q), b = pair ? LOAD(k) * LOAD(q + d) : a;
            for (i64 i = LANES; i < d; i += LANES) {
                vec w = LOAD(k + i);
                a += w * LOAD(q + i);
                if (pair) b += w * LOAD(q + d + i);
            }
            x[j] = a;
            y[j] = b;
        }
        STORE(s + t, transpose_sum(x) * scale);
        if (pair) STORE(s + room + t, transpose_sum(y) * scale);
    }
    for (; t < count; t++)
        for (int g = 0; g <= pair; g++) {
            vec a = {0};
            for (i64 i = 0; i < d; i += LANES) a += LOAD(K + t * d + i) * LOAD(q + g * d + i);
            s[g * room + t] = lanes_sum(a) * scale;
        }
}

/* Softmax of s[0..count) in place, after the soft cap if cap > 0. s is padded to whole vectors. */
INLINE void softmax(float *s, i64 count, float cap) {
    i64 whole = (count + LANES - 1) / LANES * LANES;
    if (cap > 0.0f)
        for (i64 t = 0; t < count; t++) s[t] = tanhf(s[t] / cap) * cap;
    for (i64 t = count; t < whole; t++) s[t] = s[0];
    vec top = LOAD(s);
    for (i64 t = LANES; t < whole; t += LANES) {
        vec x = LOAD(s + t);
        top = SELECT(x > top, x, top);
    }
    float most = top[0];
    for (int i = 1; i < LANES; i++) most = top[i] > most ? top[i] : most;
    for (i64 t = 0; t < whole; t += LANES) STORE(s + t, vexp(LOAD(s + t) - most));
    for (i64 t = count; t < whole; t++) s[t] = 0.0f;
    vec sum = {0};
    for (i64 t = 0; t < whole; t += LANES) sum += LOAD(s + t);
    float one = 1.0f / lanes_sum(sum);
    for (i64 t = 0; t < whole; t += LANES) STORE(s + t, LOAD(s + t) * one);
}

#if LANES == 16 || defined(__aarch64__)
#define BLEND 8 /* vectors of an output kept in registers, for each of two queries */
#else
#define BLEND 4
#endif

/* out[g] = s[g] V for two rows (pair = 1) or one row of attention weights. s: [2 or 1, room],
 * V: [count, d], out: [2 or 1, d]. */
INLINE void blend(const float *s, i64 room, const float *V, i64 count, i64 d, int pair,
                  float *out) {
    for (i64 base = 0; base < d; base += BLEND * LANES) {
        i64 width = d - base < BLEND * LANES ? d - base : BLEND * LANES;
        vec a[BLEND], b[BLEND];
        for (int i = 0; i < BLEND; i++) a[i] = b[i] = (vec){0};
        for (i64 t = 0; t < count; t++) {
            const float *v = V + t * d + base;
            for (i64 i = 0; i < width; i += 16) __builtin_prefetch(v + AHEAD * d + i, 0, 3);
            vec p = SPLAT(s[t]), q = SPLAT(s[(pair ? room : 0) + t]);
            for (i64 i = 0; i < width / LANES; i++) {
                vec w = LOAD(v + LANES * i);
                a[i] += p * w;
                if (pair) b[i] += q * w;
            }
        }
        for (i64 i = 0; i < width / LANES; i++) {
            STORE(out + base + LANES * i, a[i]);
            if (pair) STORE(out + d + base + LANES * i, b[i]);
        }
    }
}

/* out[g] = softmax(scale q[g] K^T) V over columns [lo, hi), for `group` queries of width d that
 * share one key/value head. s: scratch for two rows of scores. */
INLINE void attend_one(const float *q, const float *K, const float *V, i64 lo, i64 hi, i64 d,
                       i64 group, float scale, float cap, float *s, float *out) {
    i64 count = hi - lo, room = (count + LANES - 1) / LANES * LANES;
    K += lo * d;
    V += lo * d;
    for (i64 g = 0; g < group; g += 2) {
        const float *qg = q + g * d;
        float *og = out + g * d;
        if (g + 1 < group) {
            scores(qg, K, count, d, 1, scale, s, room);
            softmax(s, count, cap);
            softmax(s + room, count, cap);
            blend(s, room, V, count, d, 1, og);
        } else {
            scores(qg, K, count, d, 0, scale, s, room);
            softmax(s, count, cap);
            blend(s, room, V, count, d, 0, og);
        }
    }
}

/* RMSNorm: b = weight * a / rms(a). d is a multiple of 16; a and b may be the same array. */
INLINE void rms_one(const float *a, const float *weight, float eps, i64 d, float *b) {
    vec sum = {0};
    for (i64 i = 0; i < d; i += LANES) sum += LOAD(a + i) * LOAD(a + i);
    float r = 1.0f / sqrtf(lanes_sum(sum) / (float)d + eps);
    for (i64 i = 0; i < d; i += LANES) STORE(b + i, LOAD(weight + i) * (LOAD(a + i) * r));
}

/* One head in place: RMSNorm (if `weight`), then rotary embedding (if `cos`). */
INLINE void norm_rope(float *restrict x, i64 d, const float *weight, float eps,
                      const float *restrict cos, const float *restrict sin) {
    if (weight) rms_one(x, weight, eps, d, x);
    if (cos) {
        i64 h = d / 2;
        for (i64 i = 0; i < h; i++) {
            float a = x[i], b = x[i + h];
            x[i] = a * cos[i] - b * sin[i];
            x[i + h] = b * cos[i + h] + a * sin[i + h];
        }
    }
}

/* Norms and rotates the queries and the key of key/value head j of one lane, and writes its key and
 * value to place `at` of the cache, counted in heads of width d. row: queries, keys, values. */
INLINE void store_one(float *row, const float *q_norm, const float *k_norm, float eps,
                      const float *cos, const float *sin, float *K, float *V, i64 at, i64 heads,
                      i64 kv, i64 j, i64 d) {
    i64 group = heads / kv;
    float *k = row + (heads + j) * d;
    for (i64 g = 0; g < group; g++) norm_rope(row + (j * group + g) * d, d, q_norm, eps, cos, sin);
    norm_rope(k, d, k_norm, eps, cos, sin);
    memcpy(K + at * d, k, sizeof(float) * d);
    memcpy(V + at * d, row + (heads + kv + j) * d, sizeof(float) * d);
}

/* Attention of n lanes. qkv: [n, stride], queries first, then (if `writes`) keys and values. K, V:
 * [slots, kv, cap_columns, d]. Lane r belongs to row rows[r] of the cache (row r if `rows` is null;
 * several lanes of a row lie at consecutive columns) and attends columns (columns[r] - window,
 * columns[r]]; window 0 means all. If `writes`, queries and keys are normed and rotated first, and
 * the new key and value are written to column columns[r]. d is a multiple of 16. out: [n, heads *
 * d]. The threads of the calling parallel region share the work. */
INLINE void attend_d(float *qkv, i64 stride, const float *q_norm, const float *k_norm, float eps,
                     const float *cos, const float *sin, float *K, float *V, i64 cap_columns,
                     const i64 *columns, const i64 *rows, i64 n, i64 heads, i64 kv, i64 d,
                     i64 window, float scale, float softcap, int writes, float *out) {
    i64 group = heads / kv;
    if (writes && rows) { /* a lane reads what the lanes before it write: write all of them first */
#pragma omp for schedule(static)
        for (i64 task = 0; task < n * kv; task++) {
            i64 r = task / kv, j = task % kv;
            store_one(qkv + r * stride, q_norm, k_norm, eps, cos ? cos + r * d : 0,
                      sin ? sin + r * d : 0, K, V, (rows[r] * kv + j) * cap_columns + columns[r],
                      heads, kv, j, d);
        }
    }
#pragma omp for schedule(dynamic, 4)
    for (i64 task = 0; task < n * kv; task++) {
        i64 r = task / kv, j = task % kv, at = columns[r], slot = rows ? rows[r] : r;
        float *row = qkv + r * stride;
        float *q = row + j * group * d;
        float *Kr = K + (slot * kv + j) * cap_columns * d;
        float *Vr = V + (slot * kv + j) * cap_columns * d;
        if (writes && !rows)
            store_one(row, q_norm, k_norm, eps, cos ? cos + r * d : 0, sin ? sin + r * d : 0, K, V,
                      (r * kv + j) * cap_columns + at, heads, kv, j, d);
        i64 lo = window > 0 && at + 1 > window ? at + 1 - window : 0;
        float s[2 * (at + 1 - lo + LANES)] __attribute__((aligned(64)));
        attend_one(q, Kr, Vr, lo, at + 1, d, group, scale, softcap, s,
                   out + r * heads * d + j * group * d);
    }
}

/* attend_d() with the head width as a compile-time constant where it is a common one. */
INLINE void attend_rows(float *qkv, i64 stride, const float *q_norm, const float *k_norm, float eps,
                        const float *cos, const float *sin, float *K, float *V, i64 cap_columns,
                        const i64 *columns, const i64 *rows, i64 n, i64 heads, i64 kv, i64 d,
                        i64 window, float scale, float softcap, int writes, float *out) {
#define CASE(D)                                                                                \
    if (d == D) {                                                                              \
        attend_d(qkv, stride, q_norm, k_norm, eps, cos, sin, K, V, cap_columns, columns, rows, \
                 n, heads, kv, D, window, scale, softcap, writes, out);                        \
        return;                                                                                \
    }
    CASE(32)
    CASE(64)
    CASE(128)
#undef CASE
    attend_d(qkv, stride, q_norm, k_norm, eps, cos, sin, K, V, cap_columns, columns, rows, n, heads,
             kv, d, window, scale, softcap, writes, out);
}

/* Attention of queries q [n, heads, d], already rotated, over the keys and values in the cache.
 * rows: the row of each lane, or null. out: [n, heads, d]. */
void attend(float *q, float *K, float *V, i64 cap_columns, const i64 *columns, const i64 *rows,
            i64 n, i64 heads, i64 kv, i64 d, i64 window, float scale, float softcap, float *out,
            int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    attend_rows(q, heads * d, 0, 0, 0.0f, 0, 0, K, V, cap_columns, columns, rows, n, heads, kv, d,
                window, scale, softcap, 0, out);
}

typedef enum { PLAIN, ADD, SILU } Ending;

/* `rows` rows of x [rows, k] times one panel [k, PANEL], written to out [rows, width] from column
 * `col` on. PLAIN adds a bias (if any); ADD adds a bias (if any) and `base`; SILU uses the first
 * half of the panel as gates for the second half. */
INLINE void tile(const float *x, i64 k, const float *panel, int rows, Ending ending,
                 const float *bias, const float *base, float *out, i64 width, i64 col) {
    vec a[TILE], b[TILE];
    const float *base3[TILE / 3 + 1]; /* rows 0, 3, 6, ...; the next two lie k and 2 k floats later */
    for (int r = 0; r < rows; r++) a[r] = b[r] = (vec){0};
    for (int g = 0; g * 3 < rows; g++) {
        base3[g] = x + g * 3 * k;
        __asm__("" : "+r"(base3[g])); /* otherwise every row's offset is kept on the stack */
    }
    for (i64 i = 0; i < k; i++) {
        for (int j = 0; j < PANEL; j += 16)
            __builtin_prefetch(panel + PANEL * i + j + WEIGHTS_AHEAD, 0, 3);
        vec u = LOAD(panel + PANEL * i), w = LOAD(panel + PANEL * i + LANES);
        for (int r = 0; r < rows; r++) {
            float one = base3[r / 3][r % 3 * k + i];
            a[r] += one * u;
            b[r] += one * w;
        }
    }
    int second = ending != SILU && col + LANES < width; /* the last panel may be half empty */
    for (int r = 0; r < rows; r++) {
        float *o = out + r * width + col;
        if (ending == SILU) {
            vec e = SELECT(a[r] < -80.0f, SPLAT(80.0f), -a[r]); /* below -80, silu is 0 in float32 */
            STORE(o, a[r] / (1.0f + vexp(e)) * b[r]);
            continue;
        }
        if (bias) {
            a[r] += LOAD(bias + col);
            if (second) b[r] += LOAD(bias + col + LANES);
        }
        if (ending == ADD) {
            a[r] += LOAD(base + r * width + col);
            if (second) b[r] += LOAD(base + r * width + col + LANES);
        }
        STORE(o, a[r]);
        if (second) STORE(o + LANES, b[r]);
    }
}

/* One function per number of rows, not inlined: its inner loop needs all registers. */
#define TILE_OF(R)                                                                             \
    static __attribute__((noinline)) void tile_##R(                                            \
        const float *x, i64 k, const float *panel, Ending ending, const float *bias,           \
        const float *base, float *out, i64 width, i64 col) {                                   \
        tile(x, k, panel, R, ending, bias, base, out, width, col);                             \
    }
#if TILE > 6
TILE_OF(12)
#endif
TILE_OF(6)
TILE_OF(4)
TILE_OF(2)
TILE_OF(1)

#define CHUNK (48 / TILE * TILE) /* rows to which a thread applies a panel while the panel is in cache */

/* out [n, width] = x [n, k] times a matrix in panels [count, k, PANEL], then the ending. The threads
 * of the calling parallel region share the work. */
INLINE void project(const float *x, i64 n, i64 k, const float *panels, i64 count, Ending ending,
                    const float *bias, const float *base, float *out, i64 width) {
    i64 chunks = (n + CHUNK - 1) / CHUNK, step = ending == SILU ? LANES : PANEL;
#pragma omp for schedule(static)
    for (i64 task = 0; task < count * chunks; task++) {
        i64 p = task / chunks, from = task % chunks * CHUNK;
        i64 to = from + CHUNK < n ? from + CHUNK : n;
        const float *panel = panels + p * PANEL * k;
        i64 r = from;
#define ROWS(R)                                                                                \
    for (; r + R <= to; r += R)                                                                \
        tile_##R(x + r * k, k, panel, ending, bias, base ? base + r * width : 0,               \
                 out + r * width, width, step * p);
#if TILE > 6
        ROWS(12)
#endif
        ROWS(6)
        ROWS(4)
        ROWS(2)
        ROWS(1)
#undef ROWS
    }
}

/* out = weight * x / rms(x) for each row; the threads of the calling region share the work. */
INLINE void rms_norm(const float *x, const float *weight, float eps, i64 n, i64 d, float *out) {
#pragma omp for schedule(static)
    for (i64 r = 0; r < n; r++) rms_one(x + r * d, weight, eps, d, out + r * d);
}

/* |a|, |b|, |b - a| and <a, b> of one row, to o[0..4). */
INLINE void stream_one(const float *a, const float *b, i64 d, float *o) {
    vec xx = {0}, yy = {0}, dd = {0}, xy = {0};
    for (i64 i = 0; i < d; i += LANES) {
        vec p = LOAD(a + i), q = LOAD(b + i), g = q - p;
        xx += p * p;
        yy += q * q;
        dd += g * g;
        xy += p * q;
    }
    o[0] = sqrtf(lanes_sum(xx));
    o[1] = sqrtf(lanes_sum(yy));
    o[2] = sqrtf(lanes_sum(dd));
    o[3] = lanes_sum(xy);
}

/* out[r] = |x|, |y|, |y - x|, <x, y> of row r. Rows of `out` are `stride` floats apart; d is a
 * multiple of 16. */
void stream_numbers(const float *x, const float *y, i64 n, i64 d, float *out, i64 stride,
                    int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (i64 r = 0; r < n; r++) stream_one(x + r * d, y + r * d, d, out + r * stride);
}

/* ------------------------------------------------------------------ the next token */

typedef uint64_t u64;
typedef u64 longs __attribute__((vector_size(4 * LANES))); /* LANES / 2 of them */
typedef uint32_t uints __attribute__((vector_size(4 * LANES)));
#define GOLDEN 0x9E3779B97F4A7C15u
#define SUMMED 128 /* vectors of float32 sums before they are added up in float64 */

/* The finalizer of splitmix64 (interp/kernels/splitmix.py). */
#define MIX(x)                                                                                 \
    do {                                                                                       \
        (x) = ((x) ^ ((x) >> 30)) * 0xBF58476D1CE4E5B9u;                                       \
        (x) = ((x) ^ ((x) >> 27)) * 0x94D049BB133111EBu;                                       \
        (x) ^= (x) >> 31;                                                                      \
    } while (0)

/* Gumbel noise of a hash, as interp/chains/noise.py makes it. */
static float gumbel(u64 bits) {
    float u = ((float)(int64_t)(bits >> 24) + 0.5f) * 0x1p-40f;
    if (u > 1.0f - 0x1p-24f) u = 1.0f - 0x1p-24f;
    return -logf(-log1pf(-u));
}

typedef struct {
    float value;
    i64 token;
} Best;

/* Compares entry j with the best one. The smaller of equal entries wins. */
static void challenge(Best *best, float logit, float heat, u64 start, i64 j) {
    u64 bits = start + (u64)(j + 1) * GOLDEN;
    MIX(bits);
    float value = gumbel(bits) + logit / heat;
    if (value > best->value || (value == best->value && j < best->token))
        *best = (Best){value, j};
}

/* One row of choose_and_measure(). */
static void choose_one(const float *x, i64 vocab, float heat, u64 start, i64 *token,
                       float *entropy, float *norm) {
    i64 whole = vocab / LANES * LANES;
    vec top = SPLAT(-INFINITY);
    ints bad = {0};
    for (i64 j = 0; j < whole; j += LANES) {
        vec v = LOAD(x + j);
        top = SELECT(v > top, v, top);
        bad |= v != v;
    }
    float most = -INFINITY;
    int broken = 0;
    for (int i = 0; i < LANES; i++) {
        most = top[i] > most ? top[i] : most;
        broken |= bad[i];
    }
    for (i64 j = whole; j < vocab; j++) {
        most = x[j] > most ? x[j] : most;
        broken |= x[j] != x[j];
    }
    *token = 0;
    if (broken || most - most != 0.0f) { /* a nan or an infinity: no distribution */
        *entropy = *norm = NAN;
        return;
    }
    Best best = {0.0f, 0};
    while (x[best.token] != most) best.token++;
    if (heat > 0.0f) { /* a good entry to begin with, so that few others challenge it */
        best.value = -INFINITY;
        challenge(&best, most, heat, start, best.token);
    }
    float scale = expf(most - best.value); /* makes exp(x - best) of exp(x - most) */
    double sum = 0.0, weighted = 0.0;
    vec one = {0}, other = {0}; /* sums of exp(x - most), and of that times (x - most) */
    longs low, high, entry;
    for (int i = 0; i < LANES / 2; i++) entry[i] = start + (u64)(i + 1) * GOLDEN;
    for (i64 j = 0; j < whole; j += LANES) {
        vec below = LOAD(x + j) - most;
        below = SELECT(below < -87.0f, SPLAT(-87.0f), below);
        vec weight = vexp(below);
        one += weight;
        other += weight * below;
        if (j / LANES % SUMMED == SUMMED - 1) {
            sum += lanes_sum(one);
            weighted += lanes_sum(other);
            one = other = SPLAT(0.0f);
        }
        if (!(heat > 0.0f)) continue;
        low = entry + (u64)j * GOLDEN;
        high = low + (u64)(LANES / 2) * GOLDEN;
        MIX(low);
        MIX(high);
        /* An entry wins only with -log1p(-u) < exp(x / heat - best), and -log1p(-u) is at least u,
         * which is at least its first 24 bits. Hardly any entry passes this test. */
        uints first = (uints)SHUFFLE((ints)low, (ints)high, ODD) >> 8;
        vec least = __builtin_convertvector((ints)first, vec) * 0x1p-24f;
        vec bound = heat == 1.0f ? weight * scale : vexp(LOAD(x + j) / heat - best.value);
        ints passes = least < bound * 1.0001f + 1e-37f;
        int any = 0;
        for (int i = 0; i < LANES; i++) any |= passes[i];
        if (!any) continue;
        for (int i = 0; i < LANES; i++)
            if (passes[i]) challenge(&best, x[j + i], heat, start, j + i);
        scale = expf(most - best.value);
    }
    sum += lanes_sum(one);
    weighted += lanes_sum(other);
    for (i64 j = whole; j < vocab; j++) {
        float below = x[j] - most < -87.0f ? -87.0f : x[j] - most, weight = expf(below);
        sum += weight;
        weighted += weight * below;
        if (heat > 0.0f) challenge(&best, x[j], heat, start, j);
    }
    *token = best.token;
    *norm = (float)(most + log(sum));
    *entropy = (float)(log(sum) - weighted / sum);
}

/* Chooses the next token of each row by its logits and noise, and measures its distribution.
 * logits: rows of `vocab` numbers, `stride` apart. heat: temperature; 0 takes the largest logit.
 * starts: where the hash of each row's noise starts. The entropy and the log normalizer are those
 * of the logits, not divided by the temperature; both are nan where a logit is nan or infinite
 * (-inf, an entry that is ruled out, is allowed). */
void choose_and_measure(const float *logits, i64 n, i64 vocab, i64 stride, float heat,
                        const i64 *starts, i64 *tokens, float *entropy, float *norm, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (i64 r = 0; r < n; r++)
        choose_one(logits + r * stride, vocab, heat, (u64)starts[r], tokens + r, entropy + r,
                   norm + r);
}

/* out [n, width] = x [n, k] times a matrix in panels; width is a multiple of LANES. */
void product(const float *x, i64 n, i64 k, const float *panels, i64 width, float *out,
             int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    project(x, n, k, panels, PANELS(width), PLAIN, 0, 0, out, width);
}

/* The sizes, constants and weights of a block; interp/kernels/library.py has the same fields in the
 * same order. Matrices are panels of PANEL columns; each panel of `up` holds LANES columns of the
 * gate projection and LANES columns of the up projection. */
typedef struct {
    i64 d, heads, kv, width, inner, window;
    float scale, eps, eps_mlp, eps_qk;
    const float *norm, *norm_mlp, *q_norm, *k_norm, *qkv, *qkv_bias, *o, *o_bias, *up, *down;
} Block;

/* Buffers for a block's intermediate results, shared by all blocks: [n, ...] each. */
typedef struct {
    float *normed, *qkv, *attended, *middle, *inner;
} Room;

/* y [n, d] = the block's output for x [n, d], one token per lane. The lane's key and value are
 * written to row rows[r] (r if `rows` is null), column columns[r] of K, V [slots, kv, cap_columns,
 * width]. cos, sin: [n, width]. numbers: if not
 * null, receives the four numbers of stream_numbers() for x and y. */
void run_block(const Block *m, const Room *room, const float *x, float *y, i64 n, const float *cos,
               const float *sin, float *K, float *V, i64 cap_columns, const i64 *columns,
               const i64 *rows, float *numbers, i64 stride, int threads) {
    i64 d = m->d, heads = m->heads * m->width, all = heads + 2 * m->kv * m->width;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        rms_norm(x, m->norm, m->eps, n, d, room->normed);
        project(room->normed, n, d, m->qkv, PANELS(all), PLAIN, m->qkv_bias, 0, room->qkv, all);
        attend_rows(room->qkv, all, m->q_norm, m->k_norm, m->eps_qk, cos, sin, K, V, cap_columns,
                    columns, rows, n, m->heads, m->kv, m->width, m->window, m->scale, 0.0f, 1,
                    room->attended);
        project(room->attended, n, heads, m->o, PANELS(d), ADD, m->o_bias, x, room->middle, d);
        rms_norm(room->middle, m->norm_mlp, m->eps_mlp, n, d, room->normed);
        project(room->normed, n, d, m->up, m->inner / LANES, SILU, 0, 0, room->inner, m->inner);
        project(room->inner, n, m->inner, m->down, PANELS(d), ADD, 0, room->middle, y, d);
        if (numbers) {
#pragma omp for schedule(static)
            for (i64 r = 0; r < n; r++) stream_one(x + r * d, y + r * d, d, numbers + r * stride);
        }
    }
}
