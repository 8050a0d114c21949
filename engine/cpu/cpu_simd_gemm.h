/* engine/cpu/cpu_simd_gemm.h - one matrix product, included once per weight
 * type.
 *
 * Before including, define
 *   GEMM_NAME         the function
 *   GEMM_X, GEMM_W    element types of activations and weights
 *   GEMM_XV, GEMM_WV  vectors of them
 *   GEMM_STEP         elements per step
 *   GEMM_LOAD_X(p), GEMM_LOAD_W(p), GEMM_LOAD_W_N(p, n)
 *   GEMM_MAC(acc, x, w)
 *
 * A tile is MR activation rows by NR weight rows, each pair with one vector
 * accumulator that runs over all of k.  Both operands are read along k, the
 * order they are stored in.  What a pair's accumulator sees does not depend on
 * the tile, so a row has the same bits in any tile. */

#define GEMM_JOIN_2(name, part) name##_##part
#define GEMM_JOIN(name, part) GEMM_JOIN_2(name, part)
#define GEMM_TILE GEMM_JOIN(GEMM_NAME, tile)
#define GEMM_ROWS GEMM_JOIN(GEMM_NAME, rows)
#define GEMM_WIDE GEMM_JOIN(GEMM_NAME, wide)
#define GEMM_PANEL GEMM_JOIN(GEMM_NAME, panel)

/* clang-format off: the formatter takes UNROLL for a statement */

/* ahead: how many bytes behind each weight row lies the one to fetch meanwhile;
 * 0: none. */
static inline __attribute__((always_inline)) void
GEMM_TILE(const struct cpu_gemm *g, uint32_t i, uint32_t n, const uint32_t mr,
          const uint32_t nr, size_t ahead) {
  const GEMM_X *x = (const GEMM_X *)g->x + i * g->ldx;
  const GEMM_W *w = (const GEMM_W *)g->w + (size_t)n * g->ldw;
  uint32_t k = 0, left;
  vf acc[TILE_ROWS][WIDE_COLS];

  UNROLL for (uint32_t r = 0; r < mr; r++) {
    UNROLL for (uint32_t c = 0; c < nr; c++) acc[r][c] = vzero();
  }
  for (; k + GEMM_STEP <= g->k; k += GEMM_STEP) {
    GEMM_WV wv[WIDE_COLS];

    UNROLL for (uint32_t c = 0; c < nr; c++) {
      if (ahead != 0)
        _mm_prefetch((const char *)(w + (size_t)c * g->ldw + k) + ahead,
                     _MM_HINT_T0);
      wv[c] = GEMM_LOAD_W(w + (size_t)c * g->ldw + k);
    }
    UNROLL for (uint32_t r = 0; r < mr; r++) {
      GEMM_XV xv = GEMM_LOAD_X(x + r * g->ldx + k);

      UNROLL for (uint32_t c = 0; c < nr; c++) acc[r][c] =
          GEMM_MAC(acc[r][c], xv, wv[c]);
    }
  }
  left = g->k - k;
  if (left > 0) {
    UNROLL for (uint32_t r = 0; r < mr; r++) {
      GEMM_XV xv = GEMM_LOAD_X(x + r * g->ldx + k);

      UNROLL for (uint32_t c = 0; c < nr; c++) acc[r][c] = GEMM_MAC(
          acc[r][c], xv, GEMM_LOAD_W_N(w + (size_t)c * g->ldw + k, left));
    }
  }
  UNROLL for (uint32_t r = 0; r < mr; r++) {
    if (nr == 1) {
      store_sums(g, i + r, n,
                 vreduce4(acc[r][0], acc[r][0], acc[r][0], acc[r][0]), 1);
    } else {
      UNROLL for (uint32_t c = 0; c < nr; c += 4) store_sums(
          g, i + r, n + c,
          vreduce4(acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3]), 4);
    }
  }
}
/* clang-format on */

/* mr rows from i, the columns [n, n + nr). */
static inline __attribute__((always_inline)) void
GEMM_ROWS(const struct cpu_gemm *g, uint32_t i, uint32_t mr, uint32_t n,
          const uint32_t nr, size_t ahead) {
  switch (mr) {
  case 1:
    GEMM_TILE(g, i, n, 1, nr, ahead);
    break;
  case 2:
    GEMM_TILE(g, i, n, 2, nr, ahead);
    break;
  case 3:
    GEMM_TILE(g, i, n, 3, nr, ahead);
    break;
#if GEMM_TALL
  case 4:
    GEMM_TILE(g, i, n, 4, nr, ahead);
    break;
  case 5:
    GEMM_TILE(g, i, n, 5, nr, ahead);
    break;
  case 6:
    GEMM_TILE(g, i, n, 6, nr, ahead);
    break;
#endif
  default:
    break;
  }
}

/* Few rows: wide tiles hide the latency of the sums, and memory is the limit.
 */
static void GEMM_WIDE(const struct cpu_gemm *g, uint32_t n0, uint32_t n1) {
  const size_t ahead = WIDE_COLS * g->ldw * sizeof(GEMM_W);
  uint32_t n = n0;

  for (; n + WIDE_COLS <= n1; n += WIDE_COLS) {
    if (g->m == 1)
      GEMM_TILE(g, 0, n, 1, WIDE_COLS, ahead);
#if GEMM_TALL
    else
      GEMM_TILE(g, 0, n, 2, WIDE_COLS, ahead);
#endif
  }
  for (; n < n1; n++)
    GEMM_ROWS(g, 0, g->m, n, 1, 0);
}

/* `rows` activation rows by the weight rows [n, n + TILE_COLS); the first tile
 * fetches the next. */
static inline void GEMM_PANEL(const struct cpu_gemm *g, uint32_t first,
                              uint32_t rows, uint32_t n) {
  uint32_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;

  GEMM_ROWS(g, first, rows / tiles, n, TILE_COLS,
            TILE_COLS * g->ldw * sizeof(GEMM_W));
  for (uint32_t t = 1; t < tiles; t++) {
    uint32_t from = rows * t / tiles, to = rows * (t + 1) / tiles;

    GEMM_ROWS(g, first + from, to - from, n, TILE_COLS, 0);
  }
}

void GEMM_NAME(const struct cpu_gemm *g, uint32_t n0, uint32_t n1) {
  uint32_t block = block_rows(g->k * sizeof(GEMM_X));

  if (g->m <= WIDE_ROWS) {
    GEMM_WIDE(g, n0, n1);
    return;
  }
  for (uint32_t first = 0; first < g->m; first += block) {
    uint32_t rows = g->m - first < block ? g->m - first : block;
    uint32_t n = n0;

    for (; n + TILE_COLS <= n1; n += TILE_COLS)
      GEMM_PANEL(g, first, rows, n);
    for (; n < n1; n++) {
      for (uint32_t i = 0; i < rows; i += TILE_ROWS)
        GEMM_ROWS(g, first + i, rows - i < TILE_ROWS ? rows - i : TILE_ROWS, n,
                  1, 0);
    }
  }
}

#undef GEMM_NAME
#undef GEMM_X
#undef GEMM_W
#undef GEMM_XV
#undef GEMM_WV
#undef GEMM_STEP
#undef GEMM_LOAD_X
#undef GEMM_LOAD_W
#undef GEMM_LOAD_W_N
#undef GEMM_MAC
#undef GEMM_TILE
#undef GEMM_ROWS
#undef GEMM_WIDE
#undef GEMM_PANEL
#undef GEMM_JOIN
#undef GEMM_JOIN_2
