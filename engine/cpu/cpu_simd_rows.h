/* engine/cpu/cpu_simd_rows.h - attention, norms and activation functions, in
 * the words of cpu_vec_*.h; included once per instruction set, after
 * cpu_simd.h.
 *
 * Attention of one call: rows are (token, head) pairs that share their keys.
 *
 *   for each block of CPU_KEY_BLOCK keys, by absolute position
 *     for each row: scores of the keys it may see -> running maximum, weights,
 * total for groups of rows: sums += weights x values
 *
 * A row never touches a key behind its own position, not even times zero, so
 * what lies there (another sequence's data, NaN) cannot matter, and a row's
 * arithmetic is the same whoever is in the call. */

enum { VALUE_ROWS = 4, VALUE_VECS = 4 };

/* e^x to about one unit in the last place; e^-inf = 0; NaN stays. */
static inline vf vexp(vf x) {
  vf n, r, p;

  x = vmin(vset(88.0f), vmax(vset(-110.0f), x));
  n = vround(vmul(x, vset(1.44269504088896341f)));
  r = vfnma(n, vset(0.693359375f),
            x); /* ln 2 in two parts; the first is exact times n */
  r = vfnma(n, vset(-2.12194440e-4f), r);
  p = vset(1.9875691500e-4f);
  p = vfma(p, r, vset(1.3981999507e-3f));
  p = vfma(p, r, vset(8.3334519073e-3f));
  p = vfma(p, r, vset(4.1665795894e-2f));
  p = vfma(p, r, vset(1.6666665459e-1f));
  p = vfma(p, r, vset(5.0000001201e-1f));
  p = vfma(p, vmul(r, r), vadd(r, vset(1.0f)));
  return vscale2(p, n);
}

struct attend_state {
  const struct cpu_attend *a;
  uint32_t n_rows, stride; /* stride: head_dim rounded up to whole vectors */
  float *score;            /* [rows][CPU_KEY_BLOCK]: scores, then weights */
  float *sum;              /* [rows][stride] */
  float *top, *total;      /* [rows] */
  uint32_t seen[CPU_ATTEND_ROWS]; /* keys of this block that the row may see */
  const float *k[CPU_KEY_BLOCK], *v[CPU_KEY_BLOCK];
};

static inline size_t attend_at(const struct cpu_attend *a, uint32_t row) {
  return row / a->n_heads * a->ldq + (size_t)(row % a->n_heads) * a->head_dim;
}

/* clang-format off: the formatter takes UNROLL for a statement */
static inline vf score_tile(const float *q, const float *const *k,
                            uint32_t head_dim) {
  vf acc[VEC_LANES];
  uint32_t d = 0;

  UNROLL for (int j = 0; j < VEC_LANES; j++) acc[j] = vzero();
  for (; d + VEC_LANES <= head_dim; d += VEC_LANES) {
    vf qv = vload(q + d);

    UNROLL for (int j = 0; j < VEC_LANES; j++) acc[j] =
        vfma(qv, vload(k[j] + d), acc[j]);
  }
  if (d < head_dim) {
    vf qv = vload_n(q + d, head_dim - d);

    UNROLL for (int j = 0; j < VEC_LANES; j++) acc[j] =
        vfma(qv, vload_n(k[j] + d, head_dim - d), acc[j]);
  }
  return vreduce_all(acc);
}
/* clang-format on */

/* Scores of one row's keys in this block, turned into weights; the row's sums
 * shrink to the new maximum. */
static void weigh_row(struct attend_state *s, uint32_t row) {
  const float *q = s->a->q + attend_at(s->a, row);
  float *score = s->score + (size_t)row * CPU_KEY_BLOCK,
        *sum = s->sum + (size_t)row * s->stride;
  uint32_t n = s->seen[row];
  vf top = vset(s->top[row]), total = vzero(), shrink;
  float new_top;

  for (uint32_t j = 0; j < n; j += VEC_LANES) {
    vf sc = vmul(score_tile(q, s->k + j, s->a->head_dim), vset(s->a->scale));

    if (n - j < VEC_LANES)
      sc = vfill_from(sc, n - j, -__builtin_inff());
    vstore(score + j, sc);
    top = vmax(top, sc);
  }
  new_top = vreduce_max(top);
  shrink = vexp(vset(s->top[row] - new_top));
  for (uint32_t j = 0; j < n; j += VEC_LANES) {
    vf p = vexp(vsub(vload(score + j), vset(new_top)));

    vstore(score + j, p);
    total = vadd(total, p);
  }
  for (uint32_t d = 0; d < s->stride; d += VEC_LANES)
    vstore(sum + d, vmul(vload(sum + d), shrink));
  s->total[row] =
      s->total[row] * vreduce_add(shrink) / VEC_LANES + vreduce_add(total);
  s->top[row] = new_top;
}

/* clang-format off: the formatter takes UNROLL for a statement */
/* sums += weights x values for `rows` rows, the keys [from, to) of the block,
 * and `vecs` vectors of the head from d on; `part` is the width of the last
 * vector if it is not whole, else 0. */
static inline __attribute__((always_inline)) void
value_tile(struct attend_state *s, uint32_t row, const uint32_t rows,
           uint32_t from, uint32_t to, uint32_t d, const uint32_t vecs,
           const uint32_t part) {
  vf acc[VALUE_ROWS][VALUE_VECS];

  UNROLL for (uint32_t r = 0; r < rows; r++) {
    UNROLL for (uint32_t c = 0; c < vecs; c++) acc[r][c] =
        vload(s->sum + (size_t)(row + r) * s->stride + d + c * VEC_LANES);
  }
  for (uint32_t j = from; j < to; j++) {
    vf v[VALUE_VECS];

    UNROLL for (uint32_t c = 0; c < vecs; c++) v[c] =
        part != 0 ? vload_n(s->v[j] + d, part)
                  : vload(s->v[j] + d + c * VEC_LANES);
    UNROLL for (uint32_t r = 0; r < rows; r++) {
      vf p = vset(s->score[(size_t)(row + r) * CPU_KEY_BLOCK + j]);

      UNROLL for (uint32_t c = 0; c < vecs; c++) acc[r][c] =
          vfma(p, v[c], acc[r][c]);
    }
  }
  UNROLL for (uint32_t r = 0; r < rows; r++) {
    UNROLL for (uint32_t c = 0; c < vecs; c++) vstore(
        s->sum + (size_t)(row + r) * s->stride + d + c * VEC_LANES, acc[r][c]);
  }
}
/* clang-format on */

static inline __attribute__((always_inline)) void
value_rows(struct attend_state *s, uint32_t row, const uint32_t rows,
           uint32_t from, uint32_t to) {
  uint32_t dim = s->a->head_dim, d = 0;

  if (from >= to)
    return;
  for (; d + VALUE_VECS * VEC_LANES <= dim; d += VALUE_VECS * VEC_LANES)
    value_tile(s, row, rows, from, to, d, VALUE_VECS, 0);
  for (; d + VEC_LANES <= dim; d += VEC_LANES)
    value_tile(s, row, rows, from, to, d, 1, 0);
  if (d < dim)
    value_tile(s, row, rows, from, to, d, 1, dim - d);
}

/* Four rows together over the keys that all of them see, then each alone over
 * the rest. */
static void add_values(struct attend_state *s) {
  uint32_t row = 0;

  for (; row + VALUE_ROWS <= s->n_rows; row += VALUE_ROWS) {
    uint32_t common = CPU_KEY_BLOCK;

    for (uint32_t r = row; r < row + VALUE_ROWS; r++)
      common = s->seen[r] < common ? s->seen[r] : common;
    value_rows(s, row, VALUE_ROWS, 0, common);
    for (uint32_t r = row; r < row + VALUE_ROWS; r++)
      value_rows(s, r, 1, common, s->seen[r]);
  }
  for (; row < s->n_rows; row++)
    value_rows(s, row, 1, 0, s->seen[row]);
}

/* The rows of the block's keys; the last vector of keys is filled up with one
 * that exists. */
static void find_keys(struct attend_state *s, uint32_t first, uint32_t n) {
  for (uint32_t j = 0; j < n; j++) {
    s->k[j] = cpu_kv_row(s->a, s->a->k, first + j);
    s->v[j] = cpu_kv_row(s->a, s->a->v, first + j);
  }
  for (uint32_t j = n; j < (n + VEC_LANES - 1) / VEC_LANES * VEC_LANES; j++)
    s->k[j] = s->k[n - 1];
}

static void finish_row(const struct attend_state *s, uint32_t row) {
  const float *sum = s->sum + (size_t)row * s->stride;
  float *out = s->a->out + attend_at(s->a, row);
  vf total = vset(s->total[row]);
  uint32_t d = 0;

  for (; d + VEC_LANES <= s->a->head_dim; d += VEC_LANES)
    vstore(out + d, vdiv(vload(sum + d), total));
  if (d < s->a->head_dim)
    vstore_n(out + d, vdiv(vload(sum + d), total), s->a->head_dim - d);
}

void SIMD(attend)(const struct cpu_attend *a) {
  struct attend_state s;
  uint32_t n_keys = a->position + a->n_tokens;

  s.a = a;
  s.n_rows = a->n_tokens * a->n_heads;
  s.stride = (a->head_dim + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
  s.score = a->scratch;
  s.sum = s.score + (size_t)CPU_ATTEND_ROWS * CPU_KEY_BLOCK;
  s.top = s.sum + (size_t)CPU_ATTEND_ROWS * s.stride;
  s.total = s.top + CPU_ATTEND_ROWS;
  for (uint32_t r = 0; r < s.n_rows; r++) {
    s.top[r] = -__builtin_inff();
    s.total[r] = 0;
    for (uint32_t d = 0; d < s.stride; d += VEC_LANES)
      vstore(s.sum + (size_t)r * s.stride + d, vzero());
  }
  for (uint32_t first = 0; first < n_keys; first += CPU_KEY_BLOCK) {
    find_keys(&s, first,
              n_keys - first < CPU_KEY_BLOCK ? n_keys - first : CPU_KEY_BLOCK);
    for (uint32_t r = 0; r < s.n_rows; r++) {
      uint32_t last = a->position + r / a->n_heads + 1;
      uint32_t seen = last <= first ? 0 : last - first;

      s.seen[r] = seen < CPU_KEY_BLOCK ? seen : CPU_KEY_BLOCK;
      if (seen > 0)
        weigh_row(&s, r);
    }
    add_values(&s);
  }
  for (uint32_t r = 0; r < s.n_rows; r++)
    finish_row(&s, r);
}

void SIMD(rmsnorm)(float *out, const float *x, const float *w, uint32_t n,
                   float eps) {
  vf a = vzero(), b = vzero(), scale;
  uint32_t i = 0;
  float sum;

  for (; i + 2 * VEC_LANES <= n; i += 2 * VEC_LANES) {
    vf p = vload(x + i), q = vload(x + i + VEC_LANES);

    a = vfma(p, p, a);
    b = vfma(q, q, b);
  }
  sum = vreduce_add(vadd(a, b));
  for (; i < n; i++)
    sum += x[i] * x[i];
  scale = vset(1.0f / __builtin_sqrtf(sum / (float)n + eps));
  for (i = 0; i + VEC_LANES <= n; i += VEC_LANES)
    vstore(out + i, vmul(vmul(vload(x + i), scale), vload(w + i)));
  if (i < n)
    vstore_n(out + i,
             vmul(vmul(vload_n(x + i, n - i), scale), vload_n(w + i, n - i)),
             n - i);
}

static inline vf vsilu_mul(vf gate, vf up) {
  return vmul(vdiv(gate, vadd(vset(1.0f), vexp(vsub(vzero(), gate)))), up);
}

void SIMD(silu_mul)(float *out, const float *gate, const float *up,
                    uint32_t n) {
  uint32_t i = 0;

  for (; i + VEC_LANES <= n; i += VEC_LANES)
    vstore(out + i, vsilu_mul(vload(gate + i), vload(up + i)));
  if (i < n)
    vstore_n(out + i,
             vsilu_mul(vload_n(gate + i, n - i), vload_n(up + i, n - i)),
             n - i);
}
