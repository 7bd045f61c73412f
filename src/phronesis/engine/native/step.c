/* One pass of a small decoder over rows of tokens with a cache: all layers, the head and the draw, weights in cache.

   A row's bits depend on its own prefix alone: every sum runs over its inner index in one fixed order, whatever the number
   of rows, and attention looks at exactly the keys up to the row's position. So a token costs the same bits alone or in a
   crowd, read from a prompt or sampled.

   Weights are packed in panels of NW outputs, [panel][inner][NW], so that a tile of rows x NW outputs stays in registers.
   Rows are computed in blocks of BLOCK, each through all layers; a block may hold several tokens of one slot, in order.

   Shapes: R rows, D width, H query heads, J key/value heads, E head size, M inner width, V vocabulary, T token capacity. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16
#else
#define VL 8
#endif
#define NW (2 * VL)
#define BLOCK 48
#define AHEAD 16 /* inner steps a panel is fetched before it is used */
#define CHUNK 64 /* probabilities between two stored partial sums */

typedef float vec __attribute__((vector_size(4 * VL)));
typedef int32_t ivec __attribute__((vector_size(4 * VL)));
typedef vec loose __attribute__((aligned(4), may_alias));

#define LOAD(p) (*(const loose *)(p))
#define STORE(p, v) (*(loose *)(p) = (v))
#define SMALL static inline __attribute__((always_inline))

typedef struct {
  const float *attn_norm, *qkv, *qkv_bias, *qk_scale, *o, *o_bias, *mlp_norm, *gate_up, *gate_up_bias, *down, *down_bias;
} Layer;

typedef struct {
  int64_t layers, width, heads, kv_heads, head_dim, mlp, vocab;
  float eps;
  int32_t qk_norm;
  const Layer *layer;
  const float *embed, *final_norm, *head, *cos, *sin;
} Model;

/* Keys [L, S, J, T/VL, E, VL], values [L, S, J, T, E]. The first shared[s] keys of slot s, a multiple of VL, equal those of
   slot origin[s] bit for bit and are read there: one copy in the processor's cache serves all slots with the same prefix. */
typedef struct {
  float *keys, *values;
  int64_t slots, capacity;
  const int64_t *origin, *shared;
} Cache;

/* Keys and values of one head of one slot, in two parts: up to `split` in the first place, the others in the second. */
typedef struct {
  const float *keys[2], *values[2];
  int64_t split;
} Seen;

/* What is drawn for each row; `logits` may be NULL. */
typedef struct {
  const float *temperature, *uniform;
  const uint8_t *greedy;
  const int64_t *force;
  int64_t *ids;
  float *logprobs, *entropies, *logits;
} Draw;

static int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

SMALL vec fill(float x) { return x - (vec){0}; }

/* The larger one, or NaN if either is: a policy that diverged must not look sure of itself. */
SMALL vec vmax(vec a, vec b) {
  ivec pick = (a > b) | (a != a);
  return (vec)(((ivec)a & pick) | ((ivec)b & ~pick));
}

SMALL float total(vec v) {
  float s[VL];
  STORE(s, v);
  for (int step = VL / 2; step; step /= 2)
    for (int i = 0; i < step; i++) s[i] += s[i + step];
  return s[0];
}

SMALL float largest(vec v) {
  float s[VL], best;
  STORE(s, v);
  best = s[0];
  for (int i = 1; i < VL; i++) best = s[i] > best || s[i] != s[i] ? s[i] : best;
  return best;
}

/* e^x, about 1 ulp: 2^n times a polynomial on [-ln2/2, ln2/2]; 0 below the smallest normal number, NaN of NaN. */
SMALL vec vexp(vec x) {
  const vec magic = fill(12582912.0f), given = x;
  ivec tiny = x < fill(-87.3f), undefined = x != x;
  x = (vec)((ivec)x & ~undefined);
  x = vmax(x, fill(-87.3f));
  x = -vmax(-x, fill(-88.3f));
  vec n = (x * 1.44269504088896341f + magic) - magic;
  vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  vec p = fill(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  ivec scale = (__builtin_convertvector(n, ivec) + 127) << 23;
  vec y = p * (vec)scale;
  return (vec)(((ivec)y & ~tiny & ~undefined) | ((ivec)given & undefined));
}

/* The first `count` lanes of v, `other` in the rest. */
SMALL vec keep(vec v, int64_t count, float other) {
  float s[VL];
  STORE(s, v);
  for (int64_t i = count < 0 ? 0 : count; i < VL; i++) s[i] = other;
  return LOAD(s);
}

/* ---- matrix products ---- */

int64_t phronesis_packed(int64_t outputs, int64_t inner) { return up(outputs, NW) * inner; }

void phronesis_pack(const float *weight, int64_t outputs, int64_t inner, float *packed) {
  for (int64_t n = 0; n < outputs; n += NW) {
    int64_t have = outputs - n < NW ? outputs - n : NW;
    float *panel = packed + n * inner;
    if (have < NW) memset(panel, 0, sizeof(float) * NW * inner);
    for (int64_t j = 0; j < have; j++)
      for (int64_t k = 0; k < inner; k++) panel[k * NW + j] = weight[(n + j) * inner + k];
  }
}

/* ROWS rows times PANELS panels: c = a·b (+ bias) (+ c). */
#define TILE(ROWS, PANELS)                                                                                          \
  static void tile_##ROWS##_##PANELS(const float *a, int64_t lda, const float *b, int64_t inner, float *c, int64_t ldc, \
                                     const float *bias, int add) {                                                  \
    vec sum[ROWS][2 * PANELS];                                                                                      \
    const float *panel[PANELS];                                                                                     \
    for (int p = 0; p < PANELS; p++) panel[p] = b + p * inner * NW;                                                 \
    _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++)                                                         \
      _Pragma("GCC unroll 16") for (int j = 0; j < 2 * PANELS; j++) sum[r][j] = fill(0);                             \
    for (int64_t k = 0; k < inner; k++) {                                                                           \
      vec w[2 * PANELS];                                                                                            \
      _Pragma("GCC unroll 16") for (int j = 0; j < 2 * PANELS; j++) {                                               \
        w[j] = LOAD(panel[j / 2] + k * NW + j % 2 * VL);                                                            \
        __builtin_prefetch(panel[j / 2] + (k + AHEAD) * NW + j % 2 * VL);                                           \
      }                                                                                                             \
      _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++) {                                                     \
        vec x = fill(a[r * lda + k]);                                                                               \
        _Pragma("GCC unroll 16") for (int j = 0; j < 2 * PANELS; j++) sum[r][j] += x * w[j];                         \
      }                                                                                                             \
    }                                                                                                               \
    _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++)                                                         \
      _Pragma("GCC unroll 16") for (int j = 0; j < 2 * PANELS; j++) {                                                \
        float *at = c + r * ldc + j * VL;                                                                           \
        vec y = sum[r][j];                                                                                          \
        if (bias) y += LOAD(bias + j * VL);                                                                         \
        if (add) y += LOAD(at);                                                                                     \
        STORE(at, y);                                                                                               \
      }                                                                                                             \
  }

TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2)
#if VL == 16
TILE(4, 2) TILE(5, 2) TILE(6, 2)
TILE(7, 1) TILE(8, 1) TILE(9, 1) TILE(10, 1) TILE(11, 1) TILE(12, 1)
#endif

typedef void (*Tile)(const float *, int64_t, const float *, int64_t, float *, int64_t, const float *, int);

#if VL == 16
#define TALL 12
#define PAIRED 6
static const Tile single[] = {tile_1_1, tile_2_1, tile_3_1, tile_4_1,  tile_5_1,  tile_6_1,
                              tile_7_1, tile_8_1, tile_9_1, tile_10_1, tile_11_1, tile_12_1};
static const Tile paired[] = {tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2, tile_6_2};
#else
#define TALL 6
#define PAIRED 3
static const Tile single[] = {tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1};
static const Tile paired[] = {tile_1_2, tile_2_2, tile_3_2};
#endif

/* c[R, N] = a[R, K] · weightᵀ (+ bias) (+ c); ldc is at least N rounded up to NW, and so is the bias. */
static void product(int64_t rows, int64_t inner, int64_t outputs, const float *a, int64_t lda, const float *packed, float *c,
                    int64_t ldc, const float *bias, int add) {
  int64_t n = 0;
  if (rows <= PAIRED)
    for (; n + 2 * NW <= up(outputs, NW); n += 2 * NW)
      paired[rows - 1](a, lda, packed + n * inner, inner, c + n, ldc, bias ? bias + n : 0, add);
  for (; n < outputs; n += NW)
    for (int64_t r = 0; r < rows; r += TALL) {
      int64_t here = rows - r < TALL ? rows - r : TALL;
      single[here - 1](a + r * lda, lda, packed + n * inner, inner, c + r * ldc + n, ldc, bias ? bias + n : 0, add);
    }
}

/* ---- pieces of a layer ---- */

/* out = x / sqrt(|x|² + n·eps) · weight; the weight holds sqrt(n). */
SMALL void norm(const float *x, const float *weight, int64_t n, float eps, float *out) {
  vec sum = fill(0);
  float rest = 0;
  int64_t i = 0;
  for (; i + VL <= n; i += VL) sum += LOAD(x + i) * LOAD(x + i);
  for (int64_t j = i; j < n; j++) rest += x[j] * x[j];
  float scale = 1.0f / sqrtf(total(sum) + rest + (float)n * eps);
  for (i = 0; i + VL <= n; i += VL) STORE(out + i, LOAD(x + i) * scale * LOAD(weight + i));
  for (; i < n; i++) out[i] = x[i] * scale * weight[i];
}

/* Rotary embedding in the half layout; `sine` carries the sign: minus on the first half. */
SMALL void turn(const float *x, const float *cosine, const float *sine, int64_t n, float *out, int64_t stride) {
  int64_t half = n / 2;
  for (int64_t i = 0; i < half; i++) {
    out[i * stride] = x[i] * cosine[i] + x[i + half] * sine[i];
    out[(i + half) * stride] = x[i + half] * cosine[i + half] + x[i] * sine[i + half];
  }
}

/* SiLU(gate) · up, in the gate's place. */
SMALL void gated(float *gate, const float *up_, int64_t n) {
  int64_t i = 0;
  for (; i + VL <= n; i += VL) STORE(gate + i, LOAD(gate + i) / (1.0f + vexp(-LOAD(gate + i))) * LOAD(up_ + i));
  if (i < n) {
    float g[VL] = {0}, u[VL] = {0};
    memcpy(g, gate + i, sizeof(float) * (n - i));
    memcpy(u, up_ + i, sizeof(float) * (n - i));
    vec y = LOAD(g) / (1.0f + vexp(-LOAD(g))) * LOAD(u);
    STORE(g, y);
    memcpy(gate + i, g, sizeof(float) * (n - i));
  }
}

#define SCORES(VECS)                                                                                     \
  for (; t + VECS * VL <= end; t += VECS * VL) {                                                         \
    vec s[VECS];                                                                                         \
    const float *k = keys + t * size;                                                                    \
    _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++) s[j] = fill(0);                                \
    for (int64_t e = 0; e < size; e++) {                                                                 \
      vec x = fill(q[e]);                                                                                \
      _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++) s[j] += x * LOAD(k + (j * size + e) * VL);   \
    }                                                                                                    \
    _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++) STORE(weights + t + j * VL, s[j]);             \
  }

/* Scores of the keys from `t` to `end`, both multiples of VL. */
static void scores(const float *q, const float *keys, int64_t t, int64_t end, int64_t size, float *weights) {
  SCORES(8) SCORES(4) SCORES(2) SCORES(1)
}

/* Sum over keys of weight * value for a head of VECS * VL numbers, in WAYS interleaved sums; WAYS divides VL. */
#define MIX(VECS, WAYS)                                                                                                 \
  {                                                                                                                     \
    vec s[WAYS][VECS];                                                                                                  \
    _Pragma("GCC unroll 8") for (int w = 0; w < WAYS; w++)                                                               \
      _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++) s[w][j] = fill(0);                                          \
    int64_t t = 0;                                                                                                      \
    for (int part = 0; part < 2; part++) {                                                                              \
      const float *values = seen->values[part];                                                                         \
      int64_t end = part ? count : seen->split;                                                                         \
      for (; t + WAYS <= end; t += WAYS)                                                                                \
        _Pragma("GCC unroll 8") for (int w = 0; w < WAYS; w++)                                                           \
          _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++)                                                         \
            s[w][j] += fill(weights[t + w]) * LOAD(values + (t + w) * size + j * VL);                                    \
      for (; t < end; t++)                                                                                              \
        _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++)                                                           \
          s[0][j] += fill(weights[t]) * LOAD(values + t * size + j * VL);                                                \
    }                                                                                                                   \
    _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++) {                                                             \
      vec y = s[0][j];                                                                                                  \
      _Pragma("GCC unroll 8") for (int w = 1; w < WAYS; w++) y += s[w][j];                                               \
      STORE(out + j * VL, y * scale);                                                                                   \
    }                                                                                                                   \
  }

/* One query over `count` keys; `weights` has room for count rounded up to VL. */
static void attend(const float *q, const Seen *seen, int64_t count, int64_t size, float *weights, float *out) {
  int64_t padded = up(count, VL), t;
  scores(q, seen->keys[0], 0, seen->split, size, weights);
  scores(q, seen->keys[1], seen->split, padded, size, weights);
  STORE(weights + padded - VL, keep(LOAD(weights + padded - VL), count - (padded - VL), -INFINITY));
  vec top = LOAD(weights);
  for (t = VL; t < padded; t += VL) top = vmax(top, LOAD(weights + t));
  float peak = largest(top);
  vec sum = fill(0);
  for (t = 0; t < padded; t += VL) {
    vec e = vexp(LOAD(weights + t) - peak);
    STORE(weights + t, e);
    sum += e;
  }
  float scale = 1.0f / total(sum);
  if (size == VL) MIX(1, 8)
  else if (size == 2 * VL) MIX(2, 4)
  else if (size == 4 * VL) MIX(4, 4)
  else if (size == 8 * VL) MIX(8, 2)
  else {
    for (int64_t e = 0; e < size; e++) out[e] = 0;
    for (t = 0; t < count; t++) {
      const float *values = seen->values[t >= seen->split];
      for (int64_t e = 0; e < size; e++) out[e] += weights[t] * values[t * size + e];
    }
    for (int64_t e = 0; e < size; e++) out[e] *= scale;
  }
}

/* ---- the draw ---- */

/* One id by inverting the cumulative distribution of softmax(x / temperature), or the forced or the likeliest one.
   `mass_at` has room for a partial sum per CHUNK, `weights` for the vocabulary rounded up to VL, as x has. */
static void draw(float *x, int64_t vocab, float temperature, float uniform, int greedy, int64_t force, float *weights,
                 double *mass_at, int64_t *id, float *logprob, float *entropy) {
  int64_t padded = up(vocab, VL), chosen = 0, chunks = 0;
  for (int64_t i = vocab; i < padded; i++) x[i] = -INFINITY;
  if (temperature != 1.0f)
    for (int64_t i = 0; i < padded; i += VL) STORE(x + i, LOAD(x + i) / temperature);
  vec top = LOAD(x);
  for (int64_t i = VL; i < padded; i += VL) top = vmax(top, LOAD(x + i));
  float peak = largest(top);
  double mass = 0, pull = 0;
  for (int64_t at = 0; at < padded; at += CHUNK) {
    int64_t end = at + CHUNK < padded ? at + CHUNK : padded;
    vec here = fill(0), weighted = fill(0);
    for (int64_t i = at; i < end; i += VL) {
      vec below = LOAD(x + i) - peak, e = vexp(below);
      here += e;
      weighted += e * vmax(below, fill(-1e4f));
      STORE(weights + i, e);
    }
    mass += (double)total(here);
    pull += (double)total(weighted);
    mass_at[chunks++] = mass;
  }
  if (force >= 0) {
    chosen = force;
  } else if (greedy) {
    while (chosen < vocab - 1 && x[chosen] != peak) chosen++;
  } else {
    double target = (double)uniform * mass;
    int64_t c = 0;
    while (c < chunks - 1 && !(mass_at[c] > target)) c++;
    double before = c ? mass_at[c - 1] : 0;
    int64_t end = (c + 1) * CHUNK < vocab ? (c + 1) * CHUNK : vocab;
    chosen = c * CHUNK;
    for (int64_t i = c * CHUNK; i < end && before <= target; i++) {
      if (weights[i] > 0) chosen = i;
      before += (double)weights[i];
    }
  }
  *id = chosen;
  *logprob = (float)((double)(x[chosen] - peak) - log(mass));
  *entropy = (float)(log(mass) - pull / mass);
}

/* ---- all of it ---- */

typedef struct {
  int64_t x, h, qkv, mixed, inner, weights, logits, sums;
} Sizes;

static Sizes sizes_of(const Model *m, int64_t capacity) {
  int64_t outputs = (m->heads + 2 * m->kv_heads) * m->head_dim;
  return (Sizes){.x = BLOCK * up(m->width, NW),
                 .h = BLOCK * up(m->width, NW),
                 .qkv = BLOCK * up(outputs, NW),
                 .mixed = BLOCK * up(m->heads * m->head_dim, NW),
                 .inner = BLOCK * up(2 * m->mlp, NW),
                 .weights = up(capacity > m->vocab ? capacity : m->vocab, NW) + m->head_dim + NW,
                 .logits = BLOCK * up(m->vocab, NW),
                 .sums = 2 * (up(m->vocab, NW) / CHUNK + 2)};
}

/* Floats of scratch memory one call needs. */
int64_t phronesis_scratch(const Model *m, int64_t capacity) {
  Sizes s = sizes_of(m, capacity);
  return s.x + s.h + s.qkv + s.mixed + s.inner + s.weights + s.logits + s.sums + 8 * NW;
}

int64_t phronesis_lanes(void) { return VL; }

/* Changes whenever a structure or an argument does; build.py expects the same number. */
int64_t phronesis_interface(void) { return 3; }

typedef struct {
  float *x, *h, *qkv, *mixed, *inner, *weights, *logits;
  double *sums;
  int64_t ldx, ldq, ldm, ldi, ldv;
} Room;

static void layer(const Model *m, const Cache *cache, int64_t n, int64_t rows, const int64_t *positions, const int64_t *slots,
                  Room *s, int keys_only) {
  const Layer *w = m->layer + n;
  const int64_t E = m->head_dim, J = m->kv_heads, H = m->heads, T = cache->capacity, groups = H / J;
  for (int64_t r = 0; r < rows; r++) norm(s->x + r * s->ldx, w->attn_norm, m->width, m->eps, s->h + r * s->ldx);
  product(rows, m->width, (H + 2 * J) * E, s->h, s->ldx, w->qkv, s->qkv, s->ldq, w->qkv_bias, 0);
  for (int64_t r = 0; r < rows; r++) {
    const float *cosine = m->cos + positions[r] * E, *sine = m->sin + positions[r] * E;
    int64_t line = (n * cache->slots + slots[r]) * J;
    float *row = s->qkv + r * s->ldq, *one = s->weights;
    for (int64_t h = 0; h < H + J; h++) {
      const float *scale = w->qk_scale + h * E;
      if (m->qk_norm)
        norm(row + h * E, scale, E, m->eps, one);
      else
        for (int64_t e = 0; e < E; e++) one[e] = row[h * E + e] * scale[e];
      if (h < H)
        turn(one, cosine, sine, E, row + h * E, 1);
      else
        turn(one, cosine, sine, E, cache->keys + (line + h - H) * E * T + positions[r] / VL * VL * E + positions[r] % VL, VL);
    }
    for (int64_t j = 0; j < J; j++)
      memcpy(cache->values + ((line + j) * T + positions[r]) * E, row + (H + J + j) * E, sizeof(float) * E);
  }
  if (keys_only) return;
  for (int64_t r = 0; r < rows; r++) {
    int64_t slot = slots[r], place = positions[r] / VL * VL; /* what is written in this pass lies in the slot itself */
    int64_t split = cache->shared[slot] < place ? cache->shared[slot] : place;
    for (int64_t h = 0; h < H; h++) {
      int64_t far = ((n * cache->slots + cache->origin[slot]) * J + h / groups) * E * T;
      int64_t own = ((n * cache->slots + slot) * J + h / groups) * E * T;
      Seen seen = {{cache->keys + far, cache->keys + own}, {cache->values + far, cache->values + own}, split};
      attend(s->qkv + r * s->ldq + h * E, &seen, positions[r] + 1, E, s->weights, s->mixed + r * s->ldm + h * E);
    }
  }
  product(rows, H * E, m->width, s->mixed, s->ldm, w->o, s->x, s->ldx, w->o_bias, 1);
  for (int64_t r = 0; r < rows; r++) norm(s->x + r * s->ldx, w->mlp_norm, m->width, m->eps, s->h + r * s->ldx);
  product(rows, m->width, 2 * m->mlp, s->h, s->ldx, w->gate_up, s->inner, s->ldi, w->gate_up_bias, 0);
  for (int64_t r = 0; r < rows; r++) gated(s->inner + r * s->ldi, s->inner + r * s->ldi + m->mlp, m->mlp);
  product(rows, m->mlp, m->width, s->inner, s->ldi, w->down, s->x, s->ldx, w->down_bias, 1);
}

static void head(const Model *m, int64_t rows, int64_t first, const Draw *d, Room *s) {
  for (int64_t r = 0; r < rows; r++) norm(s->x + r * s->ldx, m->final_norm, m->width, m->eps, s->h + r * s->ldx);
  product(rows, m->width, m->vocab, s->h, s->ldx, m->head, s->logits, s->ldv, 0, 0);
  for (int64_t r = 0; r < rows; r++) {
    int64_t i = first + r;
    float *x = s->logits + r * s->ldv;
    if (d->logits) memcpy(d->logits + i * m->vocab, x, sizeof(float) * m->vocab);
    draw(x, m->vocab, d->temperature[i], d->uniform[i], d->greedy[i], d->force[i], s->weights, s->sums, d->ids + i, d->logprobs + i,
         d->entropies + i);
  }
}

/* Computes R tokens and writes their keys and values; several tokens of a slot come in order of position.
   With `d` also draws what follows each of them; without, the last layer stops at its keys and values.
   Returns 0, or 1 when the scratch memory of `room` floats is too small and nothing was done. */
int32_t phronesis_step(const Model *m, const Cache *cache, int64_t count, const int64_t *tokens, const int64_t *positions,
                       const int64_t *slots, const Draw *d, float *scratch, int64_t room) {
  if (room < phronesis_scratch(m, cache->capacity)) return 1;
  Sizes z = sizes_of(m, cache->capacity);
  Room s;
  float *at = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
  s.sums = (double *)at, at += up(z.sums, VL);
  s.x = at, at += z.x;
  s.h = at, at += z.h;
  s.qkv = at, at += z.qkv;
  s.mixed = at, at += z.mixed;
  s.inner = at, at += z.inner;
  s.weights = at, at += up(z.weights, VL);
  s.logits = at;
  s.ldx = z.x / BLOCK, s.ldq = z.qkv / BLOCK, s.ldm = z.mixed / BLOCK, s.ldi = z.inner / BLOCK, s.ldv = z.logits / BLOCK;
  for (int64_t first = 0; first < count; first += BLOCK) {
    int64_t rows = count - first < BLOCK ? count - first : BLOCK;
    for (int64_t r = 0; r < rows; r++) {
      memcpy(s.x + r * s.ldx, m->embed + tokens[first + r] * m->width, sizeof(float) * m->width);
      memset(s.x + r * s.ldx + m->width, 0, sizeof(float) * (s.ldx - m->width));
    }
    for (int64_t n = 0; n < m->layers; n++)
      layer(m, cache, n, rows, positions + first, slots + first, &s, !d && n == m->layers - 1);
    if (d) head(m, rows, first, d, &s);
  }
  return 0;
}
