/* One pass of a small decoder over rows of tokens with a cache: all layers, the head and the draw, weights in cache.

   A row's bits depend on its own prefix alone: every sum runs over its inner index in one fixed order, whatever the number
   of rows, and attention looks at exactly the keys up to the row's position. So a token costs the same bits alone or in a
   crowd, read from a prompt or sampled.

   Weights are packed in panels of NW outputs, [panel][inner][NW], so that a tile of rows x NW outputs stays in registers.
   Rows are computed in blocks of at most BLOCK, each through all layers; a block may hold several tokens of one slot, in order.
   Several threads may go through one block together: each takes panels of a product, rows or heads of the attention.
   While a row's head attends, the keys and values of the next one are fetched; while a panel is used, the next panel is.

   Shapes: R rows, D width, H query heads, J key/value heads, E head size, M inner width, V vocabulary, T token capacity. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#endif

#if defined(__AVX512F__)
#define VL 16
#else
#define VL 8
#endif
#define NW (2 * VL)
#define BLOCK 64
#define AHEAD 16 /* inner steps a pair of panels is fetched before it is used */
#define GROUP (VL / 4) /* keys that lie together, four numbers of each at a time */
#define CHUNK 64 /* probabilities between two stored partial sums */
#define QUERIES (VL / 2) /* that look at the same keys and values together */
#define MOST_WAYS 8 /* interleaved sums over the keys */
#define MOST_THREADS 16
#define FEW_ROWS 4 /* entered at a time: to tell others that it is done waits for all that was written */
#define LINE 8 /* 64-bit numbers that the cache moves at once */
#define ENOUGH 24576 /* rows times inner size for which one panel is worth taking */

typedef float vec __attribute__((vector_size(4 * VL)));
typedef int32_t ivec __attribute__((vector_size(4 * VL)));
typedef vec loose __attribute__((aligned(4), may_alias));

#define LOAD(p) (*(const loose *)(p))
#define STORE(p, v) (*(loose *)(p) = (v))
#define SMALL static inline __attribute__((always_inline))
#define LARGE static __attribute__((noinline)) /* compiled by itself, whoever calls it */

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

/* Keys [L, S, J, T/GROUP, E/4, GROUP, 4] (or [.., E, GROUP] when 4 does not divide E), values [L, S, J, T, E]. The first shared[s] keys of slot s, a multiple of VL, equal those of
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

/* What is drawn for each row, at most `steps` times: `uniform`, `ids`, `logprobs` and `entropies` are [R, steps], `stops`
   [R, stop_count], the others [R]. `left` is how many draws end the row; `over` is set when a row has ended, and calls that
   share it return after the step they are in; `logits` may be NULL. */
typedef struct {
  const float *temperature, *uniform;
  const uint8_t *greedy;
  const int64_t *force;
  int64_t *ids;
  float *logprobs, *entropies, *logits;
  const int64_t *stops, *left;
  int32_t *over;
  int64_t steps, stop_count;
} Draw;

static int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

SMALL vec fill(float x) { return x - (vec){0}; }

/* The larger one, or NaN if either is: a policy that diverged must not look sure of itself. */
SMALL vec vmax(vec a, vec b) {
  ivec pick = (a > b) | (a != a);
  return (vec)(((ivec)a & pick) | ((ivec)b & ~pick));
}

typedef float quad __attribute__((vector_size(16)));

SMALL float total(vec v) {
  union {
    vec v;
    quad q[VL / 4];
  } u = {v};
#if VL == 16
  quad s = (u.q[0] + u.q[2]) + (u.q[1] + u.q[3]);
#else
  quad s = u.q[0] + u.q[1];
#endif
  return (s[0] + s[2]) + (s[1] + s[3]);
}

SMALL float largest(vec v) {
  float s[VL], best;
  STORE(s, v);
  for (int step = VL / 2; step; step /= 2)
    for (int i = 0; i < step; i++) s[i] = s[i] > s[i + step] || s[i] != s[i] ? s[i] : s[i + step];
  best = s[0];
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

/* ROWS rows times PANELS panels: c = a·b (+ bias) (+ c). Meanwhile one panel fetches a line at `soon` per inner step, `stride`
   bytes further each time; two panels fetch themselves. */
#define TILE(NAME, ROWS, PANELS)                                                                                    \
  static void NAME(const float *a, int64_t lda, const float *b, int64_t inner, float *c, int64_t ldc, const float *bias, int add, \
                   const char *soon, int64_t stride) {                                                              \
    vec sum[ROWS][2 * PANELS];                                                                                      \
    const float *panel[PANELS];                                                                                     \
    for (int p = 0; p < PANELS; p++) panel[p] = b + p * inner * NW;                                                 \
    _Pragma("GCC unroll 16") for (int r = 0; r < ROWS; r++)                                                         \
      _Pragma("GCC unroll 16") for (int j = 0; j < 2 * PANELS; j++) sum[r][j] = fill(0);                             \
    for (int64_t k = 0; k < inner; k++) {                                                                           \
      vec w[2 * PANELS];                                                                                            \
      _Pragma("GCC unroll 16") for (int j = 0; j < 2 * PANELS; j++) {                                               \
        w[j] = LOAD(panel[j / 2] + k * NW + j % 2 * VL);                                                            \
        if (PANELS == 2) __builtin_prefetch(panel[j / 2] + (k + AHEAD) * NW + j % 2 * VL);                          \
      }                                                                                                             \
      if (PANELS == 1) __builtin_prefetch(soon, 0, 2), soon += stride;                                              \
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

#define SINGLE(ROWS) TILE(single_##ROWS, ROWS, 1)
#define PAIR(ROWS) TILE(paired_##ROWS, ROWS, 2)
SINGLE(1) SINGLE(2) SINGLE(3) SINGLE(4) SINGLE(5) SINGLE(6) PAIR(1) PAIR(2) PAIR(3)
#if VL == 16
SINGLE(7) SINGLE(8) SINGLE(9) SINGLE(10) SINGLE(11) SINGLE(12) PAIR(4) PAIR(5) PAIR(6)
#endif

typedef void (*Tile)(const float *, int64_t, const float *, int64_t, float *, int64_t, const float *, int, const char *, int64_t);

#if VL == 16
#define TALL 12
#define PAIRED 6
static const Tile single[] = {single_1, single_2, single_3, single_4,  single_5,  single_6,
                              single_7, single_8, single_9, single_10, single_11, single_12};
static const Tile paired[] = {paired_1, paired_2, paired_3, paired_4, paired_5, paired_6};
#else
#define TALL 6
#define PAIRED 3
static const Tile single[] = {single_1, single_2, single_3, single_4, single_5, single_6};
static const Tile paired[] = {paired_1, paired_2, paired_3};
#endif

/* A matrix in panels and where its outputs go. */
typedef struct {
  int64_t inner, outputs;
  const float *packed, *bias;
  int add;
} Matrix;

/* Outputs [first, end) of c[R, N] = a[R, K] · weightᵀ (+ bias) (+ c); `first` is a multiple of NW, and so is `end` or it is N.
   ldc is at least N rounded up to NW, and so is the bias. At the end what lies at `after` is fetched. */
LARGE void product(int64_t rows, const Matrix *w, int64_t first, int64_t end, const float *a, int64_t lda, float *c, int64_t ldc,
                    const float *after) {
  int64_t n = first, inner = w->inner, parts = (rows + TALL - 1) / TALL, height = (rows + parts - 1) / parts;
  int64_t stride = sizeof(float) * NW / parts; /* the next panel, in equal parts */
  if (rows <= PAIRED)
    for (; n + 2 * NW <= up(end, NW); n += 2 * NW)
      paired[rows - 1](a, lda, w->packed + n * inner, inner, c + n, ldc, w->bias ? w->bias + n : 0, w->add, 0, 0);
  for (; n < end; n += NW) {
    const float *panel = w->packed + n * inner;
    const char *soon = (const char *)(n + NW < end ? panel + inner * NW : after);
    for (int64_t r = 0; r < rows; r += height, soon += stride * inner)
      single[(rows - r < height ? rows - r : height) - 1](a + r * lda, lda, panel, inner, c + r * ldc + n, ldc,
                                                          w->bias ? w->bias + n : 0, w->add, soon, stride);
  }
}

/* ---- work shared by threads ---- */

/* Threads that go through the same rows together. All open the same phases in the same order, each of some units of work.
   Every thread has its own range of them and, when that is empty, takes from the others', so that one that is late or held up
   keeps the others waiting for one unit at most. `shared` holds zeros at first: how many units are done, in which step a row
   ended, and how many units are taken of each thread's ranges, a line apart. */
typedef struct {
  int64_t threads, index, *shared, opened;
  int64_t first[MOST_THREADS], from[MOST_THREADS], to[MOST_THREADS];
} Team;

#define DONE(t) ((t)->shared)
#define ENDED(t) ((t)->shared + LINE)
#define TAKEN(t, i) ((t)->shared + (2 + (i)) * LINE)

/* Begins a phase. */
static void open_phase(Team *t, int64_t units) {
  if (t->threads == 1) t->to[0] = 0; /* alone: counted from 0, and nobody is told */
  for (int64_t i = 0; i < t->threads; i++) {
    t->first[i] = units * i / t->threads;
    t->from[i] = t->to[i];
    t->to[i] += units * (i + 1) / t->threads - t->first[i];
  }
  t->opened += units;
}

/* A unit of the phase that nobody has taken, or -1. */
static int64_t take(Team *t) {
  if (t->threads == 1) return t->from[0] < t->to[0] ? t->from[0]++ : -1;
  for (int64_t i = 0; i < t->threads; i++) {
    int64_t whose = t->index + i < t->threads ? t->index + i : t->index + i - t->threads;
    int64_t taken = __atomic_load_n(TAKEN(t, whose), __ATOMIC_ACQUIRE);
    while (taken < t->to[whose])
      if (__atomic_compare_exchange_n(TAKEN(t, whose), &taken, taken + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return t->first[whose] + taken - t->from[whose];
  }
  return -1;
}

static void give(Team *t) {
  if (t->threads > 1) __atomic_fetch_add(DONE(t), 1, __ATOMIC_RELEASE);
}

/* Waits until all units of the phase are done. */
static void settle(Team *t) {
  if (t->threads == 1) return;
  for (int64_t spins = 0; __atomic_load_n(DONE(t), __ATOMIC_ACQUIRE) < t->opened; spins++) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
#if defined(__unix__) || defined(__APPLE__)
    if (spins > 200) sched_yield();
#else
    (void)spins;
#endif
  }
}

#define SHARE(t, units, u) for (int64_t u = (open_phase(t, units), take(t)); u >= 0; give(t), u = take(t))

/* Panels one thread takes at a time. */
static int64_t grain(const Team *t, int64_t rows, const Matrix *w) {
  int64_t panels = up(w->outputs, NW) / NW, least = rows <= PAIRED ? 2 : 1;
  if (t->threads == 1) return panels;
  int64_t some = ENOUGH / (rows * w->inner), fair = panels / (4 * t->threads);
  some = some < fair ? some : fair;
  return some > least ? some : least;
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
SMALL void turn(const float *restrict x, const float *restrict cosine, const float *restrict sine, int64_t n, float *restrict out) {
  int64_t half = n / 2, i = 0;
  for (; i + VL <= half; i += VL) {
    vec low = LOAD(x + i), high = LOAD(x + i + half);
    STORE(out + i, low * LOAD(cosine + i) + high * LOAD(sine + i));
    STORE(out + i + half, high * LOAD(cosine + i + half) + low * LOAD(sine + i + half));
  }
  for (; i < half; i++) {
    out[i] = x[i] * cosine[i] + x[i + half] * sine[i];
    out[i + half] = x[i + half] * cosine[i + half] + x[i] * sine[i + half];
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

/* Every other lane of a and then of b, from the first or the second on. */
#if defined(__clang__) || __GNUC__ >= 12
#if VL == 16
#define EVERY(a, b, F) __builtin_shufflevector(a, b, F, F + 2, F + 4, F + 6, F + 8, F + 10, F + 12, F + 14, F + 16, F + 18, F + 20, \
                                               F + 22, F + 24, F + 26, F + 28, F + 30)
#else
#define EVERY(a, b, F) __builtin_shufflevector(a, b, F, F + 2, F + 4, F + 6, F + 8, F + 10, F + 12, F + 14)
#endif
#else
#if VL == 16
#define EVERY(a, b, F) __builtin_shuffle(a, b, (ivec){F, F + 2, F + 4, F + 6, F + 8, F + 10, F + 12, F + 14, F + 16, F + 18, F + 20, \
                                                      F + 22, F + 24, F + 26, F + 28, F + 30})
#else
#define EVERY(a, b, F) __builtin_shuffle(a, b, (ivec){F, F + 2, F + 4, F + 6, F + 8, F + 10, F + 12, F + 14})
#endif
#endif

SMALL vec pairs(vec a, vec b) { return EVERY(a, b, 0) + EVERY(a, b, 1); }

/* Scores of GROUPS groups of keys from `t` on; `spread` holds the query four numbers at a time, each four GROUP times. */
#define SCORES(GROUPS)                                                                                   \
  {                                                                                                      \
    vec s[8];                                                                                            \
    const float *k = keys + t * size;                                                                    \
    _Pragma("GCC unroll 8") for (int j = 0; j < 8; j++) s[j] = fill(0);                                   \
    for (int64_t e = 0; e < size / 4; e++) {                                                             \
      vec x = LOAD(spread + e * VL);                                                                     \
      _Pragma("GCC unroll 8") for (int j = 0; j < GROUPS; j++) {                                          \
        s[j] += x * LOAD(k + j * size * GROUP + e * VL);                                                 \
        __builtin_prefetch(k + j * size * GROUP + e * VL + next, 0, 2);                                  \
      }                                                                                                  \
    }                                                                                                    \
    STORE(weights + t, pairs(pairs(s[0], s[1]), pairs(s[2], s[3])));                                     \
    if (GROUPS > 4) STORE(weights + t + VL, pairs(pairs(s[4], s[5]), pairs(s[6], s[7])));                \
  }

/* Scores of the keys from `t` to `end`, both multiples of GROUP; what lies `next` numbers further is fetched.
   Up to 2 * VL numbers after `end` may be written. */
static void scores(const float *q, const float *spread, const float *keys, int64_t t, int64_t end, int64_t size, float *weights,
                   int64_t next) {
  if (size % 4) {
    for (; t < end; t++) {
      const float *k = keys + t / GROUP * GROUP * size + t % GROUP;
      float s = 0;
      for (int64_t e = 0; e < size; e++) s += q[e] * k[e * GROUP];
      weights[t] = s;
    }
    return;
  }
  for (; t + 8 * GROUP <= end; t += 8 * GROUP) SCORES(8)
  switch ((end - t) / GROUP) {
    case 7: SCORES(7) break;
    case 6: SCORES(6) break;
    case 5: SCORES(5) break;
    case 4: SCORES(4) break;
    case 3: SCORES(3) break;
    case 2: SCORES(2) break;
    case 1: SCORES(1) break;
  }
}

/* Sum over keys of weight * value for a head of VECS * VL numbers, in WAYS interleaved sums; WAYS divides VL. The first `from`
   keys are in the sums `begun` already. */
#define MIX(VECS, WAYS)                                                                                                 \
  {                                                                                                                     \
    vec s[WAYS][VECS];                                                                                                  \
    _Pragma("GCC unroll 8") for (int w = 0; w < WAYS; w++)                                                               \
      _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++)                                                             \
        s[w][j] = from ? (vec)LOAD(begun + (w * VECS + j) * VL) : fill(0);                                                  \
    int64_t t = from;                                                                                                   \
    for (int part = 0; part < 2; part++) {                                                                              \
      const float *values = seen->values[part];                                                                         \
      const int64_t ahead = next->values[part] - values;                                                                \
      int64_t end = part ? count : seen->split;                                                                         \
      for (; t + WAYS <= end; t += WAYS)                                                                                \
        _Pragma("GCC unroll 8") for (int w = 0; w < WAYS; w++)                                                           \
          _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++) {                                                       \
            s[w][j] += fill(weights[t + w]) * LOAD(values + (t + w) * size + j * VL);                                    \
            __builtin_prefetch(values + (t + w) * size + j * VL + ahead, 0, 2);                                          \
          }                                                                                                             \
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

/* Probabilities up to a factor from scores, in their place; returns the factor. */
SMALL float soften(float *weights, int64_t count) {
  int64_t padded = up(count, VL);
  STORE(weights + padded - VL, keep(LOAD(weights + padded - VL), count - (padded - VL), -INFINITY));
  vec top = LOAD(weights), sum = fill(0);
  for (int64_t t = VL; t < padded; t += VL) top = vmax(top, LOAD(weights + t));
  float peak = largest(top);
  for (int64_t t = 0; t < padded; t += VL) {
    vec e = vexp(LOAD(weights + t) - peak);
    STORE(weights + t, e);
    sum += e;
  }
  return 1.0f / total(sum);
}

/* The query four numbers at a time, each four GROUP times. */
SMALL void repeated(const float *q, int64_t size, float *spread) {
  for (int64_t e = 0; e < size / 4; e++)
    for (int64_t i = 0; i < GROUP; i++) memcpy(spread + e * VL + i * 4, q + 4 * e, 4 * sizeof(float));
}

LARGE void mix(const Seen *seen, const Seen *next, int64_t count, int64_t from, const float *begun, int64_t size,
                const float *weights, float scale, float *out) {
  if (size == VL) MIX(1, 8)
  else if (size == 2 * VL) MIX(2, 4)
  else if (size == 4 * VL) MIX(4, 4)
  else if (size == 8 * VL) MIX(8, 2)
  else {
    for (int64_t e = 0; e < size; e++) out[e] = 0;
    for (int64_t t = 0; t < count; t++) {
      const float *values = seen->values[t >= seen->split];
      for (int64_t e = 0; e < size; e++) out[e] += weights[t] * values[t * size + e];
    }
    for (int64_t e = 0; e < size; e++) out[e] *= scale;
  }
}

/* One query over `count` keys; `weights` has room for the scores, `spread` for the query GROUP times. What `next` sees is
   fetched meanwhile. */
LARGE void attend(const float *q, const Seen *seen, const Seen *next, int64_t count, int64_t size, float *spread, float *weights,
                   float *out) {
  repeated(q, size, spread);
  scores(q, spread, seen->keys[0], 0, seen->split, size, weights, next->keys[0] - seen->keys[0]);
  scores(q, spread, seen->keys[1], seen->split, up(count, GROUP), size, weights, next->keys[1] - seen->keys[1]);
  float scale = soften(weights, count);
  mix(seen, next, count, 0, 0, size, weights, scale, out);
}

/* ---- many queries of one head ---- */

/* Some queries of consecutive positions that see the same keys, the first `common` of them whole: the sums of `attend` in the
   same order, but keys and values are read once for all queries. */
typedef struct {
  const float *q[QUERIES];
  float *out[QUERIES];
  int64_t count[QUERIES];
} Queries;

#define TOGETHER (QUERIES / 2) /* whose scores lie in registers together */

/* Scores of VL keys at a time from `t` on until `end` is reached; what comes after `end` means nothing. */
LARGE void scores_of_many(const float *spread, const float *keys, int64_t t, int64_t end, int64_t size, float *weights, int64_t ldw) {
  for (; t < end; t += VL) {
    vec s[TOGETHER][4];
    const float *k = keys + t * size;
    _Pragma("GCC unroll 8") for (int i = 0; i < TOGETHER; i++)
      _Pragma("GCC unroll 8") for (int j = 0; j < 4; j++) s[i][j] = fill(0);
    for (int64_t e = 0; e < size / 4; e++) {
      vec w[4];
      _Pragma("GCC unroll 8") for (int j = 0; j < 4; j++) w[j] = LOAD(k + j * size * GROUP + e * VL);
      _Pragma("GCC unroll 8") for (int i = 0; i < TOGETHER; i++) {
        vec x = LOAD(spread + i * size * GROUP + e * VL);
        _Pragma("GCC unroll 8") for (int j = 0; j < 4; j++) s[i][j] += x * w[j];
      }
    }
    _Pragma("GCC unroll 8") for (int i = 0; i < TOGETHER; i++)
      STORE(weights + i * ldw + t, pairs(pairs(s[i][0], s[i][1]), pairs(s[i][2], s[i][3])));
  }
}

/* MIX over the first `common` keys, a multiple of WAYS, for all queries, NEAR of them and one of the interleaved sums at a time. */
#define MIX_MANY(VECS, WAYS, NEAR)                                                                                      \
  for (int first = 0; first < QUERIES; first += NEAR)                                                                   \
    for (int w = 0; w < WAYS; w++) {                                                                                    \
      vec s[NEAR][VECS];                                                                                                \
      _Pragma("GCC unroll 8") for (int i = 0; i < NEAR; i++)                                                             \
        _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++) s[i][j] = fill(0);                                        \
      int64_t t = 0;                                                                                                    \
      for (int part = 0; part < 2; part++) {                                                                            \
        int64_t end = part || seen->split > common ? common : seen->split;                                              \
        const float *at = seen->values[part] + (t + w) * size, *p = weights + first * ldw + w;                          \
        for (; t < end; t += WAYS, at += WAYS * size) {                                                                 \
          vec v[VECS];                                                                                                  \
          _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++) v[j] = LOAD(at + j * VL);                               \
          _Pragma("GCC unroll 8") for (int i = 0; i < NEAR; i++) {                                                       \
            vec x = fill(p[i * ldw + t]);                                                                               \
            _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++) s[i][j] += x * v[j];                                  \
          }                                                                                                             \
        }                                                                                                               \
      }                                                                                                                 \
      _Pragma("GCC unroll 8") for (int i = 0; i < NEAR; i++)                                                             \
        _Pragma("GCC unroll 8") for (int j = 0; j < VECS; j++)                                                           \
          STORE(begun + ((first + i) * MOST_WAYS * VL + w * VL) * VECS + j * VL, s[i][j]);                               \
    }

/* Whether heads of this size have such a form. */
static int can_group(int64_t size) { return size == VL || size == 2 * VL || size == 4 * VL || size == 8 * VL; }

/* `spread` has room for QUERIES queries GROUP times, `weights` for QUERIES times `ldw` scores, `begun` for QUERIES times
   MOST_WAYS sums. */
LARGE void attend_many(const Queries *all, const Seen *seen, int64_t size, float *spread, float *weights, int64_t ldw,
                        float *begun) {
  int64_t fewest = all->count[0], most = all->count[0];
  float scale[QUERIES];
  for (int i = 0; i < QUERIES; i++) {
    repeated(all->q[i], size, spread + i * size * GROUP);
    if (all->count[i] < fewest) fewest = all->count[i];
    if (all->count[i] > most) most = all->count[i];
  }
  for (int i = 0; i < QUERIES; i += TOGETHER) {
    scores_of_many(spread + i * size * GROUP, seen->keys[0], 0, seen->split, size, weights + i * ldw, ldw);
    scores_of_many(spread + i * size * GROUP, seen->keys[1], seen->split, most, size, weights + i * ldw, ldw);
  }
  for (int i = 0; i < QUERIES; i++) scale[i] = soften(weights + i * ldw, all->count[i]);
  int64_t common = fewest / MOST_WAYS * MOST_WAYS;
  if (size == VL) MIX_MANY(1, 8, QUERIES)
  else if (size == 2 * VL) MIX_MANY(2, 4, QUERIES)
  else if (size == 4 * VL) MIX_MANY(4, 4, TOGETHER)
  else MIX_MANY(8, 2, (QUERIES / 4))
  for (int i = 0; i < QUERIES; i++)
    mix(seen, seen, all->count[i], common, begun + i * MOST_WAYS * size, size, weights + i * ldw, scale[i], all->out[i]);
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
  int64_t x, h, qkv, mixed, inner, spread, begun, weights, logits, sums, ldw;
} Sizes;

static Sizes sizes_of(const Model *m, int64_t capacity) {
  int64_t outputs = (m->heads + 2 * m->kv_heads) * m->head_dim, E = m->head_dim;
  int64_t line = up(capacity, NW) + 2 * NW, most = up(m->vocab > E ? m->vocab : E, NW) + 2 * NW;
  return (Sizes){.x = BLOCK * up(m->width, NW),
                 .h = BLOCK * up(m->width, NW),
                 .qkv = BLOCK * up(outputs, NW),
                 .mixed = BLOCK * up(m->heads * m->head_dim, NW),
                 .inner = BLOCK * up(2 * m->mlp, NW),
                 .spread = up(QUERIES * E * GROUP, VL),
                 .begun = up(QUERIES * MOST_WAYS * E, VL),
                 .weights = QUERIES * line > most ? QUERIES * line : most,
                 .logits = BLOCK * up(m->vocab, NW),
                 .sums = 2 * (up(m->vocab, NW) / CHUNK + 2),
                 .ldw = line};
}

/* Floats of scratch memory one call needs. */
int64_t phronesis_scratch(const Model *m, int64_t capacity) {
  Sizes s = sizes_of(m, capacity);
  return s.x + s.h + s.qkv + s.mixed + s.inner + s.spread + s.begun + s.weights + s.logits + s.sums + 8 * NW;
}

int64_t phronesis_lanes(void) { return VL; }

/* Keys that lie together in the cache. */
int64_t phronesis_group(void) { return GROUP; }

/* Asks for large pages, before the memory is first written to: keys and values are read in many short runs. */
void phronesis_large(void *memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  uintptr_t page = 4096, from = ((uintptr_t)memory + page - 1) & ~(page - 1), to = ((uintptr_t)memory + bytes) & ~(page - 1);
  if (to > from) madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

/* Changes whenever a structure or an argument does; build.py expects the same number. */
int64_t phronesis_interface(void) { return 5; }

/* Rows that go through the layers together, and the scratch memory they use. */
typedef struct {
  int64_t rows;
  const int64_t *tokens, *positions, *slots;
  Team *team;
  float *x, *h, *qkv, *mixed, *inner, *spread, *begun, *weights, *logits;
  double *sums;
  int64_t ldx, ldq, ldm, ldi, ldv, ldw;
} Block;

/* c (+)= norm(x) · weightᵀ, the norm only by those who have part in it; or without a norm, of `a`. */
static void multiply(const Block *s, const Model *m, const float *weight, const float *a, int64_t lda, Matrix w, float *c, int64_t ldc) {
  int64_t some = grain(s->team, s->rows, &w), panels = up(w.outputs, NW) / NW, ready = !weight;
  SHARE(s->team, (panels + some - 1) / some, u) {
    int64_t first = u * some * NW, end = first + some * NW < w.outputs ? first + some * NW : w.outputs;
    if (!ready)
      for (int64_t r = 0; r < s->rows; r++) norm(s->x + r * s->ldx, weight, m->width, m->eps, s->h + r * s->ldx);
    ready = 1;
    product(s->rows, &w, first, end, a, lda, c, ldc, w.packed + up(end, NW) * w.inner);
  }
  settle(s->team);
}

/* Turns queries and keys of some pairs of row and key/value head, numbered row by row, of layer n; keys and values go to the
   cache. */
LARGE void enter(const Model *m, const Cache *cache, int64_t n, const Block *s, int64_t first, int64_t end) {
  const Layer *w = m->layer + n;
  const int64_t E = m->head_dim, J = m->kv_heads, H = m->heads, T = cache->capacity, groups = H / J;
  const int qk_norm = m->qk_norm;
  const float eps = m->eps;
  float *one = s->weights;
  for (int64_t r = first / J; r * J < end; r++) {
    int64_t from = r * J < first ? first % J : 0, to = (r + 1) * J > end ? end - r * J : J, at = s->positions[r];
    float *row = s->qkv + r * s->ldq;
    const float *cosine = m->cos + at * E, *sine = m->sin + at * E;
    for (int64_t h = from * groups, last = H + to; h < last; h = h + 1 == to * groups ? H + from : h + 1) {
      const float *scale = w->qk_scale + h * E;
      if (qk_norm)
        norm(row + h * E, scale, E, eps, one);
      else
        for (int64_t e = 0; e < E; e++) one[e] = row[h * E + e] * scale[e];
      turn(one, cosine, sine, E, row + h * E);
    }
    for (int64_t j = from; j < to; j++) {
      int64_t line = (n * cache->slots + s->slots[r]) * J + j;
      float *keys = cache->keys + line * E * T + at / GROUP * GROUP * E, *key = row + (H + j) * E;
      if (E % 4)
        for (int64_t e = 0; e < E; e++) keys[at % GROUP + e * GROUP] = key[e];
      else
        for (int64_t e = 0; e < E; e += 4) memcpy(keys + at % GROUP * 4 + e * GROUP, key + e, 4 * sizeof(float));
      memcpy(cache->values + (line * T + at) * E, row + (H + J + j) * E, sizeof(float) * E);
    }
  }
}

/* What the queries of a row that share key/value head j look at, in layer n. */
SMALL Seen seen_by(const Model *m, const Cache *cache, int64_t n, const Block *s, int64_t r, int64_t j) {
  int64_t J = m->kv_heads, size = m->head_dim * cache->capacity, slot = s->slots[r];
  int64_t place = s->positions[r] / VL * VL; /* what is written in this pass lies in the slot itself */
  int64_t split = cache->shared[slot] / VL * VL;
  int64_t far = ((n * cache->slots + cache->origin[slot]) * J + j) * size;
  int64_t own = ((n * cache->slots + slot) * J + j) * size;
  return (Seen){{cache->keys + far, cache->keys + own}, {cache->values + far, cache->values + own}, split < place ? split : place};
}

/* Rows from r on that hold consecutive tokens of one slot. */
static int64_t run_at(const Block *s, int64_t r) {
  int64_t end = r + 1;
  while (end < s->rows && s->slots[end] == s->slots[r] && s->positions[end] == s->positions[end - 1] + 1) end++;
  return end - r;
}

/* Queries of a run for key/value head j, QUERIES of them from `first` on, in layer n. */
static void attend_run(const Model *m, const Cache *cache, int64_t n, const Block *s, int64_t r, int64_t rows, int64_t j, int64_t first) {
  const int64_t E = m->head_dim, groups = m->heads / m->kv_heads, units = rows * groups;
  Seen seen = seen_by(m, cache, n, s, r, j);
  Queries all;
  for (int64_t i = 0; i < QUERIES; i++) { /* the last one again where there are not enough */
    int64_t unit = first + i < units ? first + i : units - 1, row = r + unit / groups, h = j * groups + unit % groups;
    all.q[i] = s->qkv + row * s->ldq + h * E, all.out[i] = s->mixed + row * s->ldm + h * E;
    all.count[i] = s->positions[row] + 1;
  }
  attend_many(&all, &seen, E, s->spread, s->weights, s->ldw, s->begun);
}

/* Rows of different slots: some pairs of row and key/value head, numbered row by row. */
static void attend_rows(const Model *m, const Cache *cache, int64_t n, const Block *s, int64_t first, int64_t end) {
  const int64_t E = m->head_dim, J = m->kv_heads, groups = m->heads / J;
  Seen next = seen_by(m, cache, n, s, first / J, first % J);
  for (int64_t unit = first; unit < end; unit++) {
    int64_t r = unit / J, j = unit % J;
    Seen seen = next;
    if (unit + 1 < s->rows * J) next = seen_by(m, cache, n, s, (unit + 1) / J, (unit + 1) % J);
    for (int64_t h = j * groups; h < (j + 1) * groups; h++)
      attend(s->qkv + r * s->ldq + h * E, &seen, &next, s->positions[r] + 1, E, s->spread, s->weights, s->mixed + r * s->ldm + h * E);
  }
}

/* Enters keys and values of layer n into the cache and, unless it is the last thing to do, attends. */
static void attention(const Model *m, const Cache *cache, int64_t n, const Block *s, int only_enter) {
  const int64_t J = m->kv_heads, groups = m->heads / J, pairs = s->rows * J;
  const int grouped = can_group(m->head_dim);
  int64_t tiles = 0, runs = 0;
  for (int64_t r = 0, rows; r < s->rows; r += rows, runs++) {
    rows = run_at(s, r);
    tiles += rows > 1 && grouped ? J * ((rows * groups + QUERIES - 1) / QUERIES) : rows * J;
  }
  if (runs == s->rows && !only_enter) { /* nobody looks at what another row enters */
    int64_t some = s->team->threads == 1 ? pairs : s->rows >= 4 * s->team->threads ? J : 1;
    SHARE(s->team, (pairs + some - 1) / some, u) {
      int64_t end = (u + 1) * some < pairs ? (u + 1) * some : pairs;
      enter(m, cache, n, s, u * some, end);
      attend_rows(m, cache, n, s, u * some, end);
    }
    settle(s->team);
    return;
  }
  const int64_t some = s->team->threads == 1 ? pairs : FEW_ROWS * J;
  SHARE(s->team, (pairs + some - 1) / some, u)
    enter(m, cache, n, s, u * some, (u + 1) * some < pairs ? (u + 1) * some : pairs);
  settle(s->team);
  if (only_enter) return;
  int64_t r = 0, rows = 0, before = 0, count = 0; /* the run of the last unit, the units before it and its own */
  SHARE(s->team, tiles, u) {
    if (u < before) r = rows = before = count = 0;
    while (u >= before + count) {
      r += rows, before += count, rows = run_at(s, r);
      count = rows > 1 && grouped ? J * ((rows * groups + QUERIES - 1) / QUERIES) : rows * J;
    }
    int64_t inside = u - before, each = count / J;
    if (rows > 1 && grouped)
      attend_run(m, cache, n, s, r, rows, inside / each, inside % each * QUERIES);
    else
      attend_rows(m, cache, n, s, r * J + inside, r * J + inside + 1);
  }
  settle(s->team);
}

/* SiLU(gate) · up of layer n. */
static void expand(const Model *m, int64_t n, const Block *s) {
  const Layer *l = m->layer + n;
  const Matrix w = {m->width, 2 * m->mlp, l->gate_up, l->gate_up_bias, 0}, gate = {m->width, m->mlp, l->gate_up, l->gate_up_bias, 0};
  int64_t panels = up(m->mlp, NW) / NW, some = grain(s->team, s->rows, &gate), ready = 0;
  if (m->mlp % NW) some = panels; /* a panel holds both */
  SHARE(s->team, (panels + some - 1) / some, u) {
    int64_t first = u * some * NW, end = first + some * NW < m->mlp ? first + some * NW : m->mlp;
    if (!ready)
      for (int64_t r = 0; r < s->rows; r++) norm(s->x + r * s->ldx, l->mlp_norm, m->width, m->eps, s->h + r * s->ldx);
    ready = 1;
    if (some == panels) {
      product(s->rows, &w, 0, 2 * m->mlp, s->h, s->ldx, s->inner, s->ldi, l->down);
    } else {
      product(s->rows, &w, first, end, s->h, s->ldx, s->inner, s->ldi, w.packed + (m->mlp + first) * m->width);
      product(s->rows, &w, m->mlp + first, m->mlp + end, s->h, s->ldx, s->inner, s->ldi, w.packed + end * m->width);
    }
    for (int64_t r = 0; r < s->rows; r++) gated(s->inner + r * s->ldi + first, s->inner + r * s->ldi + m->mlp + first, end - first);
  }
  settle(s->team);
}

/* Whether a row ends with the id just drawn, its `made`-th. */
static int ends(const Draw *d, int64_t row, int64_t id, int64_t made) {
  if (made >= d->left[row]) return 1;
  for (int64_t i = 0; i < d->stop_count; i++)
    if (d->stops[row * d->stop_count + i] == id) return 1;
  return 0;
}

/* What follows rows from `first` on; when there is another step, it goes on with that. */
static void head(const Model *m, int64_t first, int64_t *tokens, int64_t *positions, const Draw *d, int64_t step, const Block *s) {
  multiply(s, m, m->final_norm, s->h, s->ldx, (Matrix){m->width, m->vocab, m->head, 0, 0}, s->logits, s->ldv);
  SHARE(s->team, s->rows, r) {
    int64_t i = first + r, at = i * d->steps + step;
    float *x = s->logits + r * s->ldv;
    if (d->logits) memcpy(d->logits + i * m->vocab, x, sizeof(float) * m->vocab);
    draw(x, m->vocab, d->temperature[i], d->uniform[at], d->greedy[i], d->force[i], s->weights, s->sums, d->ids + at,
         d->logprobs + at, d->entropies + at);
    if (step + 1 < d->steps) {
      tokens[i] = d->ids[at], positions[i]++;
      if (ends(d, i, tokens[i], step + 1)) {
        __atomic_store_n(d->over, 1, __ATOMIC_RELAXED);
        __atomic_store_n(ENDED(s->team), step + 1, __ATOMIC_RELAXED);
      }
    }
  }
  settle(s->team);
}

/* One pass over `count` rows. */
static void pass(const Model *m, const Cache *cache, int64_t count, int64_t *tokens, int64_t *positions, const int64_t *slots,
                 const Draw *d, int64_t step, Block *s) {
  const int64_t E = m->head_dim, H = m->heads, J = m->kv_heads;
  int64_t blocks = (count + BLOCK - 1) / BLOCK, share = blocks ? (count + blocks - 1) / blocks : 0;
  for (int64_t first = 0; first < count; first += share) {
    s->rows = count - first < share ? count - first : share;
    s->positions = positions + first, s->slots = slots + first;
    SHARE(s->team, s->rows, r) {
      memcpy(s->x + r * s->ldx, m->embed + tokens[first + r] * m->width, sizeof(float) * m->width);
      memset(s->x + r * s->ldx + m->width, 0, sizeof(float) * (s->ldx - m->width));
    }
    settle(s->team);
    for (int64_t n = 0; n < m->layers; n++) {
      const Layer *w = m->layer + n;
      const int last = !d && n == m->layers - 1;
      multiply(s, m, w->attn_norm, s->h, s->ldx, (Matrix){m->width, (H + 2 * J) * E, w->qkv, w->qkv_bias, 0}, s->qkv, s->ldq);
      attention(m, cache, n, s, last);
      if (last) break;
      multiply(s, m, 0, s->mixed, s->ldm, (Matrix){H * E, m->width, w->o, w->o_bias, 1}, s->x, s->ldx);
      expand(m, n, s);
      multiply(s, m, 0, s->inner, s->ldi, (Matrix){m->mlp, m->width, w->down, w->down_bias, 1}, s->x, s->ldx);
    }
    if (d) head(m, first, tokens, positions, d, step, s);
  }
}

/* Computes R tokens and writes their keys and values; several tokens of a slot come in order of position.
   With `d` also draws what follows each of them, up to d->steps times, each time continuing with what was drawn (one token a
   slot then; `tokens` and `positions` go along), until a row of any call with the same d->over ends; without, the last layer
   stops at its keys and values.
   `threads` calls with the same arguments but `index` and `scratch` work together: `shared` then points to zeros, LINE for
   each of them and two more, and `common` to the scratch memory of one of them. They return the same.
   Returns how many times it drew (0 without `d`), or -1 when the scratch memory of `room` floats is too small and nothing was
   done. */
int64_t phronesis_step(const Model *m, const Cache *cache, int64_t count, int64_t *tokens, int64_t *positions,
                       const int64_t *slots, const Draw *d, float *scratch, int64_t room, float *common, int64_t *shared,
                       int64_t threads, int64_t index) {
  if (room < phronesis_scratch(m, cache->capacity) || threads > MOST_THREADS) return -1;
  Sizes z = sizes_of(m, cache->capacity);
  Team team = {.threads = threads, .index = index, .shared = shared};
  Block s = {.team = &team};
  float *at = (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
  s.sums = (double *)at, at += up(z.sums, VL);
  s.h = at, at += z.h;
  s.spread = at, at += z.spread;
  s.begun = at, at += z.begun;
  s.weights = at, at += up(z.weights, VL);
  at = (float *)(((uintptr_t)common + 63) & ~(uintptr_t)63) + (at - (float *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63));
  s.x = at, at += z.x;
  s.qkv = at, at += z.qkv;
  s.mixed = at, at += z.mixed;
  s.inner = at, at += z.inner;
  s.logits = at;
  s.ldx = z.x / BLOCK, s.ldq = z.qkv / BLOCK, s.ldm = z.mixed / BLOCK, s.ldi = z.inner / BLOCK, s.ldv = z.logits / BLOCK, s.ldw = z.ldw;
  int64_t made = 0, over = 0;
  do {
    pass(m, cache, count, tokens, positions, slots, d, made, &s);
    if (!d || ++made == d->steps) break;
    int64_t ended = __atomic_load_n(ENDED(&team), __ATOMIC_RELAXED); /* by a faster thread perhaps in a later step */
    over = threads == 1 ? __atomic_load_n(d->over, __ATOMIC_RELAXED) : ended && ended <= made;
  } while (!over);
  return made;
}
