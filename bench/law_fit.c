/* bench/law_fit.c - see the header. */
#include "bench/law_fit.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { COEFFICIENTS = 4, HINGE = 3, POINTS_FOR_HINGE = 6 };

static void row_of(const struct bench_law_point *p, bool prefill, double knee, double *x)
{
    double size = prefill ? p->did.n : p->did.b;

    x[0] = 1;
    x[1] = size;
    x[2] = prefill ? p->did.n2 : p->did.ctx;
    x[HINGE] = prefill ? fmax(0, knee - size) : fmax(0, size - knee);
    if (knee <= 0)
        x[HINGE] = 0;
    for (int i = 0; i < COEFFICIENTS; i++)
        x[i] /= p->ns;
}

/* Gauss with pivots on the rows and columns in `on`; the rest of c is 0. */
static bool solve(double a[COEFFICIENTS][COEFFICIENTS], const double *b, unsigned on, double *c)
{
    double m[COEFFICIENTS][COEFFICIENTS + 1];
    int at[COEFFICIENTS], n = 0;

    for (int i = 0; i < COEFFICIENTS; i++) {
        c[i] = 0;
        if (on >> i & 1)
            at[n++] = i;
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++)
            m[i][j] = a[at[i]][at[j]];
        m[i][n] = b[at[i]];
    }
    /* Symmetric and positive definite if solvable, so the diagonal is pivot enough. */
    for (int i = 0; i < n; i++) {
        if (!(m[i][i] > 1e-12))
            return false;
        for (int k = i + 1; k < n; k++) {
            double f = m[k][i] / m[i][i];

            for (int j = i; j <= n; j++)
                m[k][j] -= f * m[i][j];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        double s = m[i][n];

        for (int j = i + 1; j < n; j++)
            s -= m[i][j] * c[at[j]];
        c[at[i]] = s / m[i][i];
    }
    return true;
}

/* The best non-negative c for this knee and its sum of squared relative errors; infinity if there is none. */
static double fit_knee(const struct bench_law_point *v, size_t n, bool prefill, double knee,
                       double *c)
{
    double a[COEFFICIENTS][COEFFICIENTS] = {{0}}, b[COEFFICIENTS] = {0}, scale[COEFFICIENTS];
    double x[COEFFICIENTS], best = INFINITY;

    for (size_t p = 0; p < n; p++) {
        row_of(&v[p], prefill, knee, x);
        for (int i = 0; i < COEFFICIENTS; i++) {
            b[i] += x[i];
            for (int j = 0; j < COEFFICIENTS; j++)
                a[i][j] += x[i] * x[j];
        }
    }
    for (int i = 0; i < COEFFICIENTS; i++)
        scale[i] = a[i][i] > 0 ? 1 / sqrt(a[i][i]) : 0;
    for (int i = 0; i < COEFFICIENTS; i++) {
        b[i] *= scale[i];
        for (int j = 0; j < COEFFICIENTS; j++)
            a[i][j] *= scale[i] * scale[j];
    }
    for (unsigned on = 1; on < 1u << COEFFICIENTS; on++) {
        double try[COEFFICIENTS], error = (double)n;
        bool good = solve(a, b, on, try);

        for (int i = 0; good && i < COEFFICIENTS; i++) {
            good = try[i] >= 0 && isfinite(try[i]);
            error -= try[i] * b[i]; /* |1 - Xc|^2 at a least-squares c */
        }
        if (!good || !(error < best - 1e-12))
            continue;
        best = error;
        for (int i = 0; i < COEFFICIENTS; i++)
            c[i] = try[i] * scale[i];
    }
    return best;
}

static void judge(const struct bench_law_point *v, size_t n, bool prefill, struct bench_law_fit *f)
{
    f->mape = f->max_error = 0;
    for (size_t i = 0; i < n; i++) {
        const struct sched_step *s = &v[i].did;
        double ns = prefill ? sched_law_prefill(&f->law, s->n, s->n2)
                            : sched_law_decode(&f->law, s->b, s->ctx);
        double error = fabs(ns / v[i].ns - 1);

        f->mape += error / (double)n;
        f->max_error = fmax(f->max_error, error);
    }
}

enum err bench_law_fit(const struct bench_law_point *v, size_t n, bool prefill,
                       struct bench_law_fit *out)
{
    struct bench_law_fit f = {.mape = 0};
    double best;

    for (size_t i = 0; i < n; i++) {
        if (!(v[i].ns > 0) || !isfinite(v[i].ns) || !((prefill ? v[i].did.n : v[i].did.b) > 0))
            return ERR_INVALID;
    }
    if (n < 2)
        return ERR_INVALID;
    best = fit_knee(v, n, prefill, 0, f.law.c);
    /* A knee at a measured size; one more coefficient has to earn a tenth of the error. */
    for (size_t i = 0; n >= POINTS_FOR_HINGE && i < n; i++) {
        double knee = prefill ? v[i].did.n : v[i].did.b, c[COEFFICIENTS];
        double error = fit_knee(v, n, prefill, knee, c);

        if (error < 0.9 * best && c[HINGE] > 0) {
            best = error;
            memcpy(f.law.c, c, sizeof(c));
            f.law.knee = knee;
        }
    }
    if (!isfinite(best) || !sched_law_known(&f.law))
        return ERR_INVALID;
    judge(v, n, prefill, &f);
    *out = f;
    return ERR_OK;
}
