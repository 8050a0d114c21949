/* bench/rng.c - random numbers and draws that are the same on every machine; see trace.h.
 *
 * exp, log and cos may differ in the last bit from one processor to the next (libm picks variants with fused
 * multiplication).  So what they give is rounded to 32 bits behind the point, which hides that. */
#include <math.h>

#include "bench/trace.h"

uint64_t bench_rng_next(struct bench_rng *r)
{
    uint64_t x = r->s += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

double bench_rng_unit(struct bench_rng *r)
{
    return (double)(bench_rng_next(r) >> 11) * 0x1p-53;
}

static double blur(double x)
{
    return rint(x * 0x1p32) * 0x1p-32;
}

double bench_rng_exp(struct bench_rng *r)
{
    return blur(-log1p(-bench_rng_unit(r)));
}

/* Box and Muller; the second number is thrown away, so that the stream has no hidden state. */
double bench_rng_normal(struct bench_rng *r)
{
    double radius = sqrt(2 * bench_rng_exp(r));

    return blur(radius * cos(6.283185307179586 * bench_rng_unit(r)));
}

/* Marsaglia and Tsang (2000); below shape 1 by a draw of shape + 1 times u^(1/shape). */
double bench_rng_gamma(struct bench_rng *r, double shape)
{
    double boost = 1, d, c;

    if (!(shape > 0))
        return 0;
    if (shape < 1) {
        boost = pow(1 - bench_rng_unit(r), 1 / shape);
        shape += 1;
    }
    d = shape - 1.0 / 3;
    c = 1 / sqrt(9 * d);
    for (;;) {
        double x = bench_rng_normal(r), v = 1 + c * x, u = 1 - bench_rng_unit(r);

        v = v * v * v;
        if (v > 0 && log(u) < x * x / 2 + d - d * v + d * log(v))
            return blur(d * v * boost);
    }
}

uint32_t bench_pick_tier(uint64_t seed, uint64_t i, const double *share, uint32_t n)
{
    struct bench_rng r = {seed * 0x9e3779b97f4a7c15u + i * 0xd1b54a32d192ed03u};
    double sum = 0, at;

    for (uint32_t k = 0; k < n; k++)
        sum += share[k];
    at = bench_rng_unit(&r) * sum;
    for (uint32_t k = 0; k + 1 < n; k++) {
        if (at < share[k])
            return k;
        at -= share[k];
    }
    return n == 0 ? 0 : n - 1;
}
