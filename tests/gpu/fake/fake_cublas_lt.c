/* A libcublasLt.so.13 for the emulation: what engine/cuda/gpu_blas_lt.c asks for is taken by the letter of cuBLASLt's
 * documentation (columns first, op(A) op(B), outer-vector scales, bias along D's rows) and computed by plain loops on
 * the emulated stream.  So what the real library is told is tested where there is no GPU; its algorithms are not. */
#include "tests/gpu/gpu_test.h"

#include <cublasLt.h>

#include "engine/kernels/quantize.h"

struct desc {
    int32_t trans_a, trans_b, epilogue, bias_type, mode_a, mode_b;
    const void *bias, *scale_a, *scale_b;
};

struct layout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
};

/* Candidates in the order given out: one that says it cannot, one that works with all but ODD columns, one that fails when
 * it is run, one that works. */
enum { CANNOT = 0x10, WORKS, FAILS, WORKS_TOO, CANDIDATES = 4, ODD = 37 };

size_t cublasLtGetVersion(void)
{
    return CUBLAS_VERSION;
}

const char *cublasLtGetStatusString(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_SUCCESS ? "success (fake)" : "refused (fake)";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    *out = mem_try_calloc(1, 8);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    mem_free(h);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- descriptions ---- */

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType scale)
{
    *out = mem_try_calloc(1, sizeof(struct desc));
    return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS
                                                                : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    mem_free(d);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t opaque,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes)
{
    struct desc *d = (struct desc *)(void *)opaque;
    const struct {
        cublasLtMatmulDescAttributes_t what;
        void *field;
        size_t bytes;
    } fields[] = {
        {CUBLASLT_MATMUL_DESC_TRANSA, &d->trans_a, 4},
        {CUBLASLT_MATMUL_DESC_TRANSB, &d->trans_b, 4},
        {CUBLASLT_MATMUL_DESC_EPILOGUE, &d->epilogue, 4},
        {CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &d->bias_type, 4},
        {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &d->mode_a, 4},
        {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &d->mode_b, 4},
        {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &d->bias, 8},
        {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &d->scale_a, 8},
        {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &d->scale_b, 8},
    };

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (fields[i].what == what && fields[i].bytes == bytes) {
            memcpy(fields[i].field, value, bytes);
            return CUBLAS_STATUS_SUCCESS;
        }
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    struct layout *l = mem_try_alloc(sizeof(*l));

    *l = (struct layout){type, rows, cols, ld};
    *out = (cublasLtMatrixLayout_t)(void *)l;
    return ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    mem_free(l);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t opaque,
                                                cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t bytes)
{
    struct layout *l = (struct layout *)(void *)opaque;

    if (what != CUBLASLT_MATRIX_LAYOUT_COLS || bytes != 8)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&l->cols, value, 8);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- heuristics ---- */

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    uint64_t *schemes = mem_try_calloc(1, 8);

    *schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
    *out = (cublasLtMatmulPreference_t)(void *)schemes;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    mem_free(p);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t bytes)
{
    if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        memcpy(p, value, 4);
    return bytes == (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_INVALID_VALUE;
}

static bool is_half(cudaDataType t)
{
    return t == CUDA_R_16BF || t == CUDA_R_16F;
}

/* Whether the documentation allows it. */
static cublasStatus_t check(const struct desc *d, const struct layout *a, const struct layout *b,
                            const struct layout *c, const struct layout *out)
{
    bool fp8 = a->type == CUDA_R_8F_E4M3;

    if (a->type != b->type || (!fp8 && !is_half(a->type)) ||
        (!is_half(out->type) && out->type != CUDA_R_32F) || c->type != out->type ||
        (!fp8 && is_half(out->type) && out->type != a->type))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (d->trans_a != CUBLAS_OP_T || d->trans_b != CUBLAS_OP_N || a->rows != b->rows ||
        a->cols != out->rows || b->cols != out->cols || c->rows != out->rows ||
        c->cols != out->cols)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (d->epilogue == CUBLASLT_EPILOGUE_BIAS &&
        (d->bias == NULL || d->bias_type != (int32_t)out->type))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (fp8 && (d->mode_a != CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F ||
                d->mode_b != CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F || d->scale_a == NULL ||
                d->scale_b == NULL))
        return CUBLAS_STATUS_INVALID_VALUE;
    return fp8 && (a->rows % 16 != 0 || a->ld % 16 != 0 || b->ld % 16 != 0 || out->ld % 8 != 0 ||
                   out->rows % 16 != 0)
               ? CUBLAS_STATUS_NOT_SUPPORTED
               : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t out,
                                              cublasLtMatmulPreference_t p, int asked,
                                              cublasLtMatmulHeuristicResult_t results[], int *found)
{
    cublasStatus_t s =
        check((struct desc *)(void *)d, (struct layout *)(void *)a, (struct layout *)(void *)b,
              (struct layout *)(void *)c, (struct layout *)(void *)out);

    (void)h;
    *found = 0;
    for (int i = 0; i < CANDIDATES && i < asked && s == CUBLAS_STATUS_SUCCESS; i++) {
        results[i] = (cublasLtMatmulHeuristicResult_t){0};
        results[i].algo.data[0] = (uint64_t)(CANNOT + i);
        memcpy(&results[i].algo.data[1], p, 8);
        results[i].state = i == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
        *found = i + 1;
    }
    return s;
}

/* ---- products ---- */

struct job { /* on the device's thread; a graph may run it again, so it stays */
    struct desc d;
    struct layout a, b, c, out;
    float alpha, beta;
    bool
        rough; /* the sum is made of two parts, rounded as the result is: split along k by a scheme that was allowed */
    const void *pa, *pb, *pc;
    void *pout;
};

static double value(cudaDataType type, const void *p, size_t at)
{
    if (type == CUDA_R_32F)
        return (double)((const float *)p)[at];
    if (type == CUDA_R_8F_E4M3)
        return quantize_value(((const uint8_t *)p)[at], GPU_WEIGHT_E4M3);
    return (double)test_from16(type == CUDA_R_16BF ? GPU_BF16 : GPU_F16, ((const uint16_t *)p)[at]);
}

static void store(cudaDataType type, void *p, size_t at, double v)
{
    if (type == CUDA_R_32F)
        ((float *)p)[at] = (float)v;
    else
        ((uint16_t *)p)[at] = test_to16(type == CUDA_R_16BF ? GPU_BF16 : GPU_F16, v);
}

static void compute(void *arg)
{
    const struct job *j = arg;
    size_t k = j->a.rows, lda = (size_t)j->a.ld, ldb = (size_t)j->b.ld;
    float *a = mem_try_alloc(j->a.cols * k * sizeof(*a)), *b = mem_try_alloc(k * sizeof(*b));

    for (size_t r = 0; r < j->a.cols; r++)
        for (size_t i = 0; i < k; i++)
            a[r * k + i] = (float)value(j->a.type, j->pa, r * lda + i);
    for (size_t col = 0; col < j->out.cols; col++) {
        for (size_t i = 0; i < k; i++)
            b[i] = (float)value(j->b.type, j->pb, col * ldb + i);
        for (size_t row = 0; row < j->out.rows; row++) {
            size_t at = col * (size_t)j->out.ld + row;
            double v = 0;

            for (size_t i = 0; i < k; i++) {
                v += (double)(a[row * k + i] * b[i]);
                if (j->rough && i == k / 2) {
                    store(j->out.type, j->pout, at, v);
                    v = value(j->out.type, j->pout, at);
                }
            }
            if (j->d.mode_a == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F)
                v *= (double)((const float *)j->d.scale_a)[row];
            if (j->d.mode_b == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F)
                v *= (double)((const float *)j->d.scale_b)[col];
            v *= (double)j->alpha;
            if (j->beta != 0)
                v += (double)j->beta * value(j->c.type, j->pc, col * (size_t)j->c.ld + row);
            if (j->d.epilogue == CUBLASLT_EPILOGUE_BIAS)
                v += value(j->out.type, j->d.bias, row);
            store(j->out.type, j->pout, at, v);
        }
    }
    mem_free(a), mem_free(b);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha,
                              const void *pa, cublasLtMatrixLayout_t a, const void *pb,
                              cublasLtMatrixLayout_t b, const void *beta, const void *pc,
                              cublasLtMatrixLayout_t c, void *pout, cublasLtMatrixLayout_t out,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes,
                              cudaStream_t stream)
{
    struct job *j = mem_try_alloc(sizeof(*j));
    cublasStatus_t s;

    (void)h;
    memcpy(&j->d, d, sizeof(j->d));
    memcpy(&j->a, a, sizeof(j->a));
    memcpy(&j->b, b, sizeof(j->b));
    memcpy(&j->c, c, sizeof(j->c));
    memcpy(&j->out, out, sizeof(j->out));
    memcpy(&j->alpha, alpha, 4);
    memcpy(&j->beta, beta, 4);
    j->rough = j->beta == 0 && (algo->data[1] & (CUBLASLT_REDUCTION_SCHEME_INPLACE |
                                                 CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE)) != 0;
    j->pa = pa, j->pb = pb, j->pc = pc, j->pout = pout;
    s = check(&j->d, &j->a, &j->b, &j->c, &j->out);
    if (s == CUBLAS_STATUS_SUCCESS &&
        (algo->data[0] == FAILS || (algo->data[0] == WORKS && j->out.cols == ODD)))
        s = CUBLAS_STATUS_NOT_SUPPORTED;
    if (s == CUBLAS_STATUS_SUCCESS &&
        ((algo->data[0] != WORKS && algo->data[0] != WORKS_TOO) || workspace == NULL || bytes == 0))
        s = CUBLAS_STATUS_INTERNAL_ERROR; /* not to be excused */
    if (s != CUBLAS_STATUS_SUCCESS) {
        mem_free(j);
        return s;
    }
    return gpu_stream_call(stream, compute, j) == ERR_OK ? s : CUBLAS_STATUS_EXECUTION_FAILED;
}
