/* decode/decode_fit.c - see the header.
 *
 * Relative least squares with forgetting, by normal equations.  A small ridge keeps directions that were
 * never seen at zero instead of anywhere; coefficients that would be negative are left out. */
#include "decode/decode_fit.h"

#include <math.h>
#include <stdbool.h>

enum { ENOUGH_DECODE = 8, ENOUGH_PREFILL = 3, KNEE_MAX = 512 };

static const double forget = 0.995;
static const double ridge = 1e-3;
/* Features of about one, so that one ridge fits all. */
static const double scale[DECODE_FIT_TERMS] = {1, 1.0 / 16, 1.0 / 16384, 1.0 / 256, 1.0 / 262144};

/* Gauss with pivots on the rows and columns in use; false: singular. */
static bool solve(const struct decode_fit *f, const bool *use, double *theta)
{
    double m[DECODE_FIT_TERMS][DECODE_FIT_TERMS + 1] = {{0}};

    for (int i = 0; i < DECODE_FIT_TERMS; i++) {
        for (int k = 0; k < DECODE_FIT_TERMS; k++)
            m[i][k] = use[i] && use[k] ? f->a[i][k] : 0;
        m[i][i] = use[i] ? m[i][i] + ridge * f->a[0][0] : 1;
        m[i][DECODE_FIT_TERMS] = use[i] ? f->rhs[i] : 0;
    }
    for (int i = 0; i < DECODE_FIT_TERMS; i++) {
        /* Positive definite by the ridge: no exchange of rows is needed. */
        if (!(m[i][i] > 0))
            return false;
        for (int r = i + 1; r < DECODE_FIT_TERMS; r++) {
            double by = m[r][i] / m[i][i];

            for (int k = i; k <= DECODE_FIT_TERMS; k++)
                m[r][k] -= by * m[i][k];
        }
    }
    for (int i = DECODE_FIT_TERMS - 1; i >= 0; i--) {
        theta[i] = m[i][DECODE_FIT_TERMS];
        for (int k = i + 1; k < DECODE_FIT_TERMS; k++)
            theta[i] -= m[i][k] * theta[k];
        theta[i] /= m[i][i];
    }
    return true;
}

static bool solve_positive(const struct decode_fit *f, double *theta)
{
    bool use[DECODE_FIT_TERMS] = {true, true, true, true, true};

    for (int round = 0; round < DECODE_FIT_TERMS; round++) {
        int worst = -1;

        if (!solve(f, use, theta))
            return false;
        for (int i = 0; i < DECODE_FIT_TERMS; i++) {
            if (theta[i] < 0 && (worst < 0 || theta[i] < theta[worst]))
                worst = i;
        }
        if (worst < 0)
            return true;
        use[worst] = false;
    }
    return false;
}

/* Tokens whose own work is as long as a step's base, which is about where an engine stops to be bound by reading its
 * weights: shorter pieces cost nearly as much.  Only a size here, no term of the law. */
static double knee(const double *theta)
{
    double tokens = theta[3] > 0 ? theta[0] / theta[3] : 0;

    return tokens < KNEE_MAX ? tokens : KNEE_MAX;
}

static void publish(struct decode_fit *f)
{
    double theta[DECODE_FIT_TERMS];

    if (!solve_positive(f, theta))
        return;
    for (int i = 0; i < DECODE_FIT_TERMS; i++)
        theta[i] *= scale[i];
    if (f->n_decode >= ENOUGH_DECODE)
        f->decode = (struct sched_law){.c = {theta[0], theta[1], theta[2]}};
    if (f->n_prefill >= ENOUGH_PREFILL)
        f->prefill = (struct sched_law){.c = {theta[0], theta[3], theta[4]}, .knee = knee(theta)};
}

void decode_fit_add(struct decode_fit *f, const struct sched_step *did, uint64_t ns)
{
    double y = ns > 0 ? (double)ns : 1;
    double x[DECODE_FIT_TERMS] = {1, did->b, did->ctx, did->n, did->n2};

    for (int i = 0; i < DECODE_FIT_TERMS; i++)
        x[i] *= scale[i] / y;
    for (int i = 0; i < DECODE_FIT_TERMS; i++) {
        for (int k = 0; k < DECODE_FIT_TERMS; k++)
            f->a[i][k] = forget * f->a[i][k] + x[i] * x[k];
        f->rhs[i] = forget * f->rhs[i] + x[i];
    }
    f->n_decode += did->b > 0;
    f->n_prefill += did->n > 0;
    publish(f);
}
