/* engine/kernels/fill_random_ref.c - see the header. */
#include "engine/kernels/fill_random.h"

void fill_random_ref(double *y, uint64_t n, double mean, double spread, uint64_t seed)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        z ^= z >> 31;
        y[i] = mean + spread * ((double)(z >> 40) / 8388608.0 - 1.0);
    }
}
